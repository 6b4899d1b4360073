//! `PUT` and `DELETE /organisations/:id/members/:user_id`: roles of members, and their end.

use axum::extract::State;
use motience_http::{ApiError, Bearer, Json, Path};
use motience_proto::model::{MemberRole, UserId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{allowed, last_owner, record};
use crate::http::Shared;

/// The role that a member gets.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MemberRoleWanted, example = json!({"role": "manager"}))]
pub(super) struct Wanted {
    #[schema(pattern = "^(owner|manager|reader)$")]
    role: String,
}

/// A member, or somebody who is none any more.
#[derive(Serialize, ToSchema)]
#[schema(as = MemberChanged)]
pub(super) struct Changed {
    user_id: i64,
    #[schema(pattern = "^(owner|manager|reader|none)$")]
    role: &'static str,
}

/// Gives a member another role. Tokens that it has for accounts of the organisation end.
#[utoipa::path(put, path = "/organisations/{id}/members/{user_id}", operation_id = "set_member", tag = "organisations", request_body = Wanted,
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id"), ("user_id" = i64, Path, description = "The member's account")),
    responses(
    (status = 200, description = "The member", body = Changed),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no owner"),
    (status = 404, description = "No such organisation, or member"),
    (status = 409, description = "The last owner stays one"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn set_member(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path((id, user)): Path<(String, i64)>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Changed>, ApiError> {
    allowed(&services, &grant, &id, MemberRole::Owner).await?;
    let (backend, user) = (&services.backend, UserId(user));
    let role: MemberRole = wanted.role.parse().map_err(|e| ApiError::invalid("role", format!("role: {e}.")))?;
    if backend.store.member_role(&id, user).await?.is_none() {
        return Err(ApiError::not_found("There is no such member: invite it."));
    }
    if !backend.store.set_member(&id, user, role, backend.clock.now()).await? {
        return Err(last_owner());
    }
    backend.end_member_tokens(&id, Some(user), None).await?;
    record(&services, &grant, "organisation.role", &id, json!({"member": user.0, "role": role})).await;
    Ok(Json(Changed { user_id: user.0, role: role.as_str() }))
}

/// Ends a membership: an owner does, or the member itself. Tokens that it has for accounts of the organisation end.
#[utoipa::path(delete, path = "/organisations/{id}/members/{user_id}", operation_id = "remove_member", tag = "organisations",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id"), ("user_id" = i64, Path, description = "The member's account")),
    responses(
    (status = 200, description = "It is no member any more", body = Changed),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no owner"),
    (status = 404, description = "No such organisation, or member"),
    (status = 409, description = "The last owner stays one"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn remove_member(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path((id, user)): Path<(String, i64)>,
) -> Result<Json<Changed>, ApiError> {
    let (backend, user) = (&services.backend, UserId(user));
    let needs = if user == grant.user { MemberRole::Reader } else { MemberRole::Owner };
    allowed(&services, &grant, &id, needs).await?;
    if backend.store.member_role(&id, user).await?.is_none() {
        return Err(ApiError::not_found("There is no such member."));
    }
    if !backend.store.remove_member(&id, user).await? {
        return Err(last_owner());
    }
    backend.end_member_tokens(&id, Some(user), None).await?;
    record(&services, &grant, "organisation.remove", &id, json!({"member": user.0})).await;
    Ok(Json(Changed { user_id: user.0, role: "none" }))
}
