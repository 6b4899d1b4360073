//! `GET /registration`, `POST /invitations`, `GET /invitations` and `DELETE /invitations/:id`: who may register.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use motience_auth::{SecretKind, random_id};
use motience_http::{Admin, ApiError, Json, Path};
use motience_proto::model::Role;
use motience_store::Invitation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tracing::info;
use utoipa::ToSchema;

use crate::http::Shared;

/// How long an invitation is good unless its maker says otherwise, and the longest.
pub(crate) const DEFAULT_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST_LIFE: u64 = 365 * 24 * 3600;
/// Most accounts of one invitation.
const MOST_USES: i64 = 100_000;
/// Longest note, in characters.
const MAX_NOTE: usize = 255;

/// Who may register.
#[derive(Serialize, ToSchema)]
pub(super) struct Mode {
    /// `open`, `invite` or `closed`.
    #[schema(example = "open")]
    mode: &'static str,
}

/// An invitation to be made.
#[derive(Deserialize, ToSchema)]
#[schema(as = InvitationWanted, example = json!({"role": "producer", "uses": 1, "expires_in": 604_800, "note": "the roof"}))]
pub(super) struct New {
    /// The role of its accounts; left out: the guest's choice.
    #[serde(default)]
    #[schema(pattern = "^(producer|consumer)$")]
    role: Option<String>,
    /// Accounts that it makes.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    uses: Option<i64>,
    /// Seconds for which it is good; left out: a week.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31_536_000)]
    expires_in: Option<u64>,
    /// A word for whoever reads the list.
    #[serde(default)]
    #[schema(max_length = 255)]
    note: Option<String>,
}

/// An invitation, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Invitation)]
pub(super) struct Shown {
    id: String,
    #[schema(required)]
    role: Option<String>,
    uses_left: i64,
    #[schema(required)]
    note: Option<String>,
    /// The operator who made it; `null`: the command line.
    #[schema(required)]
    created_by: Option<i64>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: OffsetDateTime,
}

/// An invitation that was just made.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationMade)]
pub(super) struct Made {
    #[serde(flatten)]
    shown: Shown,
    /// The invitation itself, shown this once.
    #[schema(pattern = "^moti_[0-9a-f]{72}$")]
    invitation: String,
}

/// An invitation that has ended.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationRevoked)]
pub(super) struct Revoked {
    id: String,
    #[schema(example = "revoked")]
    status: &'static str,
}

/// Who may register here.
#[utoipa::path(get, path = "/registration", tag = "accounts", responses((status = 200, description = "Who may", body = Mode)))]
pub(super) async fn registration(State(services): State<Shared>) -> Json<Mode> {
    Json(Mode { mode: services.config.registration.as_str() })
}

/// Makes an invitation to register, and shows it this once.
#[utoipa::path(post, path = "/invitations", tag = "operators", request_body = New, security(("bearer" = [])), responses(
    (status = 201, description = "The invitation", body = Made),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn invite(
    State(services): State<Shared>,
    caller: Admin,
    Json(new): Json<New>,
) -> Result<(StatusCode, Json<Made>), ApiError> {
    let backend = &services.backend;
    let role = match new.role.as_deref().map(str::parse) {
        None => None,
        Some(Ok(role @ (Role::Producer | Role::Consumer))) => Some(role),
        Some(_) => return Err(ApiError::invalid("role", "role must be producer or consumer.")),
    };
    let uses_left = new.uses.unwrap_or(1);
    if !(1..=MOST_USES).contains(&uses_left) {
        return Err(ApiError::invalid("uses", format!("uses must lie between 1 and {MOST_USES}.")));
    }
    let life = new.expires_in.unwrap_or(DEFAULT_LIFE.as_secs());
    if !(1..=LONGEST_LIFE).contains(&life) {
        return Err(ApiError::invalid("expires_in", format!("expires_in must lie between 1 and {LONGEST_LIFE} seconds.")));
    }
    if new.note.as_ref().is_some_and(|note| note.chars().count() > MAX_NOTE || note.contains('\0')) {
        return Err(ApiError::invalid("note", format!("note must have at most {MAX_NOTE} characters.")));
    }
    let now = backend.clock.now();
    let invitation = Invitation {
        id: random_id(),
        role,
        note: new.note,
        uses_left,
        created_by: Some(caller.grant.user),
        created_at: now,
        expires_at: now + Duration::from_secs(life),
    };
    let (secret, hash) = SecretKind::Invitation.make();
    backend.store.add_invitation(&invitation, &hash).await?;
    info!(id = invitation.id, by = %caller.grant.user, "an invitation was made");
    let (object, by) = (format!("invitation:{}", invitation.id), caller.grant.user);
    backend.record("invitation.create", Some(by), object, by, json!({"role": invitation.role, "uses": invitation.uses_left})).await;
    Ok((StatusCode::CREATED, Json(Made { shown: invitation.into(), invitation: secret })))
}

/// Invitations that are still good, the newest first; at most 1000.
#[utoipa::path(get, path = "/invitations", tag = "operators", security(("bearer" = [])), responses(
    (status = 200, description = "The invitations", body = [Shown]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn invitations(State(services): State<Shared>, _caller: Admin) -> Result<Json<Vec<Shown>>, ApiError> {
    let backend = &services.backend;
    let invitations = backend.store.invitations(backend.clock.now()).await?;
    Ok(Json(invitations.into_iter().map(Into::into).collect()))
}

/// Ends an invitation. Accounts that it made stay.
#[utoipa::path(delete, path = "/invitations/{id}", tag = "operators", security(("bearer" = [])),
    params(("id" = String, Path, description = "The invitation's id")), responses(
    (status = 200, description = "It is ended", body = Revoked),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 404, description = "No such invitation"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn revoke_invitation(
    State(services): State<Shared>,
    caller: Admin,
    Path(id): Path<String>,
) -> Result<Json<Revoked>, ApiError> {
    if !services.backend.store.revoke_invitation(&id).await? {
        return Err(ApiError::not_found("There is no such invitation."));
    }
    info!(id, by = %caller.grant.user, "an invitation was revoked");
    let by = caller.grant.user;
    services.backend.record("invitation.revoke", Some(by), format!("invitation:{id}"), by, Value::Null).await;
    Ok(Json(Revoked { id, status: "revoked" }))
}

impl From<Invitation> for Shown {
    fn from(invitation: Invitation) -> Self {
        let Invitation { id, role, note, uses_left, created_by, created_at, expires_at } = invitation;
        let role = role.map(|role| role.to_string());
        Self { id, role, uses_left, note, created_by: created_by.map(|user| user.0), created_at, expires_at }
    }
}
