//! `loadtest peers`: Motience beside the brokers that a user would pick instead. One generator on one thread sends each of them the same
//! records in its own protocol, without TLS; they take turns, so that a noisy machine is noisy for all of them.

mod motience;
mod nats;
mod redis;
mod report;
mod systems;
mod wire;
mod workload;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::Args;

use self::{
    report::{Measured, Results},
    systems::{Bench, System},
    workload::{Run, Workload},
};

/// Options of `loadtest peers`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The systems, separated by commas; all of them where nothing is said.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<System>,
    /// The workloads, separated by commas; all of them where nothing is said.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// The system that the others are compared with.
    #[arg(long, default_value = "nats")]
    base: System,
    /// Seconds of each workload.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Rounds of all systems and workloads.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The Motience server to start, where it is not beside this program.
    #[arg(long)]
    server_program: Option<PathBuf>,
    /// Write every round's figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables to this file as a page of HTML.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// Measures all systems.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    let systems = if options.systems.is_empty() { System::ALL.to_vec() } else { options.systems.clone() };
    let workloads = if options.workloads.is_empty() { Workload::ALL.to_vec() } else { options.workloads.clone() };
    if options.rounds == 0 || options.seconds <= 0.0 {
        bail!("give at least one round, and a time");
    }
    if !systems.contains(&options.base) {
        bail!("{} is what the others are compared with, and is not among the systems: name another with --base", options.base.name());
    }
    let pairs = workloads.iter().map(|workload| workload.pairs()).max().unwrap_or(1);
    let bench = Bench::start(&systems, pairs, options.server_program.clone()).await?;
    let mut measured = Vec::new();
    for round in 0..options.rounds {
        for workload in &workloads {
            for system in systems.iter().filter(|system| workload.suits(**system)) {
                eprintln!("round {}: {}, {}", round + 1, workload.name(), system.name());
                let run = Run { workload: *workload, number: measured.len(), time: Duration::from_secs_f64(options.seconds) };
                let figures = run.of(bench.server(*system)?).await?;
                measured.push(Measured { system: *system, workload: *workload, round, figures });
            }
        }
    }
    let results = Results { base: options.base, seconds: options.seconds, rounds: options.rounds, systems, workloads, measured };
    say!("{}", results.text());
    if let Some(file) = &options.json {
        report::write(file, &format!("{}\n", serde_json::to_string_pretty(&results)?))?;
    }
    if let Some(file) = &options.html {
        report::write(file, &results.html())?;
    }
    Ok(results.measured.iter().all(|measured| measured.figures.lost == 0 && measured.figures.doubled == 0))
}
