//! `loadtest grants`: whether grants, and changes of them, cost the live path anything. Equal flows run on a server without grants and on one whose
//! producers have thousands, which change all the time through the API; both take turns, so that a noisy machine is noisy for both.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use motience_proto::model::{Agreement, Role, UserId, Visibility};
use motience_relay::pipeline::scope::Scope;
use motience_runtime::clock::Clock;
use motience_store::{self as store, NewUser, Store, Terms};
use serde_json::{Value, json};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::common::{
    accounts::{Account, Accounts},
    flow::Flow,
    report::{Report, middle, ratio},
    server::{Own, variable},
};

/// How many acts an embedded server reads at once, and how often: those of the grants are behind it before anything is measured.
const ACTS_A_SECOND: u32 = 2000;
/// The part of the wanted changes that has to be made.
const ENOUGH: f64 = 0.9;

/// Options of `loadtest grants`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Devices, each of an account of its own, and consumers.
    #[arg(long, default_value_t = 50)]
    pairs: usize,
    /// Grants in force beside those of the consumers that read.
    #[arg(long, default_value_t = 10_000)]
    grants: usize,
    /// Changes of grants a minute: narrowed, revoked, approved.
    #[arg(long, default_value_t = 1000.0)]
    changes: f64,
    /// Records a second of the steady flow.
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Seconds of each flow.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Rounds of both.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
    /// A setting for the servers, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
}

/// One server in one round.
struct Run {
    flood: Report,
    steady: Report,
    /// Changes made, and how long each took, in milliseconds.
    changes: Vec<f64>,
    over: Duration,
}

impl Run {
    fn changes_a_minute(&self) -> f64 {
        self.changes.len() as f64 * 60.0 / self.over.as_secs_f64()
    }
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if options.rounds == 0 || options.changes <= 0.0 || options.pairs == 0 {
        bail!("give at least one round, one pair, and changes");
    }
    let mut runs = [Vec::new(), Vec::new()];
    for round in 0..options.rounds {
        // Each is first in every other round: a disk that is still busy with the run before is so for both.
        for with in if round % 2 == 0 { [false, true] } else { [true, false] } {
            eprintln!("round {}: {}", round + 1, if with { "with grants that change" } else { "without" });
            let own = Own::start(options.server_program.clone(), &options.set).await?;
            runs[usize::from(with)].push(measure(&options, &own, with).await?);
            own.stop().await?;
        }
    }
    Ok(print(&options, &runs))
}

/// Both flows on one server.
async fn measure(options: &Options, own: &Own, with: bool) -> Result<Run> {
    let flow = |rate| Flow::pairs(options.pairs, rate, options.seconds);
    let participants = flow(0.0).participants(&own.addresses).await?;
    let grants = if with { make(options, &own.data_dir(), participants.producers()).await? } else { Vec::new() };
    let (stop, began) = (CancellationToken::new(), Instant::now());
    let changing = with.then(|| {
        let changer = Changer { accounts: Accounts::new(&own.addresses)?, grants, every: Duration::from_secs_f64(60.0 / options.changes) };
        Ok::<_, anyhow::Error>(tokio::spawn(changer.run(stop.clone())))
    });
    let changing = changing.transpose()?;
    let flood = flow(0.0).run_with(&own.addresses, &participants).await?;
    let steady = flow(options.rate).run_with(&own.addresses, &participants).await?;
    let over = began.elapsed();
    stop.cancel();
    let changes = match changing {
        Some(changing) => changing.await??,
        None => Vec::new(),
    };
    Ok(Run { flood, steady, changes, over })
}

/// A grant, and the producer that gave it.
struct Granted {
    id: i64,
    producer: Account,
}

/// Makes the grants in the server's database, with consumers of their own that do not connect. Through the API the logins alone would take an hour.
async fn make(options: &Options, data: &Path, producers: &[Account]) -> Result<Vec<Granted>> {
    let (store, clock) = (Store::open(&store::Config::SqliteFile { path: data.join("motience.db") }).await?, Clock::system());
    let scope = Scope::text(serde_json::from_value::<Agreement>(scope(0))?, clock.now())?;
    let mut granted = Vec::with_capacity(options.grants);
    while granted.len() < options.grants {
        let username = format!("granted-{}", granted.len());
        let new = NewUser { username, password_hash: "none".to_owned(), role: Role::Consumer, device_id: None, strict_device: false };
        let consumer = store.create_user(new).await?.id;
        for producer in producers.iter().take(options.grants - granted.len()) {
            let (id, terms) = (UserId(producer.id).producer(), Terms { expires_at: None, scope: scope.clone() });
            store.invite(consumer.consumer(), id, terms, Some(id.user()), clock.now()).await?;
            let (subscription, _) = store.subscribe(consumer.consumer(), id, Visibility::Open, clock.now()).await?;
            granted.push(Granted { id: subscription.id, producer: producer.clone() });
        }
    }
    store.close().await;
    eprintln!("{} grants", granted.len());
    time::sleep(Duration::from_secs(1) * (2 * u32::try_from(granted.len())? / ACTS_A_SECOND + 1)).await;
    Ok(granted)
}

