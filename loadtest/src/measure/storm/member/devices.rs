//! Idle devices: producers of the native client without a record to send.

use std::sync::Arc;

use anyhow::Result;
use motience_certs::Trust;
use motience_device::{
    Credentials, Producer, client,
    producer::{Config, LinkState, Stats},
};
use motience_proto::model::DeviceId;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::measure::storm::crowd::{Count, Plan};

/// See the module.
#[derive(Default)]
pub(super) struct Devices {
    all: Arc<Mutex<Vec<Arc<Producer>>>>,
    /// Connections that each had when it was last to be forgotten.
    known: Vec<u64>,
    starting: JoinSet<()>,
}

impl Devices {
    /// Connects them, some at a time.
    pub(super) fn start(&mut self, plan: Arc<Plan>) {
        let all = Arc::clone(&self.all);
        self.starting.spawn(async move {
            let mut connecting = JoinSet::new();
            for number in 0..plan.devices {
                if connecting.len() >= plan.at_once {
                    connecting.join_next().await;
                }
                match device(&plan, plan.first + number) {
                    Ok(device) => {
                        let device = Arc::new(device);
                        all.lock().push(Arc::clone(&device));
                        connecting.spawn(async move { device.connected().await });
                    }
                    Err(error) => tracing::error!(number, %error, "a device cannot be started"),
                }
            }
            while connecting.join_next().await.is_some() {}
        });
    }

    pub(super) fn forget(&mut self) {
        self.known = self.all.lock().iter().map(|device| connections(&device.stats())).collect();
    }

    /// Counts those that have connected since they were to be forgotten, and why others have not.
    pub(super) fn count(&self, count: &mut Count) {
        for (number, device) in self.all.lock().iter().enumerate() {
            let (stats, known) = (device.stats(), self.known.get(number).copied().unwrap_or_default());
            if stats.state == LinkState::Connected && connections(&stats) > known {
                count.devices += 1;
            } else if let Some(error) = stats.transport.last_error {
                *count.failed.entry(format!("devices away ({error})")).or_default() += 1;
            }
        }
    }
}

fn connections(stats: &Stats) -> u64 {
    stats.transport.reconnects + u64::from(stats.transport.node.is_some())
}

fn device(plan: &Plan, number: usize) -> Result<Producer> {
    let id = DeviceId::new(&format!("storm-{number:05}"))?;
    let trust = plan.addresses.ca.clone().map_or(Trust::Platform, Trust::Ca);
    let config = Config::new(client::Config::new(plan.addresses.quic.parse()?, trust, id));
    let token = plan.producers[number % plan.producers.len()].clone();
    Ok(Producer::start(config, Credentials::Token(token.into()))?)
}
