//! Plan of the comparison: systems, kinds of loss and rates, and the order of the rounds.

use std::time::Duration;

use clap::ValueEnum as _;
use motience_device::link::Controller;
use motience_loadtest::link::{Bursts, Impairment, Loss, Name, Profile};
use serde::Serialize;

/// The link's delay each way.
pub(super) const DELAY: Duration = Duration::from_millis(25);
/// How long everything is lost in a burst.
const BURST: Duration = Duration::from_millis(40);
/// Share of the time that the link is in a burst.
const BURSTS: f64 = 0.05;

/// A way from a device to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum System {
    Independent,
    Ordered,
    Latest,
    WebSocket,
    Mqtt,
    Node,
}

impl System {
    pub(super) const ALL: [Self; 6] = [Self::Independent, Self::Ordered, Self::Latest, Self::WebSocket, Self::Mqtt, Self::Node];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Independent => "Motience independent",
            Self::Ordered => "Motience ordered",
            Self::Latest => "Motience latest",
            Self::WebSocket => "Motience WebSocket",
            Self::Mqtt => "MQTT QoS 1 (Mosquitto)",
            Self::Node => "WebSocket, Node.js, Redis",
        }
    }

    /// Whether it promises that every record arrives.
    pub(super) fn reliable(self) -> bool {
        self != Self::Latest
    }
}

/// Loss each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Condition {
    /// Per cent of the packets, each by itself.
    Random(u8),
    /// Bursts of 40 ms, 5 % of the time.
    Bursts,
    /// A link as it is met outside.
    Link(Name),
}

impl Condition {
    pub(super) fn title(self) -> String {
        match self {
            Self::Random(0) => "no loss".into(),
            Self::Random(per_cent) => format!("{per_cent} % loss"),
            Self::Bursts => "5 % in 40 ms bursts".into(),
            Self::Link(_) => self.name(),
        }
    }

    /// As it is asked for on the command line.
    pub(super) fn name(self) -> String {
        match self {
            Self::Random(per_cent) => per_cent.to_string(),
            Self::Bursts => "bursts".into(),
            Self::Link(name) => name.to_possible_value().map_or_else(String::new, |value| value.get_name().into()),
        }
    }

    pub(super) fn profile(self) -> Profile {
        let loss = match self {
            Self::Random(0) => Loss::None,
            Self::Random(per_cent) => Loss::Random(f64::from(per_cent) / 100.0),
            Self::Bursts => Loss::Bursts(Bursts::blackouts(BURSTS, BURST)),
            Self::Link(name) => return name.profile(),
        };
        Profile::both(Impairment::calm(DELAY).losing(loss))
    }
}

/// One cell of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(super) struct Cell {
    /// Records a second.
    pub(super) rate: u32,
    pub(super) condition: Condition,
    pub(super) system: System,
}

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    pub(super) cells: Vec<Cell>,
    /// Seconds of each round that do not count: handshakes, TCP's slow start, and the measuring of the loss.
    pub(super) warm_up: f64,
    /// Seconds of each round that count.
    pub(super) seconds: f64,
    /// Rounds of each cell, each with a seed of its own.
    pub(super) seeds: u64,
    /// Rounds at the same time, each with a link and servers of its own.
    pub(super) side_by_side: usize,
    /// Of the Motience device.
    pub(super) congestion: Controller,
}

impl Plan {
    /// The cells that the claims are about, in less than ten minutes.
    pub(super) fn quick(seeds: Option<u64>) -> Self {
        let mut cells = Vec::new();
        for (condition, rate) in [
            (Condition::Random(5), 100),
            (Condition::Random(0), 100),
            (Condition::Random(1), 100),
            (Condition::Random(10), 100),
            (Condition::Bursts, 100),
            (Condition::Random(5), 500),
        ] {
            // The other lanes are measured where they differ most.
            let all = rate == 100 && matches!(condition, Condition::Random(5) | Condition::Bursts);
            let systems = System::ALL.into_iter().filter(|s| all || !matches!(s, System::Ordered | System::Latest));
            cells.extend(systems.map(|system| Cell { rate, condition, system }));
        }
        Self { cells, warm_up: 4.0, seconds: 12.0, seeds: seeds.unwrap_or(3), side_by_side: 3, congestion: Controller::default() }
    }

    /// Everything.
    pub(super) fn full(seeds: Option<u64>) -> Self {
        let links = [Name::LteMoving, Name::SatelliteLeo, Name::WifiCongested].map(Condition::Link);
        let conditions = [0, 1, 5, 10, 20].map(Condition::Random).into_iter().chain([Condition::Bursts]).chain(links);
        let rates = [10, 100, 500];
        let cells = conditions
            .flat_map(|condition| rates.map(|rate| (condition, rate)))
            .flat_map(|(condition, rate)| System::ALL.map(|system| Cell { rate, condition, system }))
            .collect();
        Self { cells, warm_up: 5.0, seconds: 30.0, seeds: seeds.unwrap_or(6), side_by_side: 3, congestion: Controller::default() }
    }

    /// Only these rates, conditions and systems, where any are given.
    pub(super) fn keep(&mut self, rates: &[u32], conditions: &[Condition], systems: &[System]) {
        fn asked<T: PartialEq>(list: &[T], item: &T) -> bool {
            list.is_empty() || list.contains(item)
        }
        self.cells.retain(|c| asked(rates, &c.rate) && asked(conditions, &c.condition) && asked(systems, &c.system));
    }

    /// The rounds of those that go side by side: seeds are dealt out, and each begins elsewhere in the list, so that at any
    /// time different systems share the machine, and its noise hits all alike.
    pub(super) fn rounds(&self, lane: usize) -> Vec<(Cell, u64)> {
        let mut rounds = Vec::new();
        for seed in (0..self.seeds).filter(|seed| *seed as usize % self.side_by_side == lane) {
            let mut cells = self.cells.clone();
            let by = cells.len() * lane / self.side_by_side.max(1);
            cells.rotate_left(by);
            rounds.extend(cells.into_iter().map(|cell| (cell, seed + 1)));
        }
        rounds
    }

    pub(super) fn duration(&self) -> Duration {
        let lanes = (0..self.side_by_side).map(|lane| self.rounds(lane).len()).max().unwrap_or_default();
        Duration::from_secs_f64(lanes as f64 * (self.warm_up + self.seconds + 1.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_gets_every_seed() {
        let plan = Plan::quick(Some(4));
        let mut all: Vec<_> = (0..plan.side_by_side).flat_map(|lane| plan.rounds(lane)).collect();
        assert_eq!(all.len(), plan.cells.len() * 4);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), plan.cells.len() * 4);
    }

    #[test]
    fn quick_takes_less_than_ten_minutes() {
        assert!(Plan::quick(None).duration() < Duration::from_secs(560));
    }
}
