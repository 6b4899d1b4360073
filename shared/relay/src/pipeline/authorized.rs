//! A `Subscriber` limited to the producers that its reader has a right to. The right is evaluated when a follow begins and when
//! subscriptions change, never for each record. A database that is away is asked again, and ends nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use motience_auth::DeviceStates;
use motience_proto::model::{ConsumerId, Cursor, CursorName, ProducerId};
use motience_runtime::clock::until;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    named_cursors::NamedCursors,
    rights::{RETRY_AFTER, Rights},
};
use crate::{Delivery, Error, Relay, StartPosition, Subscriber, subscription_cache::Watch};

/// Who reads.
#[derive(Clone, Debug)]
pub enum Reader {
    /// A consumer: all of its subscriptions, as they change.
    Subscriptions(ConsumerId),
    /// A consumer: those of its subscriptions that it names. [`super::Pipeline::lacks`] tells of the others, now and later.
    Chosen(ConsumerId, HashSet<ProducerId>),
    /// Anybody with a right to these producers that does not end before its token: the producer itself, an operator.
    Granted(HashSet<ProducerId>),
}

/// Where a reader begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// In every log that is not in `each`, and in which its named cursor does not stand.
    pub everywhere: StartPosition,
    /// In these logs.
    pub each: HashMap<ProducerId, StartPosition>,
}

impl Default for Start {
    fn default() -> Self {
        Self { everywhere: StartPosition::Live, each: HashMap::new() }
    }
}

/// Events of an authorized reader.
#[derive(Debug)]
pub(super) enum Step {
    Delivery(Delivery),
    /// The set of followed producers has changed.
    Changed,
    /// Its only follow has ended.
    Ended,
}

/// Source of a reader's rights.
enum Right {
    /// A consumer's subscriptions, as they change; only those of its choice, where it made one.
    Subscriptions { consumer: ConsumerId, changes: Watch, chosen: Option<HashSet<ProducerId>> },
    /// A right to these that does not change.
    Granted(HashSet<ProducerId>),
    /// One follow of a connection that has many: the connection looks at the subscriptions for all of them, and cancels `stop`.
    Follow { rights: Arc<Rights>, stop: CancellationToken },
}

pub(super) struct Authorized {
    right: Right,
    relay: Relay,
    subscriber: Subscriber,
    cursor: Option<(CursorName, NamedCursors)>,
    /// A change that was acted on and not returned yet; survives a cancelled call.
    changed: bool,
}

impl Authorized {
    pub(super) async fn open(relay: Relay, reader: Reader, start: &Start, cursor: Option<CursorName>) -> Result<Self, Error> {
        // Watching begins before the first look, so that no change falls between.
        let watched = |consumer, chosen| {
            let changes = relay.watch_subscriptions(consumer);
            (Right::Subscriptions { consumer, changes, chosen }, cursor.map(|name| (name, relay.named_cursors(consumer))))
        };
        let (right, cursor) = match reader {
            Reader::Subscriptions(consumer) => watched(consumer, None),
            Reader::Chosen(consumer, chosen) => watched(consumer, Some(chosen)),
            Reader::Granted(producers) => (Right::Granted(producers), None),
        };
        let subscriber = relay.subscriber();
        let mut authorized = Self { right, relay, subscriber, cursor, changed: false };
        authorized.refresh(start).await?;
        authorized.changed = false;
        Ok(authorized)
    }

    /// The subscriber follows the follow's producer already.
    pub(super) fn of_follow(relay: Relay, subscriber: Subscriber, rights: Arc<Rights>, stop: CancellationToken) -> Self {
        Self { right: Right::Follow { rights, stop }, relay, subscriber, cursor: None, changed: false }
    }

    /// Devices whose records are refused or withheld.
    pub(super) fn devices(&self) -> DeviceStates {
        self.relay.0.devices.clone()
    }

    /// Goes on from other positions. Producers that the reader has no right to are left out, and returned.
    pub(super) async fn resume(&mut self, positions: &HashMap<ProducerId, StartPosition>) -> Result<Vec<ProducerId>, Error> {
        let allowed = self.allowed().await?;
        let mut refused = Vec::new();
        for (&producer, &position) in positions {
            if allowed.contains(&producer) {
                self.subscriber.unfollow(producer);
                self.subscriber.follow(producer, position).await?;
            } else {
                refused.push(producer);
            }
        }
        Ok(refused)
    }

    /// The next thing that happens. Cancel-safe.
    pub(super) async fn next(&mut self) -> Step {
        loop {
            if let Some(step) = self.settle().await {
                return step;
            }
            let due = self.cursor.as_ref().and_then(|(_, cursors)| cursors.due());
            tokio::select! {
                biased;
                () = self.right.changed() => {}
                () = until(due) => if let Some((_, cursors)) = &mut self.cursor { cursors.flush().await },
                delivery = self.subscriber.next() => return Step::Delivery(delivery),
            }
        }
    }

