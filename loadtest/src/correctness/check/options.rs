//! The command line of `loadtest check`.

use std::path::PathBuf;

use clap::Args;

use super::schedule::{Fault, Logs};

/// Options of `loadtest check`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long faults are injected.
    #[arg(long, default_value_t = 60, conflicts_with = "minutes")]
    pub(crate) seconds: u64,
    /// How long faults are injected, in minutes.
    #[arg(long)]
    pub(crate) minutes: Option<u64>,
    /// Two nodes and a gateway over a private Redis and a private PostgreSQL, instead of one embedded node. With `=redis-cluster` and `=sentinel` the
    /// logs are in servers with replicas, one of which an acknowledged record must have.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "redis")]
    pub(crate) cluster: Option<Logs>,
    /// The schedule's seed; random unless given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// A promise that the programs break on purpose (they must be built with the feature `mutation`): the check has to fail.
    #[arg(long)]
    pub(crate) mutation: Option<String>,
    /// Keep all files in this folder, which must be new or empty. Otherwise they are kept only where the check fails.
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Run nothing: verify the files that an earlier run kept in this folder.
    #[arg(long, alias = "judge", conflicts_with = "keep")]
    pub(crate) verify: Option<PathBuf>,
    /// The server to start, where it is not beside this program.
    #[arg(long)]
    pub(crate) server_program: Option<PathBuf>,
    /// Devices; two share a producer.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) devices: u32,
    /// Consumers, by turns of every egress; each follows every producer, and the last one is slow.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=64))]
    pub(crate) consumers: u32,
    /// Records a second, of all devices together.
    #[arg(long, default_value_t = 300.0)]
    pub(crate) rate: f64,
    /// Records of the flood that comes first, during which consumers by every egress are cut off and resumed; 0: none.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) flood: u64,
    /// How often each consumer is cut off in it.
    #[arg(long, default_value_t = 20)]
    pub(crate) cuts: u64,
    /// Only these kinds of faults, by their names as the report prints them, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Fault>,
}

impl Options {
    pub(crate) fn duration(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.minutes.map_or(self.seconds, |minutes| minutes * 60))
    }
}
