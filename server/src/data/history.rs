//! `GET /history/:producerId`: what was kept and what the log still holds, for the producer and for its active subscribers.

mod buckets;
mod part;
mod scan;

use std::{borrow::Cow, time::Duration};

use axum::{extract::State, http::HeaderValue};
use motience_http::{ApiError, Consume, Page, PagePermit, Path, Query, Scoped};
use motience_limits::quota::{OUT, Unit};
use motience_proto::model::{LogEpoch, ProducerId, Selection, record, times};
use motience_relay::pipeline::{scope::Scope, selection::Selector};
use motience_store::{HistoryQuery, MAX_PAGE};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{Ref, RefOr, Schema, schema::AnyOfBuilder},
};

use self::{
    buckets::{Aggregates, Bucket, Buckets},
    part::{After, Record},
    scan::Scan,
};
use super::{Reading, may_read};
use crate::{
    http::{Shared, shapes},
    stream::{Clock, schema},
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
    /// The length of a bucket, such as `1m`: the numbers of each device in each such time are given instead of the records, by the clock of
    /// `by`. `limit` counts records, and means nothing here. Buckets come in parts like records: one that stands at the end of a part may
    /// come again in the next, with the rest of its records.
    #[param(value_type = Option<schema::Every>, inline)]
    bucket: Option<String>,
    /// Aggregates of the numbers in a bucket, with commas: `avg`, `min`, `max` (these three are the default) and `last`.
    #[param(pattern = "^(avg|min|max|last)(,(avg|min|max|last)){0,3}$")]
    aggregate: Option<String>,
}

/// A record, or a bucket where buckets are asked for.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Entry {
    Record(Kept),
    Bucket(Bucket),
}

impl PartialSchema for Entry {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new().item(Ref::from_schema_name("Kept")).item(Ref::from_schema_name("Bucket")).into()
    }
}

impl ToSchema for Entry {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("Kept".to_owned(), Kept::schema()));
        schemas.push(("Bucket".to_owned(), Bucket::schema()));
        Kept::schemas(schemas);
        Bucket::schemas(schemas);
    }
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

impl Kept {
    /// Bytes of what the device wrote.
    fn bytes(&self) -> u64 {
        (self.data.get().len() + self.extra.0.as_ref().map_or(0, |extra| extra.get().len())) as u64
    }
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
/// `Link` names the next part; a part of which a filter leaves nothing may be empty.
#[utoipa::path(get, path = "/history/{producer_id}", tag = "data", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), Wanted,
    ("where" = inline(Option<schema::Conditions>), Query, description = "A JSON pointer into the record, a comparison, a JSON value; all must hold", example = json!(["/data/temperature>30"])),
    ("fields" = inline(Option<schema::Fields>), Query, description = "JSON pointers with commas: what `data` keeps, and which numbers buckets are made of", example = "/data/temperature,/data/humidity"),
), responses(
    (status = 200, description = "Some of it: records, or buckets", body = [Entry]),
    (status = 400, description = "An expression that makes no sense: `column` and `caret` point at the character"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not the producer, nor subscribed to it; or by a grant that samples, which only `GET /stream` does"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 429, description = "Too many requests, or more records than the plan gives out"),
    (status = 503, description = "The database or the log is unavailable"),
))]
pub(super) async fn history(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Consume>,
    Path(producer): Path<i64>,
    Query(wanted): Query<Wanted>,
    Query(members): Query<Vec<(String, String)>>,
    permit: PagePermit,
) -> Result<Page<Entry>, ApiError> {
    let producer = ProducerId(producer);
    grant.may_consume(producer)?;
    let reading = may_read(&services, &grant, producer).await?;
    let Reading(scope) = reading.ok_or_else(|| ApiError::forbidden("Only the producer and its subscribers read its history."))?;
    if scope.as_ref().is_some_and(Scope::is_sampled) {
        return Err(ApiError::forbidden(
            "The grant gives the last value of each device now and then: read it from GET /stream?from=earliest.",
        )
        .with_code("scope_sampled"));
    }
    let (mut query, selection, buckets) = (wanted.query()?, selection(members), wanted.buckets()?);
    let selector = Selector::of(&selection)?;
    let now = services.backend.clock.now();
    if let Some(floor) = scope.as_ref().and_then(|scope| scope.floor(now)).filter(|_| !query.by_device) {
        query.from = Some(query.from.map_or(floor, |from| from.max(floor)));
    }
    let quota = services.backend.permits.quotas().of(grant.user);
    if buckets.is_none() {
        quota.look(&OUT.map(|unit| (unit, 1)))?;
    }
    let _reader = services.limiters.requests.reader().await?;
    // Room for the last record of a page, which may go beyond it; where records may be as large as pages, a page may be one record larger.
    query.bytes = services.config.page.saturating_sub(services.backend.relay.limits().record).max(services.config.page / 2);
    let after = wanted.after(&query);
    if buckets.is_some() {
        query.limit = MAX_PAGE;
    }
    let mut scan = Scan::new(&services, (&grant, scope), producer, query, selector, after);
    let entries = match buckets {
        None => {
            let found = records(&mut scan, producer).await?;
            let bytes = found.iter().map(Kept::bytes).sum();
            quota.charge(&[(Unit::RecordsOut, found.len() as u64), (Unit::BytesOut, bytes)]);
            found.into_iter().map(Entry::Record).collect()
        }
        Some((length, aggregates)) => {
            let mut buckets = Buckets::new(length, query.by_device);
            while buckets.bytes() < query.bytes
                && let Some(records) = scan.part().await?
            {
                records.iter().for_each(|record| buckets.add(record));
            }
            buckets.finish(aggregates).into_iter().map(Entry::Bucket).collect()
        }
    };
    let next = scan.next().and_then(|next| wanted.next(next, query.limit, &selection));
    // Its bytes were bounded where it was read.
    Ok(Page::new(permit, entries, usize::MAX)?.linked(next))
}

