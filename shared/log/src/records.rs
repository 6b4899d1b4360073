//! Records of the log: append, fetch, bounds, the offset for a time, and the watch for new batches.

use std::sync::Arc;

use bytes::Bytes;
use motience_proto::model::{Fence, LogEpoch, LogKey, Offset, ProducerEpoch, RangeSet, Seq};
use time::OffsetDateTime;

use crate::{
    Batch, Error, Log, SessionName, each,
    outline::{Bounds, Outline},
};

/// One sender's part of an append: all of it is written, or none.
#[derive(Clone, Debug)]
pub struct AppendBatch {
    /// Session of the sender.
    pub name: SessionName,
    /// Epoch of the log in which its connection raised the fence.
    pub log_epoch: LogEpoch,
    /// Fence of its connection.
    pub fence: Fence,
    /// Incarnation of its outbox.
    pub producer_epoch: ProducerEpoch,
    /// Its dedup window once this batch is written.
    pub seen: RangeSet,
    /// Records in the sender's order.
    pub records: Vec<AppendRecord>,
}

/// A record to be appended.
#[derive(Clone, Debug)]
pub struct AppendRecord {
    /// Number within the producer epoch.
    pub seq: Seq,
    /// Client id: within [`Retention::age`](crate::Retention::age), a second record with it is left out.
    pub id: Option<Arc<str>>,
    /// Message that consumers receive.
    pub message: Bytes,
}

/// Answer to a fetch.
#[derive(Clone, Debug, Default)]
pub struct Fetch {
    /// Epoch in which the log was read: a reader of another one must be placed anew by [`Epochs::resume`](crate::Epochs::resume).
    pub log_epoch: LogEpoch,
    /// Batches in order; the first one holds the first wanted offset, or a later one that retention still has.
    pub batches: Vec<Arc<Batch>>,
    /// First and last of the offsets before these batches that the log's file cannot give any more, because it is damaged.
    pub damaged: Option<(Offset, Offset)>,
}

/// Records: what a consumer needs of an engine, and the append.
pub trait Records: Send + Sync {
    /// Appends the batches in order. One outcome for each: done, `Fenced`, or `Stale`.
    ///
    /// An error as a whole does not tell what was written; some of it may have been fetched already.
    fn append(&self, key: LogKey, batches: &[AppendBatch]) -> impl Future<Output = Result<Vec<Result<(), Error>>, Error>> + Send;

    /// Batches after the offset `after`, up to about `bytes` of messages; none where there are none.
    fn read(&self, key: LogKey, after: Offset, bytes: usize) -> impl Future<Output = Result<Fetch, Error>> + Send;

    /// Bounds of the log now.
    fn bounds(&self, key: LogKey) -> impl Future<Output = Result<Bounds, Error>> + Send;

    /// Bounds of the log now, and the ends of its segments.
    fn outline(&self, key: LogKey) -> impl Future<Output = Result<Outline, Error>> + Send;

    /// Offset before the first record logged at `time` or later. The answer may lie somewhat further back, never ahead.
    fn offset_for_time(&self, key: LogKey, time: OffsetDateTime) -> impl Future<Output = Result<Offset, Error>> + Send;

    /// Time of the newest record that retention has removed; `None` if it has removed none.
    fn removed_at(&self, key: LogKey) -> impl Future<Output = Result<Option<OffsetDateTime>, Error>> + Send;

    /// Removes what retention keeps no longer, also where nobody writes to the log.
    fn trim(&self, key: LogKey) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes all records of a log and forgets its senders. For a log that nobody writes to any more: its account is no more. The space that
    /// they take is free at once in Redis and in memory; in a file, once its segments are too old or are compacted.
    fn erase(&self, key: LogKey) -> impl Future<Output = Result<(), Error>> + Send;

    /// Erases the records at these offsets: their messages are gone once this returns, from the log's file and memory too. Offsets, identities and
    /// dedup windows stay, so that readers are told of a gap, and a record that is sent again is known as a duplicate.
    fn erase_records(&self, key: LogKey, offsets: &RangeSet) -> impl Future<Output = Result<(), Error>> + Send;

    /// Time before which retention removes records of this log.
    fn oldest(&self, key: LogKey) -> OffsetDateTime;

    /// Signals this producer's batches from now on. Returns when that is in force.
    fn watch(&self, key: LogKey) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends [`Records::watch`].
    fn unwatch(&self, key: LogKey);
}

impl Log {
    /// See [`Records::append`].
    pub async fn append(&self, key: LogKey, batches: &[AppendBatch]) -> Result<Vec<Result<(), Error>>, Error> {
        each!(self, log => log.append(key, batches).await)
    }

    /// See [`Records::read`].
    pub async fn read(&self, key: LogKey, after: Offset, bytes: usize) -> Result<Fetch, Error> {
        each!(self, log => log.read(key, after, bytes).await)
    }

    /// See [`Records::bounds`].
    pub async fn bounds(&self, key: LogKey) -> Result<Bounds, Error> {
        each!(self, log => log.bounds(key).await)
    }

    /// See [`Records::outline`].
    pub async fn outline(&self, key: LogKey) -> Result<Outline, Error> {
        each!(self, log => log.outline(key).await)
    }

    /// See [`Records::offset_for_time`].
    pub async fn offset_for_time(&self, key: LogKey, time: OffsetDateTime) -> Result<Offset, Error> {
        each!(self, log => log.offset_for_time(key, time).await)
    }

    /// Whether retention may have removed records of `time` or later: [`Log::offset_for_time`] then gives a later beginning.
    pub async fn has_lost(&self, key: LogKey, time: OffsetDateTime) -> Result<bool, Error> {
        let (before, bounds) = (self.offset_for_time(key, time).await?, self.bounds(key).await?);
        if bounds.first <= Offset(1) || before.next() > bounds.first {
            return Ok(false);
        }
        let removed = each!(self, log => log.removed_at(key).await)?;
        Ok(removed.is_some_and(|removed| removed >= time) || time < each!(self, log => log.oldest(key)))
    }

    /// See [`Records::trim`].
    pub async fn trim(&self, key: LogKey) -> Result<(), Error> {
        each!(self, log => Records::trim(log, key).await)
    }

    /// See [`Records::erase`].
    pub async fn erase(&self, key: LogKey) -> Result<(), Error> {
        each!(self, log => log.erase(key).await)
    }

    /// See [`Records::erase_records`].
    pub async fn erase_records(&self, key: LogKey, offsets: &RangeSet) -> Result<(), Error> {
        each!(self, log => log.erase_records(key, offsets).await)
    }

    /// See [`Records::watch`].
    pub async fn watch(&self, key: LogKey) -> Result<(), Error> {
        each!(self, log => log.watch(key).await)
    }

    /// See [`Records::unwatch`].
    pub fn unwatch(&self, key: LogKey) {
        each!(self, log => log.unwatch(key));
    }
}
