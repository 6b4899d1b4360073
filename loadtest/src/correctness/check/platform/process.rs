//! Child processes: started, signalled, killed; none outlives this one.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

use crate::common::process;

/// Longest wait for a process to be ready, or to end when it was asked to.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// Lines of its log that are told of a process that failed.
const LINES: usize = 12;

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
}

impl Process {
    /// Starts `command`, its output added to the file `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let input = child.stdin.take();
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child, input })
    }

    /// `STOP`, `CONT`, `TERM`: what was sent to a process that has ended is lost.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        process::signal(pid, signal).with_context(|| format!("{} does not hear", self.name))
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

    /// Waits until `ready` says so. An error has the last words of the process.
    pub(crate) async fn until(&mut self, mut ready: impl AsyncFnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !ready().await {
            if let Some(status) = self.has_ended()? {
                bail!("{} ended before it was ready: {status}{}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{} was not ready within {LIMIT:?}{}", self.name, self.last_words());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("; the end of {}:\n{}", self.log.display(), lines[lines.len().saturating_sub(LINES)..].join("\n"))
    }
}
