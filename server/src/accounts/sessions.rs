//! `GET /account/sessions`, `DELETE /account/sessions/:id` and `POST /account/logout-everywhere`: the logins of the caller's account.

use axum::extract::State;
use motience_http::{ApiError, Bearer, Json, Path};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tracing::info;
use utoipa::ToSchema;

use crate::http::Shared;

/// A session: a login and all that it was renewed with.
#[derive(Serialize, ToSchema)]
#[schema(as = LoginSession)]
pub(super) struct Shown {
    id: String,
    /// `null`: before sessions were listed.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    started_at: Option<OffsetDateTime>,
    /// When its tokens were renewed last.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_used_at: Option<OffsetDateTime>,
    /// When it ends unless it is renewed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: OffsetDateTime,
    /// Address of its client when its tokens were renewed last.
    #[schema(required)]
    address: Option<String>,
    /// How its client's program called itself then.
    #[schema(required)]
    user_agent: Option<String>,
    /// Whether it is the caller's own.
    current: bool,
}

/// A session that has ended.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionEnded)]
pub(super) struct Ended {
    id: String,
    #[schema(example = "ended")]
    status: &'static str,
}

/// Which sessions end.
#[derive(Deserialize, ToSchema)]
pub(super) struct Everywhere {
    /// Whether the caller's own stays.
    #[serde(default)]
    keep_current: bool,
}

/// Done.
#[derive(Serialize, ToSchema)]
#[schema(as = LoggedOutEverywhere)]
pub(super) struct LoggedOut {
    #[schema(example = "logged_out")]
    status: &'static str,
    /// Sessions that have ended; those of other issuers are not counted.
    ended: usize,
}

/// The sessions of the caller's account, the one that was used last first; at most 1000.
#[utoipa::path(get, path = "/account/sessions", tag = "account", security(("bearer" = [])), responses(
    (status = 200, description = "The sessions", body = [Shown]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which sees no sessions"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn sessions(State(services): State<Shared>, Bearer(grant): Bearer) -> Result<Json<Vec<Shown>>, ApiError> {
    let backend = &services.backend;
    let sessions = backend.store.sessions_of(grant.user, backend.clock.now()).await?;
    let shown = sessions.into_iter().map(|session| Shown {
        current: session.family == grant.family,
        id: session.family,
        started_at: session.started_at,
        last_used_at: session.used_at,
        expires_at: session.expires_at,
        address: session.address,
        user_agent: session.user_agent,
    });
    Ok(Json(shown.collect()))
}

/// Ends a session of the caller's account: its tokens and live connections, within a second.
#[utoipa::path(delete, path = "/account/sessions/{id}", tag = "account", security(("bearer" = [])),
    params(("id" = String, Path, description = "The session's id")), responses(
    (status = 200, description = "It is ended", body = Ended),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which ends no sessions"),
    (status = 404, description = "The account has no such session"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn end_session(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<String>,
) -> Result<Json<Ended>, ApiError> {
    let backend = &services.backend;
    if !backend.store.end_session(grant.user, &id, backend.clock.now()).await? {
        return Err(ApiError::not_found("There is no such session."));
    }
    backend.end_family(id.clone()).await;
    info!(user = %grant.user, "a session was ended");
    backend.record_of_account("session.end", grant.user, grant.user, Value::Null).await;
    Ok(Json(Ended { id, status: "ended" }))
}

/// Ends all sessions of the caller's account, their tokens and live connections, within a second; and all tokens of other issuers that were issued
/// up to this second. Keys stay.
#[utoipa::path(post, path = "/account/logout-everywhere", tag = "account", request_body = Everywhere, security(("bearer" = [])), responses(
    (status = 200, description = "They are ended", body = LoggedOut),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which ends no sessions"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn logout_everywhere(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Json(wish): Json<Everywhere>,
) -> Result<Json<LoggedOut>, ApiError> {
    let backend = &services.backend;
    let ended = backend.end_sessions(grant.user, wish.keep_current.then_some(&grant)).await?;
    info!(user = %grant.user, ended, "an account was logged out everywhere");
    backend.record_of_account("session.end", grant.user, grant.user, json!({"sessions_ended": ended})).await;
    Ok(Json(LoggedOut { status: "logged_out", ended }))
}
