//! `GET /history/:producerId`: what was kept, for the producer and for its active subscribers.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
};
use motience_shared::{
    auth::Grant,
    http::{ApiError, Bearer, Json, Path, Query},
    model::{ProducerId, Role},
    store::{HistoryEntry, HistoryQuery, MAX_PAGE},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::{IntoParams, ToSchema};

use crate::http::{Shared, shapes};

/// What part of the history.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Earliest device time, RFC 3339.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Latest device time, RFC 3339.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Most records wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last `id` already seen.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// A kept record: what consumers receive, and the `id` to go on after.
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
}

/// Reads the history, in the order in which it was kept. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/history/{producer_id}", tag = "data", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), Wanted), responses(
    (status = 200, description = "Some of it", body = [Kept]),
    (status = 401, description = "No or bad token", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 403, description = "Not the producer, nor subscribed to it", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 422, description = "A parameter is out of bounds", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is away", body = shapes::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn history(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(producer): Path<i64>,
    Query(wanted): Query<Wanted>,
) -> Result<(HeaderMap, Json<Vec<Kept>>), ApiError> {
    let producer = ProducerId(producer);
    if !may_read(&services, &grant, producer).await? {
        return Err(ApiError::forbidden("Only the producer and its subscribers read its history."));
    }
    let query = wanted.query()?;
    let entries = services.backend.store.history(producer, &query).await?;
    let mut headers = HeaderMap::new();
    if entries.len() == query.limit as usize
        && let Some(link) = entries.last().and_then(|last| wanted.next(last.id, query.limit))
    {
        headers.insert(header::LINK, link);
    }
    Ok((headers, Json(entries.into_iter().map(Kept::from).collect())))
}

async fn may_read(services: &Shared, grant: &Grant, producer: ProducerId) -> Result<bool, ApiError> {
    Ok(match grant.role {
        Role::Producer => grant.user == producer.user(),
        Role::Consumer => services.backend.store.is_following(grant.user.consumer(), producer).await?,
        Role::Admin => true,
    })
}

impl Wanted {
    fn query(&self) -> Result<HistoryQuery, ApiError> {
        let page = shapes::Paging::new(self.limit, self.after).page()?;
        debug_assert!(page.limit <= MAX_PAGE);
        Ok(HistoryQuery {
            from: time("from", self.from.as_deref())?,
            to: time("to", self.to.as_deref())?,
            after: page.after,
            limit: page.limit,
        })
    }

    /// The address of the part after `last`: a query alone, so that it holds under every alias and behind every proxy.
    fn next(&self, last: i64, limit: u32) -> Option<HeaderValue> {
        let mut next = format!("<?limit={limit}&after={last}");
        for (name, value) in [("from", &self.from), ("to", &self.to)] {
            if let Some(value) = value {
                // The characters of a time that a query would change.
                next.push_str(&format!("&{name}={}", value.replace('+', "%2B").replace(' ', "%20")));
            }
        }
        next.push_str(">; rel=\"next\"");
        HeaderValue::from_str(&next).ok()
    }
}

fn time(name: &str, value: Option<&str>) -> Result<Option<OffsetDateTime>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    OffsetDateTime::parse(value, &Rfc3339)
        .map(Some)
        .map_err(|_| ApiError::invalid(name, format!("{name} must be an RFC 3339 time such as 2025-01-29T11:35:00Z.")))
}

impl From<HistoryEntry> for Kept {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            id: entry.id,
            producer_id: entry.producer_id.to_string(),
            device_id: entry.device_id,
            timestamp: entry.timestamp,
            data: entry.data,
        }
    }
}
