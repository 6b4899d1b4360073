//! Whether a node is ready: the parts of it that have to work, and since when each is as it is.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use motience_relay::Relay;
use motience_store::Store;
use tokio::time::timeout;

/// Longest wait for each part that is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A push connection that was silent for so long is deaf: a node hears its own reports every two seconds.
const DEAF_AFTER: Duration = Duration::from_secs(10);
/// Retention that has been unable to remove anything for so long is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// A part of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// `database`, `log`, `push`, `trim` or `replica`.
    pub name: &'static str,
    /// Its fault, for people: `database`, `log`, `log full`, `push connection`, `trim`, `read replica`.
    pub fault: Option<&'static str>,
    /// Whether it has to work before the node is ready.
    pub is_needed: bool,
    /// How long it has been so, as far as somebody has asked.
    pub since: Duration,
    /// How long it took to answer, if it was asked and did.
    pub took: Option<Duration>,
}

impl Part {
    /// Its fault, if the node is not ready because of it.
    pub fn hindrance(&self) -> Option<&'static str> {
        self.fault.filter(|_| self.is_needed)
    }
}

/// The parts that are away when a node is not ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unready {
    /// Their faults.
    pub away: Vec<&'static str>,
}

/// Readiness of a node, as far as somebody has asked.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    /// The fault of each part, and when it began to be as it is.
    states: HashMap<&'static str, (Option<&'static str>, Instant)>,
    /// When it was last asked for, and the answer.
    pub(crate) last: Option<(Instant, Vec<Part>)>,
}

impl Readiness {
    /// Asks every part.
    pub(crate) async fn ask(&mut self, store: &Store, relay: &Relay) -> Vec<Part> {
        let log = relay.log();
        let (database, answered) = tokio::join!(timed(store.ping()), timed(log.ping()));
        let log_fault = if log.is_full() { "log full" } else { "log" };
        let push = log.silent_for().map(|silent| silent > DEAF_AFTER);
        let stalled = log.stalled_for().is_some_and(|stalled| stalled > STALLED_AFTER);
        let mut parts = vec![
            self.part("database", database.is_none().then_some("database"), database),
            self.part("log", answered.is_none().then_some(log_fault), answered),
        ];
        if let Some(is_deaf) = push {
            parts.push(self.part("push", is_deaf.then_some("push connection"), None));
        }
        parts.push(self.part("trim", stalled.then_some("trim"), None));
        if let Some((fault, since)) = store.replica_fault() {
            parts.push(Part { name: "replica", fault, is_needed: false, since, took: None });
        }
        parts
    }

    fn part(&mut self, name: &'static str, fault: Option<&'static str>, took: Option<Duration>) -> Part {
        let now = Instant::now();
        let state = self.states.entry(name).or_insert((fault, now));
        if state.0 != fault {
            *state = (fault, now);
        }
        Part { name, fault, is_needed: true, since: state.1.elapsed(), took }
    }
}

/// The faults of the parts; `Ok`: there are none.
pub(crate) fn verdict(parts: &[Part]) -> Result<(), Unready> {
    let away: Vec<_> = parts.iter().filter_map(Part::hindrance).collect();
    if away.is_empty() { Ok(()) } else { Err(Unready { away }) }
}

/// How long an answer took; `None`: there was none.
async fn timed<T, E>(answer: impl Future<Output = Result<T, E>>) -> Option<Duration> {
    let begun = Instant::now();
    matches!(timeout(ANSWER_LIMIT, answer).await, Ok(Ok(_))).then(|| begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_keeps_its_age_until_it_changes() {
        let mut readiness = Readiness::default();
        let before = readiness.part("log", None, None);
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let same = readiness.part("log", None, None);
        assert!(same.since >= before.since + Duration::from_millis(2));
        let broken = readiness.part("log", Some("log full"), None);
        assert!(broken.since < same.since);
        assert_eq!(verdict(&[same, broken]), Err(Unready { away: vec!["log full"] }));
        let replica = Part { name: "replica", fault: Some("read replica"), is_needed: false, ..before.clone() };
        assert_eq!(verdict(&[before, replica]), Ok(()));
    }
}