    /// Acts on a change of rights, if there was a notice of one. Cancel-safe.
    pub(super) async fn settle(&mut self) -> Option<Step> {
        while self.is_stale() {
            if let Some(step) = self.look().await {
                return Some(step);
            }
        }
        None
    }

    /// A delivery that can be had without waiting.
    pub(super) fn try_next(&mut self) -> Option<Delivery> {
        self.subscriber.try_next()
    }

    /// Whether there is a notice of a change that was not acted on yet.
    pub(super) fn is_stale(&self) -> bool {
        match &self.right {
            Right::Subscriptions { changes, .. } => changes.is_pending(),
            Right::Granted(_) => false,
            Right::Follow { rights, stop } => rights.is_stale() || stop.is_cancelled(),
        }
    }

    /// Moves the named cursor; `false` where there is none.
    pub(super) fn confirm(&mut self, producer: ProducerId, cursor: Cursor) -> bool {
        let Some((name, cursors)) = &mut self.cursor else { return false };
        if self.subscriber.cursor(producer).is_some() {
            cursors.confirm(name, producer, cursor);
        }
        true
    }

    /// Writes what was confirmed, when the connection ends.
    pub(super) async fn finish(&mut self) {
        if let Some((_, cursors)) = &mut self.cursor {
            cursors.finish().await;
        }
    }

    pub(super) fn followed(&self) -> impl Iterator<Item = ProducerId> {
        self.subscriber.followed()
    }

    /// How far a producer's log has been read: right after its follow began, where that is.
    pub(super) fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        self.subscriber.cursor(producer)
    }

    /// Chosen producers that it does not follow, for want of a subscription.
    pub(super) fn lacks(&self) -> Vec<ProducerId> {
        let Right::Subscriptions { chosen: Some(chosen), .. } = &self.right else { return Vec::new() };
        let mut lacking: Vec<_> = chosen.iter().copied().filter(|&producer| self.subscriber.cursor(producer).is_none()).collect();
        lacking.sort();
        lacking
    }

    async fn allowed(&self) -> Result<HashSet<ProducerId>, Error> {
        match &self.right {
            Right::Granted(producers) => Ok(producers.clone()),
            Right::Follow { .. } => Ok(self.subscriber.followed().collect()),
            Right::Subscriptions { consumer, chosen, .. } => {
                let follows = self.relay.0.store.follows(*consumer).await.map_err(Error::store)?;
                let wanted = |producer: &ProducerId| chosen.as_ref().is_none_or(|chosen| chosen.contains(producer));
                Ok(follows.into_iter().filter(wanted).collect())
            }
        }
    }

    /// Acts on a change: `None` once there is nothing left of it, and where the database is away.
    async fn look(&mut self) -> Option<Step> {
        let version = match &self.right {
            Right::Subscriptions { changes, .. } => changes.version(),
            Right::Granted(_) => return None,
            Right::Follow { rights, stop } => {
                stop.run_until_cancelled(rights.settled()).await;
                return stop.is_cancelled().then(|| {
                    self.subscriber.followed().collect::<Vec<_>>().into_iter().for_each(|producer| self.subscriber.unfollow(producer));
                    Step::Ended
                });
            }
        };
        let outcome = if self.changed { Ok(()) } else { self.refresh(&Start::default()).await };
        // There may be more; what is told now is acted on first.
        if std::mem::take(&mut self.changed) {
            return Some(Step::Changed);
        }
        match (outcome, &self.right) {
            (Ok(()), Right::Subscriptions { changes, .. }) => changes.looked(version),
            (Ok(()), _) => {}
            (Err(e), right) => {
                warn!(reader = ?right, error = %e, "subscriptions cannot be read; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
        None
    }

    /// Follows what the store says, and remembers that there was a difference.
    async fn refresh(&mut self, start: &Start) -> Result<(), Error> {
        let allowed = self.allowed().await?;
        let followed: HashSet<ProducerId> = self.subscriber.followed().collect();
        self.relay.0.logs.prepare(allowed.difference(&followed).copied()).await?;
        for &producer in followed.difference(&allowed) {
            self.subscriber.unfollow(producer);
            self.changed = true;
        }
        for &producer in allowed.difference(&followed) {
            let mut from = start.each.get(&producer).copied().unwrap_or(start.everywhere);
            if let Some((name, cursors)) = &self.cursor {
                from = cursors.position(name, producer, from).await?;
            }
            self.subscriber.follow(producer, from).await?;
            self.changed = true;
        }
        Ok(())
    }
}

impl Right {
    /// Returns when it may have changed. Cancel-safe.
    async fn changed(&self) {
        match self {
            Self::Subscriptions { changes, .. } => changes.changed().await,
            Self::Granted(_) => std::future::pending().await,
            Self::Follow { stop, .. } => stop.cancelled().await,
        }
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscriptions { consumer, .. } => write!(f, "consumer {consumer}"),
            Self::Granted(_) => f.write_str("granted"),
            Self::Follow { rights, .. } => write!(f, "a follow of {rights:?}"),
        }
    }
}

impl fmt::Debug for Authorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorized").field("right", &self.right).finish_non_exhaustive()
    }
}
