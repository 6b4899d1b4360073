//! `loadtest laws`: how the cost of a node grows with the number of producers that one consumer follows. Each number is measured on a node of its own,
//! over a Redis and a PostgreSQL of its own: what a first and a second connection take, and what the node and Redis do while no record comes.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use motience_proto::model::{Role, UserId, Visibility};
use motience_runtime::clock::Clock;
use motience_store::{self as store, NewUser, Store};
use motience_testing::{Postgres, Redis};
use tokio::time::sleep;

use super::{catch_up, kept};
use crate::common::{
    accounts::{Account, Accounts},
    egress::{Connection, Egress, Start, Target},
    process,
    redis::calls,
    server::{Own, variable},
};

/// How long a node is left alone before its idle cost is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Database connections of this program.
const CONNECTIONS: u32 = 2;

/// Options of `loadtest laws`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Producers that the consumer follows.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
    producers: Vec<usize>,
    /// Measure pages of the history instead, in a PostgreSQL with these numbers of rows. A million takes about a minute to make, and half a gigabyte.
    #[arg(long, value_delimiter = ',')]
    history: Vec<u64>,
    /// Likewise in SQLite.
    #[arg(long, value_delimiter = ',')]
    history_sqlite: Vec<u64>,
    /// Measure consumers that read one producer's old records beside each other instead: how many of them.
    #[arg(long, value_delimiter = ',')]
    readers: Vec<usize>,
    /// Records that each of them reads.
    #[arg(long, default_value_t = 100_000)]
    records: usize,
    /// Seconds over which an idle node is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
    /// A setting for the servers, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
}

/// The costs at one number of producers.
struct Costs {
    producers: usize,
    first: Duration,
    second: Duration,
    resumed: Duration,
    lines: Duration,
    cpu: Duration,
    grown: u64,
    idle_calls: f64,
    idle_cpu: f64,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if !options.history.is_empty() || !options.history_sqlite.is_empty() {
        kept::run(&options.history, &options.history_sqlite).await?;
        return Ok(true);
    }
    if !options.readers.is_empty() {
        catch_up::run(options.server_program.clone(), &options.set, options.records, &options.readers).await?;
        return Ok(true);
    }
    let mut rows = Vec::new();
    for &producers in &options.producers {
        eprintln!("{producers} producers");
        rows.push(measure(&options, producers).await?);
    }
    say!(
        "{:>9} | {:>9} {:>9} {:>9} {:>10} {:>9} | {:>12} | {:>12} {:>10}",
        "producers",
        "first ms",
        "CPU ms",
        "second ms",
        "resumed ms",
        "NDJSON ms",
        "KiB/producer",
        "idle calls/s",
        "idle CPU %"
    );
    for row in &rows {
        say!(
            "{:>9} | {:>9.1} {:>9.0} {:>9.1} {:>10.1} {:>9.1} | {:>12.2} | {:>12.0} {:>10.2}",
            row.producers,
            row.first.as_secs_f64() * 1e3,
            row.cpu.as_secs_f64() * 1e3,
            row.second.as_secs_f64() * 1e3,
            row.resumed.as_secs_f64() * 1e3,
            row.lines.as_secs_f64() * 1e3,
            row.grown as f64 / 1024.0 / row.producers as f64,
            row.idle_calls,
            row.idle_cpu * 100.0
        );
    }
    Ok(true)
}

async fn measure(options: &Options, producers: usize) -> Result<Costs> {
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    let secret = format!("{:032x}", fastrand::u128(..));
    let settings = [("REDIS_URL".to_owned(), redis.url()), ("DATABASE_URL".to_owned(), postgres.url()), ("JWT_SECRET".to_owned(), secret)];
    let own = Own::start(options.server_program.clone(), &[&settings[..], &options.set].concat()).await?;
    let consumer = Accounts::new(&own.addresses)?.make("consumer", 1).await?.remove(0);
    let ids = subscribe(&postgres.url(), &consumer, producers).await?;
    let pid = own.addresses.pid.context("the server is a process of this machine")?;

    let (resident, cpu) = (process::resident(pid)?, process::cpu(pid)?);
    let (_held, first) = connect(&own, &consumer, Egress::Wss2, &Start::Live, &[]).await?;
    let cpu = process::cpu(pid)?.saturating_sub(cpu);
    let (_also_held, second) = connect(&own, &consumer, Egress::Wss2, &Start::Live, &[]).await?;
    let (_resumed, resumed) = connect(&own, &consumer, Egress::Wss2, &Start::After(Default::default()), &ids).await?;
    let (_lines, lines) = connect(&own, &consumer, Egress::Ndjson, &Start::Live, &[]).await?;
    sleep(SETTLE).await;
    let grown = process::resident(pid)?.saturating_sub(resident);

    let (before, cpu_before, began) = (calls(&redis).await?, process::cpu(pid)?, Instant::now());
    sleep(Duration::from_secs(options.seconds)).await;
    let over = began.elapsed().as_secs_f64();
    let idle_calls = (calls(&redis).await? - before) as f64 / over;
    let idle_cpu = process::cpu(pid)?.saturating_sub(cpu_before).as_secs_f64() / over;
    own.stop().await?;
    Ok(Costs { producers, first, second, resumed, lines, cpu, grown, idle_calls, idle_cpu })
}

/// Makes the producers in the server's database. Through the API the logins alone would take an hour.
async fn subscribe(url: &str, consumer: &Account, producers: usize) -> Result<Vec<i64>> {
    let config = store::Config::Postgres { url: url.into(), max_connections: CONNECTIONS };
    let (store, clock) = (Store::open(&config).await?, Clock::system());
    let mut ids = Vec::with_capacity(producers);
    for n in 0..producers {
        let new = NewUser {
            username: format!("law-{n}"),
            password_hash: "none".to_owned(),
            role: Role::Producer,
            device_id: None,
            strict_device: false,
        };
        let producer = store.create_user(new).await?.id.producer();
        store.subscribe(UserId(consumer.id).consumer(), producer, Visibility::Open, clock.now()).await?;
        ids.push(producer.0);
    }
    store.close().await;
    Ok(ids)
}

/// A connection that follows everything, and how long that took to be in force: a ping is answered once all follows have begun, and so is a request.
async fn connect(own: &Own, consumer: &Account, egress: Egress, start: &Start, producers: &[i64]) -> Result<(Connection, Duration)> {
    let target = Target::at(egress, &own.addresses, consumer, producers.to_vec());
    let began = Instant::now();
    let mut connection = Connection::open(egress, &target, start).await?;
    connection.answers().await?;
    Ok((connection, began.elapsed()))
}
