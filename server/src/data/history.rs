//! `GET /history/:producerId`: what was kept and what the log still holds, for the producer and for its active subscribers.

mod part;

use std::borrow::Cow;

use axum::{extract::State, http::HeaderValue};
use motience_http::{ApiError, Bearer, Page, PagePermit, Path, Query};
use motience_proto::model::{LogEpoch, ProducerId, Role, record, times};
use motience_store::{HistoryQuery, MAX_PAGE};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use self::part::{After, Record};
use super::may_read;
use crate::{
    http::{Shared, shapes},
    stream::Clock,
};

/// The part of the history to read.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Earliest time of arrival, itself included; RFC 3339, without an offset for UTC, or milliseconds since 1970.
    #[param(value_type = Option<shapes::Time>, inline)]
    from: Option<String>,
    /// Latest time of arrival, likewise.
    #[param(value_type = Option<shapes::Time>, inline)]
    to: Option<String>,
    /// Clock of these times: `received` (the default), or `device`.
    #[param(pattern = "^(received|device)$")]
    by: Option<String>,
    /// Most records wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last `id` already seen.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// The log epoch that `after` belongs to, as `Link` says.
    #[param(pattern = "^[0-9]{1,20}$")]
    epoch: Option<String>,
    /// The last `id` seen of what is in the database, as `Link` says.
    #[param(minimum = 0)]
    kept: Option<i64>,
}

/// A record as consumers receive it, and the `id` to go on after. A record that only the log holds so far has an `id` from 2^52 on, and
/// another one once it is in the database; its position in the list stays the same.
#[derive(Serialize, ToSchema)]
pub(super) struct Kept {
    id: i64,
    /// As consumers see it: a string.
    #[schema(example = "123")]
    producer_id: String,
    device_id: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    timestamp: OffsetDateTime,
    /// Any JSON, as the device wrote it.
    #[schema(value_type = serde_json::Value)]
    data: Box<RawValue>,
    /// When it came; `null`: the row was imported, or its log does not say.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    received_at: Option<OffsetDateTime>,
    /// Whatever else the device wrote, as members of the record. An `id` of its own is `sent_id` here.
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Extra,
}

/// Members that only the device gives a meaning.
struct Extra(Option<Box<RawValue>>);

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let members = self.0.as_deref().map(record::members).unwrap_or_default();
        let name = |name: Cow<'_, str>| if name == "id" { "sent_id".to_owned() } else { name.into_owned() };
        serializer.collect_map(members.into_iter().map(|(key, value)| (name(key), value)))
    }
}

/// Reads the history in the order of the log: what is in the database, then what only the log holds yet. Where there may be more,
/// `Link` names the next part.
#[utoipa::path(get, path = "/history/{producer_id}", tag = "data", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), Wanted), responses(
    (status = 200, description = "Some of it", body = [Kept]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not the producer, nor subscribed to it"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 429, description = "Too many requests"),
    (status = 503, description = "The database or the log is unavailable"),
))]
pub(super) async fn history(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(producer): Path<i64>,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Kept>, ApiError> {
    let producer = ProducerId(producer);
    if !may_read(&services, &grant, producer).await? {
        return Err(ApiError::forbidden("Only the producer and its subscribers read its history."));
    }
    let mut query = wanted.query()?;
    let _reader = services.limiters.requests.reader().await?;
    // Room for the last record of a page, which may go beyond it; where records may be as large as pages, a page may be one record larger.
    query.bytes = services.config.page.saturating_sub(services.backend.relay.limits().record).max(services.config.page / 2);
    let mut part = part::read(&services.backend, &services.time_index, producer, &query, wanted.after(&query)).await?;
    if grant.role == Role::Consumer {
        // Those of devices in quarantine are for the producer and for operators. A page may be shorter by them.
        part.records.retain(|record| !services.backend.devices.is_withheld(producer, &record.device_id));
    }
    let next = part.next.and_then(|next| wanted.next(next, query.limit));
    let producer_id = producer.to_string();
    let kept = |Record { id, device_id, timestamp, data, extra, received_at }| {
        let (producer_id, extra) = (producer_id.clone(), Extra(extra));
        Kept { id, producer_id, device_id, timestamp, data, received_at, extra }
    };
    // Its bytes were bounded where it was read.
    Ok(Page::new(permit, part.records.into_iter().map(kept).collect(), usize::MAX)?.linked(next))
}

impl Wanted {
    fn query(&self) -> Result<HistoryQuery, ApiError> {
        let page = shapes::Paging::new(self.limit, self.after).page()?;
        if self.kept.is_some_and(|kept| kept < 0) {
            return Err(ApiError::invalid("kept", "kept must not be negative."));
        }
        if self.epoch.as_ref().is_some_and(|epoch| epoch.is_empty() || epoch.len() > 20 || !epoch.bytes().all(|b| b.is_ascii_digit())) {
            return Err(ApiError::invalid("epoch", "epoch must be a number, as `Link` says."));
        }
        debug_assert!(page.limit <= MAX_PAGE);
        Ok(HistoryQuery {
            from: time("from", self.from.as_deref())?,
            to: time("to", self.to.as_deref())?,
            by_device: Clock::read(self.by.as_deref())? == Clock::Device,
            after: page.after,
            limit: page.limit,
            ..HistoryQuery::default()
        })
    }

    fn after(&self, query: &HistoryQuery) -> After {
        // A number too large for an epoch names none, like any other that never was.
        let log_epoch = self.epoch.as_ref().map(|epoch| LogEpoch(epoch.parse().unwrap_or(u64::MAX)));
        After { id: query.after, log_epoch, kept: self.kept }
    }

    /// The address of the part after `after`: a query alone, so that it holds under every alias and behind every proxy.
    fn next(&self, after: After, limit: u32) -> Option<HeaderValue> {
        let mut next = format!("<?limit={limit}&after={}", after.id);
        if let Some(epoch) = after.log_epoch {
            next.push_str(&format!("&epoch={epoch}"));
        }
        if let Some(kept) = after.kept {
            next.push_str(&format!("&kept={kept}"));
        }
        for (name, value) in [("from", &self.from), ("to", &self.to), ("by", &self.by)] {
            if let Some(value) = value {
                next.push_str(&format!("&{name}={}", shapes::in_query(value)));
            }
        }
        next.push_str(">; rel=\"next\"");
        HeaderValue::from_str(&next).ok()
    }
}

fn time(name: &str, value: Option<&str>) -> Result<Option<OffsetDateTime>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    times::read(value).map(Some).ok_or_else(|| ApiError::invalid(name, format!("{name} must be {}.", times::FORMS)))
}
