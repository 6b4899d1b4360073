//! Live producers and their rates: counted where records enter, and reported for every node to read.

use std::{collections::HashMap, time::Duration};

use motience_proto::model::{LogKey, ProducerId};
use motience_runtime::clock::from_millis;
use parking_lot::Mutex;
use time::OffsetDateTime;

use crate::{Event, StreamReport};

/// A producer that has sent nothing for this long is not live.
pub(crate) const LIVE_FOR: Duration = Duration::from_secs(60);
/// Finished seconds over which a rate is measured. The running one would make every rate look lower than it is.
const WINDOW: usize = 10;
/// Seconds that are counted: those of the window, and the running one.
const SLOTS: usize = WINDOW + 1;
/// Producers in one event.
const REPORTS_AT_ONCE: usize = 500;

/// Live producers of this node and, from their reports, of the others.
#[derive(Debug)]
pub struct Streams {
    node: String,
    here: Mutex<HashMap<LogKey, Counter>>,
    elsewhere: Mutex<HashMap<(String, LogKey), StreamReport>>,
}

/// One live producer over all nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamStats {
    /// The log.
    pub key: LogKey,
    /// The producer.
    pub producer: ProducerId,
    /// Records taken in since the nodes started.
    pub records: u64,
    /// Records a second over the last ten seconds.
    pub rate: f64,
    /// When the last record came in.
    pub last_record_at: OffsetDateTime,
}

#[derive(Debug)]
struct Counter {
    records: u64,
    /// The second of the first record.
    began: i64,
    last: OffsetDateTime,
    /// Records in each of the last seconds, by second modulo their number.
    seconds: [u64; SLOTS],
}

impl Streams {
    /// Counts for the node called `node`.
    pub fn new(node: String) -> Self {
        Self { node, here: Mutex::default(), elsewhere: Mutex::default() }
    }

    /// Counts records that went into the log.
    pub(crate) fn count(&self, key: LogKey, records: u64, now: OffsetDateTime) {
        let mut here = self.here.lock();
        let counter = here.entry(key).or_insert_with(|| Counter::new(now));
        counter.move_to(now);
        counter.records += records;
        counter.seconds[slot(now.unix_timestamp())] += records;
    }

    /// Takes the reports of the node called `node`.
    pub(crate) fn apply(&self, node: &str, streams: &[StreamReport]) {
        if node == self.node {
            return;
        }
        let mut elsewhere = self.elsewhere.lock();
        for report in streams {
            elsewhere.insert((node.to_owned(), report.key()), report.clone());
        }
    }

    /// All live producers, by id.
    pub(crate) fn snapshot(&self, now: OffsetDateTime) -> Vec<StreamStats> {
        let mut elsewhere = self.elsewhere.lock();
        elsewhere.retain(|_, r| now - from_millis(r.last_record_ms) < LIVE_FOR);
        merge(self.reports(now).into_iter().chain(elsewhere.values().cloned()))
    }

    /// Those that have sent to this node, by id.
    pub(crate) fn own(&self, now: OffsetDateTime) -> Vec<StreamStats> {
        merge(self.reports(now))
    }

    /// Reports as events, for nodes of an earlier version.
    pub(crate) fn events<'r>(&self, reports: &'r [StreamReport]) -> impl Iterator<Item = Event> + use<'_, 'r> {
        reports.chunks(REPORTS_AT_ONCE).map(|some| Event::Streams { node: self.node.clone(), streams: some.to_vec() })
    }

    /// Reports of all live producers of this node.
    pub(crate) fn reports(&self, now: OffsetDateTime) -> Vec<StreamReport> {
        let mut here = self.here.lock();
        here.retain(|_, counter| now - counter.last < LIVE_FOR);
        here.iter_mut()
            .map(|(&key, counter)| StreamReport {
                producer: key.producer,
                log: Some(key.log),
                records: counter.records,
                millirate: counter.millirate(now),
                last_record_ms: (counter.last.unix_timestamp_nanos() / 1_000_000) as i64,
            })
            .collect()
    }
}

/// Joins the reports of several nodes about one producer.
fn merge(reports: impl IntoIterator<Item = StreamReport>) -> Vec<StreamStats> {
    let mut all: HashMap<LogKey, StreamStats> = HashMap::new();
    for report in reports {
        let last_record_at = from_millis(report.last_record_ms);
        let stats = all.entry(report.key()).or_insert(StreamStats {
            key: report.key(),
            producer: report.producer,
            records: 0,
            rate: 0.0,
            last_record_at,
        });
        stats.records += report.records;
        stats.rate += report.millirate as f64 / 1000.0;
        stats.last_record_at = stats.last_record_at.max(last_record_at);
    }
    let mut all: Vec<StreamStats> = all.into_values().collect();
    all.sort_by_key(|s| s.key);
    all
}

impl Counter {
    fn new(now: OffsetDateTime) -> Self {
        Self { records: 0, began: now.unix_timestamp(), last: now, seconds: [0; SLOTS] }
    }

    /// Forgets the seconds that have left the window since the last record.
    fn move_to(&mut self, now: OffsetDateTime) {
        let (from, to) = (self.last.unix_timestamp(), now.unix_timestamp());
        for second in (from + 1..=to).take(SLOTS) {
            self.seconds[slot(second)] = 0;
        }
        self.last = self.last.max(now);
    }

    fn millirate(&self, now: OffsetDateTime) -> u64 {
        let (last, now) = (self.last.unix_timestamp(), now.unix_timestamp());
        // A stream younger than the window is measured over its own seconds.
        let window = (now - self.began).clamp(1, WINDOW as i64);
        let within: u64 = (now - window..now.min(last + 1)).map(|second| self.seconds[slot(second)]).sum();
        within * 1000 / window as u64
    }
}

fn slot(second: i64) -> usize {
    second.rem_euclid(SLOTS as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    #[test]
    fn rates_fade_and_streams_end() {
        let streams = Streams::new("a".into());
        for second in 100..110 {
            streams.count(LogKey::numbered(ProducerId(1)), 20, at(second));
        }
        assert_eq!(streams.snapshot(at(110))[0].rate, 20.0);
        assert_eq!(streams.snapshot(at(115))[0].rate, 10.0);
        assert_eq!(streams.snapshot(at(125))[0].rate, 0.0);
        assert!(streams.snapshot(at(170)).is_empty());
    }

    #[test]
    fn a_rate_counts_finished_seconds_only() {
        let streams = Streams::new("a".into());
        for second in 100..104 {
            streams.count(LogKey::numbered(ProducerId(1)), 20, at(second));
            // The fourth of these has only begun.
            let expected = if second == 100 { 0.0 } else { 20.0 };
            assert_eq!(streams.snapshot(at(second))[0].rate, expected, "in second {second}");
        }
    }

    #[test]
    fn nodes_add_up() {
        let streams = Streams::new("a".into());
        streams.count(LogKey::numbered(ProducerId(1)), 5, at(100));
        let report = StreamReport { producer: ProducerId(1), log: None, records: 7, millirate: 1500, last_record_ms: 101_000 };
        for node in ["a", "b"] {
            streams.apply(node, std::slice::from_ref(&report));
        }
        let stats = &streams.snapshot(at(101))[0];
        assert_eq!((stats.records, stats.rate, stats.last_record_at), (12, 6.5, at(101)));
    }
}
