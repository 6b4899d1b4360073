//! `loadtest lossy`: how late records arrive over a link that loses packets, and what that costs, system beside system.
//!
//! Latency counts from the moment a record was due to be sent, whatever held it up, to its first arrival at a consumer on
//! the server's side of the link.

mod bench;
mod charts;
mod consumers;
mod fairness;
mod figures;
mod handover;
mod plan;
mod report;
mod results;
mod round;
mod senders;
mod statistics;
mod table;
mod telemetry;

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use motience_device::link::Controller;
use motience_loadtest::link::Name;
use tokio::task::JoinSet;

use self::{
    bench::Bench,
    plan::{Condition, Plan, System},
    results::Results,
    round::Round,
};

pub(crate) use self::{
    fairness::{Options as FairnessOptions, run as fairness},
    handover::{Options as HandoverOptions, run as handover},
};

/// Options of `loadtest lossy`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The cells that the claims are about, in less than ten minutes.
    #[arg(long)]
    quick: bool,
    /// Rounds of each cell, each with a seed of its own.
    #[arg(long)]
    seeds: Option<u64>,
    /// Folder of the JSON file and of the report with its charts.
    #[arg(long, default_value = "lossy-out")]
    out: PathBuf,
    /// Only this rate, in records a second; may be given often.
    #[arg(long)]
    rate: Vec<u32>,
    /// Only this loss each way: per cent, `bursts`, or a link's profile (`lte-moving`, `satellite-leo`, `wifi-congested`); may be given often.
    #[arg(long, value_parser = condition)]
    loss: Vec<Condition>,
    /// Only this system; may be given often.
    #[arg(long, value_enum)]
    system: Vec<SystemName>,
    /// Congestion control of the Motience device: delay-gated, bbr, cubic or newreno.
    #[arg(long, value_parser = congestion)]
    congestion: Option<Controller>,
    /// A Markdown file whose figures, between its two marks, are replaced by those of this run.
    #[arg(long)]
    docs: Option<PathBuf>,
    /// Seconds of each round that count.
    #[arg(long)]
    seconds: Option<f64>,
    /// The server to start, where it is not beside this program.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

/// A system's name on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SystemName {
    Independent,
    Ordered,
    Latest,
    Websocket,
    Mqtt,
    Node,
}

impl From<SystemName> for System {
    fn from(name: SystemName) -> Self {
        match name {
            SystemName::Independent => Self::Independent,
            SystemName::Ordered => Self::Ordered,
            SystemName::Latest => Self::Latest,
            SystemName::Websocket => Self::WebSocket,
            SystemName::Mqtt => Self::Mqtt,
            SystemName::Node => Self::Node,
        }
    }
}

fn condition(text: &str) -> Result<Condition, String> {
    if text == "bursts" {
        return Ok(Condition::Bursts);
    }
    let link = || Name::from_str(text, false).ok().map(Condition::Link);
    text.parse()
        .ok()
        .filter(|p| *p <= 90)
        .map(Condition::Random)
        .or_else(link)
        .ok_or_else(|| "write per cent, `bursts`, or a link's profile".into())
}

fn congestion(text: &str) -> Result<Controller, String> {
    serde_json::from_value(text.into()).map_err(|_| "write delay-gated, bbr, cubic or newreno".into())
}

/// Runs the comparison. `Ok(false)`: something that is promised to arrive did not.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    let mut plan = if options.quick { Plan::quick(options.seeds) } else { Plan::full(options.seeds) };
    let systems: Vec<System> = options.system.iter().map(|s| (*s).into()).collect();
    plan.keep(&options.rate, &options.loss, &systems);
    plan.seconds = options.seconds.unwrap_or(plan.seconds);
    plan.congestion = options.congestion.unwrap_or_default();
    if plan.cells.is_empty() {
        bail!("nothing of what was asked for is in the plan");
    }
    std::fs::create_dir_all(&options.out).with_context(|| format!("{} cannot be made", options.out.display()))?;
    let began = Instant::now();
    let rounds = tokio::select! {
        rounds = all(&plan, options.server_program.clone()) => rounds?,
        _ = tokio::signal::ctrl_c() => bail!("stopped before the end"),
    };
    let results = Results::new(plan, rounds, began.elapsed());
    table::print(&results);
    std::fs::write(options.out.join("lossy.json"), serde_json::to_vec_pretty(&results)?)?;
    report::write(&results, &options.out)?;
    if let Some(file) = &options.docs {
        figures::put(&results, file)?;
    }
    say!("\nWritten: lossy.json and lossy.md in {}", options.out.display());
    Ok(results.summaries.iter().all(|s| !s.cell.system.reliable() || s.undelivered == 0))
}

/// All rounds, several side by side.
async fn all(plan: &Plan, program: Option<PathBuf>) -> Result<Vec<Round>> {
    let plan = Arc::new(plan.clone());
    let total = plan.cells.len() as u64 * plan.seeds;
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rounds {elapsed_precise} {wide_msg}")?;
    let bar = ProgressBar::new(total).with_style(style);
    bar.set_message(format!("about {} min", plan.duration().as_secs().div_ceil(60)));
    let mut lanes = JoinSet::new();
    for lane in 0..plan.side_by_side {
        let (plan, program, bar) = (Arc::clone(&plan), program.clone(), bar.clone());
        lanes.spawn(async move { side(lane, &plan, program, &bar).await });
    }
    let mut rounds = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        rounds.extend(lane??);
    }
    bar.finish_and_clear();
    Ok(rounds)
}

/// The rounds of one of those that go side by side, on a bench of their own.
async fn side(lane: usize, plan: &Plan, program: Option<PathBuf>, bar: &ProgressBar) -> Result<Vec<Round>> {
    let planned = plan.rounds(lane);
    if planned.is_empty() {
        return Ok(Vec::new());
    }
    let mut systems: Vec<System> = plan.cells.iter().map(|cell| cell.system).collect();
    systems.sort_unstable();
    systems.dedup();
    let bench = Bench::start(&systems, program, &[]).await?;
    let mut rounds = Vec::with_capacity(planned.len());
    for (cell, seed) in planned {
        let round = round::run(&bench, cell, seed, plan).await;
        rounds.push(round.with_context(|| format!("{}, {}, {} records/s", cell.system.title(), cell.condition.title(), cell.rate))?);
        bar.inc(1);
    }
    Ok(rounds)
}
