//! Retention: how much of a producer's log is kept, and the segments by which it is trimmed without looking at every entry.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use motience_proto::model::{Offset, ProducerId};
use motience_settings::env::settings;
use parking_lot::RwLock;
use time::OffsetDateTime;

settings! {
    /// How much of each producer's log is kept, and how much of its senders.
    #[derive(Clone, Copy, Debug)]
    pub struct Retention {
        /// How long a record is kept.
        LOG_RETENTION = "24h" => age: Duration;
        /// Bytes of records kept for each producer.
        LOG_RETENTION_BYTES = "64MiB" => bytes: usize as Size;
        /// Where the clock has jumped, an embedded node removes no more of a log at once because of its age than this part of it, in
        /// percent, before an operator has confirmed the clock (`motience-server log confirm`). 100 asks for nothing.
        LOG_RETENTION_AT_ONCE = "50" => at_once: u8, "0"..="100";
        /// Devices of each producer whose records the log can tell from new ones. The longest idle make room, never one that is connected.
        LOG_MAX_SESSIONS = "20000" => sessions: usize, > 0;
        /// Bytes that these sessions take for each producer, with their dedup windows.
        LOG_MAX_DEDUP_BYTES = "4MiB" => windows: usize as Size;
    }
}

/// Bounds of one producer's log, where they are others than the platform's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnRetention {
    /// How long its records are kept; `None`: as long as those of others.
    pub age: Option<Duration>,
    /// Bytes of its records that are kept.
    pub bytes: Option<usize>,
}

/// How much is kept of each producer's log: what the platform keeps, unless it has bounds of its own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Retentions {
    platform: Retention,
    own: Arc<RwLock<Own>>,
}

#[derive(Debug, Default)]
struct Own {
    each: HashMap<ProducerId, OwnRetention>,
    others: OwnRetention,
}

impl Retentions {
    /// The platform's bounds, for all producers.
    pub fn new(platform: Retention) -> Self {
        Self { platform, own: Arc::default() }
    }

    /// The platform's bounds.
    pub fn platform(&self) -> &Retention {
        &self.platform
    }

    /// Bounds of this producer's log.
    pub fn of(&self, producer: ProducerId) -> Retention {
        let own = self.own.read();
        let own = own.each.get(&producer).copied().unwrap_or(own.others);
        Retention { age: own.age.unwrap_or(self.platform.age), bytes: own.bytes.unwrap_or(self.platform.bytes), ..self.platform }
    }

    /// Sets the bounds of producers that have their own, and those of all others.
    pub fn set(&self, each: HashMap<ProducerId, OwnRetention>, others: OwnRetention) {
        *self.own.write() = Own { each, others };
    }
}

/// Segments into which the kept log is divided: it is trimmed by whole segments.
const SEGMENTS: u32 = 64;

/// A run of entries that is removed as a whole, known by its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Last offset.
    pub(super) last: Offset,
    /// Bytes of messages from the log's beginning up to there.
    pub(super) total: u64,
    /// When the last entry was written.
    pub(super) at: OffsetDateTime,
}

/// Segments of one log, oldest first.
#[derive(Debug, Default)]
pub(super) struct Segments {
    segments: VecDeque<Segment>,
    total: u64,
    /// Bytes removed.
    gone: u64,
    /// Bytes up to the end of the last segment, and when the next one began.
    marked: u64,
    since: Option<OffsetDateTime>,
    /// The last batch, and when it was written.
    end: Option<(Offset, OffsetDateTime)>,
    /// When the last of what was removed was written.
    gone_at: Option<OffsetDateTime>,
}

/// Outcome of a trim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trim {
    /// Entries up to here are to be removed.
    pub(super) gone: Option<Offset>,
    /// Whether more would be, because of its age, were the clock believed.
    pub(super) held: bool,
}

impl Segments {
    /// Counts a batch that ends with `last`.
    pub(super) fn add(&mut self, last: Offset, bytes: usize, at: OffsetDateTime, keep: &Retention) {
        // A segment ends before an entry that comes long after it, so that it can go by itself.
        if let (Some(since), Some((end, ended))) = (self.since, self.end)
            && at - since >= part(keep.age)
        {
            self.segment(end, ended);
        }
        self.total += bytes as u64;
        self.end = Some((last, at));
        self.since.get_or_insert(at);
        if self.total - self.marked >= (keep.bytes as u64 / u64::from(SEGMENTS)).max(1) {
            self.segment(last, at);
        }
    }

    fn segment(&mut self, last: Offset, at: OffsetDateTime) {
        self.segments.push_back(Segment { last, total: self.total, at });
        self.marked = self.total;
        self.since = None;
    }

