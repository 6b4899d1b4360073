//! `loadtest levels`: what each durability level costs. Every level runs the same flows, in turns, so that a noisy machine
//! is noisy for all of them; the middle of the rounds is reported, and the ratio to a path without a log.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use motience_mutation as mutation;
use motience_testing::{Postgres, Redis};

use crate::common::{
    flow::Flow,
    report::{Report, middle},
    server::{Own, secret, shared},
};

/// Options of `loadtest levels`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Devices, and consumers.
    #[arg(long, default_value_t = 50)]
    pairs: usize,
    /// Records a second of the steady flow.
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Seconds of each flow.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds of all levels.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A server built with `--features mutation`: only such a one can run without a log.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

/// Redis syncs its file before it answers, but for `redis, 1 s`, where it does so each second (`appendfsync everysec`).
const LEVELS: [&str; 6] = ["no log", "memory", "file", "redis", "redis, 1 s", "redis+1"];

/// One level in one round.
struct Run {
    flood: Report,
    steady: Report,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if options.rounds == 0 {
        bail!("give at least one round");
    }
    let redis = Redis::durable().await;
    let replica = Redis::replica_of(&redis).await;
    let lone = Redis::durable().await;
    let postgres = Postgres::start().await;
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut runs: Vec<Vec<Run>> = LEVELS.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for (level, runs) in LEVELS.iter().zip(&mut runs) {
            eprintln!("round {}: {level}", round + 1);
            let settings = match *level {
                "no log" => vec![set(mutation::VARIABLE, mutation::NO_LOG), set("LOG_DURABILITY", "memory")],
                "memory" | "file" => vec![set("LOG_DURABILITY", level)],
                over => {
                    let (redis, replicas) = if over == "redis+1" { (&redis, 1) } else { (&lone, 0) };
                    let sync = if over == "redis, 1 s" { "everysec" } else { "always" };
                    redis.command(&format!("CONFIG SET appendfsync {sync}")).await;
                    let database = postgres.database(&format!("round{round}_{replicas}_{sync}")).await;
                    [shared(redis, database, &secret()), vec![set("REDIS_REPLICAS", &replicas.to_string())]].concat()
                }
            };
            let own = Own::start(options.server_program.clone(), &settings).await?;
            let flood = Flow::pairs(options.pairs, 0.0, options.seconds).run(&own.addresses).await?;
            let steady = Flow::pairs(options.pairs, options.rate, options.seconds).run(&own.addresses).await?;
            own.stop().await?;
            runs.push(Run { flood, steady });
        }
    }
    drop(replica);
    print(&options, &runs);
    Ok(runs.iter().flatten().all(|run| run.flood.good() && run.steady.good()))
}

fn print(options: &Options, runs: &[Vec<Run>]) {
    say!(
        "{} devices -> {} consumers, {} s each, the middle of {} rounds; steady at {:.0} records/s",
        options.pairs,
        options.pairs,
        options.seconds,
        options.rounds,
        options.rate
    );
    say!(
        "{:<10} | {:>12} {:>6} {:>8} | {:>8} {:>8} {:>6} {:>8}",
        "level",
        "flood rec/s",
        "ratio",
        "CPU-s/M",
        "p50 ms",
        "p99 ms",
        "ratio",
        "CPU-s/M"
    );
    let row = |runs: &[Run]| {
        [
            middle(runs, |run| run.flood.delivered as f64 / run.flood.seconds),
            middle(runs, |run| run.flood.cpu_per_million().unwrap_or(f64::NAN)),
            middle(runs, |run| run.steady.latency.value_at_quantile(0.5) as f64 / 1e3),
            middle(runs, |run| run.steady.latency.value_at_quantile(0.99) as f64 / 1e3),
            middle(runs, |run| run.steady.cpu_per_million().unwrap_or(f64::NAN)),
        ]
    };
    let [base_rate, _, _, base_tail, _] = row(&runs[0]);
    for (level, runs) in LEVELS.iter().zip(runs) {
        let [rate, cpu, half, tail, steady] = row(runs);
        let (slower, longer) = (rate / base_rate, tail / base_tail);
        say!("{level:<10} | {rate:>12.0} {slower:>6.2} {cpu:>8.2} | {half:>8.3} {tail:>8.3} {longer:>6.2} {steady:>8.1}");
        for run in runs.iter().filter(|run| !run.flood.good() || !run.steady.good()) {
            run.flood.print();
            run.steady.print();
        }
    }
}