/// The next part in which the selection leaves something, if one answer comes so far.
async fn records(scan: &mut Scan<'_>, producer: ProducerId) -> Result<Vec<Kept>, ApiError> {
    let mut found = Vec::new();
    while found.is_empty()
        && let Some(records) = scan.part().await?
    {
        found = records;
    }
    let producer_id = producer.to_string();
    let kept = |Record { id, device_id, timestamp, data, extra, received_at }| {
        let (producer_id, extra) = (producer_id.clone(), Extra(extra));
        Kept { id, producer_id, device_id, timestamp, data, received_at, extra }
    };
    Ok(found.into_iter().map(kept).collect())
}

/// The filter and the projection of a query. Sampling is of streams; buckets are here for that.
fn selection(members: Vec<(String, String)>) -> Selection {
    let mut selection = Selection::default();
    for (name, value) in members.into_iter().filter(|(name, _)| name != "every") {
        selection.take(&name, value);
    }
    selection
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

    /// The length of a bucket and what is asked of it; `None`: records are asked for.
    fn buckets(&self) -> Result<Option<(Duration, Aggregates)>, ApiError> {
        let aggregates = Aggregates::read(self.aggregate.as_deref())?;
        let Some(bucket) = self.bucket.as_deref() else { return Ok(None) };
        let length = Selector::parse(&[], None, Some(bucket)).ok().and_then(|selector| selector.every());
        let length = length.ok_or_else(|| ApiError::invalid("bucket", "bucket is a length of time from 100ms to 24h, such as 1m."))?;
        Ok(Some((length, aggregates)))
    }

    fn after(&self, query: &HistoryQuery) -> After {
        // A number too large for an epoch names none, like any other that never was.
        let log_epoch = self.epoch.as_ref().map(|epoch| LogEpoch(epoch.parse().unwrap_or(u64::MAX)));
        After { id: query.after, log_epoch, kept: self.kept }
    }

    /// The address of the part after `after`: a query alone, so that it holds under every alias and behind every proxy.
    fn next(&self, after: After, limit: u32, selection: &Selection) -> Option<HeaderValue> {
        let mut next = format!("<?limit={limit}&after={}", after.id);
        if let Some(epoch) = after.log_epoch {
            next.push_str(&format!("&epoch={epoch}"));
        }
        if let Some(kept) = after.kept {
            next.push_str(&format!("&kept={kept}"));
        }
        let own = [("from", &self.from), ("to", &self.to), ("by", &self.by), ("bucket", &self.bucket), ("aggregate", &self.aggregate)];
        let own = own.into_iter().chain([("fields", &selection.fields)]).filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (name, value) in own.chain(selection.conditions.iter().map(|condition| ("where", condition))) {
            next.push_str(&format!("&{name}={}", shapes::in_query(value)));
        }
        next.push_str(">; rel=\"next\"");
        HeaderValue::from_str(&next).ok()
    }
}

fn time(name: &str, value: Option<&str>) -> Result<Option<OffsetDateTime>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    times::read(value).map(Some).ok_or_else(|| ApiError::invalid(name, format!("{name} must be {}.", times::FORMS)))
}
