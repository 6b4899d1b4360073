//! `GET /subscriptions/:consumerId` and `GET /subscribers/:producerId`: each for the account itself, and for operators.

use axum::extract::State;
use motience_auth::Grant;
use motience_http::{ApiError, Look, Page, PagePermit, Path, Query, Scoped};
use motience_proto::model::{ConsumerId, ProducerId, Role, Subscription};
use motience_store as store;
use serde::Deserialize;
use utoipa::IntoParams;

use super::shown::{Shown, all_shown};
use crate::http::{Shared, shapes};

/// Which subscriptions.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// In this state only, or `all`; without it those that stand: active, requested and invited.
    #[param(pattern = "^(requested|invited|active|denied|revoked|expired|inactive|all)$")]
    status: Option<String>,
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last id already seen.
    #[param(minimum = 0)]
    after: Option<i64>,
}

impl Wanted {
    fn read(&self) -> Result<(store::Wanted, store::Page), ApiError> {
        let wanted = match self.status.as_deref() {
            None => store::Wanted::Standing,
            Some("all") => store::Wanted::All,
            Some(status) => store::Wanted::Only(status.parse().map_err(|e| ApiError::invalid("status", format!("{e}, or `all`.")))?),
        };
        Ok((wanted, shapes::Paging::new(self.limit, self.after).page()?))
    }
}

/// A consumer's subscriptions that stand, for that consumer.
#[utoipa::path(get, path = "/subscriptions/{consumer_id}", tag = "subscriptions", security(("bearer" = [])),
    params(("consumer_id" = i64, Path, description = "The caller's own id"), Wanted), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::Subscription]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Someone else's"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn subscriptions(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Look>,
    Path(consumer): Path<i64>,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Shown>, ApiError> {
    if !is_for(&grant, Role::Consumer, consumer) {
        return Err(ApiError::forbidden("These subscriptions are someone else's."));
    }
    let (state, page) = wanted.read()?;
    let backend = &services.backend;
    let found = backend.store.subscriptions_of(ConsumerId(consumer), state, page, backend.clock.now()).await?;
    listed(&services, &grant, permit, &wanted, page, found).await
}

/// A producer's subscribers, and those who ask to be, for that producer.
#[utoipa::path(get, path = "/subscribers/{producer_id}", tag = "subscriptions", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "The caller's own id"), Wanted), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::Subscription]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Someone else's"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn subscribers(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Look>,
    Path(producer): Path<i64>,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Shown>, ApiError> {
    if !is_for(&grant, Role::Producer, producer) {
        return Err(ApiError::forbidden("These subscribers are someone else's."));
    }
    grant.may_look_at(ProducerId(producer))?;
    let (state, page) = wanted.read()?;
    let backend = &services.backend;
    let found = backend.store.subscribers_of(ProducerId(producer), state, page, backend.clock.now()).await?;
    listed(&services, &grant, permit, &wanted, page, found).await
}

fn is_for(grant: &Grant, role: Role, id: i64) -> bool {
    grant.role == Role::Admin || (grant.role == role && grant.user.0 == id)
}

/// Those of the producers that the caller's scopes name.
async fn listed(
    services: &Shared,
    caller: &Grant,
    permit: PagePermit,
    wanted: &Wanted,
    page: store::Page,
    mut found: Vec<Subscription>,
) -> Result<Page<Shown>, ApiError> {
    let full = found.len() == page.limit as usize;
    let end = found.last().map_or(page.after, |last| last.id);
    found.retain(|subscription| caller.may_look_at(subscription.producer_id).is_ok());
    let shown = all_shown(services, found).await?;
    let state = wanted.status.as_deref().map(|status| format!("&status={status}")).unwrap_or_default();
    let page_of = Page::new(permit, shown, services.config.page)?;
    let followed = page_of.followed_by(full, |last| page.after(last.subscription.id) + &state);
    Ok(followed.or_followed_by(full, || page.after(end) + &state))
}
