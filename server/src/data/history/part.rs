//! One list out of two: what the database keeps, and after it what only the log holds yet.
//!
//! The list of a producer is its kept rows in order of id, then the entries of its log after the place that the history has come to.
//! An entry moves from the second half to the end of the first when the history writer keeps it, which changes its id but not the
//! order. So each half has ids of its own, and a reader that goes on after an id of the log is first looked up among the rows.
//!
//! Reading a log costs what it holds, whatever is found. So what came at other times than those asked for is not read; by the devices'
//! times, parts that are known to hold nothing of them are passed over; and a reader lets others have their turn as it goes.
//!
//! Where the database has a read replica, the rows are read from it: all of a part from one server. That is as good as reading earlier, with the log
//! from there on, as long as the log reaches back so far. Where it does not, or the part before came from a server that was further on, the
//! part is read from the database itself.
//!
//! Invariant, whatever the writer does meanwhile, and however far the replica is behind: following the parts gives each record once and in the
//! order of the log. Where the log lost its tail, a record that was kept before is not given again, but one that was read from the log may be.

use motience_backend::Backend;
use motience_http::ApiError;
use motience_log::Bounds;
use motience_proto::model::{Cursor, LogEpoch, LogKey, Offset, ProducerId, RecordId, record::Parts};
use motience_relay as relay;
use motience_store::{HistoryEntry, HistoryQuery, Store, entry_bytes, kept_time};
use serde_json::value::RawValue;
use time::{Duration, OffsetDateTime};
use tokio::time::timeout;

use crate::http::time_index::{Span, TimeIndex};

/// The log's offset 0 as an id. Rows are numbered below it, and JavaScript holds twice this exactly.
const LOG: i64 = 1 << 52;
/// Bytes read from the log at once.
const CHUNK: usize = 256 << 10;
/// Bytes of the log looked through for one part, about: few of its entries may be of the time asked for.
const MOST: usize = 8 << 20;
/// Times of arrival rise in a log, but for this much: each is of the clock of the node that wrote it.
const SKEW: Duration = Duration::minutes(1);
/// Longest wait for a part from a replica: the database itself can be asked.
const REPLICA_LIMIT: std::time::Duration = std::time::Duration::from_secs(3);
/// Bytes looked through before others have their turn.
const TURN: usize = 64 << 10;

/// Some of the list.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) records: Vec<Record>,
    /// Where the next part begins, if there may be one.
    pub(super) next: Option<After>,
}

/// One record of either half.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: i64,
    pub(super) device_id: String,
    pub(super) timestamp: OffsetDateTime,
    pub(super) data: Box<RawValue>,
    pub(super) extra: Option<Box<RawValue>>,
    pub(super) received_at: Option<OffsetDateTime>,
}

/// The end of the part before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct After {
    /// The last record, of either half.
    pub(super) id: i64,
    /// The log epoch that an id of the log belongs to; `None`: the present one.
    pub(super) log_epoch: Option<LogEpoch>,
    /// The last row that was read before an id of the log.
    pub(super) kept: Option<i64>,
}

/// Reads what `query` asks for, after `after`.
pub(super) async fn read(
    backend: &Backend,
    times: &TimeIndex,
    producer: ProducerId,
    query: &HistoryQuery,
    after: After,
) -> Result<Part, ApiError> {
    if let Some(replica) = backend.store.replica_of(producer) {
        let reading = read_from(replica, Server::Replica, backend, times, producer, query, after);
        let (found, failure) = match timeout(REPLICA_LIMIT, reading).await {
            Ok(Ok(found)) => (found, None),
            Ok(Err(Failure::Store(e))) => (None, Some(e)),
            Ok(Err(Failure::Other(e))) => return Err(e),
            Err(_) => (None, Some(motience_store::Error::TimedOut)),
        };
        if let Some(e) = failure {
            backend.store.replica_failed(&e);
        }
        let server = if found.is_some() { "replica" } else { "primary" };
        metrics::counter!("motience_history_reads_total", "server" => server).increment(1);
        if let Some(part) = found {
            return Ok(part);
        }
    }
    Ok(read_from(&backend.store, Server::Primary, backend, times, producer, query, after).await?.unwrap_or_default())
}

/// Which server a part is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    /// One that shows the past.
    Replica,
    /// The database itself.
    Primary,
}

/// Why a part could not be read from a server.
enum Failure {
    Store(motience_store::Error),
    Other(ApiError),
}

impl From<motience_store::Error> for Failure {
    fn from(error: motience_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => error.into(),
            Failure::Other(error) => error,
        }
    }
}

