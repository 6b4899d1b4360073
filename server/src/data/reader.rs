//! A durable reader of all logs, as the history writer and the counter of usage are: each follows every producer from the place up to which the
//! store has come, and reads on only once the store has taken what was read.
//!
//! After an interruption this or another reader continues at the stored places. One node of a cluster reads at a time (see [`Lease`]); that two
//! believe they do is harmless, because the store takes a batch only where it stands where the batch began.
//!
//! When an embedded node stops, its readers go on until nothing more comes in: the log may end with its process. In a cluster another node goes on.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use motience_cluster::Lease;
use motience_proto::model::{Cursor, LogKey, ProducerId, Role};
use motience_relay::{self as relay, Delivery, StartPosition, Subscriber};
use motience_store::{self as store, MAX_PAGE, Page, Store};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::http::Services;

/// How often new producers are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nothing must have come in before a node that stops counts its log as read.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// Where the store has the places up to which it has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Places {
    /// Of the history.
    History,
    /// Of the usage.
    Usage,
}

impl Places {
    /// The reader's name: in messages, and of its lease.
    fn name(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Usage => "usage",
        }
    }

    /// The places of the producers from `first` to `last`.
    async fn between(self, store: &Store, first: ProducerId, last: ProducerId) -> Result<HashMap<ProducerId, Cursor>, store::Error> {
        let found = match self {
            Self::History => store.history_cursors(first, last).await?,
            Self::Usage => store.usage_cursors(first, last).await?,
        };
        Ok(found.into_iter().collect())
    }
}

/// The work that a reader does for the store.
pub(super) trait Work: Sized {
    /// Where the store says how far it has come.
    const PLACES: Places;

    /// Work that begins at the stored places.
    fn new(services: Arc<Services>) -> Self;

    /// The reader that it reads by.
    fn reader(&mut self) -> &mut Reader;

    /// Takes a delivery and what comes in behind it, and has the store take them. Cut short, this loses nothing: what was taken is kept until the
    /// store has it, and whether a commit that was cut short took place shows in the stored place.
    fn take_in(&mut self, delivery: Delivery) -> impl Future<Output = ()> + Send;

    /// Has the store take what was taken and not yet stored.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;

    /// Called once a second.
    fn measure(&self) {}
}

/// Reads until `stop`, on the node that has the lease, and on an embedded node also what still comes in while its ingresses close.
pub(super) async fn read_all<W: Work>(services: Arc<Services>, stop: CancellationToken) {
    let reader = W::PLACES.name();
    let mut lease = services.backend.lease(reader);
    loop {
        // An embedded node's log is finished even where the stop comes at once.
        if stop.run_until_cancelled(lease.acquired()).await.is_none() && !lease.is_uncontended() {
            break;
        }
        info!(reader, "this node reads all logs");
        let mut work = W::new(Arc::clone(&services));
        if stop.run_until_cancelled(run(&mut work, &mut lease)).await.is_none() {
            if lease.is_uncontended() {
                finish(&mut work).await;
            }
            break;
        }
        info!(reader, "another node reads all logs now");
    }
    lease.release().await;
}

/// Returns when another node has taken over.
async fn run(work: &mut impl Work, lease: &mut Lease) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                if !lease.is_held().await {
                    return;
                }
                work.reader().look().await;
                work.measure();
            }
            delivery = work.reader().next() => work.take_in(delivery).await,
        }
    }
}

/// Reads until nothing more comes in.
pub(super) async fn finish(work: &mut impl Work) {
    work.reader().look().await;
    work.settle().await;
    while let Ok(delivery) = timeout(QUIET, work.reader().next()).await {
        work.take_in(delivery).await;
    }
}

/// Follows every producer from its place.
pub(super) struct Reader {
    services: Arc<Services>,
    subscriber: Subscriber,
    places: Places,
    /// The producers it follows, and how far the store has come as far as it knows.
    come: HashMap<ProducerId, Option<Cursor>>,
    /// Producers to follow at the next look.
    to_follow: BTreeSet<ProducerId>,
    /// The last producer found.
    pub(super) newest: i64,
}

