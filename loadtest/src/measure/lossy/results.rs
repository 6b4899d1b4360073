//! Figures of a cell over all its rounds, and the claims about them.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    plan::{Cell, Condition, DELAY, Plan, System},
    round::{Round, SETTLE_LIMIT},
    statistics::{self, Estimate},
};

/// Points of a distribution's curve.
const CURVE: usize = 240;

/// Most milliseconds that a percentile may take, by condition and records a second.
const LATENCIES: [(Condition, u32, f64, f64); 8] = [
    (Condition::Random(1), 100, 99.0, 30.0),
    (Condition::Random(5), 100, 99.0, 30.0),
    (Condition::Random(10), 100, 99.0, 40.0),
    (Condition::Random(20), 100, 99.0, 60.0),
    (Condition::Bursts, 100, 99.0, 60.0),
    (Condition::Random(5), 100, 99.9, 60.0),
    (Condition::Random(10), 100, 99.9, 90.0),
    (Condition::Random(5), 500, 99.0, 30.0),
];
/// Most bytes of a record in all, by per cent of loss.
const BYTES: [(u8, f64); 2] = [(0, 120.0), (5, 250.0)];

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) plan: Plan,
    pub(super) delay_ms: f64,
    pub(super) settle_seconds: u64,
    pub(super) took_seconds: u64,
    pub(super) summaries: Vec<Summary>,
    pub(super) claims: Vec<Claim>,
    /// Each by itself.
    pub(super) rounds: Vec<Round>,
}

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) cell: Cell,
    pub(super) due: u64,
    pub(super) undelivered: u64,
    pub(super) doubled: u64,
    /// In milliseconds; of what arrived.
    pub(super) latency: Vec<Estimate>,
    /// IP bytes for each record, from the device and from the server.
    pub(super) bytes_up: f64,
    pub(super) bytes_down: f64,
    pub(super) packets_up: f64,
    /// Milliseconds, and the share of the records that took longer or never came.
    pub(super) curve: Vec<(f64, f64)>,
}

/// Something that was to be shown.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Claim {
    pub(super) text: String,
    pub(super) measured: String,
    pub(super) holds: bool,
}

impl Results {
    pub(super) fn new(plan: Plan, rounds: Vec<Round>, took: Duration) -> Self {
        let mut by_cell: BTreeMap<Cell, Vec<Round>> = BTreeMap::new();
        for round in &rounds {
            by_cell.entry(round.cell).or_default().push(round.clone());
        }
        let summaries = by_cell.into_iter().map(|(cell, rounds)| Summary::new(cell, &rounds)).collect();
        let mut results = Self {
            plan,
            delay_ms: DELAY.as_secs_f64() * 1000.0,
            settle_seconds: SETTLE_LIMIT.as_secs(),
            took_seconds: took.as_secs(),
            summaries,
            claims: Vec::new(),
            rounds,
        };
        results.claims = results.claims();
        results
    }

    pub(super) fn find(&self, system: System, condition: Condition, rate: u32) -> Option<&Summary> {
        self.summaries.iter().find(|s| s.cell == Cell { rate, condition, system })
    }

    pub(super) fn rates(&self) -> Vec<u32> {
        let mut rates: Vec<u32> = self.summaries.iter().map(|s| s.cell.rate).collect();
        rates.sort_unstable();
        rates.dedup();
        rates
    }

    pub(super) fn conditions(&self) -> Vec<Condition> {
        let mut conditions: Vec<Condition> = self.summaries.iter().map(|s| s.cell.condition).collect();
        conditions.sort_unstable();
        conditions.dedup();
        conditions
    }