/// Reads a part from one server; `None`: it shows a past from which this part cannot be told.
async fn read_from(
    store: &Store,
    server: Server,
    backend: &Backend,
    times: &TimeIndex,
    producer: ProducerId,
    query: &HistoryQuery,
    after: After,
) -> Result<Option<Part>, Failure> {
    let room = query.limit as usize;
    let key = backend.relay.log_of(producer).await.map_err(ApiError::from)?;
    // Before the rows are read: what is kept after this look is found among the rows, in the log, or in both; never in neither.
    let stands = store.history_cursor(producer).await?;
    let (mut bounds, mut seen, mut kept) = (None, None, Some(after.id));
    if after.id >= LOG {
        let found = bounds_of(backend, key).await?;
        let place = Cursor { log_epoch: after.log_epoch.unwrap_or(found.log_epoch()), offset: Offset((after.id - LOG).unsigned_abs()) };
        kept = store.history_id(producer, place).await?.max(after.kept);
        (bounds, seen) = (Some(found), Some(place));
    }

    let mut part = Part::default();
    let mut bytes = query.bytes;
    if let Some(id) = kept {
        let rows = store.history(producer, &HistoryQuery { after: id, ..*query }).await?;
        bytes = bytes.saturating_sub(rows.iter().map(HistoryEntry::bytes).sum());
        let full = rows.len() >= room || bytes == 0;
        if server == Server::Replica && rows.is_empty() && id > 0 && !has_row(store, producer, id).await? {
            // The part before may have come from a server that was further on.
            return Ok(None);
        }
        if let Some(last) = rows.last() {
            kept = Some(last.id);
        }
        let behind;
        (part.records, behind) = unseen(rows, bounds.as_ref().zip(seen));
        if full {
            part.next = if behind { Some(After { kept, ..after }) } else { kept.map(|id| After { id, ..After::default() }) };
            return Ok(Some(part));
        }
    }

    let bounds = match bounds {
        Some(bounds) => bounds,
        None => bounds_of(backend, key).await?,
    };
    let places = [stands, seen].into_iter().flatten();
    let from = places.map(|place| bounds.epochs.resume(place, bounds.last).offset).max().unwrap_or_default();
    let start = from.max(first_of(backend, key, query).await?);
    let room = Room { records: room - part.records.len(), bytes };
    let logged = Logged::read(backend, times, key, query, &bounds, start, room).await?;
    if server == Server::Replica {
        // Looked at last: the log gives up its oldest records while it is read.
        let now = bounds_of(backend, key).await?;
        let same_epoch = stands.is_some_and(|stands| stands.log_epoch == now.log_epoch());
        if !same_epoch || from.0 + 1 < now.first.0 {
            return Ok(None);
        }
    }
    // The writer may have kept some of it just before the rows were read; and after the log lost its tail, a record may be in it again
    // that was kept long before.
    let kept_too = match kept {
        Some(until) if until > 0 => store.names_kept(producer, &logged.names, until).await?,
        _ => Default::default(),
    };
    let records = logged.names.iter().zip(logged.records).filter(|(name, _)| !kept_too.contains(name));
    part.records.extend(records.map(|(_, record)| record));
    part.next = logged.next.map(|next| After { kept, ..next });
    Ok(Some(part))
}

/// Whether the server has come as far as the row with this id.
async fn has_row(store: &Store, producer: ProducerId, id: i64) -> Result<bool, motience_store::Error> {
    let query = HistoryQuery { after: id - 1, limit: 1, ..HistoryQuery::default() };
    Ok(!store.history(producer, &query).await?.is_empty())
}

/// The rows that a reader which has come to `seen` in the log has not read there, and whether the last row is not one of them: the writer may
/// just have kept it.
fn unseen(rows: Vec<HistoryEntry>, seen: Option<(&Bounds, Cursor)>) -> (Vec<Record>, bool) {
    let is_unseen = |row: &HistoryEntry| seen.zip(row.place).is_none_or(|((bounds, seen), place)| !is_before(bounds, place, seen));
    let behind = rows.last().is_some_and(|last| !is_unseen(last));
    (rows.into_iter().filter(is_unseen).map(Record::from).collect(), behind)
}

async fn bounds_of(backend: &Backend, key: LogKey) -> Result<Bounds, ApiError> {
    Ok(backend.relay.log().bounds(key).await.map_err(relay::Error::from)?)
}

