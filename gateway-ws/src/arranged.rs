//! What stands between a feed and a consumer's socket, for one that asks for it: device order, and then a view.

use std::{
    collections::{HashMap, HashSet},
    mem,
    time::Instant,
};

use motience_proto::model::{Cursor, ProducerId};
use motience_relay::{
    Delivery,
    order::{Record, Reorder},
    places,
    view::Thinned,
};
use serde_json::Value;

/// Cursors in one message: a message has to have room in the socket's buffer.
pub(crate) const MAX_CURSORS: usize = 1000;

/// Order and view of one connection.
#[derive(Debug, Default)]
pub(crate) struct Arranged {
    order: Option<Reorder>,
    view: Option<Thinned>,
    passing: Vec<Record>,
    /// Where the consumer knows itself to be, as far as a view has told.
    shown: HashMap<ProducerId, Cursor>,
}

impl Arranged {
    pub(crate) fn new(order: Option<Reorder>, view: Option<Thinned>) -> Self {
        Self { order, view, ..Self::default() }
    }

    /// Puts what may be written into `out`. A notice comes after everything before it.
    pub(crate) fn deliver(&mut self, delivery: &Delivery, out: &mut Vec<Record>) {
        let now = Instant::now();
        let mut passing = self.begin(out);
        match delivery {
            Delivery::Batch { batch, after } => {
                for (offset, record_id, message) in batch.after(*after) {
                    let cursor = Cursor { log_epoch: batch.log_epoch, offset };
                    let (producer, received) = (batch.producer, batch.received);
                    let record = Record { producer, cursor, offset, record_id, received, message: message.clone() };
                    match &mut self.order {
                        Some(order) => order.push(record, now, &mut passing),
                        None => passing.push(record),
                    }
                }
            }
            Delivery::Gap { producer, .. } => self.order.iter_mut().for_each(|order| order.flush(*producer, &mut passing)),
            Delivery::Reset { producer, .. } => self.order.iter_mut().for_each(|order| order.restart(*producer, &mut passing)),
        }
        self.pass(passing, now, out);
        if let (Some(view), false) = (&mut self.view, matches!(delivery, Delivery::Batch { .. })) {
            view.deliver(delivery, now, out);
        }
        self.note(out);
    }

    /// Lets go what was held back for long enough.
    pub(crate) fn expire(&mut self, out: &mut Vec<Record>) {
        let now = Instant::now();
        let mut passing = self.begin(out);
        if let Some(order) = &mut self.order {
            order.expire(now, &mut passing);
        }
        self.pass(passing, now, out);
        if let Some(view) = &mut self.view {
            view.expire(now, out);
        }
        self.note(out);
    }

    /// Returns when something has been held back for long enough; never while nothing is.
    pub(crate) async fn due(&self) {
        let due = [self.order.as_ref().and_then(Reorder::due), self.view.as_ref().and_then(Thinned::due)];
        match due.into_iter().flatten().min() {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Nothing that was held back of another producer is delivered.
    pub(crate) fn retain(&mut self, followed: &HashSet<ProducerId>) {
        let keep = |producer: ProducerId| followed.contains(&producer);
        self.order.iter_mut().for_each(|order| order.retain(keep));
        self.view.iter_mut().for_each(|view| view.retain(keep));
        self.shown.retain(|&producer, _| keep(producer));
    }

    /// What was held back of this one is read again, if the consumer has not gone past it.
    pub(crate) fn forget(&mut self, producer: ProducerId) {
        self.order.iter_mut().for_each(|order| order.forget(producer));
        self.view.iter_mut().for_each(|view| view.forget(producer));
        self.shown.remove(&producer);
    }

    /// How far a consumer that says `cursor` can have dealt with a producer's records: what is held back is not dealt with.
    pub(crate) fn bounded(&self, producer: ProducerId, cursor: Cursor) -> Cursor {
        let ordered = self.order.as_ref().map_or(cursor, |order| order.bounded(producer, cursor));
        self.view.as_ref().map_or(ordered, |view| view.bounded(producer, ordered))
    }

    /// Whether there is a view, which goes past records in silence.
    pub(crate) fn is_selective(&self) -> bool {
        self.view.is_some()
    }

    /// Word of the cursors that moved past what the view does not show, if any did. Only while nothing waits to be written.
    pub(crate) fn moved(&mut self, followed: impl Iterator<Item = ProducerId>) -> Vec<Value> {
        let Some(view) = &self.view else { return Vec::new() };
        let cursors = followed.filter_map(|producer| Some((producer, view.cursor(producer)?)));
        let moved: Vec<(ProducerId, Cursor)> = cursors.filter(|(producer, cursor)| self.shown.get(producer) != Some(cursor)).collect();
        self.shown.extend(moved.iter().copied());
        moved.chunks(MAX_CURSORS).map(|cursors| places::moved(cursors.iter().map(|(p, c)| (p, c)))).collect()
    }

    /// Where records go before the view: the room is used again.
    fn begin(&mut self, out: &mut Vec<Record>) -> Vec<Record> {
        // Without a view they go straight out.
        if self.view.is_some() { mem::take(&mut self.passing) } else { mem::take(out) }
    }

    fn pass(&mut self, mut passing: Vec<Record>, now: Instant, out: &mut Vec<Record>) {
        match &mut self.view {
            Some(view) => {
                passing.drain(..).for_each(|record| view.push(&record, now, out));
                self.passing = passing;
            }
            None => *out = passing,
        }
    }

    fn note(&mut self, out: &[Record]) {
        if self.view.is_some() {
            self.shown.extend(out.iter().map(|record| (record.producer, record.cursor)));
        }
    }
}
