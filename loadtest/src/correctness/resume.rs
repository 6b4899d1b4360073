//! `loadtest resume`: consumers by every egress are cut off again and again during a flood of one producer, each time without
//! a word, and go on from the cursor of the last record they had. Each record must reach each of them exactly once.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use motience_certs::Trust;
use motience_device::client::{Config, Connector, Event, Lane, Session};
use motience_proto::{
    model::{Cursor, DeviceId, ProducerEpoch, ProducerId, RangeSet, RecordId, Seq},
    wire::{self, Intent, Record},
};
use motience_testing::{Postgres, Redis};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::timeout;

use crate::common::{
    accounts::{Account, Accounts},
    egress::{Connection, Egress, Incoming, Start, Target},
    payload::{Mark, record},
    server::{Addresses, Own, secret, shared},
};

/// Longest silence of the server that a consumer takes.
const SILENCE: Duration = Duration::from_secs(30);
/// Records under way unacknowledged.
const UNDER_WAY: u64 = 4096;

/// Options of `loadtest resume`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Records of the flood.
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// How often each consumer is cut off.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Seed of the moments at which consumers are cut off.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    against(&options, Vec::new()).await
}

/// Runs as a part of a check: on a server of its own, over a Redis and a PostgreSQL of its own where the check is of a cluster.
pub(crate) async fn part(records: u64, kills: u64, seed: u64, server: PathBuf, cluster: bool) -> Result<bool> {
    let options = Options { records, kills, seed, server_program: Some(server) };
    if !cluster {
        return against(&options, Vec::new()).await;
    }
    let (redis, postgres) = (Redis::durable().await, Postgres::start().await);
    against(&options, shared(&redis, postgres.url(), &secret())).await
}

async fn against(options: &Options, mut settings: Vec<(String, String)>) -> Result<bool> {
    // Room for the whole flood: this is about resuming, not about retention.
    settings.push(("LOG_RETENTION_BYTES".to_owned(), "4GiB".to_owned()));
    let own = Own::start(options.server_program.clone(), &settings).await?;
    let outcome = flood(options, &own.addresses).await;
    own.stop().await?;
    outcome
}

async fn flood(options: &Options, addresses: &Addresses) -> Result<bool> {
    let accounts = Accounts::new(addresses)?;
    let producer = accounts.make("producer", 1).await?.remove(0);
    let consumers = accounts.make("consumer", 1 + Egress::RESUMING.len()).await?;
    for consumer in &consumers {
        accounts.subscribe(consumer, &producer).await?;
    }
    let began = Instant::now();
    let native = Reader::new(options, &producer, 0).native(connector(addresses, "reader")?, consumers[0].clone());
    let mut readers = vec![("motience/1", tokio::spawn(native))];
    for ((number, egress), consumer) in (1..).zip(Egress::RESUMING).zip(&consumers[1..]) {
        let target = Target::at(egress, addresses, consumer, vec![producer.id]);
        readers.push((egress.name(), tokio::spawn(Reader::new(options, &producer, number).json(egress, target))));
    }
    let sending = tokio::spawn(send(connector(addresses, "load-00000")?, producer, options.records));
    let mut good = true;
    for (name, reading) in readers {
        let reader: Result<Reader> = reading.await?;
        let reader = reader.with_context(|| format!("the consumer over {name}"))?;
        say!("  {name:<18} {} records, cut off {} times, {} doubled", reader.count, reader.cuts, reader.doubled);
        good &= reader.count == options.records && reader.doubled == 0 && reader.cuts == options.kills;
    }
    sending.await??;
    say!(
        "{} records in {:.1} s, seed {}: {}",
        options.records,
        began.elapsed().as_secs_f64(),
        options.seed,
        if good { "each exactly once" } else { "NOT GOOD" }
    );
    Ok(good)
}

fn connector(addresses: &Addresses, name: &str) -> Result<Connector> {
    let trust = addresses.ca.clone().map_or(Trust::Platform, Trust::Ca);
    Ok(Connector::new(Config::new(addresses.quic.parse()?, trust, DeviceId::new(name)?))?)
}

