//! `motience-server`: reads the command line, hands over to the library, turns the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use motience_server::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    motience_server::run(Cli::parse())
}
