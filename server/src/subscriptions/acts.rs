//! `GET /acts`: who changed whose rights, and when; for everybody what concerns them, for operators all.

use axum::extract::State;
use motience_http::{ApiError, Bearer, Page, PagePermit, Query};
use motience_proto::model::{Role, UserId};
use motience_store::{self as store, ActQuery, MAX_OBJECT, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::http::{Shared, shapes};

/// Which acts.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// About this thing only.
    #[param(max_length = 320, example = "subscription:12")]
    object: Option<String>,
    /// Of this account only.
    #[param(minimum = 1)]
    actor: Option<i64>,
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last id already seen: older ones come.
    #[param(minimum = 0)]
    before: Option<i64>,
}

/// An act.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": 9, "at": "2025-01-29T11:35:00Z", "actor": 1, "act": "subscription.approve", "object": "subscription:12", "detail": {"consumer_id": 2, "producer_id": 1, "status": "active"}}))]
pub(super) struct Act {
    id: i64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    at: OffsetDateTime,
    /// The account that did it; `null`: the operator's command line, or the platform itself.
    #[schema(value_type = Option<i64>, required)]
    actor: Option<UserId>,
    act: String,
    object: String,
    /// More about it, or `null`.
    #[schema(value_type = Value)]
    detail: Value,
}

/// Acts that changed rights, the newest first. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/acts", tag = "subscriptions", security(("bearer" = [])), params(Wanted), responses(
    (status = 200, description = "Some of them", body = [Act]),
    (status = 401, description = "No or bad token"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn acts(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Act>, ApiError> {
    let limit = shapes::Paging::new(wanted.limit, wanted.before).page()?.limit;
    if wanted.object.as_ref().is_some_and(|object| object.chars().count() > MAX_OBJECT) {
        return Err(ApiError::invalid("object", format!("object has at most {MAX_OBJECT} characters.")));
    }
    if wanted.actor.is_some_and(|actor| actor < 1) {
        return Err(ApiError::invalid("actor", "actor must be 1 or more."));
    }
    let query = ActQuery {
        actor: wanted.actor.map(UserId),
        object: wanted.object.clone(),
        reader: (grant.role != Role::Admin).then_some(grant.user),
        outcome: Some(Outcome::Done),
        before: wanted.before,
        limit,
        ..ActQuery::default()
    };
    let found = services.backend.store.acts(&query).await?;
    let full = found.len() == limit as usize;
    let page = Page::new(permit, found.into_iter().map(Act::from).collect(), services.config.page)?;
    Ok(page.followed_by(full, |last| wanted.next(limit, last.id)))
}

impl Wanted {
    fn next(&self, limit: u32, last: i64) -> String {
        let object = self.object.as_deref().map(|object| format!("&object={}", shapes::in_query(object))).unwrap_or_default();
        let actor = self.actor.map(|actor| format!("&actor={actor}")).unwrap_or_default();
        format!("limit={limit}&before={last}{object}{actor}")
    }
}

impl From<store::Act> for Act {
    fn from(act: store::Act) -> Self {
        let store::Act { id, at, actor, act, object, detail, .. } = act;
        Self { id, at, actor, act, object, detail }
    }
}
