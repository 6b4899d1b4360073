//! A node: `motience-server`, or a gateway by itself, on ports of its own that it has again after a restart.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use super::process::{LIMIT, Process};

const PORTS: [&str; 10] = ["AP", "SM", "DSM", "WSS1", "WSS2", "WSS1_UI", "WSS2_UI", "QUIC", "HTTPS", "OPERATIONS"];
/// How often a node is started on other ports.
const TRIES: usize = 5;

/// Where its parts answer; a gateway has one only.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) ap: Option<String>,
    pub(crate) sm: Option<String>,
    pub(crate) dsm: Option<String>,
    pub(crate) quic: Option<String>,
    pub(crate) wss2: Option<String>,
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) at: Addresses,
    pub(crate) dir: PathBuf,
    program: PathBuf,
    variables: Vec<(String, String)>,
    process: Process,
}

impl Node {
    /// Starts a node in a folder of its own and waits until it listens.
    pub(crate) async fn start(name: &str, program: &Path, dir: &Path, mut variables: Vec<(String, String)>) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let settings = variables.len();
        let mut tries = 1..TRIES;
        loop {
            variables.truncate(settings);
            variables.extend(motience_testing::port_settings(PORTS));
            match launch(name, program, dir, &variables).await {
                Ok((process, at)) => {
                    return Ok(Self { name: name.to_owned(), at, dir: dir.to_owned(), program: program.to_owned(), variables, process });
                }
                // Another process has taken a port since it was found free.
                Err(e) if format!("{e:#}").contains("in use") && tries.next().is_some() => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGTERM, and waits for the end. One that does not end in time is killed, which is worth a word.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        if self.process.ended(LIMIT).await.is_err() {
            eprintln!("  {} did not end within {LIMIT:?} of SIGTERM", self.name);
            self.kill().await?;
        }
        Ok(())
    }

    /// Starts it where it was. Nothing happens where it runs.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        if self.process.has_ended()?.is_some() {
            (self.process, self.at) = launch(&self.name, &self.program, &self.dir, &self.variables).await?;
        }
        Ok(())
    }

    /// Runs a command of the node's program with the node's settings. Returns its words.
    pub(crate) async fn command(&self, arguments: &[&OsStr]) -> Result<String> {
        let run = command(&self.program, &self.dir, &self.variables).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(LIMIT, run).await.with_context(|| format!("{arguments:?} does not end"))??;
        let words = [output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).trim().replace('\n', " "));
        anyhow::ensure!(output.status.success(), "{arguments:?}: {} {words:?}", output.status);
        Ok(words.join(" "))
    }

    /// How it ended, where it has and nobody asked for it.
    pub(crate) fn has_ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        self.process.has_ended()
    }
}

/// A program with these settings alone.
fn command(program: &Path, dir: &Path, variables: &[(String, String)]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("RUST_LOG", std::env::var("SERVER_LOG").unwrap_or_else(|_| "info".into()));
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
}

async fn launch(name: &str, program: &Path, dir: &Path, variables: &[(String, String)]) -> Result<(Process, Addresses)> {
    let ready = dir.join("ready.json");
    if ready.exists() {
        std::fs::remove_file(&ready)?;
    }
    let mut command = command(program, dir, variables);
    command.arg("--ready-file").arg(&ready);
    let mut process = Process::start(name, command, &dir.join("log"))?;
    let mut addresses = None;
    let read = || serde_json::from_str(&std::fs::read_to_string(&ready).ok()?).ok();
    process
        .until(async || {
            addresses = read();
            addresses.is_some()
        })
        .await?;
    Ok((process, addresses.context("a ready node has addresses")?))
}
