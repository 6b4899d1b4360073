//! `loadtest neighbours`: whether one organisation that floods takes anything from another. A steady flow of one organisation runs alone, and beside
//! the flood of another that has a plan; the ratio of both is printed.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use motience_proto::model::{PlanLimits, UserId};
use motience_runtime::clock::Clock;
use motience_store::{self as store, NewAct, Organisation, Store};
use serde_json::Value;
use tokio::time;

use crate::common::{
    accounts::Account,
    flow::Flow,
    report::{Report, middle},
    server::{Own, variable},
};

/// How long a server may take to notice a plan that the command line set: it looks twice a second.
const NOTICED: Duration = Duration::from_secs(2);
/// The part of its rate that a neighbour has to keep.
const ENOUGH: f64 = 0.95;
/// Records of a flooding device in flight.
const IN_FLIGHT: u64 = 1024;

/// Options of `loadtest neighbours`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Devices and consumers of each of the two.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Records a second of the neighbour.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Records a second that the plan of the flooding organisation allows.
    #[arg(long, default_value_t = 5000)]
    plan: u64,
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

struct Round {
    alone: Report,
    beside: Report,
    flood: Report,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if options.rounds == 0 || options.pairs == 0 || options.plan == 0 {
        bail!("give at least one round, one pair, and a plan");
    }
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("round {}", round + 1);
        let own = Own::start(options.server_program.clone(), &options.set).await?;
        rounds.push(measure(&options, &own).await?);
        own.stop().await?;
    }
    Ok(print(&options, &rounds))
}

async fn measure(options: &Options, own: &Own) -> Result<Round> {
    let steady = Flow::pairs(options.pairs, options.rate, options.seconds);
    // A device sends again what is not acknowledged, so that all it has in flight passes in the end.
    let flood = Flow { in_flight: IN_FLIGHT, ..Flow::pairs(options.pairs, 0.0, options.seconds) };
    let neighbour = steady.participants(&own.addresses).await?;
    let flooding = flood.participants(&own.addresses).await?;
    limit(options, &own.data_dir(), flooding.producers()).await?;
    let alone = steady.run_with(&own.addresses, &neighbour).await?;
    let (beside, flood) = tokio::join!(steady.run_with(&own.addresses, &neighbour), flood.run_with(&own.addresses, &flooding));
    Ok(Round { alone, beside: beside?, flood: flood? })
}

/// Makes an organisation of these accounts, with the plan.
async fn limit(options: &Options, data: &std::path::Path, producers: &[Account]) -> Result<()> {
    let (store, now) = (Store::open(&store::Config::SqliteFile { path: data.join("motience.db") }).await?, Clock::system().now());
    let limits = PlanLimits { records_per_second: Some(options.plan), ..PlanLimits::default() };
    store.set_plan("flood", &limits, now).await?;
    let organisation =
        Organisation { id: "flooding".to_owned(), name: "flooding".to_owned(), plan: Some("flood".to_owned()), created_at: now };
    store.add_organisation(&organisation, None).await?;
    for producer in producers {
        store.own_account(&organisation.id, UserId(producer.id)).await?;
    }
    let object = "plan:flood".to_owned();
    let act = NewAct { at: now, actor: None, act: "plan.set", object, concerns: [None, None], detail: Value::Null };
    store.record_act(&act).await.context("the plan cannot be told")?;
    store.close().await;
    time::sleep(NOTICED).await;
    Ok(())
}

fn print(options: &Options, rounds: &[Round]) -> bool {
    let Options { pairs, rate, plan, seconds, .. } = options;
    say!("{pairs} devices -> {pairs} consumers each, {seconds} s, the middle of {} rounds", rounds.len());
    say!("neighbour: {rate:.0} records/s; flood: as fast as it goes, by a plan of {plan} records/s");
    say!("{:<10} | {:>10} {:>9} {:>9} {:>6} {:>7}", "flow", "records/s", "p50 ms", "p99 ms", "lost", "doubled");
    let line = |name: &str, report: fn(&Round) -> &Report| {
        let at = |q: f64| middle(rounds, |round| report(round).latency.value_at_quantile(q) as f64 / 1e3);
        let pace = middle(rounds, |round| report(round).acknowledged as f64 / report(round).seconds);
        let sum = |count: fn(&Report) -> u64| rounds.iter().map(|round| count(report(round))).sum::<u64>();
        say!(
            "{name:<10} | {pace:>10.0} {:>9.3} {:>9.3} {:>6} {:>7}",
            at(0.5),
            at(0.99),
            sum(|report| report.lost),
            sum(|report| report.doubled)
        );
        pace
    };
    let alone = line("alone", |round| &round.alone);
    let beside = line("beside", |round| &round.beside);
    let flood = line("flood", |round| &round.flood);
    let ratio = beside / alone;
    say!("ratio of the neighbour's rate beside the flood to its rate alone: {ratio:.3}");
    // The bucket held a second's worth, and a batch passes while a token is left.
    let most = |report: &Report| *plan as f64 * (report.seconds + 1.0) + IN_FLIGHT as f64;
    let held = rounds.iter().all(|round| round.flood.acknowledged as f64 <= most(&round.flood));
    say!("ratio of the flood to its plan: {:.3}, a second's worth that the bucket held among it", flood / *plan as f64);
    let reports = rounds.iter().flat_map(|round| [&round.alone, &round.beside, &round.flood]);
    let whole = reports.clone().all(|report| report.lost == 0 && report.doubled == 0);
    let good = whole && ratio >= ENOUGH && held;
    say!("{}", if good { "the neighbour notices nothing" } else { "NOT GOOD" });
    good
}
