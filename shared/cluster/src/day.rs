//! The platform's rates over the last day, a mean for each minute: a console shows what was before it was opened.

use std::collections::VecDeque;

use time::{Duration, OffsetDateTime};

use crate::NodeStats;

/// Minutes that are kept.
const MINUTES: usize = 24 * 60;

/// One minute of all nodes together, as this node heard of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Minute {
    /// Its beginning.
    pub at: OffsetDateTime,
    /// Records taken in for each second.
    pub records_in: f64,
    /// Records given out for each second.
    pub records_out: f64,
    /// Open connections.
    pub connections: f64,
}

/// The minutes of a day, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Day {
    minutes: VecDeque<(Minute, u32)>,
}

impl Day {
    /// Takes a look at all nodes.
    pub(crate) fn look(&mut self, nodes: &[NodeStats], now: OffsetDateTime) {
        let at = now - Duration::seconds(now.unix_timestamp().rem_euclid(60)) - Duration::nanoseconds(i64::from(now.nanosecond()));
        let sum = |of: fn(&NodeStats) -> u64| nodes.iter().map(of).fold(0, u64::saturating_add) as f64;
        let (records_in, records_out) = (sum(|node| node.report.millirate_in) / 1000.0, sum(|node| node.report.millirate_out) / 1000.0);
        let connections = sum(|node| node.report.connections.total());
        // A clock that went back goes on in the minute that there is.
        if self.minutes.back().is_none_or(|(newest, _)| newest.at < at) {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back((Minute { at, records_in: 0.0, records_out: 0.0, connections: 0.0 }, 0));
        }
        let Some((minute, looks)) = self.minutes.back_mut() else { return };
        *looks += 1;
        let part = 1.0 / f64::from(*looks);
        for (mean, value) in
            [(&mut minute.records_in, records_in), (&mut minute.records_out, records_out), (&mut minute.connections, connections)]
        {
            *mean += (value - *mean) * part;
        }
    }

    /// All minutes that are kept, the newest last.
    pub(crate) fn minutes(&self) -> Vec<Minute> {
        self.minutes.iter().map(|(minute, _)| *minute).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Connections, NodeReport};

    fn node(millirate: u64, quic: u64, now: OffsetDateTime) -> NodeStats {
        let connections = Connections { quic, tunnels: 1, ..Connections::default() };
        let report = NodeReport { millirate_in: millirate, millirate_out: 2 * millirate, connections, ..NodeReport::default() };
        NodeStats { report, started_at: now, seen_at: now }
    }

    #[test]
    fn a_minute_is_the_mean_of_its_looks_and_a_day_of_them_is_kept() {
        let mut day = Day::default();
        let first = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        for (seconds, millirate) in [(0, 1000), (30, 3000), (59, 5000), (61, 8000), (1, 8000)] {
            let now = first + Duration::milliseconds(seconds * 1000 + 500);
            day.look(&[node(millirate, 2, now), node(0, 0, now)], now);
        }
        let minute = |minutes: i64, records: f64| Minute {
            at: first + Duration::minutes(minutes),
            records_in: records,
            records_out: 2.0 * records,
            connections: 4.0,
        };
        assert_eq!(day.minutes(), [minute(0, 3.0), minute(1, 8.0)]);
        for minutes in 0..2000 {
            day.look(&[], first + Duration::minutes(minutes));
        }
        let kept = day.minutes();
        assert_eq!((kept.len(), kept[MINUTES - 1].at), (MINUTES, first + Duration::minutes(1999)));
    }
}