    /// The claims about what was measured.
    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (condition, rate, percentile, limit) in LATENCIES {
            if let Some(value) = self.find(System::Independent, condition, rate).and_then(|s| s.at(percentile)) {
                claims.push(Claim {
                    text: format!("{}, {rate} records/s: p{percentile} at most {limit} ms", condition.title()),
                    measured: format!("{:.1} ms ({:.1} to {:.1})", value.value, value.low, value.high),
                    holds: value.value <= limit,
                });
            }
            if percentile == 99.0 {
                claims.extend(self.ratio(condition, rate, if condition == Condition::Bursts { 2.0 } else { 2.5 }));
            }
        }
        for (loss, limit) in BYTES {
            if let Some(ours) = self.find(System::Independent, Condition::Random(loss), 100) {
                claims.push(Claim {
                    text: format!("{}, 100 records/s: at most {limit} bytes a record, both ways together", Condition::Random(loss).title()),
                    measured: format!("{:.0}", ours.bytes()),
                    holds: ours.bytes() <= limit,
                });
            }
        }
        if let Some(ours) = self.find(System::Independent, Condition::Random(0), 100) {
            if let Some(p50) = ours.at(50.0) {
                claims.push(Claim {
                    text: format!("no loss: p50 within 1 ms of the link's {:.0} ms", self.delay_ms),
                    measured: format!("{:.2} ms", p50.value),
                    holds: p50.value <= self.delay_ms + 1.0,
                });
            }
            if let Some(mqtt) = self.find(System::Mqtt, Condition::Random(0), 100) {
                claims.push(Claim {
                    text: "no loss: no more bytes a record than MQTT QoS 1 over TLS, both ways together".into(),
                    measured: format!("{:.0} against {:.0}", ours.bytes(), mqtt.bytes()),
                    holds: ours.bytes() <= mqtt.bytes(),
                });
            }
        }
        let undelivered: u64 = self.summaries.iter().filter(|s| s.cell.system == System::Independent).map(|s| s.undelivered).sum();
        claims.push(Claim {
            text: "nothing undelivered on the independent lane".into(),
            measured: format!("{undelivered} undelivered"),
            holds: undelivered == 0,
        });
        claims
    }

    fn ratio(&self, condition: Condition, rate: u32, least: f64) -> Option<Claim> {
        let p99 = |system| Some(self.find(system, condition, rate)?.at(99.0)?.value);
        let ratio = p99(System::Mqtt)? / p99(System::Independent)?;
        Some(Claim {
            text: format!("{}, {rate} records/s: p99 at least {least} times better than MQTT QoS 1", condition.title()),
            measured: format!("{ratio:.1} times"),
            holds: ratio >= least,
        })
    }
}

impl Summary {
    fn new(cell: Cell, rounds: &[Round]) -> Self {
        let blocks: Vec<Vec<u32>> = rounds.iter().flat_map(|r| r.blocks.iter().cloned()).collect();
        let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>();
        let due = sum(|r| r.due);
        let each = |of: fn(&Round) -> u64| sum(of) as f64 / due.max(1) as f64;
        Self {
            cell,
            due,
            undelivered: sum(|r| r.undelivered),
            doubled: sum(|r| r.doubled),
            latency: statistics::estimates(&blocks),
            bytes_up: each(|r| r.up.bytes),
            bytes_down: each(|r| r.down.bytes),
            packets_up: each(|r| r.up.packets),
            curve: curve(&blocks, due),
        }
    }

    pub(super) fn at(&self, percentile: f64) -> Option<Estimate> {
        self.latency.iter().find(|e| e.percentile == percentile).copied()
    }

    pub(super) fn bytes(&self) -> f64 {
        self.bytes_up + self.bytes_down
    }
}

/// The share of the records that took longer than each time, as a curve of few points with equal steps on a log axis.
fn curve(blocks: &[Vec<u32>], due: u64) -> Vec<(f64, f64)> {
    let histogram = statistics::histogram(blocks);
    if histogram.is_empty() {
        return Vec::new();
    }
    let (low, high) = (histogram.min().max(1) as f64, histogram.max() as f64 * 1.001);
    (0..=CURVE)
        .map(|n| {
            let micros = low * (high / low).powf(n as f64 / CURVE as f64);
            let within = histogram.count_between(0, micros as u64);
            (micros / 1000.0, 1.0 - within as f64 / due.max(1) as f64)
        })
        .collect()
}
