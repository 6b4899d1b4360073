//! Devices and consumers, as processes that can be killed and started again.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Serialize;
use tokio::process::Command;

use super::process::Process;
use crate::{
    common::{accounts::Account, egress::Egress},
    correctness::check::{
        consumer, device,
        history::Kind,
        options::Options,
        orders::FINISH,
        proxy::{Link, Pipe},
    },
};

/// A device.
pub(crate) struct Device {
    pub(crate) plan: device::Plan,
    pub(crate) link: Link,
    incarnation: u32,
    starter: Starter,
    process: Process,
}

/// A consumer.
pub(crate) struct Consumer {
    pub(crate) plan: consumer::Plan,
    pub(crate) path: NetworkPath,
    pub(crate) account: Account,
    starter: Starter,
    process: Process,
}

/// How a consumer reaches the nodes.
pub(crate) enum NetworkPath {
    Link(Link),
    Pipe(Pipe),
}

pub(super) fn device_plan(dir: &Path, number: u32, account: &Account, link: &Link, ca: Option<PathBuf>, options: &Options) -> device::Plan {
    device::Plan {
        number,
        token: account.token.clone(),
        server: link.address().to_string(),
        ca,
        history: dir.join(format!("device-{number}")),
        outbox: dir.join(format!("outbox-{number}")),
        rate: options.rate / f64::from(options.devices),
        drops: number > 0 && number + 1 == options.devices,
    }
}

pub(super) fn consumer_plan(
    dir: &Path,
    number: u32,
    kind: Kind,
    account: &Account,
    path: &NetworkPath,
    ca: Option<PathBuf>,
    producers: Vec<i64>,
) -> consumer::Plan {
    let server = match (path, kind) {
        (NetworkPath::Link(link), _) => link.address().to_string(),
        (NetworkPath::Pipe(pipe), Kind::Json(Egress::Sse | Egress::Ndjson)) => format!("http://{}", pipe.address()),
        (NetworkPath::Pipe(pipe), _) => format!("ws://{}/consumer", pipe.address()),
    };
    let (history, cursors) = (dir.join(format!("consumer-{number}")), dir.join(format!("cursors-{number}")));
    consumer::Plan { number, kind, token: account.token.clone(), server, ca, history, cursors, producers }
}

impl Device {
    pub(super) fn start(plan: device::Plan, link: Link, options: &Options) -> Result<Self> {
        let starter = Starter::new("check-device", &plan.history, &plan, options)?;
        let process = starter.start(&["--incarnation", "1"])?;
        Ok(Self { plan, link, incarnation: 1, starter, process })
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again, with the outbox that it left, which may have been damaged since.
    pub(crate) fn start_again(&mut self, damaged: bool) -> Result<()> {
        self.incarnation += 1;
        let incarnation = self.incarnation.to_string();
        let arguments = ["--incarnation", &incarnation, "--damaged"];
        self.process = self.starter.start(&arguments[..if damaged { 3 } else { 2 }])?;
        Ok(())
    }

    /// Lets it end once everything is settled.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.process.tell(FINISH).await
    }

    pub(crate) fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.has_ended()
    }
}

impl Consumer {
    pub(super) fn start(plan: consumer::Plan, path: NetworkPath, account: Account, options: &Options) -> Result<Self> {
        let starter = Starter::new("check-consumer", &plan.history, &plan, options)?;
        let process = starter.start(&[])?;
        Ok(Self { plan, path, account, starter, process })
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again, from its cursors.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.process = self.starter.start(&[])?;
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub(crate) fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.has_ended()
    }
}

/// Starts this very program for another purpose, with its plan in a file: a token is no argument.
struct Starter {
    role: &'static str,
    plan: PathBuf,
    log: PathBuf,
    mutation: Option<String>,
}

impl Starter {
    fn new(role: &'static str, history: &Path, plan: &impl Serialize, options: &Options) -> Result<Self> {
        let (path, log) = (history.with_extension("plan"), history.with_extension("log"));
        std::fs::write(&path, serde_json::to_vec(plan)?).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { role, plan: path, log, mutation: options.mutation.clone() })
    }

    fn start(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(self.role).arg("--plan").arg(&self.plan).args(arguments);
        if let Some(mutation) = &self.mutation {
            command.env(motience_mutation::VARIABLE, mutation);
        }
        Process::start(self.role, command, &self.log)
    }
}
