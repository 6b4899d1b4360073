//! `GET /streams`: the producers that are live, and how fast.

use axum::extract::State;
use motience_cluster::StreamStats;
use motience_http::{ApiError, Look, Page, PagePermit, Query, Scoped};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::http::{Shared, shapes};

/// A live producer.
#[derive(Serialize, ToSchema)]
pub(super) struct Stream {
    /// As consumers see it: a string.
    #[schema(example = "123")]
    producer_id: String,
    username: Option<String>,
    /// Records taken in since the nodes started.
    records: u64,
    /// Over the last ten seconds.
    rate_per_second: f64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    last_record_at: OffsetDateTime,
}

/// Producers that the caller may see and that have sent within the last minute, on any node, by id. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/streams", tag = "data", params(shapes::Paging), security(("bearer" = [])), responses(
    (status = 200, description = "The live producers", body = [Stream], links(
        ("history" = (operation_id = "history", parameters(("producer_id" = "$response.body#/0/producer_id")))),
    )),
    (status = 401, description = "No or bad token"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn streams(
    State(services): State<Shared>,
    Scoped { grant: caller, .. }: Scoped<Look>,
    Query(paging): Query<shapes::Paging>,
    permit: PagePermit,
) -> Result<Page<Stream>, ApiError> {
    let page = paging.page()?;
    let backend = &services.backend;
    let mut live = backend.reports.live_streams(backend.relay.log()).await;
    live.sort_unstable_by_key(|live| live.producer.0);
    live.drain(..live.partition_point(|live| live.producer.0 <= page.after));
    let more = live.len() > page.limit as usize;
    live.truncate(page.limit as usize);
    let end = live.last().map_or(page.after, |live| live.producer.0);
    let ids: Vec<_> = live.iter().map(|live| live.producer.user()).collect();
    let users = backend.store.users_by_id(&ids).await?;
    let hidden = services.hidden(&caller, users.values()).await?;
    let stream = |live: StreamStats| {
        let user = users.get(&live.producer.user());
        if hidden.contains(&live.producer.user()) {
            return None;
        }
        // Else of an account that had the number before.
        user.is_none_or(|user| user.log == live.key.log).then(|| Stream {
            producer_id: live.producer.to_string(),
            username: user.map(|user| user.username.clone()),
            records: live.records,
            rate_per_second: live.rate,
            last_record_at: live.last_record_at,
        })
    };
    let streams = Page::new(permit, live.into_iter().filter_map(stream).collect(), services.config.page)?;
    Ok(streams
        .followed_by(more, |last| format!("limit={}&after={}", page.limit, last.producer_id))
        .or_followed_by(more, || format!("limit={}&after={end}", page.limit)))
}
