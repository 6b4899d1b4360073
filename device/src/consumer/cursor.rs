//! Where a follow is: pure, so that "every record once, or a gap" can be tested.
//!
//! Offsets tell doubles apart within one life of the log. After a reset a record may come again under another offset:
//! then its name tells. Of a follow with a selection records come in another order than the log's, and its place moves only as
//! the server says.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use motience_proto::{
    model::{Cursor as Place, GapCause, Offset, Order, ProducerEpoch, ProducerId, RangeSet, RecordId, Selection},
    wire::Start,
};

use super::Delivery;

/// Senders of one producer whose records' names are kept; past it the one that began first is forgotten.
const MAX_SENDERS: usize = 1024;

/// Names of single records that are kept of a follow with a selection, whose numbers have holes: past it the oldest is forgotten.
const MAX_NAMES: usize = 8192;

/// A requested follow.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) start: Start,
    /// The name of a durable cursor, or empty.
    pub(super) durable: String,
    pub(super) selection: Selection,
    pub(super) order: Order,
}

/// The place of one follow.
#[derive(Debug)]
pub(super) struct Cursor {
    producer: ProducerId,
    pub(super) follow: Follow,
    /// The last record delivered, or known to be gone.
    place: Option<Place>,
    names: Names,
}

impl Cursor {
    pub(super) fn new(producer: ProducerId, follow: Follow) -> Self {
        let place = match follow.start {
            Start::After(cursor) => Some(cursor),
            Start::Live | Start::Earliest | Start::Time(_) => None,
        };
        Self { producer, follow, place, names: Names::default() }
    }

    /// Where to begin at the next connection.
    pub(super) fn resume(&self) -> Start {
        self.place.map_or(self.follow.start, Start::After)
    }

    /// Entries come after this from now on.
    pub(super) fn begin_after(&mut self, after: Place, out: &mut VecDeque<Delivery>) {
        let selective = self.selective();
        match &mut self.place {
            Some(place) if place.log_epoch == after.log_epoch && selective && place.offset < after.offset => {
                *place = after;
                out.push_back(Delivery::Passed { producer: self.producer, cursor: after });
            }
            Some(place) if place.log_epoch == after.log_epoch => {}
            Some(place) if place.log_epoch.0 == 0 && place.offset <= after.offset => *place = after,
            Some(place) => {
                *place = after;
                out.push_back(Delivery::Reset { producer: self.producer, cursor: after });
            }
            None => self.place = Some(after),
        }
    }

    /// An entry came. One without a cursor before it has no epoch to belong to, and is dropped.
    pub(super) fn entry(&mut self, offset: Offset, record_id: RecordId, message: Bytes, out: &mut VecDeque<Delivery>) {
        let selective = self.selective();
        let Some(place) = self.place.as_mut().filter(|place| offset > place.offset) else { return };
        if !selective {
            place.offset = offset;
        }
        let new = if selective { self.names.insert_single(record_id) } else { self.names.insert(record_id) };
        if new {
            out.push_back(Delivery::Record { producer: self.producer, cursor: *place, record_id, message });
        }
    }

    /// Whether the server leaves records out, or changes their order.
    fn selective(&self) -> bool {
        !self.follow.selection.is_empty() || self.follow.order == Order::Device
    }

    /// Word of a gap came.
    pub(super) fn gap(&mut self, (from, to): (Offset, Offset), cause: Option<GapCause>, out: &mut VecDeque<Delivery>) {
        let Some(place) = self.place.as_mut().filter(|place| from <= to && to > place.offset) else { return };
        let from = from.max(place.offset.next());
        place.offset = to;
        out.push_back(Delivery::Gap { producer: self.producer, from, to, cause });
    }
}

/// The names of what was delivered.
#[derive(Debug, Default)]
struct Names {
    senders: HashMap<ProducerEpoch, RangeSet>,
    order: VecDeque<ProducerEpoch>,
    singles: HashSet<RecordId>,
    singles_order: VecDeque<RecordId>,
}

impl Names {
    /// Whether the name is new among the last ones, of numbers that have holes.
    fn insert_single(&mut self, record_id: RecordId) -> bool {
        let new = self.singles.insert(record_id);
        if new {
            self.singles_order.push_back(record_id);
        }
        if self.singles_order.len() > MAX_NAMES
            && let Some(first) = self.singles_order.pop_front()
        {
            self.singles.remove(&first);
        }
        new
    }