    /// The segments that have ended, the bytes of all of them and the open one, and when the last entry was written.
    pub(super) fn outline(&self) -> (Vec<Segment>, u64, Option<OffsetDateTime>) {
        (self.segments.iter().copied().collect(), self.total, self.end.map(|(_, at)| at))
    }

    /// Bytes of what was removed, of all that was ever counted.
    pub(super) fn gone(&self) -> u64 {
        self.gone
    }

    /// When the last of what was removed was written; `None`: nothing was.
    pub(super) fn gone_at(&self) -> Option<OffsetDateTime> {
        self.gone_at
    }

    /// Takes over what [`Segments::gone_at`] said of this log in an earlier process.
    pub(super) fn recall_gone(&mut self, gone_at: Option<OffsetDateTime>) {
        self.gone_at = gone_at;
    }

    /// Removes segments that there is no room for, and those that are too old. Where the clock says `now`, but only `sure` is believed,
    /// no more than [`Retention::at_once`] of the log goes because of the difference.
    pub(super) fn trim(&mut self, now: OffsetDateTime, sure: OffsetDateTime, keep: &Retention) -> Trim {
        // Entries behind such a segment fill the room by themselves.
        let full = self.segments.iter().take_while(|segment| self.total - segment.total >= keep.bytes as u64).count();
        let surely = self.too_old(full, sure, keep.age);
        let perhaps = self.too_old(full, now, keep.age);
        let share = (self.bytes_of(perhaps) - self.bytes_of(surely)) * 100;
        let held = share > (self.total - self.gone) * u64::from(keep.at_once);
        let parts = if held { surely } else { perhaps };
        let Some(last) = self.end_of(parts) else { return Trim { gone: None, held } };
        self.gone = self.bytes_of(parts);
        self.gone_at = self.gone_at.max(Some(last.1));
        if parts > self.segments.len() {
            (self.end, self.since, self.marked) = (None, None, self.total);
        }
        self.segments.drain(..parts.min(self.segments.len()));
        Trim { gone: Some(last.0), held }
    }

    /// Number of segments that are too old at `now`, the first `gone` of them in any case. One more than there are: so is the open one.
    fn too_old(&self, gone: usize, now: OffsetDateTime, age: Duration) -> usize {
        let old = |at: OffsetDateTime| now - at > age;
        let parts = gone + self.segments.iter().skip(gone).take_while(|segment| old(segment.at)).count();
        let whole = parts == self.segments.len() && self.total > self.marked && self.end.is_some_and(|(_, at)| old(at));
        parts + usize::from(whole)
    }

    fn bytes_of(&self, parts: usize) -> u64 {
        match parts.checked_sub(1) {
            None => self.gone,
            Some(last) => self.segments.get(last).map_or(self.total, |segment| segment.total),
        }
    }

    fn end_of(&self, parts: usize) -> Option<(Offset, OffsetDateTime)> {
        self.segments.get(parts.checked_sub(1)?).map(|segment| (segment.last, segment.at)).or(self.end)
    }
}

/// The size to which all larger ones must shrink, so that together they lose `need`.
pub fn most_for_each(mut sizes: Vec<u64>, need: u64) -> u64 {
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut sum: u64 = 0;
    for (i, size) in sizes.iter().enumerate() {
        sum += size;
        let most = sum.saturating_sub(need) / (i as u64 + 1);
        if sizes.get(i + 1).is_none_or(|next| *next <= most) {
            return most;
        }
    }
    0
}

