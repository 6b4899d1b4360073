//! `loadtest storm`: one node with tens of thousands of idle devices and consumers, and all of them back at once after it was killed, and after it was
//! drained.
//!
//! The devices are the native client's producers, the consumers read `motience.v2`: each connects again by itself, with the client's own waits. They live in
//! processes of their own, so that neither the limit of open files nor their cost is the node's; they share its cores all the same. All come by tokens
//! of a few accounts, so that no password is checked. One honest device sends to one honest consumer all the while, and each of its records is looked for.

mod crowd;
mod honest;
mod member;
mod node;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use motience_testing::{Postgres, Redis};
use tokio::time::{Instant, sleep};

pub(crate) use member::run as member;

use self::{
    crowd::{Count, Crowd, Order},
    honest::Honest,
    node::Node,
    watch::Watch,
};
use crate::common::server::{Ending, LASTING, secret, shared, variable, without_rates};

/// Longest wait for all to be there, at first and after each storm.
const LIMIT: Duration = Duration::from_secs(900);
/// How often the crowd is asked how many are there.
const LOOK: Duration = Duration::from_millis(100);
/// How long a node is left alone before its idle cost is measured.
const SETTLE: Duration = Duration::from_secs(5);
/// Reserve of the whole node for those who have yet to say who they are: the product's default, which is lifted for other load tests.
const UNAUTHENTICATED: (&str, &str) = ("MAX_UNAUTHENTICATED", "2048");

/// Options of `loadtest storm`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Idle devices over QUIC.
    #[arg(long, default_value_t = 20_000)]
    devices: usize,
    /// Idle consumers by WebSocket. The node needs an open file for each.
    #[arg(long, default_value_t = 19_800)]
    consumers: usize,
    /// Accounts that the devices, and the consumers, share.
    #[arg(long, default_value_t = 20)]
    accounts: usize,
    /// Connections that are made at once at first.
    #[arg(long, default_value_t = 128)]
    at_once: usize,
    /// Seconds over which the idle node is measured.
    #[arg(long, default_value_t = 30.0)]
    idle: f64,
    /// Records a second of the honest device.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// How the node ends before each storm.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Ending::Killed, Ending::Drained])]
    storms: Vec<Ending>,
    /// Seconds within which all must be back.
    #[arg(long, default_value_t = 180.0)]
    within: f64,
    /// Over a Redis and a PostgreSQL of its own instead of an embedded node.
    #[arg(long)]
    cluster: bool,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
    /// A setting for the server, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
}

/// Whether all were back in time, and nothing of the honest flow was lost or doubled.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if options.accounts == 0 || options.at_once == 0 || options.rate <= 0.0 {
        bail!("give at least one account, one connection at once, and a rate");
    }
    let stores = if options.cluster { Some((Redis::durable().await, Postgres::start().await)) } else { None };
    let mut settings = match &stores {
        Some((redis, postgres)) => shared(redis, postgres.url(), &secret()),
        None => vec![("JWT_SECRET".to_owned(), secret())],
    };
    // The node is started again at the same places.
    settings.extend(motience_testing::port_settings(LASTING));
    settings.push((UNAUTHENTICATED.0.to_owned(), UNAUTHENTICATED.1.to_owned()));
    // All are of a few accounts, which would meet limits that as many accounts do not.
    settings.extend(without_rates());
    settings.extend(options.set.clone());
    let node = Node::start(options.server_program.clone(), settings).await?;
    let (honest, mut crowd) = (Honest::start(&node.addresses, options.rate).await?, Crowd::start(&options, &node.addresses).await?);
    let (node, fast) = storms(&options, node, &mut crowd, &honest).await?;
    crowd.end().await?;
    let outcome = honest.end().await?;
    node.stop().await?;
    outcome.print();
    Ok(fast && outcome.good())
}

/// Connects all, leaves them alone, and ends the node under them. Returns the last node, and whether all were back in time each time.
async fn storms(options: &Options, mut node: Node, crowd: &mut Crowd, honest: &Honest) -> Result<(Node, bool)> {
    connect("devices", Order::Devices, options.devices, |count| count.devices, (&node, &mut *crowd, honest)).await?;
    connect("consumers", Order::Consumers, options.consumers, |count| count.consumers, (&node, &mut *crowd, honest)).await?;
    idle(options, &node, crowd, honest).await?;
    let mut fast = true;
    for ending in &options.storms {
        let (again, took) = storm(options, *ending, node, crowd, honest).await?;
        node = again;
        fast &= took <= Duration::from_secs_f64(options.within);
        sleep(SETTLE).await;
    }
    Ok((node, fast))
}

