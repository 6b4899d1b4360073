//! `loadtest fleet`: many devices of one account, whose node is restarted, and who are then restarted themselves.
//!
//! A device is back when the new process has acknowledged a record of it. The node is killed: nobody is asked to leave. After
//! the restart it has its usual limits of logins and refreshes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use motience_certs::Trust;
use motience_device::{
    Credentials, Producer,
    client::{self, Lane},
    login::Auth,
    producer::{Config, LinkState},
};
use motience_proto::model::DeviceId;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};

use crate::common::{
    accounts::{Account, Accounts},
    process,
    server::{Addresses, LASTING, Own, secret},
};

/// Longest wait for all devices to be there at first: each logs in, and the server checks few passwords at a time.
const FIRST_LIMIT: Duration = Duration::from_secs(900);
/// Longest wait for all to be back.
const LIMIT: Duration = Duration::from_secs(300);
/// How often the devices are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Options of `loadtest fleet`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Devices of one account.
    #[arg(long, default_value_t = 2000)]
    devices: usize,
    /// Seconds between two records of a device.
    #[arg(long, default_value_t = 5.0)]
    every: f64,
    /// Seconds within which all must be back.
    #[arg(long, default_value_t = 60.0)]
    within: f64,
    /// The server's program, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

/// Whether all were back in time.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    let settings = [vec![("JWT_SECRET".to_owned(), secret())], motience_testing::port_settings(LASTING)].concat();
    let own = Own::start(options.server_program.clone(), &settings).await?;
    let account = Accounts::new(&own.addresses)?.make("producer", 1).await?.pop().context("an account was made")?;
    let tokens = TempDir::new()?;
    let began = Instant::now();
    let mut fleet = Fleet::start(&options, &own.addresses, &account, tokens.path()).await?;
    fleet.report("at first, each with a login", began, &own.addresses, FIRST_LIMIT).await?;

    let began = Instant::now();
    let own = own.restart(&settings).await?;
    say!("the node was killed and is up again after {:.1} s", began.elapsed().as_secs_f64());
    fleet.forget();
    let node = fleet.report("after the node's restart", began, &own.addresses, LIMIT).await?;

    drop(fleet);
    let began = Instant::now();
    let own = own.restart(&settings).await?;
    let fleet = Fleet::start(&options, &own.addresses, &account, tokens.path()).await?;
    let devices = fleet.report("after a restart of node and devices, by kept refresh tokens", began, &own.addresses, LIMIT).await?;
    drop(fleet);
    own.stop().await?;
    Ok(node.max(devices) <= Duration::from_secs_f64(options.within))
}

struct Fleet {
    /// Each with the records that were acknowledged when it was last known to be away.
    devices: Vec<(Arc<Producer>, u64)>,
    senders: JoinSet<()>,
}

impl Fleet {
    async fn start(options: &Options, at: &Addresses, account: &Account, tokens: &Path) -> Result<Self> {
        let trust = at.ca.clone().map_or(Trust::Platform, Trust::Ca);
        let auth = Auth::new(&at.ap, &trust)?;
        let every = Duration::from_secs_f64(options.every);
        let mut fleet = Self { devices: Vec::with_capacity(options.devices), senders: JoinSet::new() };
        for n in 0..options.devices {
            let id = DeviceId::new(&format!("fleet-{n:05}")).expect("digits make a device id");
            let record = format!(r#"{{"device_id":"{id}","timestamp":1,"data":{{"n":{n}}}}}"#);
            let mut config = Config::new(client::Config::new(at.quic.parse()?, trust.clone(), id));
            config.outbox.records = 1000;
            let credentials = Credentials::account(auth.clone(), &account.username, account.password.as_str().into());
            let producer = Arc::new(Producer::start(config, credentials.kept_in(tokens.join(format!("{n}.json"))))?);
            fleet.devices.push((producer.clone(), 0));
            fleet.senders.spawn(async move {
                // Evenly spread, as sensors are that were switched on at different times.
                let mut ticks = interval(every);
                ticks.reset_after(every.mul_f64(fastrand::f64()));
                loop {
                    ticks.tick().await;
                    // A full outbox drops its oldest; anything else is seen from outside.
                    let _ = producer.try_send(Lane::default(), record.clone());
                }
            });
        }
        Ok(fleet)
    }

    /// From now on they count as away.
    fn forget(&mut self) {
        for (producer, known) in &mut self.devices {
            *known = producer.stats().outbox.acked;
        }
    }

    /// Waits until all are back, and prints how long it took from `began`. Returns that.
    async fn report(&self, when: &str, began: Instant, at: &Addresses, limit: Duration) -> Result<Duration> {
        let before = at.pid.map(process::cpu).transpose()?.unwrap_or_default();
        let mut marks = [(0.5, None), (0.99, None), (1.0, None)];
        while marks[2].1.is_none() {
            let back = self.devices.iter().map(|(producer, known)| (producer.stats(), known));
            let back = back.filter(|(stats, known)| stats.outbox.acked > **known && stats.state == LinkState::Connected).count();
            let now = began.elapsed();
            for (share, time) in &mut marks {
                if time.is_none() && back as f64 >= *share * self.devices.len() as f64 {
                    *time = Some(now);
                }
            }
            if now > limit {
                let why = self.devices.iter().find_map(|(producer, _)| producer.stats().transport.last_error).unwrap_or_default();
                bail!("only {back} of {} devices are back after {} s; one says: {why}", self.devices.len(), limit.as_secs());
            }
            sleep(LOOK).await;
        }
        let [half, most, all] = marks.map(|(_, time)| time.unwrap_or_default().as_secs_f64());
        let cpu = at.pid.map(process::cpu).transpose()?.unwrap_or_default().saturating_sub(before).as_secs_f64();
        say!(
            "{when}: half of {} are back after {half:.1} s, 99 % after {most:.1} s, all after {all:.1} s; the server used {cpu:.1} CPU-s",
            self.devices.len()
        );
        Ok(Duration::from_secs_f64(all))
    }
}
