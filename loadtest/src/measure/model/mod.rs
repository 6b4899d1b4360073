//! `loadtest model-scale`: the load of each part of a platform of a given size, worked out from measured constants, and which part is full first.
//!
//! The model is arithmetic ([`rates`], [`mod@parts`]). Two things check it: a simulation of discrete events, which has the queues that arithmetic leaves out
//! ([`simulate`]), and real nodes at the size that this machine carries ([`against`]).

mod against;
mod bench;
mod busy;
mod constants;
mod engine;
mod facts;
mod measured;
mod parts;
mod processors;
mod rates;
mod simulate;
mod size;
mod station;
mod taken;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use self::{
    constants::Constants,
    facts::{Fact, facts},
    parts::{Part, parts},
    rates::Rates,
    size::{Machines, Scale, Size},
};
use crate::common::server::variable;

/// Options of `loadtest model-scale`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    scale: Scale,
    #[command(flatten)]
    machines: Machines,
    /// Simulate a part of it: each record, each queue.
    #[arg(long, conflicts_with_all = ["against", "measure"])]
    simulate: bool,
    /// How many times smaller the simulation is, on as many nodes.
    #[arg(long, default_value_t = 10.0)]
    smaller: f64,
    /// Seed of the simulation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated seconds; or seconds of each measurement.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Simulate a node that is lost instead, until all of its devices are back.
    #[arg(long, requires = "simulate")]
    lose: bool,
    /// Simulate several loads of Redis instead, and see where latency grows.
    #[arg(long, requires = "simulate", conflicts_with = "lose")]
    sweep: bool,
    /// Run real nodes over a real Redis and PostgreSQL at a small size, and compare what they take with the model.
    #[arg(long, conflicts_with = "measure")]
    against: bool,
    /// Measure constants anew.
    #[arg(long)]
    measure: bool,
    /// Print the constants, and how each was measured.
    #[arg(long)]
    constants: bool,
    /// Another value for a constant, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    constant: Vec<(String, String)>,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
    /// A setting for the servers, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    let mut constants = Constants::default();
    for (name, value) in &options.constant {
        let value = value.parse().with_context(|| format!("--constant {name}={value}: that is no number"))?;
        ensure!(constants.set(name, value), "there is no constant {name}: see --constants");
    }
    let result = if options.constants {
        print_constants(&constants)
    } else if options.simulate {
        simulate::run(&options, &constants)?
    } else if options.against {
        against::run(&options, &constants).await?
    } else if options.measure {
        measured::run(&options, &constants).await?
    } else {
        let size = options.scale.size(&Size::million());
        let (parts, facts) = (parts(&size, &options.machines, &constants), facts(&size, &options.machines, &constants));
        print(&size, &parts, &facts);
        json!({"size": size, "machines": options.machines, "rates": Rates::of(&size, &constants), "parts": parts, "facts": facts})
    };
    options.json.as_deref().map_or(Ok(()), |file| write(file, &result))?;
    Ok(true)
}

fn write(file: &Path, result: &Value) -> Result<()> {
    std::fs::write(file, format!("{result:#}\n")).with_context(|| format!("{} cannot be written", file.display()))
}

fn print(size: &Size, parts: &[Part], facts: &[Fact]) {
    say!(
        "{} devices, each {} x {} bytes in {} s; {} producers; {} consumers that follow {} each; {} nodes, {} Redis",
        size.devices,
        size.batch,
        size.bytes,
        size.every,
        size.producers,
        size.consumers,
        size.follows,
        size.nodes,
        size.redis
    );
    say!("{:<48} {:>12} {:>10} {:<11} {:>8} {:>6}", "part", "load", "of", "", "share", "needs");
    for part in parts {
        let needs = part.needs.map_or_else(|| "-".to_owned(), number);
        say!(
            "{:<48} {:>12} {:>10} {:<11} {:>6.0} % {needs:>6}",
            part.name,
            number(part.load),
            number(part.capacity),
            part.unit,
            part.share * 100.0
        );
        for (name, load) in part.within.iter().filter(|(_, load)| *load > 0.0) {
            say!("  {name:<46} {:>12}", number(*load));
        }
    }
    for part in parts.iter().filter(|part| part.share > 1.0) {
        say!("{}: {}", part.name, part.then);
    }
    say!("");
    for fact in facts {
        say!("{:<58} {:>12} {}", fact.name, number(fact.value), fact.unit);
    }
}

fn print_constants(constants: &Constants) -> Value {
    for constant in constants.all() {
        let unit = json!(constant.unit);
        say!("{:<19} {:>9} {:<6} {} ({})", constant.name, constant.value, unit.as_str().unwrap_or_default(), constant.of, constant.how);
    }
    json!(constants.all())
}

/// A number with as many digits as matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