fn part(age: Duration) -> time::Duration {
    time::Duration::try_from(age / SEGMENTS).unwrap_or(time::Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second)
    }

    #[test]
    fn as_much_as_fits_is_kept_and_hardly_more() {
        let keep = Retention { age: Duration::from_secs(1000), bytes: 6400, ..Retention::default() };
        let (mut segments, mut gone) = (Segments::default(), 0);
        for n in 1..=1000 {
            segments.add(Offset(n), 50, at(0), &keep);
            gone = segments.trim(at(0), at(0), &keep).gone.map_or(gone, |offset| offset.0);
            let kept = (n - gone) * 50;
            assert!(kept >= (n * 50).min(6400) && kept <= 6400 + 200, "{n}: {kept}");
        }
    }

    #[test]
    fn what_is_too_old_goes_part_by_part() {
        let keep = Retention { age: Duration::from_secs(640), bytes: 1 << 20, ..Retention::default() };
        let mut segments = Segments::default();
        for n in 1..=100 {
            segments.add(Offset(n), 10, at(n as i64), &keep);
        }
        assert_eq!(segments.trim(at(640), at(640), &keep).gone, None);
        let gone = segments.trim(at(700), at(700), &keep).gone.unwrap().0;
        assert!((45..=59).contains(&gone), "{gone}");
        assert_eq!(segments.gone_at(), Some(at(gone as i64)));
        // And the tail of a log that nobody writes to any more.
        assert_eq!(segments.trim(at(741), at(741), &keep).gone, Some(Offset(100)));
        assert_eq!(segments.trim(at(9999), at(9999), &keep), Trim::default());
        segments.add(Offset(101), 10, at(9999), &keep);
        assert_eq!(segments.trim(at(9999), at(9999), &keep), Trim::default());
    }

    #[test]
    fn a_lone_large_record_is_kept() {
        let keep = Retention { age: Duration::from_secs(1000), bytes: 100, ..Retention::default() };
        let mut segments = Segments::default();
        segments.add(Offset(1), 5000, at(0), &keep);
        assert_eq!(segments.trim(at(0), at(0), &keep).gone, None);
        segments.add(Offset(2), 5000, at(0), &keep);
        assert_eq!(segments.trim(at(0), at(0), &keep).gone, Some(Offset(1)));
    }

    #[test]
    fn the_largest_give_up_first() {
        assert_eq!(most_for_each(vec![100, 10, 10], 40), 60);
        assert_eq!(most_for_each(vec![100, 80, 10], 40), 70);
        assert_eq!(most_for_each(vec![100, 80, 10], 0), 100);
        assert_eq!(most_for_each(vec![100, 80, 10], 500), 0);
        assert_eq!(most_for_each(vec![], 5), 0);
        for need in 0..=300 {
            let sizes = vec![100, 90, 50, 50, 10];
            let most = most_for_each(sizes.clone(), need);
            let given_up: u64 = sizes.iter().map(|size| size.saturating_sub(most)).sum();
            assert!(given_up >= need && given_up < need + 5, "{need}: {most}");
        }
    }

    #[test]
    fn a_producer_may_have_bounds_of_its_own() {
        let retentions = Retentions::new(Retention { age: Duration::from_secs(100), bytes: 1000, ..Retention::default() });
        let own = |age, bytes| OwnRetention { age: Some(Duration::from_secs(age)), bytes };
        retentions.set(HashMap::from([(ProducerId(1), own(10, Some(2000)))]), own(200, None));
        let kept = |producer| {
            let Retention { age, bytes, .. } = retentions.of(ProducerId(producer));
            (age.as_secs(), bytes)
        };
        assert_eq!([kept(1), kept(2)], [(10, 2000), (200, 1000)]);
    }

    /// A clock that is set ahead makes everything too old at once.
    #[test]
    fn much_at_once_waits_until_the_clock_is_believed() {
        let keep = Retention { age: Duration::from_secs(640), bytes: 6400, ..Retention::default() };
        let mut segments = Segments::default();
        for n in 1..=100 {
            segments.add(Offset(n), 50, at(n as i64), &keep);
        }
        let day = 25 * 3600;
        assert_eq!(segments.trim(at(day), at(100), &keep), Trim { gone: None, held: true });
        // A small part goes all the same, and so does what is surely too old, and what there is no room for.
        let small = segments.trim(at(680), at(100), &keep);
        assert!(!small.held && small.gone.is_some_and(|gone| (30..40).contains(&gone.0)), "{small:?}");
        let sure = segments.trim(at(day), at(690), &keep);
        assert!(sure.held && sure.gone.is_some_and(|gone| (40..50).contains(&gone.0)), "{sure:?}");
        for n in 101..=300 {
            segments.add(Offset(n), 50, at(day), &keep);
        }
        let full = segments.trim(at(day), at(690), &keep);
        assert!(full.gone.is_some_and(|gone| (160..=172).contains(&gone.0)), "{full:?}");
        assert!(segments.trim(at(2 * day), at(690), &keep).held);
        assert_eq!(
            segments.trim(at(2 * day), at(2 * day), &keep),
            Trim { gone: Some(Offset(300)), held: false },
            "all of it, with its tail"
        );
        assert_eq!(segments.trim(at(3 * day), at(3 * day), &keep), Trim::default());
        // Or an operator wants no questions.
        segments.add(Offset(301), 50, at(0), &keep);
        let keep = Retention { at_once: 100, ..keep };
        assert_eq!(segments.trim(at(day), at(0), &keep), Trim { gone: Some(Offset(301)), held: false });
    }
}
