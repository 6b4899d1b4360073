//! A `Subscriber` limited to the producers that its reader has a right to, each within a scope. The right is evaluated when a follow begins
//! and when subscriptions change, never for each record. A database that is away is asked again, and ends nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use motience_auth::{DeviceStates, Scopes, Standing};
use motience_limits::quota::Quota;
use motience_proto::model::{ConsumerId, Cursor, CursorName, ProducerId, Status, UserId};
use motience_runtime::clock::until;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    active::{Active, FollowRight},
    allowance::{Allowance, Allowed, Held, state},
    named_cursors::NamedCursors,
    rights::{RETRY_AFTER, Rights},
    scope::Scope,
};
use crate::{Delivery, Error, Relay, StartPosition, Subscriber, UsageMeter, subscription_cache::Watch};

/// Follows of one reader that begin at the same time.
const FOLLOWS_AT_ONCE: usize = 64;

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
    /// The set of followed producers has changed, or the scope of one of them.
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
    Follow(FollowParts),
}

/// Parts that a follow shares with its connection.
pub(super) struct FollowParts {
    pub(super) rights: Arc<Rights>,
    pub(super) stop: CancellationToken,
    pub(super) right: Arc<FollowRight>,
    /// The version of the right that was acted on.
    pub(super) seen: u64,
    pub(super) active: Arc<Active>,
}

pub(super) struct Authorized {
    right: Right,
    /// The scopes of the reader's token, which limit the right.
    scopes: Scopes,
    relay: Relay,
    subscriber: Subscriber,
    cursor: Option<(CursorName, NamedCursors)>,
    /// One for each followed producer.
    held: HashMap<ProducerId, Held>,
    /// Producers that are followed under another scope than before; whoever reads has not taken note of it yet.
    rescoped: Vec<ProducerId>,
    /// Producers whose grant has no room for this connection.
    crowded: HashSet<ProducerId>,
    /// Told when one of those grants has room.
    freed: Arc<Notify>,
    /// States of subscriptions that somebody else changed, for the consumer.
    news: Vec<(ProducerId, Status)>,
    /// A change that was acted on and not returned yet; survives a cancelled call.
    changed: bool,
}

impl Authorized {
    pub(super) async fn open(
        relay: Relay,
        reader: Reader,
        start: &Start,
        cursor: Option<CursorName>,
        standing: &Standing,
    ) -> Result<Self, Error> {
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
        // Renewals keep the scopes or widen them.
        let mut authorized = Self::new(right, standing.grant().scopes, relay, subscriber, cursor);
        let version = authorized.version();
        let first_end = authorized.refresh(start).await?;
        if let Right::Subscriptions { changes, .. } = &authorized.right {
            changes.looked(version, first_end);
        }
        authorized.changed = false;
        Ok(authorized)
    }

    fn new(right: Right, scopes: Scopes, relay: Relay, subscriber: Subscriber, cursor: Option<(CursorName, NamedCursors)>) -> Self {
        let (held, rescoped, crowded, freed, news) = Default::default();
        Self { right, scopes, relay, subscriber, cursor, held, rescoped, crowded, freed, news, changed: false }
    }

    /// The subscriber follows the follow's producer already, whose scopes were asked for it.
    pub(super) fn of_follow(relay: Relay, (producer, subscriber, held): (ProducerId, Subscriber, Held), parts: FollowParts) -> Self {
        let mut authorized = Self::new(Right::Follow(parts), Scopes::all(), relay, subscriber, None);
        authorized.held.insert(producer, held);
        authorized
    }

    /// Devices whose records are refused or withheld.
    pub(super) fn devices(&self) -> DeviceStates {
        self.relay.0.devices.clone()
    }

    /// The quota of an account.
    pub(super) fn quota(&self, user: UserId) -> Arc<Quota> {
        self.relay.0.permits.quotas().of(user)
    }

    pub(super) fn usage(&self) -> Option<Arc<UsageMeter>> {
        self.relay.0.usage.clone()
    }

    /// Goes on from other positions. Producers that the reader has no right to are left out, and returned.
    pub(super) async fn resume(&mut self, positions: &HashMap<ProducerId, StartPosition>) -> Result<Vec<ProducerId>, Error> {
        let allowed = self.allowed().await?;
        let (mut refused, mut openings) = (Vec::new(), Vec::new());
        for (&producer, &position) in positions {
            // One that is not followed yet, since it was allowed just now, begins with the notice of it.
            if allowed.of.contains_key(&producer)
                && let Some(held) = self.held.get(&producer)
            {
                let position = held.bounded(position, &self.relay);
                self.subscriber.unfollow(producer);
                openings.push(self.subscriber.opening(producer, position));
            } else {
                refused.push(producer);
            }
        }
        let mut openings = stream::iter(openings).buffer_unordered(FOLLOWS_AT_ONCE);
        while let Some(opened) = openings.next().await {
            self.subscriber.enter(opened?);
        }
        Ok(refused)
    }

