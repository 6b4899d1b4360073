//! How a hostile run ended.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::common::report::Report;

/// Resident bytes of the node.
pub(super) struct Memory {
    /// Before the attack.
    pub(super) quiet: u64,
    /// The most that was seen.
    pub(super) most: u64,
    /// The most that is allowed.
    pub(super) allowed: u64,
}

/// State of the node and of its honest clients after the attack.
pub(super) struct Verdict {
    /// An error where the honest clients did not even get in.
    pub(super) honest: Result<Report>,
    /// How often each attack reached the node.
    pub(super) attacks: BTreeMap<String, u64>,
    pub(super) memory: Memory,
}

impl Verdict {
    /// The node stayed small, nobody honest lost anything, and every attack took place.
    pub(super) fn good(&self) -> bool {
        self.memory.most <= self.memory.allowed && self.honest.as_ref().is_ok_and(Report::good) && self.missing().next().is_none()
    }

    /// Attacks that never reached the node: they would prove nothing.
    fn missing(&self) -> impl Iterator<Item = &str> {
        self.attacks.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name.as_str())
    }

    pub(super) fn print(&self) {
        match &self.honest {
            Ok(report) => report.print(),
            Err(e) => say!("the honest clients failed: {e:#}"),
        }
        for (name, count) in &self.attacks {
            say!("  {name:<14}{count:>12} times");
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Memory { quiet, most, allowed } = self.memory;
        say!("  server memory {:>8.0} MiB before, {:.0} MiB at most, {:.0} MiB allowed", mib(quiet), mib(most), mib(allowed));
        for name in self.missing() {
            say!("  ! {name} never reached the node");
        }
        say!("{}", if self.good() { "the node stands" } else { "NOT GOOD" });
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let honest = match &self.honest {
            Ok(report) => report.json(),
            Err(e) => json!({"error": format!("{e:#}")}),
        };
        let result = json!({
            "good": self.good(), "attacks": self.attacks, "honest": honest,
            "memory": {"quiet": self.memory.quiet, "most": self.memory.most, "allowed": self.memory.allowed},
        });
        std::fs::write(file, format!("{result:#}\n")).with_context(|| format!("{} cannot be written", file.display()))
    }
}