async fn connect(connector: &Connector, account: &Account, intent: Intent) -> Result<Session> {
    Ok(connector.connect(&SecretString::from(account.token.clone()), intent, ProducerEpoch(1)).await?)
}

async fn send(connector: Connector, account: Account, records: u64) -> Result<()> {
    let mut session = connect(&connector, &account, Intent::Produce).await?;
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < records {
        while sent < records && sent - acknowledged < UNDER_WAY {
            sent += 1;
            let json = record(Mark { device: 0, number: sent, due: 0 }, 150);
            session.send(Lane::Ordered, Record { seq: Seq(sent), json }).await?;
        }
        if let Event::Acked(ranges) = session.next().await? {
            acknowledged += ranges.numbers();
        }
    }
    Ok(())
}

/// State of one consumer across all its connections.
struct Reader {
    producer: ProducerId,
    records: u64,
    seen: RangeSet,
    count: u64,
    doubled: u64,
    cursor: Option<Cursor>,
    /// Counts at which it is still to be cut off, the next one last.
    kills: Vec<u64>,
    cuts: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Notice { r#type: String },
    Record { cursor: String, record_id: String },
}

impl Reader {
    fn new(options: &Options, producer: &Account, number: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(options.seed.wrapping_add(number));
        let mut kills: Vec<u64> = (0..options.kills).map(|_| random.u64(0..options.records)).collect();
        kills.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            producer: ProducerId(producer.id),
            records: options.records,
            seen: RangeSet::new(),
            count: 0,
            doubled: 0,
            cursor: None,
            kills,
            cuts: 0,
        }
    }

    /// Takes a record; `true` where the consumer dies behind it.
    fn take(&mut self, cursor: Cursor, name: RecordId) -> bool {
        if self.seen.insert(name.seq.0) {
            self.count += 1;
        } else {
            self.doubled += 1;
        }
        self.cursor = Some(cursor);
        let dies = self.kills.last().is_some_and(|at| self.count > *at);
        if dies {
            self.kills.pop();
            self.cuts += 1;
        }
        dies
    }

    fn is_done(&self) -> bool {
        self.count == self.records
    }

    async fn native(mut self, connector: Connector, account: Account) -> Result<Self> {
        while !self.is_done() {
            let mut session = connect(&connector, &account, Intent::Consume).await?;
            session.subscribe(self.producer, self.cursor.map_or(wire::Start::Earliest, wire::Start::After), "").await?;
            let mut position = Cursor::default();
            'alive: while !self.is_done() {
                match timeout(SILENCE, session.next()).await.context("the server fell silent")?? {
                    Event::Cursor(said) => position = said.cursor,
                    Event::Entries { entries, .. } => {
                        for entry in entries {
                            position.offset = entry.offset;
                            if self.take(position, entry.record_id) {
                                break 'alive;
                            }
                        }
                    }
                    Event::Followed { refusal, .. } if refusal.is_empty() => {}
                    other => bail!("unexpected: {other:?}"),
                }
            }
        }
        Ok(self)
    }

    async fn json(mut self, egress: Egress, target: Target) -> Result<Self> {
        while !self.is_done() {
            let cursors = self.cursor.map(|cursor| (self.producer.0, cursor));
            let mut connection = Connection::open(egress, &target, &Start::After(cursors.into_iter().collect())).await?;
            while !self.is_done() {
                match timeout(SILENCE, connection.next()).await.context("the server fell silent")?? {
                    Incoming::Message(text) => match serde_json::from_str(&text).with_context(|| format!("no message: {text}"))? {
                        Message::Record { cursor, record_id } => {
                            if self.take(cursor.parse()?, record_id.parse()?) {
                                break;
                            }
                        }
                        Message::Notice { r#type } if matches!(&*r#type, "subscribed" | "cursor" | "cursors") => {}
                        Message::Notice { .. } => bail!("unexpected: {text}"),
                    },
                    Incoming::End(how) => bail!("the connection ended: {how}"),
                }
            }
        }
        Ok(self)
    }
}