impl Reader {
    /// A reader that follows nobody yet. `read_every`: how long wake-ups gather before the log is read, for it takes nothing from published batches.
    pub(super) fn new(services: &Arc<Services>, places: Places, read_every: Duration) -> Self {
        let subscriber = services.backend.relay.subscriber().uncounted().from_log(read_every);
        let (come, to_follow) = Default::default();
        Self { services: Arc::clone(services), subscriber, places, come, to_follow, newest: 0 }
    }

    /// The next delivery. Cancel-safe.
    pub(super) async fn next(&mut self) -> Delivery {
        self.subscriber.next().await
    }

    /// The next delivery, if it is there.
    pub(super) fn try_next(&mut self) -> Option<Delivery> {
        self.subscriber.try_next()
    }

    /// The log of a producer, and how far the store has come in it; `None`: nobody follows it.
    pub(super) fn expected(&self, producer: ProducerId) -> Option<(LogKey, Option<Cursor>)> {
        Some((self.subscriber.log_key(producer)?, *self.come.get(&producer)?))
    }

    /// How far a producer's log was read.
    pub(super) fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        self.subscriber.cursor(producer)
    }

    /// Records that are in the logs and not in the store, as far as the reader knows.
    pub(super) fn behind(&self) -> u64 {
        let behind = self.come.iter().map(|(&producer, come)| {
            let end = self.subscriber.end(producer).unwrap_or_default();
            match come {
                Some(come) if come.log_epoch == end.log_epoch => end.offset.0.saturating_sub(come.offset.0),
                _ => self.subscriber.cursor(producer).map_or(0, |read| end.offset.0.saturating_sub(read.offset.0)),
            }
        });
        behind.sum()
    }

    /// The store has come to this place.
    pub(super) fn came(&mut self, producer: ProducerId, cursor: Cursor) {
        self.come.insert(producer, Some(cursor));
    }

    /// The store has come to another place than was expected: another reader was there. The producer is followed again from that place.
    pub(super) fn moved(&mut self, producer: ProducerId) {
        debug!(reader = self.places.name(), %producer, "the store has gone on from where it was expected; following again from there");
        self.subscriber.unfollow(producer);
        self.come.remove(&producer);
        self.to_follow.insert(producer);
    }

    /// Goes on with the producers that have moved now, not a second later.
    pub(super) async fn follow_moved(&mut self) {
        if !self.to_follow.is_empty() {
            self.look().await;
        }
    }

    /// Follows producers that it does not follow yet; a failure is tried again at the next look.
    pub(super) async fn look(&mut self) {
        if let Err(e) = self.follow_new_producers().await {
            warn!(error = %e, reader = self.places.name(), "not every producer can be followed; trying again");
        }
    }

    /// Who has registered since the last look, and who sends: of two accounts that are made at once the later one may be seen first,
    /// and the other is then behind `newest`.
    async fn follow_new_producers(&mut self) -> Result<(), relay::Error> {
        let services = Arc::clone(&self.services);
        let backend = &services.backend;
        let store = &backend.store;
        let live = backend.reports.live_streams(backend.relay.log()).await.into_iter().map(|live| live.producer);
        self.to_follow.extend(live.filter(|producer| !self.come.contains_key(producer)));
        while let Some(&producer) = self.to_follow.first() {
            let place = self.places.between(store, producer, producer).await.map_err(Arc::new)?.remove(&producer);
            self.follow(producer, place).await?;
            self.to_follow.remove(&producer);
        }
        loop {
            let page = Page { after: self.newest, limit: MAX_PAGE };
            let found = store.users(Role::Producer, page).await.map_err(Arc::new)?;
            let (Some(first), Some(last)) = (found.first(), found.last()) else { return Ok(()) };
            let places = self.places.between(store, first.id.producer(), last.id.producer()).await.map_err(Arc::new)?;
            for producer in found.iter().map(|user| user.id.producer()) {
                self.follow(producer, places.get(&producer).copied()).await?;
                self.newest = producer.0;
            }
            if found.len() < MAX_PAGE as usize {
                return Ok(());
            }
        }
    }

    /// Follows a producer from its place.
    async fn follow(&mut self, producer: ProducerId, place: Option<Cursor>) -> Result<(), relay::Error> {
        if !self.come.contains_key(&producer) {
            self.subscriber.follow(producer, place.map_or(StartPosition::Earliest, StartPosition::After)).await?;
            self.come.insert(producer, place);
        }
        Ok(())
    }
}