    /// Whether the name is new.
    fn insert(&mut self, record_id: RecordId) -> bool {
        let seen = self.senders.entry(record_id.producer_epoch).or_insert_with(|| {
            self.order.push_back(record_id.producer_epoch);
            RangeSet::new()
        });
        let new = seen.insert(record_id.seq.0);
        if self.order.len() > MAX_SENDERS
            && let Some(first) = self.order.pop_front()
        {
            self.senders.remove(&first);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use motience_proto::model::{LogEpoch, Seq};

    use super::*;

    const WHO: ProducerId = ProducerId(1);

    fn place(epoch: u64, offset: u64) -> Place {
        Place { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
    }

    fn name(seq: u64) -> RecordId {
        RecordId { producer_epoch: ProducerEpoch(7), seq: Seq(seq) }
    }

    fn follow(start: Start) -> (Cursor, VecDeque<Delivery>) {
        (Cursor::new(WHO, Follow { start, durable: String::new(), selection: Selection::default(), order: Order::Log }), VecDeque::new())
    }

    /// Offsets delivered, gaps as ranges, a reset as the offset it goes back to twice, negative.
    fn seen(out: &VecDeque<Delivery>) -> Vec<(i64, i64)> {
        out.iter()
            .map(|delivery| match delivery {
                Delivery::Record { cursor, .. } => (cursor.offset.0 as i64, cursor.offset.0 as i64),
                Delivery::Gap { from, to, .. } => (from.0 as i64, to.0 as i64),
                Delivery::Reset { cursor, .. } => (-(cursor.offset.0 as i64), -(cursor.offset.0 as i64)),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn doubles_are_removed_and_the_place_is_kept() {
        let (mut cursor, mut out) = follow(Start::Live);
        assert_eq!(cursor.resume(), Start::Live);
        cursor.begin_after(place(3, 4), &mut out);
        assert_eq!(cursor.resume(), Start::After(place(3, 4)));
        for offset in [5, 6, 6, 5, 7] {
            cursor.entry(Offset(offset), name(offset), Bytes::new(), &mut out);
        }
        assert_eq!(seen(&out), [(5, 5), (6, 6), (7, 7)]);
        assert_eq!(cursor.resume(), Start::After(place(3, 7)));
    }

    #[test]
    fn a_gap_moves_the_place() {
        let (mut cursor, mut out) = follow(Start::Earliest);
        cursor.begin_after(place(3, 0), &mut out);
        for gap in [(1, 9), (5, 11), (5, 6)] {
            cursor.gap((Offset(gap.0), Offset(gap.1)), Some(GapCause::Erased), &mut out);
        }
        assert!(out.iter().all(|delivery| matches!(delivery, Delivery::Gap { cause: Some(GapCause::Erased), .. })));
        assert_eq!(seen(&out), [(1, 9), (10, 11)]);
        assert_eq!(cursor.resume(), Start::After(place(3, 11)));
    }

    #[test]
    fn after_a_reset_names_tell_doubles_from_new_records() {
        let (mut cursor, mut out) = follow(Start::After(place(1, 40)));
        cursor.begin_after(place(1, 40), &mut out);
        for offset in 41..=43 {
            cursor.entry(Offset(offset), name(offset), Bytes::new(), &mut out);
        }
        // The log lost 42 and 43; the device sent 43 again, and then another.
        cursor.begin_after(place(2, 41), &mut out);
        cursor.entry(Offset(42), name(43), Bytes::new(), &mut out);
        cursor.entry(Offset(43), name(44), Bytes::new(), &mut out);
        assert_eq!(seen(&out), [(41, 41), (42, 42), (43, 43), (-41, -41), (43, 43)]);
        assert_eq!(cursor.resume(), Start::After(place(2, 43)));
    }

    #[test]
    fn with_a_selection_the_server_says_how_far_it_has_come() {
        let selection = Selection { every: Some("10s".to_owned()), ..Selection::default() };
        let follow = Follow { start: Start::Live, durable: String::new(), selection, order: Order::Log };
        let (mut cursor, mut out) = (Cursor::new(WHO, follow), VecDeque::new());
        cursor.begin_after(place(3, 4), &mut out);
        for offset in [9, 7, 9] {
            cursor.entry(Offset(offset), name(offset), Bytes::new(), &mut out);
        }
        assert_eq!(cursor.resume(), Start::After(place(3, 4)), "the fifth may be held back");
        cursor.begin_after(place(3, 8), &mut out);
        cursor.begin_after(place(3, 8), &mut out);
        assert_eq!(cursor.resume(), Start::After(place(3, 8)));
        cursor.entry(Offset(8), name(8), Bytes::new(), &mut out);
        let told = out.iter().map(|delivery| match delivery {
            Delivery::Record { record_id, cursor, .. } => (record_id.seq.0, cursor.offset.0),
            Delivery::Passed { cursor, .. } => (0, cursor.offset.0),
            other => panic!("{other:?}"),
        });
        assert_eq!(told.collect::<Vec<_>>(), [(9, 4), (7, 4), (0, 8)]);
        let mut names = Names::default();
        for seq in 0..3 * MAX_NAMES as u64 {
            assert!(names.insert_single(name(2 * seq)));
        }
        assert_eq!((names.singles.len(), names.singles_order.len()), (MAX_NAMES, MAX_NAMES));
    }

    #[test]
    fn an_offset_without_a_life_is_taken_as_it_is() {
        let (mut cursor, mut out) = follow(Start::After(place(0, 40)));
        cursor.begin_after(place(9, 40), &mut out);
        assert!(out.is_empty());
        assert_eq!(cursor.resume(), Start::After(place(9, 40)));
    }

    #[test]
    fn the_names_of_many_senders_are_bounded() {
        let mut names = Names::default();
        for epoch in 0..2 * MAX_SENDERS as u64 {
            assert!(names.insert(RecordId { producer_epoch: ProducerEpoch(epoch), seq: Seq(1) }));
        }
        assert_eq!(names.senders.len(), MAX_SENDERS);
    }
}
