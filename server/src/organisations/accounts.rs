//! `DELETE /organisations/:id/accounts/:user_id`, and `POST /organisations/:id/accounts/:user_id/token`: a member acts for an account.

use axum::extract::State;
use motience_http::{ApiError, Bearer, Json, Path};
use motience_proto::model::{MemberRole, UserId};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{allowed, is_id, record};
use crate::http::Shared;

/// An account that is on its own again.
#[derive(Serialize, ToSchema)]
#[schema(as = AccountReleased)]
pub(super) struct Released {
    user_id: i64,
    #[schema(example = "released")]
    status: &'static str,
}

/// A token by which a member acts for an account.
#[derive(Serialize, ToSchema)]
#[schema(as = MemberToken)]
pub(super) struct Token {
    user_id: i64,
    /// Good wherever a token is, for what the member's role allows. The member's last token for this account ends.
    #[schema(pattern = "^motk_[0-9a-f]{72}$")]
    access_token: String,
    /// Its scopes.
    scopes: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: OffsetDateTime,
}

/// Lets an account go: an owner does, or the account itself. Tokens of members for it end.
#[utoipa::path(delete, path = "/organisations/{id}/accounts/{user_id}", operation_id = "release_account", tag = "organisations",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id"), ("user_id" = i64, Path, description = "The account")), responses(
    (status = 200, description = "It is on its own again", body = Released),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no owner"),
    (status = 404, description = "No such organisation, or not its account"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn release_account(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path((id, user)): Path<(String, i64)>,
) -> Result<Json<Released>, ApiError> {
    let (backend, user) = (&services.backend, UserId(user));
    if user != grant.user {
        allowed(&services, &grant, &id, MemberRole::Owner).await?;
    }
    if !is_id(&id) || !backend.store.release_account(&id, user).await? {
        return Err(ApiError::not_found("The organisation does not own this account."));
    }
    backend.end_member_tokens(&id, None, Some(user)).await?;
    backend.quotas_changed().await;
    record(&services, &grant, "organisation.release", &id, json!({"account": user.0})).await;
    Ok(Json(Released { user_id: user.0, status: "released" }))
}

/// A token by which the caller acts for an account of its organisation, for an hour: a reader reads lists, usage and history; a manager also manages
/// devices, keys, consent and how long records stay. Its end is at the latest that of the membership.
#[utoipa::path(post, path = "/organisations/{id}/accounts/{user_id}/token", operation_id = "act_for_account", tag = "organisations",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id"), ("user_id" = i64, Path, description = "The account")), responses(
    (status = 200, description = "The token", body = Token),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or an operator, who needs none"),
    (status = 404, description = "No such organisation, or not its account"),
    (status = 409, description = "The account has as many keys as it may"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn act_for(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path((id, user)): Path<(String, i64)>,
) -> Result<Json<Token>, ApiError> {
    allowed(&services, &grant, &id, MemberRole::Reader).await?;
    let (backend, user) = (&services.backend, UserId(user));
    let role = backend.store.member_role(&id, grant.user).await?;
    let role =
        role.ok_or_else(|| ApiError::forbidden("Only members act for an account: an operator operates.").with_code("member_role"))?;
    let made = backend.member_token(&id, (grant.user, role), user).await?;
    let (access_token, key) = made.ok_or_else(|| ApiError::not_found("The organisation does not own this account."))?;
    record(&services, &grant, "organisation.act", &id, json!({"account": user.0, "role": role})).await;
    let scopes = key.scopes.to_string().split_ascii_whitespace().map(str::to_owned).collect();
    Ok(Json(Token { user_id: user.0, access_token, scopes, expires_at: key.expires_at.unwrap_or(key.created_at) }))
}