/// Has one side connect, and tells what that takes.
async fn connect(
    side: &str,
    order: Order,
    wanted: usize,
    of: fn(&Count) -> usize,
    (node, crowd, honest): (&Node, &mut Crowd, &Honest),
) -> Result<()> {
    let (before, watch, began) = (node.cost()?, Watch::start(node.pid), Instant::now());
    crowd.order(order).await?;
    loop {
        let count = crowd.count();
        if of(&count) >= wanted {
            break;
        }
        if began.elapsed() > LIMIT {
            bail!("only {} of {wanted} {side} connected within {} s; {}", of(&count), LIMIT.as_secs(), count.failures());
        }
        sleep(LOOK).await;
    }
    let took = began.elapsed().as_secs_f64();
    let after = node.cost()?;
    let (each, peak) = (1.0 / wanted.max(1) as f64, watch.end().await);
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    say!("{wanted} {side} connected in {took:.1} s: {:.0}/s", wanted as f64 / took);
    say!(
        "  node          {:.2} CPU-ms and {:.1} KiB each, {:.2} of a core on average",
        cpu * 1e3 * each,
        (after.memory.saturating_sub(before.memory)) as f64 / 1024.0 * each,
        cpu / took
    );
    say!("  {peak}");
    say!("  {}", honest.told());
    say!("  refused       {}", node.refusals().await?);
    Ok(())
}

/// Measures the node while nobody but the honest two does anything.
async fn idle(options: &Options, node: &Node, crowd: &Crowd, honest: &Honest) -> Result<()> {
    sleep(SETTLE).await;
    honest.told();
    let (before, began) = (node.cost()?, Instant::now());
    sleep(Duration::from_secs_f64(options.idle)).await;
    let (after, took) = (node.cost()?, began.elapsed().as_secs_f64());
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    let count = crowd.count();
    say!("idle for {took:.0} s, {} devices and {} consumers", count.devices, count.consumers);
    say!("  node          {:.3} of a core, {} MiB", cpu / took, after.memory >> 20);
    say!("  {}", honest.told());
    Ok(())
}

/// Ends the node, starts it again, and waits until all are back. Returns how long that took, from the end of the first node on.
async fn storm(options: &Options, ending: Ending, node: Node, crowd: &mut Crowd, honest: &Honest) -> Result<(Node, Duration)> {
    crowd.order(Order::Forget).await?;
    crowd.forgotten(LIMIT).await.context("the crowd does not answer")?;
    honest.told();
    let began = Instant::now();
    let (node, ended) = node.again(ending).await?;
    let up = began.elapsed();
    let watch = Watch::start(node.pid);
    let total = options.devices + options.consumers;
    let mut marks = [[None; 3]; 2];
    let count = loop {
        let (count, now) = (crowd.count(), began.elapsed());
        for (marks, (back, of)) in marks.iter_mut().zip([(count.devices, options.devices), (count.consumers, options.consumers)]) {
            for (mark, share) in marks.iter_mut().zip([0.5, 0.99, 1.0]) {
                if mark.is_none() && back as f64 >= share * of as f64 {
                    *mark = Some(now.as_secs_f64());
                }
            }
        }
        if marks.iter().flatten().all(Option::is_some) {
            break count;
        }
        if now > LIMIT {
            bail!("only {} devices and {} consumers of {total} are back; {}", count.devices, count.consumers, count.failures());
        }
        sleep(LOOK).await;
    };
    let (took, cost) = (began.elapsed(), node.cost()?);
    say!("{}: the process ended after {:.1} s, another was ready after {:.1} s", ending.name(), ended.as_secs_f64(), up.as_secs_f64());
    for (side, marks) in ["devices", "consumers"].into_iter().zip(marks) {
        let [half, most, all] = marks.map(Option::unwrap_or_default);
        say!("  {side:<13} half back after {half:.1} s, 99 % after {most:.1} s, all after {all:.1} s");
    }
    say!("  node          {:.1} CPU-s, {:.2} CPU-ms each", cost.cpu.as_secs_f64(), cost.cpu.as_secs_f64() * 1e3 / total.max(1) as f64);
    say!("  {}", watch.end().await);
    say!("  {}", honest.told());
    say!("  refused       {}", node.refusals().await?);
    say!("  tries failed  {}", count.failures());
    Ok((node, took))
}
