//! `loadtest`: real devices over QUIC and real consumers over WebSocket against a real server.

mod accounts;
mod check;
mod consumers;
mod devices;
mod exits;
mod exits_command;
mod fleet;
mod hostile;
mod levels;
mod link_command;
mod lossy;
mod measure;
mod payload;
mod process;
mod report;
mod resume;
mod run;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Devices send, consumers receive; what was delivered, lost, doubled, how fast, and at what cost.
    Run(run::Options),
    /// What each durability level costs, side by side against a path without a log.
    Levels(levels::Options),
    /// What each exit costs, side by side: the first byte, the tail of the latency, the server's processor time.
    Exits(exits_command::Options),
    /// Thousands of devices of one account whose node is restarted, and who are then restarted themselves: how soon all are back.
    Fleet(fleet::Options),
    /// Consumers are cut off and resumed again and again during a flood; each record must arrive exactly once.
    Resume(resume::Options),
    /// Crashes, pauses, cuts and damages everything, and proves from the histories that nothing was lost, doubled or leaked.
    Check(check::Options),
    /// One host attacks a node in many ways at once; it stays small, and honest devices and consumers lose nothing.
    Hostile(hostile::Options),
    /// A bad network link inside this machine, and a command at its end. Needs root.
    Link(link_command::Options),
    /// What a flooding device leaves to a TCP flow at a shared bottleneck. Needs root.
    Fairness(lossy::FairnessOptions),
    /// What a device on the move goes through: each record is delivered once all the same. Needs root.
    Roam(lossy::RoamOptions),
    /// Lossy links: how late records arrive and what they cost, Motience beside MQTT and a Node.js chain. Needs root.
    Lossy(lossy::Options),
    /// The attacker of a hostile run.
    #[command(hide = true)]
    HostileAttacker(hostile::AttackerOptions),
    /// A device of a check.
    #[command(hide = true)]
    CheckDevice(check::Member),
    /// A consumer of a check.
    #[command(hide = true)]
    CheckConsumer(check::Member),
}

#[tokio::main]
async fn main() -> ExitCode {
    // The pages of the report are for people; diagnostics go to stderr and only when asked for.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,web_transport_quinn=error".into()))
        .init();
    let outcome = match Cli::parse().scenario {
        Scenario::Run(options) => run::run(options).await,
        Scenario::Levels(options) => levels::run(options).await,
        Scenario::Exits(options) => exits_command::run(options).await,
        Scenario::Fleet(options) => fleet::run(options).await,
        Scenario::Resume(options) => resume::run(options).await,
        Scenario::Check(options) => check::run(options).await,
        Scenario::Hostile(options) => hostile::run(options).await,
        Scenario::HostileAttacker(options) => hostile::attack(options).await,
        Scenario::Fairness(options) => lossy::fairness(options).await,
        Scenario::Lossy(options) => lossy::run(options).await,
        Scenario::Roam(options) => lossy::roam(options).await,
        Scenario::Link(options) => link_command::run(options).await,
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
