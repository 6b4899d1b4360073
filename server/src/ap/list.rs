//! `GET /producers` and `GET /consumers`: who there is.

use axum::extract::State;
use motience_shared::{
    http::{ApiError, Bearer, Json, Query},
    model::{Role, User},
};

use crate::http::{Shared, shapes};

/// All producers, by id. Revoked ones are left out.
#[utoipa::path(get, path = "/producers", tag = "accounts", params(shapes::Paging), security(("bearer" = [])), responses(
    (status = 200, description = "Some of them", body = [shapes::User]),
    (status = 401, description = "No or bad token", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 422, description = "A parameter is out of bounds", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is away", body = shapes::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn producers(
    State(services): State<Shared>,
    _caller: Bearer,
    Query(paging): Query<shapes::Paging>,
) -> Result<Json<Vec<User>>, ApiError> {
    Ok(Json(services.backend.store.users(Role::Producer, paging.page()?).await?))
}

/// All consumers, by id. Revoked ones are left out.
#[utoipa::path(get, path = "/consumers", tag = "accounts", params(shapes::Paging), security(("bearer" = [])), responses(
    (status = 200, description = "Some of them", body = [shapes::User]),
    (status = 401, description = "No or bad token", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 422, description = "A parameter is out of bounds", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is away", body = shapes::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn consumers(
    State(services): State<Shared>,
    _caller: Bearer,
    Query(paging): Query<shapes::Paging>,
) -> Result<Json<Vec<User>>, ApiError> {
    Ok(Json(services.backend.store.users(Role::Consumer, paging.page()?).await?))
}
