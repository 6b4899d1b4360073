//! Child processes: started, signalled, killed; none outlives this one.

use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

/// Longest wait for a process to be ready, or to end when it was asked to.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
}

impl Process {
    /// Starts `command`, its output added to the file `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let input = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, input })
    }

    /// `STOP`, `CONT`, `TERM`: what was sent to a process that has ended is lost.
    pub(crate) async fn signal(&self, signal: &str) -> Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        let sent = Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status().await?;
        if !sent.success() {
            bail!("{} cannot be sent {signal}", self.name);
        }
        Ok(())
    }

    /// Writes to its standard input.
    pub(crate) async fn tell(&mut self, text: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("it was told everything")?;
        input.write_all(text).await.with_context(|| format!("{} does not listen", self.name))
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        Ok(timeout(limit, self.child.wait()).await.with_context(|| format!("{} does not end", self.name))??)
    }

    /// How it ended, where it has.
    pub(crate) fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `ready` says so.
    pub(crate) async fn until(&mut self, mut ready: impl AsyncFnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !ready().await {
            if let Some(status) = self.has_ended()? {
                bail!("{} ended before it was ready: {status}", self.name);
            }
            if Instant::now() > deadline {
                bail!("{} was not ready within {LIMIT:?}", self.name);
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

/// A free port, for TCP and UDP, below those that the system gives to outgoing connections: it is still free when whoever
/// listened there is started again.
pub(crate) fn free_port() -> Result<u16> {
    for _ in 0..1000 {
        let port = fastrand::u16(12_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("there is no free port")
}