fn scope(n: usize) -> Value {
    json!({"type": "stream", "where": [format!("/data/seq>{}", n % 100)], "since": "7d"})
}

/// Changes grants at a pace of its own.
struct Changer {
    accounts: Accounts,
    grants: Vec<Granted>,
    every: Duration,
}

impl Changer {
    /// Changes one grant after the other. Returns how long each change took, in milliseconds.
    async fn run(self, stop: CancellationToken) -> Result<Vec<f64>> {
        let (mut took, mut ticks) = (Vec::new(), time::interval(self.every));
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            // Each grant is narrowed, then revoked, then approved, before the next one's turn.
            let (n, step) = (took.len() / 3, took.len() % 3);
            let Granted { id, producer } = &self.grants[n % self.grants.len()];
            let (word, body) = match step {
                0 => ("approve", json!({"agreements": [scope(n + 1)]})),
                1 => ("revoke", Value::Null),
                _ => ("approve", json!({"agreements": [scope(0)]})),
            };
            let began = Instant::now();
            self.accounts.decide(producer, *id, word, &body).await.context("a grant cannot be changed")?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    }
}

fn print(options: &Options, runs: &[Vec<Run>; 2]) -> bool {
    let Options { pairs, grants, changes, rate, seconds, rounds, .. } = options;
    say!("{pairs} devices -> {pairs} consumers, {seconds} s each, the middle of {rounds} rounds; steady at {rate:.0} records/s");
    say!("with: {grants} grants in force, {changes:.0} changes a minute");
    say!(
        "{:<8} | {:>16} {:>16} {:>16} | {:>16} {:>16} {:>16}",
        "grants",
        "flood rec/s",
        "CPU-s/M",
        "p99 ms",
        "p50 ms",
        "p99 ms",
        "CPU-s/M"
    );
    let at = |report: &Report, q| report.latency.value_at_quantile(q) as f64 / 1e3;
    let values: [&dyn Fn(&Run) -> f64; 6] = [
        &|run| run.flood.delivered as f64 / run.flood.seconds,
        &|run| run.flood.cpu_per_million().unwrap_or(f64::NAN),
        &|run| at(&run.flood, 0.99),
        &|run| at(&run.steady, 0.5),
        &|run| at(&run.steady, 0.99),
        &|run| run.steady.cpu_per_million().unwrap_or(f64::NAN),
    ];
    let [without, with] = runs;
    for (name, runs) in [("without", without), ("with", with)] {
        let [flood, cpu, tail, half, steady_tail, steady_cpu] = values.map(|value| middle(runs, value));
        say!("{name:<8} | {flood:>16.0} {cpu:>16.2} {tail:>16.2} | {half:>16.3} {steady_tail:>16.3} {steady_cpu:>16.1}");
    }
    let [flood, cpu, tail, half, steady_tail, steady_cpu] = values.map(|value| ratio(with, without, value).to_string());
    say!("{:<8} | {flood:>16} {cpu:>16} {tail:>16} | {half:>16} {steady_tail:>16} {steady_cpu:>16}", "ratio");
    say!("ratios of each round's two runs: the middle one, with 95 % confidence");
    let pace = middle(&runs[1], Run::changes_a_minute);
    let took = middle(&runs[1], |run| middle(&run.changes, |took| *took));
    say!("changes: {pace:.0} a minute, the middle one in {took:.1} ms; each costs the server one request");
    let good = |run: &&Run| run.flood.good() && run.steady.good();
    for run in runs.iter().flatten().filter(|run| !good(run)) {
        run.flood.print();
        run.steady.print();
    }
    let fast_enough = pace >= changes * ENOUGH;
    if !fast_enough {
        say!("NOT GOOD: the changes did not keep their pace");
    }
    fast_enough && runs.iter().flatten().all(|run| good(&run))
}
