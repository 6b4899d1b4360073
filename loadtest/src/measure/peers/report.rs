//! The comparison as text, JSON and a page: the middle of the rounds, and ratios to one system with what the rounds say of their
//! certainty.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    systems::System,
    workload::{Figures, Workload},
};
use crate::common::report::{middle, ratio};

/// One system under one workload in one round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    pub(super) system: System,
    pub(super) workload: Workload,
    pub(super) round: usize,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// All of a comparison.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) base: System,
    pub(super) seconds: f64,
    pub(super) rounds: usize,
    pub(super) systems: Vec<System>,
    pub(super) workloads: Vec<Workload>,
    pub(super) measured: Vec<Measured>,
}

impl Results {
    fn of(&self, system: System, workload: Workload) -> Vec<&Figures> {
        let of_both = |measured: &&Measured| measured.system == system && measured.workload == workload;
        self.measured.iter().filter(of_both).map(|measured| &measured.figures).collect()
    }

    /// The heads of a workload's columns and its rows.
    fn table(&self, workload: Workload) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let latency = workload == Workload::L;
        let head = if latency {
            vec!["system", "p50 us", "p99 us", "CPU-s/M", "p50, ratio", "CPU, ratio"]
        } else {
            vec!["system", "records/s", "CPU-s/M", "records/s, ratio", "CPU, ratio"]
        };
        let base = self.of(self.base, workload);
        let mut rows = Vec::new();
        for system in &self.systems {
            let runs = self.of(*system, workload);
            if runs.is_empty() {
                continue;
            }
            let at = |quantile: usize| move |run: &&Figures| run.latency.map_or(f64::NAN, |latency| latency[quantile] as f64);
            let cpu = |run: &&Figures| run.cpu;
            let rate = |run: &&Figures| run.rate;
            let ratio = |value: &dyn Fn(&&Figures) -> f64| ratio(&runs, &base, value).to_string();
            let mut row = vec![system.name().to_owned()];
            if latency {
                row.extend([0, 1].map(|quantile| format!("{:.0}", middle(&runs, at(quantile)))));
                row.extend([format!("{:.0}", middle(&runs, cpu)), ratio(&at(0)), ratio(&cpu)]);
            } else {
                row.extend([format!("{:.0}", middle(&runs, rate)), format!("{:.2}", middle(&runs, cpu)), ratio(&rate), ratio(&cpu)]);
            }
            for (name, count) in
                [("LOST", runs.iter().map(|run| run.lost).sum::<u64>()), ("DOUBLED", runs.iter().map(|run| run.doubled).sum())]
            {
                if count > 0 {
                    row[0] += &format!(" ({count} {name})");
                }
            }
            rows.push(row);
        }
        (head, rows)
    }

    fn method(&self) -> String {
        format!(
            "{} rounds of {} s in turns; records of 146 bytes over the loopback without TLS; a record is under way until every consumer of its \
             producer has it. The middle of the rounds; ratios to {}, with 95 % confidence.",
            self.rounds,
            self.seconds,
            self.base.name()
        )
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = self.method() + "\n";
        for workload in &self.workloads {
            let (head, rows) = self.table(*workload);
            let _ = writeln!(text, "\n{}: {}", workload.name(), workload.explanation());
            let head = head.into_iter().map(str::to_owned).collect();
            let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
            let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            for row in &all {
                let mut line = format!("{:<1$}", row[0], width(0));
                for (column, cell) in row.iter().enumerate().skip(1) {
                    let _ = write!(line, "  {cell:>0$}", width(column));
                }
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }

    /// As a page.
    pub(super) fn html(&self) -> String {
        let mut page = String::from(
            "<!doctype html><meta charset=\"utf-8\"><title>Motience and its peers</title><style>body{font:15px/1.5 system-ui,sans-serif;\
             margin:2rem auto;max-width:64rem;padding:0 1rem}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;\
             border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child{text-align:left}tr.own{font-weight:600}\
             @media(prefers-color-scheme:dark){body{background:#14171c;color:#e8eaed}td,th{border-color:#3a3f47}}</style>\
             <h1>Motience and its peers</h1>",
        );
        let _ = write!(page, "<p>{}</p>", self.method());
        for workload in &self.workloads {
            let (head, rows) = self.table(*workload);
            let _ = write!(page, "<h2>{}</h2><p>{}</p><table><tr>", workload.name(), workload.explanation());
            head.iter().for_each(|cell| page += &format!("<th>{cell}</th>"));
            page += "</tr>";
            for row in rows {
                page += if row[0].starts_with("Motience") { "<tr class=\"own\">" } else { "<tr>" };
                row.iter().for_each(|cell| page += &format!("<td>{cell}</td>"));
                page += "</tr>";
            }
            page += "</table>";
        }
        page
    }
}

/// Writes a report.
pub(super) fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::report::Estimate;

    fn results(rates: [[f64; 3]; 2]) -> Results {
        let systems = [System::Nats, System::MotienceFile];
        let measured = systems.iter().zip(rates).flat_map(|(system, rates)| {
            rates.into_iter().enumerate().map(|(round, rate)| Measured {
                system: *system,
                workload: Workload::B,
                round,
                figures: Figures { rate, cpu: 2.0, latency: None, lost: 0, doubled: 0 },
            })
        });
        let measured = measured.collect();
        Results { base: System::Nats, seconds: 1.0, rounds: 3, systems: systems.to_vec(), workloads: vec![Workload::B], measured }
    }

    #[test]
    fn ratios_are_of_the_rounds_that_were_run_together() {
        // The machine was twice as fast in the second round, for both.
        let results = results([[100.0, 200.0, 100.0], [50.0, 100.0, 60.0]]);
        let (runs, base) = (results.of(System::MotienceFile, Workload::B), results.of(System::Nats, Workload::B));
        let estimate = ratio(&runs, &base, |run: &&Figures| run.rate);
        assert_eq!(estimate, Estimate { value: 0.5, low: 0.5, high: 0.6 });
    }

    #[test]
    fn each_report_has_each_system() {
        let results = results([[100.0; 3], [50.0; 3]]);
        for report in [results.text(), results.html(), serde_json::to_string(&results).unwrap()] {
            assert!(report.to_lowercase().contains("nats") && report.to_lowercase().contains("motience"), "{report}");
        }
        assert!(results.text().contains("0.50 [0.50-0.50]"), "{}", results.text());
    }
}
