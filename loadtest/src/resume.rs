//! `loadtest resume`: consumers are cut off again and again during a flood, each time without a word, and go on from the
//! cursor of the last record they had. Each record must reach each of them exactly once.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use futures_util::StreamExt as _;
use motience_certs::Trust;
use motience_device::client::{Config, Connector, Event, Lane, Session};
use motience_shared::{
    model::{Cursor, DeviceId, Epoch, ProducerId, RangeSet, RecordName, Seq},
    wire::{From, Intent, Record},
};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    accounts::{Account, Accounts},
    payload::{Mark, record},
    server::{Addresses, Own},
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
    /// What decides when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    // Room for the whole flood: this is about resuming, not about retention.
    let settings = [("LOG_RETENTION_BYTES".to_owned(), "4GiB".to_owned())];
    let own = Own::start(options.server_program.clone(), &settings).await?;
    let outcome = flood(&options, &own.addresses).await;
    own.stop().await?;
    outcome
}

async fn flood(options: &Options, addresses: &Addresses) -> Result<bool> {
    let accounts = Accounts::new(addresses)?;
    let producer = accounts.make("producer", 1).await?.remove(0);
    let consumers = accounts.make("consumer", 2).await?;
    for consumer in &consumers {
        accounts.subscribe(consumer, &producer).await?;
    }
    let began = Instant::now();
    let native = tokio::spawn(Reader::new(options, &producer, 0).native(connector(addresses, "reader")?, consumers[0].clone()));
    let socket = tokio::spawn(Reader::new(options, &producer, 1).socket(addresses.wss2.clone(), consumers[1].clone()));
    let sending = tokio::spawn(send(connector(addresses, "flood")?, producer, options.records));
    let mut good = true;
    for (name, reading) in [("motience/1", native), ("motience.v2", socket)] {
        let reader: Result<Reader> = reading.await?;
        let reader = reader.with_context(|| format!("the consumer over {name}"))?;
        println!("{name:<12} {} records, cut off {} times, {} doubled", reader.count, reader.cuts, reader.doubled);
        good &= reader.count == options.records && reader.doubled == 0 && reader.cuts == options.kills;
    }
    sending.await??;
    println!(
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
    Ok(connector.connect(&SecretString::from(account.token.clone()), intent, Epoch(1)).await?)
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
            acknowledged += ranges.iter().map(|r| r.end() - r.start() + 1).sum::<u64>();
        }
    }
    Ok(())
}

/// What one consumer has, across all its lives.
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
struct Placed {
    cursor: String,
    name: String,
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
    fn take(&mut self, cursor: Cursor, name: RecordName) -> bool {
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
            session.subscribe(self.producer, self.cursor.map_or(From::Earliest, From::After), "").await?;
            let mut place = Cursor::default();
            'alive: while !self.is_done() {
                match timeout(SILENCE, session.next()).await.context("the server fell silent")?? {
                    Event::Feed(feed) => place = feed.after,
                    Event::Entries { entries, .. } => {
                        for entry in entries {
                            place.offset = entry.offset;
                            if self.take(place, entry.name) {
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

    async fn socket(mut self, wss2: String, account: Account) -> Result<Self> {
        while !self.is_done() {
            let place = self.cursor.map_or_else(|| "earliest".to_owned(), |cursor| cursor.to_string());
            let resume = format!("%7B%22{}%22:%22{place}%22%7D", self.producer);
            let (mut socket, _) = connect_async(format!("{wss2}?token={}&v=2&resume={resume}", account.token)).await?;
            while !self.is_done() {
                match timeout(SILENCE, socket.next()).await.context("the server fell silent")? {
                    Some(Ok(Message::Text(text))) => {
                        let placed: Placed = serde_json::from_str(&text).with_context(|| format!("no record: {text}"))?;
                        if self.take(placed.cursor.parse()?, placed.name.parse()?) {
                            break;
                        }
                    }
                    Some(Ok(Message::Ping(_))) => {}
                    other => bail!("unexpected: {other:?}"),
                }
            }
        }
        Ok(self)
    }
}
