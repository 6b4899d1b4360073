//! The crowd: processes that hold the idle devices and consumers. Each is told on its standard input what to do, and says on its standard output
//! how many of its own are there.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    process::Command,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{LOOK, Options};
use crate::common::{
    accounts::{Account, Accounts},
    part::{Part, Told},
    server::Addresses,
};

/// Connections of one process: well below the limit of open files that a system may have.
const EACH: usize = 10_000;
/// How long a process may take to end.
const END_LIMIT: Duration = Duration::from_secs(30);

/// The next step of a process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Connect the devices.
    Devices,
    /// Connect the consumers.
    Consumers,
    /// From now on only those count that connect anew.
    Forget,
}

/// The part of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) addresses: Addresses,
    /// The number of its first device.
    pub(super) first: usize,
    pub(super) devices: usize,
    pub(super) consumers: usize,
    pub(super) at_once: usize,
    /// Where its consumers come from: ports of one address would not be enough for all.
    pub(super) source: Ipv4Addr,
    /// Tokens of the devices' accounts.
    pub(super) producers: Vec<String>,
    /// Tokens of the consumers' accounts, and the producer that each follows.
    pub(super) followers: Vec<(String, i64)>,
}

/// How many are there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Count {
    /// Orders to forget that were carried out.
    pub(super) forgotten: usize,
    pub(super) devices: usize,
    pub(super) consumers: usize,
    /// Tries that failed, by why. Of devices, those that are still without a connection.
    pub(super) failed: BTreeMap<String, u64>,
}

impl Count {
    pub(super) fn failures(&self) -> String {
        let told: Vec<_> = self.failed.iter().map(|(why, times)| format!("{times} {why}")).collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    }
}

/// See the module.
pub(super) struct Crowd {
    members: Vec<Part>,
    counts: Arc<Mutex<Vec<Count>>>,
    listening: JoinSet<()>,
    forgotten: usize,
}

impl Crowd {
    /// Makes the accounts and starts the processes; nobody connects yet.
    pub(super) async fn start(options: &Options, addresses: &Addresses) -> Result<Self> {
        let accounts = Accounts::new(addresses)?;
        let producers = accounts.make("producer", options.accounts).await?;
        let consumers = accounts.make("consumer", options.accounts).await?;
        for (consumer, producer) in consumers.iter().zip(&producers) {
            accounts.subscribe(consumer, producer).await?;
        }
        let members = (options.devices + options.consumers).div_ceil(EACH).max(1);
        let counts = Arc::new(Mutex::new(vec![Count::default(); members]));
        let mut crowd = Self { members: Vec::new(), counts, listening: JoinSet::new(), forgotten: 0 };
        for number in 0..members {
            let part = |of: usize| of * (number + 1) / members - of * number / members;
            let plan = Plan {
                addresses: addresses.clone(),
                first: options.devices * number / members,
                devices: part(options.devices),
                consumers: part(options.consumers),
                at_once: options.at_once.div_ceil(members),
                source: Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).context("more processes than addresses")?),
                producers: producers.iter().map(|account| account.token.clone()).collect(),
                followers: consumers.iter().zip(&producers).map(|(consumer, Account { id, .. })| (consumer.token.clone(), *id)).collect(),
            };
            crowd.add(number, &plan).await?;
        }
        Ok(crowd)
    }

    async fn add(&mut self, number: usize, plan: &Plan) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        // A device warns of each try that fails; the counts tell of all of them together. Its socket has a buffer of 3 MiB, hardly any of which is
        // used: in huge pages twenty thousand of them would take a dozen gigabytes.
        command.env("RUST_LOG", "off").env("MIMALLOC_ALLOW_THP", "0").arg("storm-member");
        let (member, told) = Part::start("a part of the crowd", command, plan).await?;
        self.listening.spawn(listen(told, number, Arc::clone(&self.counts)));
        self.members.push(member);
        Ok(())
    }

    pub(super) async fn order(&mut self, order: Order) -> Result<()> {
        self.forgotten += usize::from(matches!(order, Order::Forget));
        for member in &mut self.members {
            member.tell(&order).await?;
        }
        Ok(())
    }

    /// Waits until all have carried out the last order to forget.
    pub(super) async fn forgotten(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.counts.lock().iter().any(|count| count.forgotten < self.forgotten) {
            if Instant::now() > deadline {
                bail!("no answer in time");
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// How many of all are there.
    pub(super) fn count(&self) -> Count {
        let mut all = Count::default();
        for count in self.counts.lock().iter() {
            all.devices += count.devices;
            all.consumers += count.consumers;
            for (why, times) in &count.failed {
                *all.failed.entry(why.clone()).or_default() += times;
            }
        }
        all
    }

    pub(super) async fn end(mut self) -> Result<()> {
        for member in self.members {
            member.end(END_LIMIT).await?;
        }
        self.listening.shutdown().await;
        Ok(())
    }
}

/// Takes what a process says until it ends.
async fn listen(mut told: Told, number: usize, counts: Arc<Mutex<Vec<Count>>>) {
    while let Ok(Some(line)) = told.next_line().await {
        if let Ok(count) = serde_json::from_str(&line) {
            counts.lock()[number] = count;
        }
    }
}
