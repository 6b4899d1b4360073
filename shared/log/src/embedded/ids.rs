//! Client ids of records, for as long as the log is kept and within a bound.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use time::OffsetDateTime;

/// Most client ids remembered of one producer; past it the oldest is forgotten before its time.
const MAX_IDS: usize = 100_000;

/// Client ids of one producer.
#[derive(Debug, Default)]
pub(super) struct Ids {
    known: HashSet<Arc<str>>,
    order: VecDeque<(OffsetDateTime, Arc<str>)>,
}

impl Ids {
    /// Whether the id is new. Ids that are forgotten to make room for it go to `gone`.
    pub(super) fn insert(&mut self, id: &Arc<str>, now: OffsetDateTime, gone: &mut Vec<Arc<str>>) -> bool {
        if self.known.contains(id) {
            return false;
        }
        while self.order.len() >= MAX_IDS {
            gone.extend(self.pop());
        }
        self.known.insert(Arc::clone(id));
        self.order.push_back((now, Arc::clone(id)));
        true
    }

    /// Forgets those from before `since`.
    pub(super) fn forget(&mut self, since: OffsetDateTime) {
        while self.order.front().is_some_and(|(at, _)| *at < since) {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Arc<str>> {
        let (_, oldest) = self.order.pop_front()?;
        self.known.remove(&oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_forgotten_by_age_and_by_number() {
        let (mut ids, mut gone) = (Ids::default(), Vec::new());
        let (id, at) = (|n: usize| Arc::<str>::from(n.to_string()), |n: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(n));
        for n in 0..MAX_IDS {
            assert!(ids.insert(&id(n), at(n as i64), &mut gone));
        }
        assert!(!ids.insert(&id(0), at(0), &mut gone));
        assert!(gone.is_empty());
        assert!(ids.insert(&id(MAX_IDS), at(0), &mut gone));
        assert_eq!(gone, [id(0)]);
        ids.forget(at(3));
        assert!(ids.insert(&id(2), at(9), &mut gone));
        assert!(!ids.insert(&id(3), at(9), &mut gone));
        assert_eq!(ids.known.len(), ids.order.len());
    }
}
