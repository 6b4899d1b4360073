//! `loadtest run`: devices send, consumers receive; or both are connected and idle.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::common::{
    accounts::Accounts,
    flow::Flow,
    payload::TestClock,
    process,
    report::Idle,
    seen::Live,
    server::{Addresses, Own, variable},
};

/// Longest wait for the server's counts.
const COUNT_LIMIT: Duration = Duration::from_secs(30);

/// Options of `loadtest run`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    flow: Flow,
    /// Connect and send nothing: what an idle connection costs.
    #[arg(long)]
    idle: bool,
    /// A server that is already there: the file it wrote by `--ready-file`. Otherwise one is started.
    #[arg(long)]
    server: Option<PathBuf>,
    /// The process whose cost is measured, for a server that is already there.
    #[arg(long, requires = "server")]
    server_pid: Option<u32>,
    /// The program to start, where it is not beside this one.
    #[arg(long, conflicts_with = "server")]
    server_program: Option<PathBuf>,
    /// A setting for the started server, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
    /// Compare what the server has counted (COUNT_USAGE) with what was sent and received.
    #[arg(long)]
    usage: bool,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the scenario. `Ok(false)`: it ran, and records were lost or doubled or something was cut.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    let (own, addresses) = match &options.server {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
            let addresses: Addresses = serde_json::from_str(&text).context("that is no server's ready file")?;
            (None, Addresses { pid: options.server_pid, ..addresses })
        }
        None => {
            let counts = options.usage.then(|| ("COUNT_USAGE".to_owned(), "true".to_owned()));
            let variables: Vec<_> = counts.into_iter().chain(options.set.clone()).collect();
            let own = Own::start(options.server_program.clone(), &variables).await?;
            let addresses = own.addresses.clone();
            (Some(own), addresses)
        }
    };
    let outcome = if options.idle {
        idle(&options.flow, &addresses).await
    } else if options.usage {
        counted(&options.flow, &addresses).await
    } else {
        options.flow.run(&addresses).await.and_then(|report| {
            report.print();
            options.json.as_deref().map_or(Ok(()), |file| report.write(file))?;
            Ok(report.good())
        })
    };
    if let Some(own) = own {
        own.stop().await?;
    }
    outcome
}

/// A flow whose records the server counts too.
async fn counted(flow: &Flow, addresses: &Addresses) -> Result<bool> {
    if flow.accounts < flow.consumers {
        bail!("a record counts once for each account: give every consumer its own (--accounts)");
    }
    let participants = flow.participants(addresses).await?;
    let report = flow.run_with(addresses, &participants).await?;
    report.print();
    let (accounts, deadline) = (Accounts::new(addresses)?, time::Instant::now() + COUNT_LIMIT);
    let (taken, given) = loop {
        let (mut taken, mut given) = (0, 0);
        for account in participants.producers().iter().chain(participants.consumers()) {
            let (incoming, outgoing) = accounts.usage(account).await?;
            (taken, given) = (taken + incoming, given + outgoing);
        }
        if (taken, given) == (report.acknowledged, report.delivered) || time::Instant::now() > deadline {
            break (taken, given);
        }
        time::sleep(Duration::from_millis(200)).await;
    };
    say!("  usage         {taken} in of {} acknowledged, {given} out of {} delivered", report.acknowledged, report.delivered);
    let equal = (taken, given) == (report.acknowledged, report.delivered);
    say!("{}", if equal { "the usage is what was counted here" } else { "NOT GOOD: the usage is another" });
    Ok(report.good() && equal)
}

async fn idle(flow: &Flow, addresses: &Addresses) -> Result<bool> {
    let pid = addresses.pid.context("the memory of a server that is already there is measured with --server-pid")?;
    let participants = flow.participants(addresses).await?;
    let (live, stop) = (Arc::new(Live::default()), CancellationToken::new());
    let (clock, settle) = (TestClock::start(), async || time::sleep(Duration::from_secs(2)).await);
    let (mut devices, mut readers, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    // Two equal waves: what the second adds is what connections cost, without what all of them share.
    for _ in 0..2 {
        let wave = Flow { devices: flow.devices / 2, consumers: flow.consumers / 2, ..flow.clone() };
        let first = devices.len();
        for device in wave.devices(first, addresses, &participants).await? {
            devices.push(device.idle(Arc::clone(&live), stop.clone()));
        }
        for consumer in wave.consumers(addresses, &participants).await? {
            readers.push(consumer.read(clock, Arc::clone(&live), stop.clone()));
        }
        settle().await;
        memory.push(process::resident(pid)?);
    }
    stop.cancel();
    for device in devices {
        device.await?;
    }
    for reader in readers {
        reader.await?;
    }
    let (half, all) = (memory[0], memory[1]);
    let idle = Idle { devices: flow.devices / 2, consumers: flow.consumers / 2, half, all, failures: live.failures() };
    idle.print();
    Ok(idle.failures.is_empty())
}
