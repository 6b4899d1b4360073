//! `loadtest hostile`: one host attacks a node in every way that once took a node down, all at once, while a hundred honest
//! devices send and a hundred honest consumers receive. The node has to stay small, and the honest ones have to lose nothing.
//!
//! The attacker is a process of its own at an address of its own (of the loopback network), so that its memory and its work are
//! not counted as anybody else's, and so that limits for each address tell it from the honest ones.

mod attacker;
mod attacks;
mod quic;
mod raw;
mod target;
mod verdict;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use attacker::{Options as AttackerOptions, run as attack};

use self::{
    attacker::Attackers,
    target::Target,
    verdict::{Memory, Verdict},
};
use crate::common::{
    accounts::Accounts,
    flow::Flow,
    process,
    server::{Addresses, Own, variable},
};

/// Records of the attacker's own log, a thousand in a batch.
const BULK: usize = 20_000;
/// Records of that log which are a batch each.
const SINGLE: usize = 3_000;
/// Accounts that the honest devices, and the honest consumers, share.
const ACCOUNTS: usize = 10;
/// How often the node's memory is read.
const SAMPLE: Duration = Duration::from_millis(50);

/// Options of `loadtest hostile`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long the honest devices send, in seconds. The attack begins before and ends after.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Honest devices, and as many honest consumers.
    #[arg(long, default_value_t = 100)]
    honest: usize,
    /// Records a second of all honest devices together.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// The attacks to carry out, separated by commas; all unless given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Resident memory that the node may take, in MiB.
    #[arg(long, default_value_t = 1024)]
    memory: u64,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
    /// A setting for the started server, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the scenario. `Ok(false)`: the node grew over the limit, or an honest client lost something.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    // Under attack a node has much to warn of.
    let quiet = [("RUST_LOG".to_owned(), "error".to_owned())];
    let own = Own::start_limited(options.server_program.clone(), &[&quiet, &options.set[..]].concat()).await?;
    let outcome = under_attack(&options, &own.addresses).await;
    own.stop().await?;
    let verdict = outcome?;
    verdict.print();
    options.json.as_deref().map_or(Ok(()), |file| verdict.write(file))?;
    Ok(verdict.good())
}

async fn under_attack(options: &Options, addresses: &Addresses) -> Result<Verdict> {
    let pid = addresses.pid.context("the server of this test is a process of ours")?;
    let target = prepare(addresses).await?;
    let quiet = process::resident(pid)?;
    let stop = CancellationToken::new();
    let sampling = tokio::spawn(sample(pid, stop.clone()));
    let attackers = Attackers::start(&target, &options.only).await?;
    let report = Flow::shared(options.honest, ACCOUNTS, options.rate, options.seconds).run(addresses).await;
    let attacks = attackers.end().await;
    stop.cancel();
    let memory = Memory { quiet, most: sampling.await?, allowed: options.memory << 20 };
    Ok(Verdict { honest: report, attacks: attacks?, memory })
}

/// The attacker's accounts, and a log for them to read.
async fn prepare(addresses: &Addresses) -> Result<Target> {
    let accounts = Accounts::new(addresses)?;
    let producer = accounts.make("producer", 1).await?.remove(0);
    let consumers = accounts.make("consumer", 3).await?;
    for consumer in &consumers {
        accounts.subscribe(consumer, &producer).await?;
    }
    for chunk in (0..BULK).collect::<Vec<_>>().chunks(1000) {
        accounts.post(&producer, &chunk.iter().map(|n| record(*n)).collect::<Vec<_>>()).await?;
    }
    for n in 0..SINGLE {
        accounts.post(&producer, &record(n)).await?;
    }
    let [consumer, crowd, leaver] = <[_; 3]>::try_from(consumers).ok().context("three consumers were asked for")?;
    Ok(Target {
        addresses: addresses.clone(),
        producer: producer.id,
        producer_token: producer.token,
        consumer_token: consumer.token,
        crowd_token: crowd.token,
        refresh_token: leaver.refresh_token,
    })
}

fn record(n: usize) -> Value {
    json!({"device_id": "attacker", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n, "pad": "x".repeat(100)}})
}

/// The most memory that the process took, until `stop` or its end.
async fn sample(pid: u32, stop: CancellationToken) -> u64 {
    let mut most = 0;
    while let Ok(now) = process::resident(pid) {
        most = most.max(now);
        if stop.run_until_cancelled(sleep(SAMPLE)).await.is_none() {
            break;
        }
    }
    most
}
