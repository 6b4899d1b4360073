//! `loadtest`: real devices over QUIC and real consumers by every egress against a real server.
//!
//! [`correctness`] says yes or no: nothing is lost, doubled or leaked. [`measure`] says how fast and how dear. Both stand on
//! [`common`], and on the emulated link of the library.

/// Prints a line of a report. A reader that has gone away, as `head` does, is no failure: the exit code tells the outcome.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

mod common;
mod correctness;
mod measure;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::{
    correctness::{check, hostile, resume},
    measure::{egress, fleet, grants, laws, levels, link, lossy, model, neighbours, peers, run, storm},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load scenarios for Motience.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Devices send and consumers receive: records delivered, lost and doubled, latency, and processor time.
    Run(run::Options),
    /// Compare the live path with and without thousands of grants that change all the time.
    Grants(grants::Options),
    /// Measure how the cost of a node grows with the producers that a consumer follows.
    Laws(laws::Options),
    /// Work out what a platform of a million devices takes, and which part is full first; simulate a tenth of it; compare with real nodes.
    ModelScale(model::Options),
    /// Compare the rate of an organisation alone and beside another that floods.
    Neighbours(neighbours::Options),
    /// Compare the cost of the durability levels, beside a path without a log.
    Levels(levels::Options),
    /// Compare the cost of the egresses: first byte, latency, the server's processor time.
    #[command(alias = "exits")]
    Egress(egress::Options),
    /// Compare Motience with NATS, JetStream, Redis and MQTT brokers: rate, latency, processor time.
    Peers(peers::Options),
    /// Restart the node of thousands of devices, then the devices too, and measure how soon all are back.
    Fleet(fleet::Options),
    /// Measure a node with tens of thousands of idle devices and consumers, and how they come back when it is killed or drained.
    Storm(storm::Options),
    /// Cut consumers off again and again during a flood: each must get every record exactly once.
    Resume(resume::Options),
    /// Crash, pause, cut off and damage everything, then check that nothing was lost, doubled or leaked.
    Check(check::Options),
    /// Attack a node in many ways at once: its memory stays bounded, and honest devices and consumers lose nothing.
    Hostile(hostile::Options),
    /// Run a command at the end of an emulated bad link. Needs root.
    Link(link::Options),
    /// Measure what a flooding device leaves to a TCP flow at a shared bottleneck. Needs root.
    Fairness(lossy::FairnessOptions),
    /// Move a device between networks: each record must be delivered once. Needs root.
    #[command(alias = "roam")]
    Handover(lossy::HandoverOptions),
    /// Compare Motience, MQTT and a Node.js chain on lossy links: latency and cost. Needs root.
    Lossy(lossy::Options),
    /// The attacker of a hostile run.
    #[command(hide = true)]
    HostileAttacker(hostile::AttackerOptions),
    /// A process of the crowd of a storm.
    #[command(hide = true)]
    StormMember,
    /// A device of a check.
    #[command(hide = true)]
    CheckDevice(check::Member),
    /// A consumer of a check.
    #[command(hide = true)]
    CheckConsumer(check::Member),
}

#[tokio::main]
async fn main() -> ExitCode {
    // Reports go to stdout; diagnostics go to stderr and only when asked for.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,web_transport_quinn=error".into()))
        .init();
    let outcome = match Cli::parse().scenario {
        Scenario::Run(options) => run::run(options).await,
        Scenario::Grants(options) => grants::run(options).await,
        Scenario::Laws(options) => laws::run(options).await,
        Scenario::ModelScale(options) => model::run(options).await,
        Scenario::Neighbours(options) => neighbours::run(options).await,
        Scenario::Levels(options) => levels::run(options).await,
        Scenario::Egress(options) => egress::run(options).await,
        Scenario::Peers(options) => peers::run(options).await,
        Scenario::Fleet(options) => fleet::run(options).await,
        Scenario::Storm(options) => storm::run(options).await,
        Scenario::StormMember => storm::member().await,
        Scenario::Resume(options) => resume::run(options).await,
        Scenario::Check(options) => check::run(options).await,
        Scenario::Hostile(options) => hostile::run(options).await,
        Scenario::HostileAttacker(options) => hostile::attack(options).await,
        Scenario::Fairness(options) => lossy::fairness(options).await,
        Scenario::Lossy(options) => lossy::run(options).await,
        Scenario::Handover(options) => lossy::handover(options).await,
        Scenario::Link(options) => link::run(options).await,
        Scenario::CheckDevice(member) => check::device(member).await,
        Scenario::CheckConsumer(member) => check::consumer(member).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("loadtest: {e:#}");
            ExitCode::FAILURE
        }
    }
}
