//! `GET /producers` and `GET /consumers`: who there is.

use axum::extract::State;
use motience_http::{ApiError, Bearer, Page, PagePermit, Query};
use motience_proto::model::{Role, User};

use crate::http::{Shared, shapes};

/// All producers, by id. Revoked ones are left out.
#[utoipa::path(get, path = "/producers", tag = "accounts", params(shapes::Paging), security(("bearer" = [])), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::User]),
    (status = 401, description = "No or bad token"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn producers(
    State(services): State<Shared>,
    _caller: Bearer,
    Query(paging): Query<shapes::Paging>,
    permit: PagePermit,
) -> Result<Page<User>, ApiError> {
    list(&services, Role::Producer, paging, permit).await
}

/// All consumers, by id. Revoked ones are left out.
#[utoipa::path(get, path = "/consumers", tag = "accounts", params(shapes::Paging), security(("bearer" = [])), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::User]),
    (status = 401, description = "No or bad token"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn consumers(
    State(services): State<Shared>,
    _caller: Bearer,
    Query(paging): Query<shapes::Paging>,
    permit: PagePermit,
) -> Result<Page<User>, ApiError> {
    list(&services, Role::Consumer, paging, permit).await
}

async fn list(services: &Shared, role: Role, paging: shapes::Paging, permit: PagePermit) -> Result<Page<User>, ApiError> {
    let page = paging.page()?;
    let users = services.backend.store.users(role, page).await?;
    let full = users.len() == page.limit as usize;
    Ok(Page::new(permit, users, services.config.page)?.followed_by(full, |last| page.after(last.id.0)))
}
