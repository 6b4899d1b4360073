//! `POST /keys`, `GET /keys` and `DELETE /keys/:id`: keys for programs. A key cannot make, see or end keys: that needs a login.

use axum::{extract::State, http::StatusCode};
use motience_auth::{Scope, Scopes, SecretKind, random_id};
use motience_http::{ApiError, Json, ManageKeys, Path, Scoped};
use motience_proto::model::{Role, times};
use motience_store::{self as store, NewKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use tracing::info;
use utoipa::ToSchema;

use crate::http::Shared;

/// Longest name, in characters.
const MAX_NAME: usize = 100;
/// Most scopes of one key.
const MAX_SCOPES: usize = 100;

/// A key to be made.
#[derive(Deserialize, ToSchema)]
#[schema(as = KeyWanted, example = json!({"name": "dashboard", "scopes": ["consume:1"], "expires_at": "2030-01-01T00:00:00Z"}))]
pub(super) struct New {
    /// The name that its owner gives it.
    #[schema(min_length = 1, max_length = 100, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    name: String,
    /// `publish` and `manage_devices` (producers), `consume` or `consume:ID`, `read_usage`, `operate` (operators).
    #[schema(min_items = 1, max_items = 100, example = json!(["consume:1"]))]
    scopes: Vec<String>,
    /// When it ends; left out or `null`: never.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A key, without the key itself.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(super) struct Shown {
    id: String,
    name: String,
    scopes: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// `null`: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<OffsetDateTime>,
    /// To a minute or so; `null`: it was not used yet.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_used_at: Option<OffsetDateTime>,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyMade)]
pub(super) struct Made {
    #[serde(flatten)]
    shown: Shown,
    /// The key itself, shown this once.
    #[schema(pattern = "^motk_[0-9a-f]{72}$")]
    key: String,
}

/// A key that has ended.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyEnded)]
pub(super) struct Ended {
    id: String,
    #[schema(example = "revoked")]
    status: &'static str,
}

/// Makes a key for a program, and shows it this once. A key is good wherever a token is, for what its scopes allow.
#[utoipa::path(post, path = "/keys", tag = "keys", request_body = New, security(("bearer" = [])), responses(
    (status = 201, description = "The key", body = Made, links(
        ("revoke_key" = (operation_id = "revoke_key", parameters(("id" = "$response.body#/id")))),
    )),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which makes no keys"),
    (status = 409, description = "The account has as many keys as it may"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn create_key(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageKeys>,
    Json(new): Json<New>,
) -> Result<(StatusCode, Json<Made>), ApiError> {
    let backend = &services.backend;
    let now = backend.clock.now();
    let letters = new.name.chars().count();
    if letters == 0 || letters > MAX_NAME || new.name.trim().is_empty() || new.name.chars().any(char::is_control) {
        return Err(ApiError::invalid("name", format!("name must be 1 to {MAX_NAME} characters, none of them a control character.")));
    }
    let scopes = scopes(&new.scopes, grant.role)?;
    let expires_at = new.expires_at.as_deref().map(|text| times::read(text).filter(|&at| at > now));
    if expires_at == Some(None) {
        return Err(ApiError::invalid("expires_at", format!("expires_at must be in the future, and {}.", times::FORMS)));
    }
    let (secret, hash) = SecretKind::Key.make();
    let new = NewKey {
        id: &random_id(),
        user: grant.user,
        name: &new.name,
        hash: &hash,
        scopes: &scopes,
        created_at: now,
        expires_at: expires_at.flatten(),
    };
    let key = backend.store.add_key(new).await?.ok_or_else(|| ApiError::from(motience_auth::Error::Revoked))?;
    info!(user = %grant.user, key = key.id, scopes = %key.scopes, "a key was made");
    let detail = json!({"name": key.name, "scopes": key.scopes.to_string()});
    backend.record("key.create", Some(grant.user), format!("key:{}", key.id), grant.user, detail).await;
    Ok((StatusCode::CREATED, Json(Made { shown: key.into(), key: secret })))
}

/// The caller's keys, the newest first.
#[utoipa::path(get, path = "/keys", tag = "keys", security(("bearer" = [])), responses(
    (status = 200, description = "All of them", body = [Shown]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which sees no keys"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn keys(State(services): State<Shared>, Scoped { grant, .. }: Scoped<ManageKeys>) -> Result<Json<Vec<Shown>>, ApiError> {
    let keys = services.backend.store.keys_of(grant.user).await?;
    Ok(Json(keys.into_iter().map(Into::into).collect()))
}

/// Ends a key of the caller, and its live connections within a second.
#[utoipa::path(delete, path = "/keys/{id}", tag = "keys", security(("bearer" = [])),
    params(("id" = String, Path, description = "The key's id")), responses(
    (status = 200, description = "It is ended", body = Ended),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which ends no keys"),
    (status = 404, description = "The caller has no such key"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn revoke_key(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageKeys>,
    Path(id): Path<String>,
) -> Result<Json<Ended>, ApiError> {
    let ended = services.backend.revoke_key(&id, Some(grant.user)).await?;
    let key = ended.ok_or_else(|| ApiError::not_found("There is no such key."))?;
    info!(user = %grant.user, key = key.id, "a key was revoked");
    let detail = json!({"name": key.name});
    services.backend.record("key.revoke", Some(grant.user), format!("key:{}", key.id), grant.user, detail).await;
    Ok(Json(Ended { id: key.id, status: "revoked" }))
}

/// The scopes of a key for an account of this role: none that it could never use.
fn scopes(names: &[String], role: Role) -> Result<Scopes, ApiError> {
    let wrong = |sentence: String| ApiError::invalid("scopes", sentence);
    if names.is_empty() || names.len() > MAX_SCOPES {
        return Err(wrong(format!("A key has 1 to {MAX_SCOPES} scopes.")));
    }
    let read = |name: &String| {
        let scope: Scope = name.parse().map_err(|e| wrong(format!("`{name}`: {e}.")))?;
        if scope.fits(role) { Ok(scope) } else { Err(wrong(format!("A {role} has no use for the scope {scope}."))) }
    };
    Ok(Scopes::only(names.iter().map(read).collect::<Result<Vec<_>, _>>()?))
}

impl From<store::Key> for Shown {
    fn from(key: store::Key) -> Self {
        let store::Key { id, name, scopes, created_at, expires_at, last_used_at, .. } = key;
        let scopes = scopes.to_string().split_ascii_whitespace().map(str::to_owned).collect();
        Self { id, name, scopes, created_at, expires_at, last_used_at }
    }
}