    /// The scope of a followed producer.
    pub(super) fn scope(&self, producer: ProducerId) -> Option<Arc<Scope>> {
        self.held.get(&producer)?.scope.clone()
    }

    /// Producers whose scope has changed since this was asked last.
    pub(super) fn take_rescoped(&mut self) -> Vec<ProducerId> {
        std::mem::take(&mut self.rescoped)
    }

    /// Reads a producer again from this cursor on.
    pub(super) fn rewind(&mut self, producer: ProducerId, cursor: Cursor) {
        self.subscriber.rewind(producer, cursor);
    }

    /// States of subscriptions that somebody else has changed since this was asked last.
    pub(super) fn take_news(&mut self) -> Vec<(ProducerId, Status)> {
        std::mem::take(&mut self.news)
    }

    /// Chosen producers that have no room for this connection, in order.
    pub(super) fn crowded(&self) -> Vec<ProducerId> {
        let mut crowded: Vec<_> = self.crowded.iter().copied().collect();
        crowded.sort();
        crowded
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
                () = self.freed.notified(), if !self.crowded.is_empty() => self.right.raise(),
                () = until(due) => self.flush().await,
                delivery = self.subscriber.next() => return Step::Delivery(delivery),
            }
        }
    }

    /// Returns when there may be a change of rights to act on; writes what was confirmed meanwhile. Cancel-safe.
    pub(super) async fn attend(&mut self) {
        let due = self.cursor.as_ref().and_then(|(_, cursors)| cursors.due());
        tokio::select! {
            biased;
            () = self.right.changed() => {}
            () = self.freed.notified(), if !self.crowded.is_empty() => self.right.raise(),
            () = until(due) => self.flush().await,
        }
    }

    async fn flush(&mut self) {
        if let Some((_, cursors)) = &mut self.cursor {
            cursors.flush().await;
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
            Right::Follow(parts) => parts.rights.is_stale() || parts.stop.is_cancelled() || parts.right.version() != parts.seen,
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

    async fn allowed(&self) -> Result<Allowed, Error> {
        let unlimited = |producers: Vec<ProducerId>| {
            let of = producers.into_iter().map(|producer| (producer, Allowance::default())).collect();
            Ok(Allowed { of, first_end: None })
        };
        match &self.right {
            Right::Granted(producers) => unlimited(producers.iter().copied().filter(|&producer| self.scopes.consume(producer)).collect()),
            Right::Follow(_) => unlimited(self.subscriber.followed().collect()),
            Right::Subscriptions { consumer, chosen, .. } => {
                let is_chosen = |producer| chosen.as_ref().is_none_or(|chosen| chosen.contains(&producer));
                let wanted = |producer| self.scopes.consume(producer) && is_chosen(producer);
                Allowed::look(&self.relay, *consumer, wanted, |producer| self.scope(producer)).await
            }
        }
    }

    /// The version of the reader's rights, to be read before the store is.
    fn version(&self) -> u64 {
        match &self.right {
            Right::Subscriptions { changes, .. } => changes.version(),
            Right::Granted(_) | Right::Follow(_) => 0,
        }
    }

    /// Acts on a change: `None` once there is nothing left of it, and where the database is away.
    async fn look(&mut self) -> Option<Step> {
        match &self.right {
            Right::Subscriptions { .. } => {}
            Right::Granted(_) => return None,
            Right::Follow(parts) => {
                parts.stop.run_until_cancelled(parts.rights.settled()).await;
                return self.look_at_follow();
            }
        }
        let version = self.version();
        let outcome = if self.changed { Ok(None) } else { self.refresh(&Start::default()).await };
        // There may be more; what is told now is acted on first.
        if std::mem::take(&mut self.changed) {
            return Some(Step::Changed);
        }
        match (outcome, &self.right) {
            (Ok(first_end), Right::Subscriptions { changes, .. }) => changes.looked(version, first_end),
            (Ok(_), _) => {}
            (Err(e), right) => {
                warn!(reader = ?right, error = %e, "subscriptions cannot be read; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
        None
    }

    /// Takes the right of a follow as its connection has found it.
    fn look_at_follow(&mut self) -> Option<Step> {
        let Right::Follow(parts) = &mut self.right else { return None };
        let version = parts.right.version();
        if version != parts.seen && !parts.stop.is_cancelled() {
            parts.seen = version;
            let allowance = parts.right.allowance();
            for producer in self.subscriber.followed().collect::<Vec<_>>() {
                // Given back before it is taken again: the new limit may be lower.
                self.held.remove(&producer);
                match allowance.hold(&self.relay, &self.freed) {
                    Ok(held) => drop(self.held.insert(producer, held)),
                    Err(()) => parts.active.shut(producer, &parts.stop, "too_many_connections"),
                }
                self.rescoped.push(producer);
            }
            if !parts.stop.is_cancelled() {
                return Some(Step::Changed);
            }
        }
        parts.stop.is_cancelled().then(|| {
            self.subscriber.followed().collect::<Vec<_>>().into_iter().for_each(|producer| self.subscriber.unfollow(producer));
            self.held.clear();
            Step::Ended
        })
    }

    /// Follows what the store says, and remembers that there was a difference. Returns when the first of the rights ends.
    async fn refresh(&mut self, start: &Start) -> Result<Option<OffsetDateTime>, Error> {
        let allowed = self.allowed().await?;
        let followed: HashSet<ProducerId> = self.subscriber.followed().collect();
        let new = allowed.of.keys().copied().filter(|producer| !followed.contains(producer));
        self.relay.0.logs.prepare(new).await?;
        self.crowded.retain(|producer| allowed.of.contains_key(producer));
        for &producer in &followed {
            match allowed.of.get(&producer) {
                None => self.lose(producer).await,
                Some(allowance) => self.keep(producer, allowance),
            }
        }
        let new: Vec<_> = allowed.of.iter().filter(|(producer, _)| !followed.contains(*producer)).collect();
        if new.is_empty() {
            return Ok(allowed.first_end);
        }
        let standing = match &self.cursor {
            Some((name, cursors)) => cursors.standing(name).await?,
            None => HashMap::new(),
        };
        let mut openings = FuturesUnordered::new();
        let mut new = new.into_iter();
        loop {
            while openings.len() < FOLLOWS_AT_ONCE
                && let Some((&producer, allowance)) = new.next()
            {
                let Ok(held) = allowance.hold(&self.relay, &self.freed) else {
                    self.crowded.insert(producer);
                    continue;
                };
                let mut from = start.each.get(&producer).copied().unwrap_or(start.everywhere);
                if let (Some((name, cursors)), false) = (&self.cursor, matches!(from, StartPosition::After(_))) {
                    from = match standing.get(&producer) {
                        Some(&cursor) => StartPosition::After(cursor),
                        None => cursors.place(name, producer, from).await?,
                    };
                }
                let opening = self.subscriber.opening(producer, held.bounded(from, &self.relay));
                openings.push(async move { (producer, held, opening.await) });
            }
            // One after the other is taken whole, so that a cancelled call leaves none half begun.
            let Some((producer, held, opened)) = openings.next().await else { break };
            self.subscriber.enter(opened?);
            if self.crowded.remove(&producer) {
                self.news.push((producer, Status::Active));
            }
            self.held.insert(producer, held);
            self.changed = true;
        }
        Ok(allowed.first_end)
    }

    /// Ends the follow of a producer that the reader has no right to any more. Waits first, so that a cancelled call loses nothing.
    async fn lose(&mut self, producer: ProducerId) {
        let state = match self.right {
            Right::Subscriptions { consumer, .. } => Some(state(&self.relay, consumer, producer).await),
            Right::Granted(_) | Right::Follow(_) => None,
        };
        self.subscriber.unfollow(producer);
        self.held.remove(&producer);
        self.changed = true;
        // A consumer that has left knows it.
        self.news.extend(state.filter(|state| *state != Status::Inactive).map(|state| (producer, state)));
    }

    /// Takes note of the scope of a producer that is followed already.
    fn keep(&mut self, producer: ProducerId, allowance: &Allowance) {
        if self.held.get(&producer).is_some_and(|held| allowance.is_like(held.scope.as_ref())) {
            return;
        }
        self.changed = true;
        // Given back before it is taken again: the new limit may be lower.
        self.held.remove(&producer);
        match allowance.hold(&self.relay, &self.freed) {
            Ok(held) => {
                self.news.push((producer, Status::Active));
                self.held.insert(producer, held);
                self.rescoped.push(producer);
            }
            Err(()) => {
                self.subscriber.unfollow(producer);
                self.crowded.insert(producer);
            }
        }
    }
}

impl Right {
    /// Returns when it may have changed. Cancel-safe.
    async fn changed(&self) {
        match self {
            Self::Subscriptions { changes, .. } => changes.changed().await,
            Self::Granted(_) => std::future::pending().await,
            Self::Follow(parts) => parts.stop.cancelled().await,
        }
    }

    /// Has the store looked at again.
    fn raise(&self) {
        if let Self::Subscriptions { changes, .. } = self {
            changes.raise();
        }
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscriptions { consumer, .. } => write!(f, "consumer {consumer}"),
            Self::Granted(_) => f.write_str("granted"),
            Self::Follow(parts) => write!(f, "a follow of {:?}", parts.rights),
        }
    }
}

impl fmt::Debug for Authorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorized").field("right", &self.right).finish_non_exhaustive()
    }
}
