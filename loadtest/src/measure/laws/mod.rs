//! `loadtest laws`: how the cost of a node grows with one number. Each number is measured on a node of its own, over a Redis and a PostgreSQL of its own.

mod accounts;
mod caller;
mod consumers;
mod devices;
mod history;
mod node;
mod people;
pub(super) mod producers;
mod readers;
mod samples;
mod senders;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::common::server::variable;

/// Options of `loadtest laws`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Producers that one consumer follows.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
    producers: Vec<usize>,
    /// Measure devices of one producer instead: how many of them.
    #[arg(long, value_delimiter = ',')]
    devices: Vec<usize>,
    /// Measure the search of operators for a device instead, over so many producers that have sent.
    #[arg(long, value_delimiter = ',')]
    senders: Vec<usize>,
    /// Measure consumers of one producer instead: how many of them, each with an account of its own.
    #[arg(long, value_delimiter = ',')]
    consumers: Vec<usize>,
    /// Measure calls beside so many accounts instead. A million takes some minutes to make, and two gigabytes.
    #[arg(long, value_delimiter = ',')]
    accounts: Vec<usize>,
    /// Measure pages of the history instead, in a PostgreSQL with these numbers of rows. A million takes about a minute to make, and half a gigabyte.
    #[arg(long, value_delimiter = ',')]
    history: Vec<u64>,
    /// Likewise in SQLite.
    #[arg(long, value_delimiter = ',')]
    history_sqlite: Vec<u64>,
    /// Measure consumers that read one producer's old records beside each other instead: how many of them.
    #[arg(long, value_delimiter = ',')]
    readers: Vec<usize>,
    /// Records that each of them reads.
    #[arg(long, default_value_t = 100_000)]
    records: usize,
    /// Seconds over which a node is measured that is idle, or has a steady flow.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
    /// A setting for the servers, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if !options.history.is_empty() || !options.history_sqlite.is_empty() {
        history::run(&options.history, &options.history_sqlite).await?;
    } else if !options.readers.is_empty() {
        readers::run(&options).await?;
    } else if !options.devices.is_empty() {
        devices::run(&options).await?;
    } else if !options.senders.is_empty() {
        senders::run(&options).await?;
    } else if !options.consumers.is_empty() {
        consumers::run(&options).await?;
    } else if !options.accounts.is_empty() {
        accounts::run(&options).await?;
    } else {
        producers::run(&options).await?;
    }
    Ok(true)
}
