//! `loadtest check`: a randomised crash test. Devices and consumers write down what they do while a seeded schedule kills,
//! pauses, cuts and damages; afterwards the checker ([`verify`]) proves from the files alone what Motience promises.

mod consumer;
mod damage;
mod device;
mod faults;
mod history;
mod options;
mod orders;
mod platform;
mod programs;
mod proxy;
mod record;
mod report;
mod run;
mod schedule;
mod settle;
mod stored;
mod verify;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

pub(crate) use options::Options;
pub(crate) use run::run;

/// Options of the processes that a check starts.
#[derive(Args, Clone, Debug)]
pub(crate) struct Member {
    /// File with its orders, as JSON.
    #[arg(long)]
    plan: PathBuf,
    /// How often the device has been started, this time included.
    #[arg(long, default_value_t = 1)]
    incarnation: u32,
    /// The device's outbox was damaged since it ran last.
    #[arg(long)]
    damaged: bool,
}

/// Runs a device.
pub(crate) async fn device(member: Member) -> Result<bool> {
    device::run(read(&member.plan)?, member.incarnation, member.damaged).await.map(|()| true)
}

/// Runs a consumer.
pub(crate) async fn consumer(member: Member) -> Result<bool> {
    consumer::run(read(&member.plan)?).await.map(|()| true)
}

fn read<T: serde::de::DeserializeOwned>(plan: &PathBuf) -> Result<T> {
    let text = std::fs::read_to_string(plan).with_context(|| format!("{} cannot be read", plan.display()))?;
    serde_json::from_str(&text).context("that is no plan")
}
