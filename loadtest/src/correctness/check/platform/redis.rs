//! A private Redis that persists every write before it answers (`appendonly yes`, `appendfsync always`): what is lost of it
//! is what the harness takes away.

use std::{
    fs::OpenOptions,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use super::process::Process;

/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for the repair of a file.
const REPAIR_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Redis {
    dir: PathBuf,
    port: u16,
    process: Process,
}

impl Redis {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let [port] = motience_testing::lasting_ports();
        let process = launch(dir, port).await?;
        Ok(Self { dir: dir.to_owned(), port, process })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    pub(crate) async fn start_again(&mut self) -> Result<()> {
        if self.process.has_ended()?.is_some() {
            self.process = launch(&self.dir, self.port).await?;
        }
        Ok(())
    }

    /// Cuts up to `bytes` off the append-only file of a server that is down, and repairs it with Redis's own tool, as
    /// docs/delivery.md asks: Redis itself leaves a half transaction in the file, which comes back at a second crash
    /// before the nodes have had the file rewritten. Returns how many bytes were cut off.
    pub(crate) async fn cut(&self, bytes: u64) -> Result<u64> {
        let files = std::fs::read_dir(self.dir.join("appendonlydir"))?.flatten().map(|file| file.path());
        let newest = files
            .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .max_by_key(|path| number(path))
            .context("Redis has written no append-only file")?;
        let file = OpenOptions::new().write(true).open(newest)?;
        let length = file.metadata()?.len();
        let bytes = bytes.min(length);
        file.set_len(length - bytes)?;
        let manifest = self.dir.join("appendonlydir/appendonly.aof.manifest");
        let mut tool = Command::new("redis-check-aof").arg("--fix").arg(manifest).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        if let Some(mut answers) = tool.stdin.take() {
            // The tool asks before it truncates; where there is nothing to repair it asks nothing, and has ended.
            let _ = answers.write_all(b"y\n").await;
        }
        if !timeout(REPAIR_LIMIT, tool.wait()).await.context("redis-check-aof does not end")??.success() {
            bail!("redis-check-aof cannot repair the append-only file");
        }
        Ok(bytes)
    }

    /// Removes everything that a server which is down has written.
    pub(crate) fn wipe(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.dir.join("appendonlydir"))?)
    }

    /// Sends a command and returns the first line of the answer.
    pub(crate) async fn command(&self, command: &str) -> Result<String> {
        timeout(ANSWER_LIMIT, ask(self.port, command)).await.context("Redis does not answer")?
    }
}

/// `appendonly.aof.NUMBER.incr.aof`
fn number(path: &Path) -> u64 {
    path.to_string_lossy().rsplit('.').nth(2).and_then(|number| number.parse().ok()).unwrap_or_default()
}

async fn launch(dir: &Path, port: u16) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(dir);
    let mut process = Process::start("redis-server", command, &dir.join("log"))?;
    process.until(async || timeout(ANSWER_LIMIT, ask(port, "PING")).await.is_ok_and(|answer| answer.is_ok_and(|a| a == "+PONG"))).await?;
    Ok(process)
}

async fn ask(port: u16, command: &str) -> Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    connection.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        let mut byte = [0];
        if connection.read(&mut byte).await? == 0 {
            bail!("Redis closed the connection");
        }
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}
