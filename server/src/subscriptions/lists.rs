//! `GET /subscriptions/:consumerId` and `GET /subscribers/:producerId`: each for the account itself.

use axum::extract::State;
use motience_http::{ApiError, Bearer, Page, PagePermit, Path, Query};
use motience_proto::model::{ConsumerId, ProducerId, Role, Subscription};
use motience_store as store;

use crate::http::{Shared, shapes};

/// A consumer's active subscriptions, for that consumer.
#[utoipa::path(get, path = "/subscriptions/{consumer_id}", tag = "subscriptions", security(("bearer" = [])),
    params(("consumer_id" = i64, Path, description = "The caller's own id"), shapes::Paging), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::Subscription]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Someone else's"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn subscriptions(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(consumer): Path<i64>,
    Query(paging): Query<shapes::Paging>,
    permit: PagePermit,
) -> Result<Page<Subscription>, ApiError> {
    if grant.role != Role::Consumer || grant.user.0 != consumer {
        return Err(ApiError::forbidden("These subscriptions are someone else's."));
    }
    let page = paging.page()?;
    let found = services.backend.store.subscriptions_of(ConsumerId(consumer), page).await?;
    listed(&services, permit, page, found)
}

/// A producer's active subscribers, for that producer.
#[utoipa::path(get, path = "/subscribers/{producer_id}", tag = "subscriptions", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "The caller's own id"), shapes::Paging), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::Subscription]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Someone else's"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn subscribers(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(producer): Path<i64>,
    Query(paging): Query<shapes::Paging>,
    permit: PagePermit,
) -> Result<Page<Subscription>, ApiError> {
    if grant.role != Role::Producer || grant.user.0 != producer {
        return Err(ApiError::forbidden("These subscribers are someone else's."));
    }
    let page = paging.page()?;
    let found = services.backend.store.subscribers_of(ProducerId(producer), page).await?;
    listed(&services, permit, page, found)
}

fn listed(services: &Shared, permit: PagePermit, page: store::Page, found: Vec<Subscription>) -> Result<Page<Subscription>, ApiError> {
    let full = found.len() == page.limit as usize;
    Ok(Page::new(permit, found, services.config.page)?.followed_by(full, |last| page.after(last.id)))
}
