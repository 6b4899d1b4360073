//! A process of the crowd: it holds its devices and consumers, each of which comes back by itself, and says how many are there.

mod consumers;
mod devices;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::{MissedTickBehavior, interval},
};

use self::{consumers::Consumers, devices::Devices};
use super::crowd::{Count, Order, Plan};
use crate::common::process;

/// How often the devices are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Does what it is told on standard input until that ends.
pub(crate) async fn run() -> Result<bool> {
    motience_certs::install_provider();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let plan: Plan = serde_json::from_str(&lines.next_line().await?.context("a plan is expected on standard input")?)?;
    process::raise_descriptors((plan.devices + plan.consumers) as u64 + 64)?;
    let plan = Arc::new(plan);
    let (mut devices, mut consumers, mut forgotten) = (Devices::default(), Consumers::default(), 0);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                None => return Ok(true),
                Some(line) => match serde_json::from_str(&line)? {
                    Order::Devices => devices.start(Arc::clone(&plan)),
                    Order::Consumers => consumers.start(&plan),
                    Order::Forget => {
                        devices.forget();
                        consumers.forget();
                        forgotten += 1;
                    }
                }
            },
            _ = looks.tick() => {
                let mut count = Count { forgotten, ..Count::default() };
                devices.count(&mut count);
                consumers.count(&mut count);
                say!("{}", serde_json::to_string(&count)?);
            }
        }
    }
}
