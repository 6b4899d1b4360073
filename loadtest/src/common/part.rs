//! A process of this program that does a part of a test: told what to do in lines of JSON on its standard input, until that ends, and answering in
//! lines on its standard output.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// Lines that it says.
pub(crate) type Told = Lines<BufReader<ChildStdout>>;

/// See the module. Killed when dropped.
pub(crate) struct Part {
    /// How errors call it.
    name: &'static str,
    child: Child,
}

impl Part {
    /// Starts it with a first line.
    pub(crate) async fn start(name: &'static str, mut command: Command, first: &impl Serialize) -> Result<(Self, Told)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let told = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
        let mut part = Self { name, child };
        part.tell(first).await?;
        Ok((part, told))
    }

    pub(crate) async fn tell(&mut self, what: &impl Serialize) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(what)?);
        let input = self.child.stdin.as_mut().context("its input is a pipe")?;
        input.write_all(line.as_bytes()).await.with_context(|| format!("{} is gone", self.name))
    }

    /// Says nothing more, and waits for it, at most so long. Its last words can be read then.
    pub(crate) async fn end(mut self, limit: Duration) -> Result<()> {
        drop(self.child.stdin.take());
        let status = timeout(limit, self.child.wait()).await.with_context(|| format!("{} does not end", self.name))??;
        ensure!(status.success(), "{} failed: {status}", self.name);
        Ok(())
    }
}
