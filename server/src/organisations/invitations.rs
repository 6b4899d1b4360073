//! `POST` and `GET /organisations/:id/invitations`, `DELETE /organisations/:id/invitations/:invitation`, and `POST /organisations/join`: nobody is made a
//! member, and no account is owned, without its own consent.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use motience_auth::{SecretKind, random_id};
use motience_http::{ApiError, Bearer, Json, Path};
use motience_proto::model::MemberRole;
use motience_store::{Joins, OrganisationInvitation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{allowed, is_id, record};
use crate::http::Shared;

/// How long an invitation is good.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// An invitation to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrganisationInvitationWanted, example = json!({"role": "reader"}))]
pub(super) struct New {
    /// The role of the member that it makes; `account`: it has the organisation own the account that takes it.
    #[schema(pattern = "^(owner|manager|reader|account)$")]
    role: String,
}

/// An invitation into an organisation.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationInvitation)]
pub(super) struct Shown {
    id: String,
    organisation_id: String,
    #[schema(pattern = "^(owner|manager|reader|account)$")]
    role: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: OffsetDateTime,
}

/// An invitation that was just made.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationInvitationMade)]
pub(super) struct Made {
    #[serde(flatten)]
    shown: Shown,
    /// The invitation itself, good once, shown this once.
    #[schema(pattern = "^moti_[0-9a-f]{72}$")]
    invitation: String,
}

/// An invitation that somebody takes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrganisationJoin, example = json!({"invitation": "moti_00"}))]
pub(super) struct Join {
    /// The invitation.
    #[schema(max_length = 200)]
    invitation: String,
}

/// The caller's place in the organisation.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationJoined)]
pub(super) struct Joined {
    organisation_id: String,
    #[schema(pattern = "^(owner|manager|reader|account)$")]
    role: &'static str,
}

/// An invitation that has ended.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationInvitationEnded)]
pub(super) struct Withdrawn {
    id: String,
    #[schema(example = "revoked")]
    status: &'static str,
}

fn shown(invitation: &OrganisationInvitation) -> Shown {
    let OrganisationInvitation { id, organisation, joins, expires_at, .. } = invitation;
    Shown { id: id.clone(), organisation_id: organisation.clone(), role: joins.as_str(), expires_at: *expires_at }
}

/// Makes an invitation, good once and for a week: for a member of this role, or for an account that the organisation shall own.
#[utoipa::path(post, path = "/organisations/{id}/invitations", operation_id = "invite_into_organisation", tag = "organisations",
    request_body = New, security(("bearer" = [])), params(("id" = String, Path, description = "The organisation's id")), responses(
    (status = 201, description = "The invitation", body = Made),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no owner"),
    (status = 404, description = "The caller is a member of no such organisation"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn invite_into(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<String>,
    Json(new): Json<New>,
) -> Result<(StatusCode, Json<Made>), ApiError> {
    allowed(&services, &grant, &id, MemberRole::Owner).await?;
    let joins: Joins = new.role.parse().map_err(|e| ApiError::invalid("role", format!("role: {e}, or account.")))?;
    let (secret, hash) = SecretKind::Invitation.make();
    let expires_at = services.backend.clock.now() + LIFE;
    let invitation = OrganisationInvitation { id: random_id(), organisation: id, joins, created_by: Some(grant.user), expires_at };
    services.backend.store.add_organisation_invitation(&invitation, &hash).await?;
    record(&services, &grant, "organisation.invite", &invitation.organisation, json!({"role": joins.as_str()})).await;
    Ok((StatusCode::CREATED, Json(Made { shown: shown(&invitation), invitation: secret })))
}

/// Invitations that are still good, for owners.
#[utoipa::path(get, path = "/organisations/{id}/invitations", operation_id = "invitations_into_organisation", tag = "organisations",
    security(("bearer" = [])), params(("id" = String, Path, description = "The organisation's id")), responses(
    (status = 200, description = "All of them", body = [Shown]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no owner"),
    (status = 404, description = "The caller is a member of no such organisation"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn invitations_into(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<String>,
) -> Result<Json<Vec<Shown>>, ApiError> {
    allowed(&services, &grant, &id, MemberRole::Owner).await?;
    let backend = &services.backend;
    let found = backend.store.organisation_invitations(&id, backend.clock.now()).await?;
    Ok(Json(found.iter().map(shown).collect()))
}

/// Ends an invitation that nobody has taken.
#[utoipa::path(delete, path = "/organisations/{id}/invitations/{invitation}", operation_id = "withdraw_organisation_invitation",
    tag = "organisations", security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id"), ("invitation" = String, Path, description = "The invitation's id")),
    responses(
    (status = 200, description = "It is ended", body = Withdrawn),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no owner"),
    (status = 404, description = "No such invitation, or organisation"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn withdraw(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path((id, invitation)): Path<(String, String)>,
) -> Result<Json<Withdrawn>, ApiError> {
    allowed(&services, &grant, &id, MemberRole::Owner).await?;
    if !is_id(&invitation) || !services.backend.store.revoke_organisation_invitation(&id, &invitation).await? {
        return Err(ApiError::not_found("There is no such invitation."));
    }
    Ok(Json(Withdrawn { id: invitation, status: "revoked" }))
}

/// Takes an invitation: the caller becomes a member, or an account of the organisation.
#[utoipa::path(post, path = "/organisations/join", operation_id = "join_organisation", tag = "organisations", request_body = Join,
    security(("bearer" = [])), responses(
    (status = 200, description = "What the caller has become", body = Joined),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no good invitation"),
    (status = 409, description = "Another organisation owns the account"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn join(State(services): State<Shared>, Bearer(grant): Bearer, Json(join): Json<Join>) -> Result<Json<Joined>, ApiError> {
    let (backend, now) = (&services.backend, services.backend.clock.now());
    let refused = || ApiError::forbidden("This invitation is not good, or not any more.").with_code("invitation_refused");
    let hash = SecretKind::Invitation.hash(&join.invitation).ok_or_else(refused)?;
    let invitation = backend.store.take_organisation_invitation(&hash, now).await?.ok_or_else(refused)?;
    let id = invitation.organisation;
    match invitation.joins {
        // One who is an owner stays one where it is the last.
        Joins::As(role) => drop(backend.store.set_member(&id, grant.user, role, now).await?),
        Joins::AsAccount => {
            if !backend.store.own_account(&id, grant.user).await? {
                return Err(ApiError::new(StatusCode::CONFLICT, "owned", "Another organisation owns this account: leave it first."));
            }
            backend.quotas_changed().await;
        }
    }
    let role = invitation.joins.as_str();
    record(&services, &grant, "organisation.join", &id, json!({"role": role})).await;
    Ok(Json(Joined { organisation_id: id, role }))
}
