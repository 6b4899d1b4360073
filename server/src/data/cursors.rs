//! `GET /cursors`, `POST /cursors/:name` and `DELETE /cursors/:name`: the named cursors of the calling consumer.

use std::collections::{HashMap, HashSet};

use axum::{extract::State, http::StatusCode};
use motience_http::{ApiError, Consumer, Json, Page, PagePermit, Path, Query};
use motience_proto::model::{CursorName, ProducerId};
use motience_relay::pipeline::position::{self, WrittenPosition};
use motience_store::NamedCursor;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

use crate::http::{Shared, shapes};

/// A part of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last entry already seen, as `name:producerId`.
    #[param(example = "app:123", pattern = "^[A-Za-z0-9._-]{1,64}:[0-9]{1,18}$")]
    after: Option<String>,
}

/// A named cursor.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"name": "app", "producerId": "123", "cursor": "7153046918624-42", "updatedAt": "2025-01-29T11:35:00Z"}))]
pub(super) struct Listed {
    /// The consumer's own name for it: `?durable=NAME`.
    name: String,
    /// In whose log; a string, as consumers see it.
    producer_id: String,
    /// The log epoch, and the last offset confirmed in it.
    cursor: String,
    /// When it last moved.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    updated_at: OffsetDateTime,
}

/// How far the caller has dealt with records.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"cursors": {"123": "7153046918624-42"}}))]
pub(super) struct Confirmation {
    /// For each producer the `cursor` of the last record dealt with, or the place that an `id:` names.
    #[schema(schema_with = confirmed_schema)]
    cursors: HashMap<String, WrittenPosition>,
}

fn confirmed_schema() -> RefOr<Schema> {
    let text = |pattern: &str| ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build();
    ObjectBuilder::new()
        .property_names(Some(Schema::from(text("^[1-9][0-9]{0,17}$"))))
        .additional_properties(Some(Schema::from(text("^[1-9][0-9]{0,17}-[0-9]{1,18}$"))))
        .into()
}

/// Moves a named cursor forward: everything up to these cursors is dealt with. For readers of `GET /stream`, which cannot say so
/// themselves. Within one epoch of a log a cursor never moves back.
#[utoipa::path(post, path = "/cursors/{name}", tag = "cursors", request_body = Confirmation, security(("bearer" = [])),
    params(("name" = String, Path, description = "The cursor's name", pattern = "^[A-Za-z0-9._-]{1,64}$")), responses(
    (status = 204, description = "Moved"),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not a consumer, or not subscribed to one of these"),
    (status = 409, description = "The caller has as many names as it may"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "No name of a cursor, or no cursors"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn confirm(
    State(services): State<Shared>,
    caller: Consumer,
    Path(name): Path<CursorName>,
    Json(confirmation): Json<Confirmation>,
) -> Result<StatusCode, ApiError> {
    let backend = &services.backend;
    let cursors = position::confirmed(confirmation.cursors).map_err(|e| ApiError::invalid("cursors", e))?;
    let follows = backend.store.follows(caller.id, backend.clock.now()).await?;
    let allowed: HashSet<ProducerId> = follows.into_iter().filter(|&producer| caller.grant.may_consume(producer).is_ok()).collect();
    if let Some((producer, _)) = cursors.iter().find(|(producer, _)| !allowed.contains(producer)) {
        return Err(ApiError::forbidden(format!("Not subscribed to {producer}.")).with_code("not_subscribed"));
    }
    backend.store.confirm_many(caller.id, &name, &cursors, backend.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's named cursors, in order of name and producer. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/cursors", tag = "cursors", security(("bearer" = [])), params(Wanted), responses(
    (status = 200, description = "Some of them", body = [Listed], links(
        ("delete" = (operation_id = "delete", parameters(("name" = "$response.body#/0/name")))),
    )),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not a consumer"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn list(
    State(services): State<Shared>,
    caller: Consumer,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Listed>, ApiError> {
    let limit = shapes::Paging::new(wanted.limit, None).page()?.limit;
    let after = wanted.after.as_deref().map(place).transpose()?;
    let after = after.as_ref().map(|(name, producer)| (name, *producer));
    let cursors = services.backend.store.cursors(caller.id, after, limit).await?;
    let full = cursors.len() == limit as usize;
    let end = cursors.last().map(|last| format!("limit={limit}&after={}:{}", last.name, last.producer)).unwrap_or_default();
    let shown = cursors.into_iter().filter(|cursor| caller.grant.may_consume(cursor.producer).is_ok());
    let page = Page::new(permit, shown.map(Listed::from).collect(), services.config.page)?;
    let page = page.followed_by(full, |last| format!("limit={limit}&after={}:{}", last.name, last.producer_id));
    Ok(page.or_followed_by(full, || end))
}

/// Forgets a name of the caller's, in every log it stands in. A reader that still uses it makes it anew when it confirms next.
#[utoipa::path(delete, path = "/cursors/{name}", tag = "cursors", security(("bearer" = [])),
    params(("name" = String, Path, description = "The cursor's name", pattern = "^[A-Za-z0-9._-]{1,64}$")), responses(
    (status = 204, description = "Forgotten"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not a consumer, or a key whose scopes do not name all its producers"),
    (status = 404, description = "The caller has no cursor of this name"),
    (status = 422, description = "No name of a cursor"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn delete(State(services): State<Shared>, caller: Consumer, Path(name): Path<CursorName>) -> Result<StatusCode, ApiError> {
    let named = services.backend.store.cursors_named(caller.id, &name).await?;
    named.iter().try_for_each(|&(producer, _)| caller.grant.may_consume(producer))?;
    match services.backend.store.delete_cursors(caller.id, &name).await? {
        0 => Err(ApiError::not_found("There is no cursor of this name.")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

fn place(after: &str) -> Result<(CursorName, ProducerId), ApiError> {
    let place = after.split_once(':').and_then(|(name, producer)| Some((CursorName::new(name).ok()?, producer.parse().ok()?)));
    place.ok_or_else(|| ApiError::invalid("after", "after must be a name and a producer's id, such as app:123."))
}

impl From<NamedCursor> for Listed {
    fn from(named: NamedCursor) -> Self {
        Self {
            name: named.name.to_string(),
            producer_id: named.producer.to_string(),
            cursor: named.cursor.to_string(),
            updated_at: named.updated_at,
        }
    }
}
