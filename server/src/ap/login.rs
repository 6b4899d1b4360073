//! `POST /login`: tokens for a name and a password.

use axum::extract::State;
use motience_shared::{
    auth::{Verdict, random_id},
    http::{ApiError, Json},
    log::Event,
};
use secrecy::SecretString;
use serde::Deserialize;
use tracing::warn;
use utoipa::ToSchema;

use super::session::{self, Session};
use crate::http::{ClientAddress, Shared, shapes};

/// Bytes of a password that is worth hashing; a longer one is no account's.
const MAX_PASSWORD: usize = 1024;

/// Name and password.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"username": "producer1", "password": "pass123"}))]
pub(super) struct Login {
    username: String,
    password: String,
}

/// Logs in.
#[utoipa::path(post, path = "/login", tag = "accounts", request_body = Login, responses(
    (status = 200, description = "A pair of tokens", body = Session, links(
        ("refresh" = (operation_id = "refresh", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
        ("logout" = (operation_id = "logout", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
    )),
    (status = 400, description = "Malformed JSON", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 401, description = "A wrong name or a wrong password", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 403, description = "The right password of an account that was revoked", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 415, description = "Not JSON", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 422, description = "A field is missing", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too many attempts", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is away", body = shapes::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn login(
    State(services): State<Shared>,
    address: ClientAddress,
    Json(login): Json<Login>,
) -> Result<Json<Session>, ApiError> {
    services.limiters.login.address(address)?;
    services.limiters.login.account(&login.username)?;
    let backend = &services.backend;
    let wrong = || ApiError::unauthenticated("wrong_credentials", "The username or the password is wrong.");
    if login.password.len() > MAX_PASSWORD {
        return Err(wrong());
    }
    let password = SecretString::from(login.password);
    let Some(credentials) = backend.store.credentials(&login.username).await? else {
        // As long as a real check takes, so that time does not tell which names exist.
        backend.hasher.verify_nothing(password).await?;
        return Err(wrong());
    };
    match backend.hasher.verify(password.clone(), &credentials.password_hash).await? {
        Verdict::Mismatch => return Err(wrong()),
        // Only who knows the password learns that there is such an account.
        _ if credentials.revoked_at.is_some() => return Err(revoked()),
        Verdict::Match => {}
        Verdict::MatchRehash => {
            let hash = backend.hasher.hash(password).await?;
            // The login is good either way; the next one tries again.
            if let Err(e) = backend.store.set_password_hash(credentials.user.id, &hash).await {
                warn!(error = %e, "an adopted password could not be hashed anew");
            }
        }
    }
    let (user, family) = (credentials.user, random_id());
    let session = session::begin(&services, &user, &family).await?;
    // Whoever revoked the account since it was looked at may not have found this login among those to end.
    if backend.store.account(user.id).await?.is_none_or(|account| account.revoked_at.is_some()) {
        backend.store.revoke_family(&family, backend.clock.now()).await?;
        backend.announce(Event::FamilyRevoked { family }).await;
        return Err(revoked());
    }
    Ok(Json(session))
}

fn revoked() -> ApiError {
    ApiError::forbidden("This account was revoked. Ask whoever operates this service.").with_code("account_revoked")
}
