//! The server under test: one that is already there, or one of our own on free ports with a fresh database.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use motience_loadtest::link::Namespace;
use motience_testing::Redis;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::process::signal;

/// Longest wait for our own server to be up.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for it to drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Where the server's parts answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) ap: String,
    pub(crate) sm: String,
    pub(crate) dsm: String,
    /// `host:port` of the QUIC endpoint.
    pub(crate) quic: String,
    /// `ws://host:port/consumer`.
    pub(crate) wss2: String,
    /// `ws://host:port/producer`.
    pub(crate) wss1: String,
    /// The CA that signed the QUIC certificate; `None` trusts the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The server's process, where its cost can be read.
    pub(crate) pid: Option<u32>,
}

/// Listeners that a server which is started again must have where they were.
pub(crate) const LASTING: [&str; 3] = ["AP", "QUIC", "WSS2"];

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ending {
    /// At once: nobody is asked to leave.
    Killed,
    /// By SIGTERM: its clients are asked to leave.
    Drained,
}

impl Ending {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Drained => "drained",
        }
    }
}

/// A server that ends with this value.
pub(crate) struct Own {
    pub(crate) addresses: Addresses,
    process: Child,
    program: PathBuf,
    // Removed after the process has ended.
    dir: TempDir,
}

impl Own {
    /// Starts `motience-server` with everything embedded, and without the limits that one account or one address would meet:
    /// a load test is one host.
    pub(crate) async fn start(program: Option<PathBuf>, variables: &[(String, String)]) -> Result<Self> {
        Self::start_by(program, &[unlimited(), variables.to_vec()].concat(), |program| std::process::Command::new(program)).await
    }

    /// Starts it with every limit at its default, but for `variables`.
    pub(crate) async fn start_limited(program: Option<PathBuf>, variables: &[(String, String)]) -> Result<Self> {
        Self::start_by(program, variables, |program| std::process::Command::new(program)).await
    }

    /// Starts the server at the server's side of a bad link.
    pub(crate) async fn start_inside(namespace: &Namespace, program: Option<PathBuf>, variables: &[(String, String)]) -> Result<Self> {
        Self::start_by(program, &[unlimited(), variables.to_vec()].concat(), |program| namespace.command(program)).await
    }

