//! The parts of a history one after another, without what a selection leaves out: for pages of records and for buckets alike.

use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use motience_auth::Grant;
use motience_http::ApiError;
use motience_proto::model::{ProducerId, Role, record::Parts};
use motience_relay::pipeline::{scope::Scope, selection::Selector};
use motience_store::HistoryQuery;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::part::{self, After, Part, Record};
use crate::http::Services;

/// Records that are read for one answer, about, whatever is found among them.
const MOST: usize = 200_000;
/// Time after which an answer is given with what it has, and names the next part.
const LONGEST: Duration = Duration::from_secs(3);

/// A reader of one producer's history.
pub(super) struct Scan<'a> {
    services: &'a Services,
    /// The scope of the reader's grant, which comes before the selection.
    scope: Option<Scope>,
    producer: ProducerId,
    query: HistoryQuery,
    selector: Selector,
    /// Whether records of devices in quarantine are left out: they are for the producer and for operators.
    withholds: bool,
    /// Where the next part begins; `None`: there is none.
    next: Option<After>,
    read: usize,
    begun: Instant,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        services: &'a Services,
        (grant, scope): (&Grant, Option<Scope>),
        producer: ProducerId,
        query: HistoryQuery,
        selector: Selector,
        after: After,
    ) -> Self {
        let withholds = grant.role == Role::Consumer;
        Self { services, scope, producer, query, selector, withholds, next: Some(after), read: 0, begun: Instant::now() }
    }

    /// Where the answer after this one begins, if there may be one.
    pub(super) fn next(&self) -> Option<After> {
        self.next
    }

    /// The records of the next part that the selection lets through, which may be none; `None`: that was the last part, or one answer has read
    /// enough.
    pub(super) async fn part(&mut self) -> Result<Option<Vec<Record>>, ApiError> {
        let Some(after) = self.next.filter(|_| self.read < MOST && self.begun.elapsed() < LONGEST) else { return Ok(None) };
        let Services { backend, time_index, .. } = self.services;
        let Part { mut records, next } =
            part::read(backend, time_index, self.producer, &HistoryQuery { after: after.id, ..self.query }, after).await?;
        // A part without records has cost something too.
        self.read += records.len().max(1);
        self.next = next;
        if self.withholds {
            records.retain(|record| !backend.devices.is_withheld(self.producer, &record.device_id));
        }
        if let Some(scope) = &self.scope {
            let now = backend.clock.now();
            records = records.into_iter().filter_map(|record| within(scope, self.producer, now, record)).collect();
        }
        if self.selector.is_everything() {
            return Ok(Some(records));
        }
        Ok(Some(records.into_iter().filter_map(|record| self.selected(record)).collect()))
    }

    /// The record as the selection wants it; `None` where it does not want it.
    fn selected(&self, record: Record) -> Option<Record> {
        let selected = self.selector.apply(&self.message(&record)?)?;
        let data = Parts::of(&selected).ok()?.data.to_owned();
        Some(Record { data, ..record })
    }

    /// The record as a consumer's message, of which selections speak.
    fn message(&self, record: &Record) -> Option<Bytes> {
        let (device, time) = (serde_json::to_string(&record.device_id).ok()?, record.timestamp.format(&Rfc3339).ok()?);
        let mut message = BytesMut::with_capacity(record.data.get().len() + device.len() + 96);
        let head = format!("{{\"producer_id\":\"{}\",\"device_id\":{device},\"timestamp\":\"{time}\",\"data\":", self.producer);
        message.put_slice(head.as_bytes());
        message.put_slice(record.data.get().as_bytes());
        message.put_u8(b'}');
        Some(message.freeze())
    }
}

/// The record as a scope shows it at `now`; `None` where it does not let it through.
fn within(scope: &Scope, producer: ProducerId, now: OffsetDateTime, record: Record) -> Option<Record> {
    if !scope.reaches(record.received_at, now) {
        return None;
    }
    let (data, whole) = scope.view(producer, &record.device_id, record.timestamp, record.data)?;
    Some(Record { data, extra: record.extra.filter(|_| whole), ..record })
}
