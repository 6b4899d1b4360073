//! `loadtest laws --producers`: what one consumer costs that follows many producers: what a first and a second connection take, and what the node and Redis
//! do while no record comes.

use std::time::{Duration, Instant};

use anyhow::Result;
use motience_proto::model::{Role, UserId, Visibility};
use motience_runtime::clock::Clock;
use motience_store::{self as store, NewUser, Store};
use tokio::time::sleep;

use super::{Options, node::Node};
use crate::common::{
    accounts::Account,
    egress::{Connection, Egress, Start, Target},
    redis::calls,
    server::Own,
};

/// How long a node is left alone before its idle cost is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Database connections of this program.
const CONNECTIONS: u32 = 2;

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

/// Measures each number of producers, and prints a table.
pub(super) async fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    for &producers in &options.producers {
        eprintln!("{producers} producers");
        rows.push(measure(options, producers).await?);
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
    Ok(())
}

async fn measure(options: &Options, producers: usize) -> Result<Costs> {
    let node = Node::start(options, &[]).await?;
    let consumer = node.accounts()?.make("consumer", 1).await?.remove(0);
    let ids = subscribe(&node.postgres.url(), &consumer, producers).await?;

    let (resident, cpu) = (node.resident()?, node.cpu()?);
    let (_held, first) = connect(&node.own, &consumer, Egress::Wss2, &Start::Live, &[]).await?;
    let cpu = node.cpu()?.saturating_sub(cpu);
    let (_also_held, second) = connect(&node.own, &consumer, Egress::Wss2, &Start::Live, &[]).await?;
    let (_resumed, resumed) = connect(&node.own, &consumer, Egress::Wss2, &Start::After(Default::default()), &ids).await?;
    let (_lines, lines) = connect(&node.own, &consumer, Egress::Ndjson, &Start::Live, &[]).await?;
    sleep(SETTLE).await;
    let grown = node.resident()?.saturating_sub(resident);

    let (before, cpu_before, began) = (calls(&node.redis).await?, node.cpu()?, Instant::now());
    sleep(Duration::from_secs(options.seconds)).await;
    let over = began.elapsed().as_secs_f64();
    let idle_calls = (calls(&node.redis).await? - before) as f64 / over;
    let idle_cpu = node.cpu()?.saturating_sub(cpu_before).as_secs_f64() / over;
    node.own.stop().await?;
    Ok(Costs { producers, first, second, resumed, lines, cpu, grown, idle_calls, idle_cpu })
}

/// Makes the producers in the server's database. Through the API the logins alone would take an hour.
pub(in crate::measure) async fn subscribe(url: &str, consumer: &Account, producers: usize) -> Result<Vec<i64>> {
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
