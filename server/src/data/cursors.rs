//! `GET /cursors` and `DELETE /cursors/:name`: how far the calling consumer has confirmed, by its own names.

use axum::{extract::State, http::StatusCode};
use motience_http::{ApiError, Consumer, Page, PagePermit, Path, Query};
use motience_proto::model::{CursorName, ProducerId};
use motience_store::NamedCursor;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

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
    let page = Page::new(permit, cursors.into_iter().map(Listed::from).collect(), services.config.page)?;
    Ok(page.followed_by(full, |last| format!("limit={limit}&after={}:{}", last.name, last.producer_id)))
}

/// Forgets a name of the caller's, in every log it stands in. A reader that still uses it makes it anew when it confirms next.
#[utoipa::path(delete, path = "/cursors/{name}", tag = "cursors", security(("bearer" = [])),
    params(("name" = String, Path, description = "The cursor's name", pattern = "^[A-Za-z0-9._-]{1,64}$")), responses(
    (status = 204, description = "Forgotten"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not a consumer"),
    (status = 404, description = "The caller has no cursor of this name"),
    (status = 422, description = "No name of a cursor"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn delete(State(services): State<Shared>, caller: Consumer, Path(name): Path<CursorName>) -> Result<StatusCode, ApiError> {
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
