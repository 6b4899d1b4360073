//! A sensor, as the settings say it.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

/// Source of a sensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This machine: CPU, memory, load, temperature, disk.
    System,
    /// A program whose output is one JSON object.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// How long it may take.
        timeout: Duration,
    },
    /// Standard input, a JSON object a line.
    Stdin,
    /// A file that is appended to, a JSON object a line.
    File {
        /// The file.
        path: PathBuf,
        /// Whether what a file holds at the very first start is sent too.
        from_start: bool,
    },
}

/// The way a sensor's records take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Each after the one before it.
    Ordered,
    /// Each by itself.
    #[default]
    Independent,
    /// At once or never: for readings that the next one makes worthless. They are neither kept nor acknowledged.
    Latest,
}

/// One sensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sensor {
    /// Where given, each record's `data` says it as `sensor`.
    pub name: Option<String>,
    /// The source.
    pub kind: Kind,
    /// How often.
    pub interval: Duration,
    /// The way its records take.
    pub lane: Lane,
}

impl Sensor {
    /// This machine, every `interval`.
    pub fn system(interval: Duration) -> Self {
        Self { name: None, kind: Kind::System, interval, lane: Lane::default() }
    }

    /// The name, or the kind's.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(match self.kind {
            Kind::System => "system",
            Kind::Command { .. } => "command",
            Kind::Stdin => "stdin",
            Kind::File { .. } => "file",
        })
    }
}