/// Whether a reader that has come to `seen` has read what lies at `place`: in one log epoch by the offsets, and in two where the present
/// epoch shares the place.
fn is_before(bounds: &Bounds, place: Cursor, seen: Cursor) -> bool {
    let shared = |cursor| bounds.epochs.resume(cursor, bounds.last).offset;
    if place.log_epoch == seen.log_epoch {
        place.offset <= seen.offset
    } else {
        shared(place) == place.offset && place.offset <= shared(seen)
    }
}

/// Where the log begins with what came at the times asked for, or somewhat before.
async fn first_of(backend: &Backend, key: LogKey, query: &HistoryQuery) -> Result<Offset, ApiError> {
    let from = query.from.filter(|_| !query.by_device).and_then(|from| from.checked_sub(SKEW));
    match from {
        Some(from) => Ok(backend.relay.log().offset_for_time(key, from).await.map_err(relay::Error::from)?),
        None => Ok(Offset::default()),
    }
}

/// Whether what came at `received`, and all behind it, came after the times asked for.
fn is_behind(query: &HistoryQuery, received: Option<OffsetDateTime>) -> bool {
    let to = query.to.filter(|_| !query.by_device).and_then(|to| to.checked_add(SKEW));
    to.zip(received).is_some_and(|(to, received)| received > to)
}

/// How much of the log there is room for. The last record may go beyond the bytes.
struct Room {
    records: usize,
    bytes: usize,
}

/// Records of the log.
#[derive(Default)]
struct Logged {
    names: Vec<RecordId>,
    records: Vec<Record>,
    next: Option<After>,
}

impl Logged {
    /// Entries after `at`, as many of the times asked for as there is room for.
    async fn read(
        backend: &Backend,
        times: &TimeIndex,
        key: LogKey,
        query: &HistoryQuery,
        bounds: &Bounds,
        mut at: Offset,
        mut room: Room,
    ) -> Result<Self, ApiError> {
        let mut found = Self::default();
        let log = (key.producer, bounds.log_epoch());
        let (mut looked, mut turn) = (0, 0);
        let more = 'all: loop {
            at = times.skip(log, query, at);
            let read = backend.relay.log().read(key, at, CHUNK).await.map_err(relay::Error::from)?;
            if read.batches.is_empty() {
                let Some((_, damaged)) = read.damaged else { break false };
                // More may lie behind what the log's file no longer gives.
                at = damaged;
                continue;
            }
            if looked >= MOST || read.log_epoch != bounds.log_epoch() {
                break true;
            }
            let mut span = Span::begin(at);
            for batch in &read.batches {
                let received = batch.received.map(kept_time);
                if is_behind(query, received) {
                    times.keep(log, span);
                    break 'all false;
                }
                for (offset, record_id, message) in batch.after(at) {
                    if room.records == 0 || room.bytes == 0 {
                        times.keep(log, span);
                        break 'all true;
                    }
                    at = offset;
                    looked += message.len();
                    turn += message.len();
                    let record = Parts::of(message).ok().and_then(|parts| Some((parts.time().ok().map(kept_time)?, parts)));
                    span.add(offset, message.len(), record.as_ref().map(|(time, _)| *time));
                    // Damaged in the log, as it was checked when it came in; or of another time.
                    let Some((time, parts)) = record.filter(|(time, _)| query.includes(*time, received)) else { continue };
                    let record = Record::logged(offset, (time, received), parts);
                    room.records -= 1;
                    room.bytes = room.bytes.saturating_sub(entry_bytes(&record.data, record.extra.as_deref()));
                    found.names.push(record_id);
                    found.records.push(record);
                }
                if turn >= TURN {
                    turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            times.keep(log, span);
        };
        found.next = more.then(|| After { id: log_id(at), log_epoch: Some(bounds.log_epoch()), kept: None });
        Ok(found)
    }
}

impl Record {
    fn logged(offset: Offset, (timestamp, received_at): (OffsetDateTime, Option<OffsetDateTime>), parts: Parts<'_>) -> Self {
        let (data, extra) = (parts.data.to_owned(), parts.others());
        Self { id: log_id(offset), timestamp, data, extra, received_at, device_id: parts.device_id.into_owned() }
    }
}

impl From<HistoryEntry> for Record {
    fn from(entry: HistoryEntry) -> Self {
        let HistoryEntry { id, device_id, timestamp, data, extra, received_at, .. } = entry;
        Self { id, device_id, timestamp, data, extra, received_at }
    }
}

fn log_id(offset: Offset) -> i64 {
    LOG.saturating_add_unsigned(offset.0)
}