    async fn start_by(
        program: Option<PathBuf>,
        variables: &[(String, String)],
        command: impl FnOnce(&Path) -> std::process::Command,
    ) -> Result<Self> {
        let program = match program {
            // The server is started in another folder.
            Some(program) => std::path::absolute(program)?,
            None => built().await?,
        };
        Self::start_in(TempDir::new()?, program, variables, command).await
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart(mut self, variables: &[(String, String)]) -> Result<Self> {
        self.end(Ending::Killed).await?;
        self.start_again(variables).await
    }

    /// Ends the server and waits for it.
    pub(crate) async fn end(&mut self, ending: Ending) -> Result<()> {
        match (ending, self.process.id()) {
            (Ending::Drained, Some(pid)) => {
                signal(pid, Signal::TERM)?;
                timeout(DRAIN_LIMIT, self.process.wait()).await.context("the server does not drain")??;
                Ok(())
            }
            _ => self.process.kill().await.context("the server cannot be stopped"),
        }
    }

    /// Starts a server that has ended again on what it left, at the places that `variables` name ([`LASTING`]). The new one has
    /// the usual rates, and room for a load test's connections all the same.
    pub(crate) async fn start_again(self, variables: &[(String, String)]) -> Result<Self> {
        std::fs::remove_file(self.dir.path().join("ready.json"))?;
        let all: Vec<_> = with_room().chain(variables.iter().cloned()).collect();
        Self::start_in(self.dir, self.program, &all, |program| std::process::Command::new(program)).await
    }

    async fn start_in(
        dir: TempDir,
        program: PathBuf,
        variables: &[(String, String)],
        command: impl FnOnce(&Path) -> std::process::Command,
    ) -> Result<Self> {
        let ready = dir.path().join("ready.json");
        let mut command = Command::from(command(&program));
        command
            .arg("serve")
            .arg("--ready-file")
            .arg(&ready)
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_LOG", std::env::var("SERVER_LOG").unwrap_or_else(|_| "warn".into()))
            .env("BIND_ADDRESS", "127.0.0.1")
            .env("DATA_DIR", dir.path().join("data"))
            .env("CERTS_DIR", dir.path().join("certs"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        for port in ["AP", "SM", "DSM", "WSS1", "WSS2", "WSS1_UI", "WSS2_UI", "QUIC", "HTTPS", "OPERATIONS"] {
            command.env(format!("{port}_PORT"), "0");
        }
        command.envs(variables.iter().map(|(k, v)| (k, v)));
        let mut process = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        let deadline = Instant::now() + START_LIMIT;
        let addresses = loop {
            if let Some(status) = process.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            if let Ok(text) = std::fs::read_to_string(&ready)
                && let Ok(addresses) = serde_json::from_str::<Addresses>(&text)
            {
                break addresses;
            }
            if Instant::now() > deadline {
                bail!("the server was not up within {} s", START_LIMIT.as_secs());
            }
            sleep(Duration::from_millis(20)).await;
        };
        Ok(Self { addresses: Addresses { pid: process.id(), ..addresses }, process, program, dir })
    }

    /// Where it keeps its files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Kills the server and waits for it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.end(Ending::Killed).await
    }
}

/// A setting as it is written on the command line: `NAME=value`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Settings of a server whose log and accounts are kept by others, which servers of one platform share.
pub(crate) fn shared(redis: &Redis, database: String, secret: &str) -> Vec<(String, String)> {
    let settings = [("REDIS_URL", redis.url()), ("DATABASE_URL", database), ("JWT_SECRET", secret.to_owned())];
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A secret of one measurement, for tokens.
pub(crate) fn secret() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// The rates that a load test from one host would meet, switched off.
pub(crate) fn without_rates() -> impl Iterator<Item = (String, String)> {
    let rates = [
        "REGISTER",
        "REGISTER_ACCOUNT",
        "LOGIN",
        "LOGIN_ACCOUNT",
        "LOGIN_STRANGERS",
        "REFRESH",
        "REFRESH_LOGIN",
        "REFRESH_ACCOUNT",
        "LOGOUT",
        "DEVICE",
        "REQUESTS",
        "HISTORY",
        "CONTROL",
    ];
    rates.into_iter().map(|rate| (format!("RATE_LIMIT_{rate}"), "off".to_owned()))
}

/// The address in a URL, or in `host:port`; every server of a test listens on the loopback of IPv4.
pub(crate) fn address(url: &str) -> Result<SocketAddr> {
    let host = url.split("://").last().and_then(|rest| rest.split('/').next());
    let port = host.and_then(|host| host.rsplit(':').next()).and_then(|port| port.parse::<u16>().ok());
    Ok((Ipv4Addr::LOCALHOST, port.with_context(|| format!("{url} has no port"))?).into())
}

/// Room for a load test's connections: all of its clients are of a few accounts, and of one address.
fn with_room() -> impl Iterator<Item = (String, String)> {
    let numbers = [
        "MAX_CONNECTIONS_PER_ACCOUNT",
        "MAX_DEVICES_PER_ACCOUNT",
        "MAX_REGISTERED_DEVICES_PER_ACCOUNT",
        "MAX_REQUESTS_PER_ACCOUNT",
        "MAX_UNAUTHENTICATED",
        "MAX_UNAUTHENTICATED_PER_ADDRESS",
        "HTTP3_MAX_CONNECTIONS_PER_ADDRESS",
    ];
    let numbers = numbers.map(|number| (number, "100000"));
    let memory = [("UPLOAD_MEMORY", "16GiB"), ("UPLOAD_MEMORY_PER_ACCOUNT", "4GiB")];
    numbers.into_iter().chain(memory).map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// The limits that a load test from one host would meet, lifted.
fn unlimited() -> Vec<(String, String)> {
    without_rates().chain(with_room()).collect()
}

/// The server beside this program, built first where cargo runs us.
async fn built() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("motience-server");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let release = beside.parent().is_some_and(|p| p.ends_with("release"));
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "-p", "motience-server"]);
        if release {
            build.arg("--release");
        }
        let status = build.status().await.context("cargo cannot be run to build the server")?;
        if !status.success() {
            bail!("the server could not be built");
        }
    }
    if beside.exists() {
        Ok(beside)
    } else {
        bail!(
            "no motience-server beside this program: build it with `cargo build --release -p motience-server`, or name it with --server-program"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_of_an_account_is_left_to_a_load_test() {
        let lifted: Vec<String> = unlimited().into_iter().map(|(name, _)| name).collect();
        let documented = include_str!("../../../.env.example").lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
        let names: Vec<&str> =
            documented.map(|(name, _)| name).filter(|name| name.starts_with("RATE_LIMIT_") || name.ends_with("_PER_ACCOUNT")).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(lifted.iter().any(|lifted| lifted == name), "{name}");
        }
    }
}
