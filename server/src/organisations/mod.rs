//! Organisations: accounts that belong together, and members who look after them. Part of the accounts service.
//!
//! A member acts for an account of its organisation by a token of that account (`POST /organisations/{id}/accounts/{user_id}/token`), whose scopes
//! follow from the member's role ([`motience_auth::member_scopes`]): so every way in and out decides by scopes, as for keys.

mod accounts;
mod invitations;
mod members;
mod organisation;
mod plans;

use axum::http::StatusCode;
use motience_auth::Grant;
use motience_http::ApiError;
use motience_proto::model::{MemberRole, Role};
use motience_store::Organisation;
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::Shared;

/// The operations.
pub(crate) fn operations() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(organisation::create_organisation, organisation::organisations))
        .routes(routes!(organisation::organisation, organisation::end_organisation))
        .routes(routes!(organisation::plan_of_organisation, plans::organisation_plan))
        .routes(routes!(plans::plans))
        .routes(routes!(invitations::invite_into, invitations::invitations_into))
        .routes(routes!(invitations::withdraw))
        .routes(routes!(invitations::join))
        .routes(routes!(members::set_member, members::remove_member))
        .routes(routes!(accounts::release_account))
        .routes(routes!(accounts::act_for))
}

/// The organisation, where the caller has at least this role in it, or is an operator. To anybody else there is none.
async fn allowed(services: &Shared, grant: &Grant, id: &str, role: MemberRole) -> Result<Organisation, ApiError> {
    let store = &services.backend.store;
    let missing = || ApiError::not_found("There is no such organisation.");
    if !is_id(id) {
        return Err(missing());
    }
    let organisation = store.organisation(id).await?.ok_or_else(missing)?;
    if grant.role == Role::Admin {
        return Ok(organisation);
    }
    match store.member_role(id, grant.user).await? {
        Some(own) if own >= role => Ok(organisation),
        Some(_) => Err(ApiError::forbidden(format!("Only a member with the role {role} may do this.")).with_code("member_role")),
        None => Err(missing()),
    }
}

/// Whether the text can be an id, which the database may be asked for.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A member's account that may be an owner's last.
fn last_owner() -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "last_owner", "An organisation keeps one owner: make another member an owner first.")
}

/// Records what a member did to an organisation.
async fn record(services: &Shared, grant: &Grant, act: &'static str, organisation: &str, detail: Value) {
    services.backend.record(act, Some(grant.user), format!("organisation:{organisation}"), grant.user, detail).await;
}
