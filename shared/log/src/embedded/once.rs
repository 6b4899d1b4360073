//! Names that were taken, each once within a time. In memory: a process that starts anew knows none.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use time::OffsetDateTime;

/// Most names that are remembered at once; more are refused, so that none is forgotten early.
const MOST: usize = 1 << 20;

/// Names that were taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    names: HashSet<Box<str>>,
    /// When each may be forgotten, in the order in which they were taken.
    ends: VecDeque<(OffsetDateTime, Box<str>)>,
}

impl Taken {
    /// Takes a name until `now + ttl`; `false`: it is taken, or there is no room.
    pub(super) fn take(&mut self, name: &str, ttl: Duration, now: OffsetDateTime) -> bool {
        while let Some((_, name)) = self.ends.pop_front_if(|(end, _)| *end <= now) {
            self.names.remove(&name);
        }
        if self.names.len() >= MOST || !self.names.insert(name.into()) {
            return false;
        }
        self.ends.push_back((now + ttl, name.into()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once_until_it_is_forgotten() {
        let (mut taken, ttl, now) = (Taken::default(), Duration::from_secs(60), OffsetDateTime::UNIX_EPOCH);
        assert!(taken.take("a", ttl, now) && !taken.take("a", ttl, now + ttl / 2));
        assert!(taken.take("b", ttl, now + ttl / 2));
        assert!(taken.take("a", ttl, now + ttl) && !taken.take("b", ttl, now + ttl));
        assert_eq!((taken.names.len(), taken.ends.len()), (2, 2));
    }
}
