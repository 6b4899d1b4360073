//! `POST /register`: a new account.

use axum::{extract::State, http::StatusCode};
use motience_auth::{SecretKind, canonical_username, check_password};
use motience_http::{ApiError, Client, Json};
use motience_proto::model::{DeviceId, Role};
use motience_store::NewUser;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::http::{Registration, Shared, shapes};

/// A new account.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"username": "producer1", "password": "pass123", "role": "producer", "device_id": "rpi_001"}))]
pub(super) struct Register {
    /// Unique name: letters and digits of one script, and ASCII marks, with single blanks between them. The account gets its canonical
    /// form (RFC 8265, `UsernameCaseMapped`), so that `Producer1` and `producer1` are one name.
    #[schema(min_length = 1, max_length = 255, format = "username")]
    username: String,
    /// At least PASSWORD_MIN_LENGTH characters, at most 128; none that nobody sees (RFC 8265, `OpaqueString`).
    #[schema(min_length = 6, max_length = 128, format = "opaque-string")]
    password: String,
    /// `producer` or `consumer`.
    #[schema(pattern = "^(producer|consumer)$")]
    role: String,
    /// The device of a producer, if it has just one; without control characters.
    #[schema(value_type = Option<shapes::DeviceId>, inline)]
    #[serde(default)]
    device_id: Option<String>,
    /// Whether records of any other device are refused; STRICT_DEVICE says so of those that leave it out.
    #[serde(default)]
    strict_device: Option<bool>,
    /// An invitation, where registration is by invitation (REGISTRATION).
    #[serde(default)]
    #[schema(pattern = "^moti_[0-9a-f]{72}$")]
    invitation: Option<String>,
}

/// Makes an account.
#[utoipa::path(post, path = "/register", tag = "accounts", request_body = Register, responses(
    (status = 201, description = "The account", body = shapes::User, links(
        ("login" = (operation_id = "login", request_body = json!({"username": "$request.body#/username", "password": "$request.body#/password"}))),
    )),
    (status = 400, description = "Malformed JSON"),
    (status = 403, description = "Registration is closed, or by invitation and there is no good one"),
    (status = 409, description = "The username is taken"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 429, description = "Too many registrations"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn register(
    State(services): State<Shared>,
    Client(address): Client,
    Json(new): Json<Register>,
) -> Result<(StatusCode, Json<motience_proto::model::User>), ApiError> {
    services.limiters.register.address(address)?;
    let invitation = match services.config.registration {
        Registration::Open => None,
        Registration::Closed => {
            return Err(ApiError::forbidden("Registration is closed: ask the operator.").with_code("registration_closed"));
        }
        Registration::Invite => {
            let text = new.invitation.as_deref().ok_or_else(|| {
                ApiError::forbidden("Registration is by invitation: ask the operator for one.").with_code("invitation_required")
            })?;
            Some(SecretKind::Invitation.hash(text).ok_or_else(invalid_invitation)?)
        }
    };
    let username = canonical_username(&new.username).map_err(|invalid| ApiError::invalid("username", invalid.to_string()))?;
    services.limiters.register.account(&username)?;
    let role = match new.role.parse() {
        Ok(role @ (Role::Producer | Role::Consumer)) => role,
        _ => return Err(ApiError::invalid("role", "role must be producer or consumer.")),
    };
    if new.device_id.as_deref().is_some_and(|id| !DeviceId::is_valid(id)) {
        return Err(ApiError::invalid("device_id", "device_id must be 1 to 255 characters, none of them a control character."));
    }
    let backend = &services.backend;
    check_password(&backend.auth, &new.password)
        .map_err(|weak| ApiError::invalid("password", format!("The password is refused: {weak}.")))?;
    let password_hash = backend.hasher.hash(&username, SecretString::from(new.password)).await?;
    let strict_device = role == Role::Producer && new.device_id.is_some() && new.strict_device.unwrap_or(backend.auth.strict_device);
    let used = match &invitation {
        Some(hash) => Some(backend.store.use_invitation(hash, role, backend.clock.now()).await?.ok_or_else(invalid_invitation)?),
        None => None,
    };
    let made = backend.create_account(NewUser { username, password_hash, role, device_id: new.device_id, strict_device }).await;
    if let (Err(_), Some(id)) = (&made, &used) {
        backend.store.give_invitation_back(id).await?;
    }
    Ok((StatusCode::CREATED, Json(made?)))
}

fn invalid_invitation() -> ApiError {
    ApiError::forbidden("The invitation is not good, or not any more, or not for this role.").with_code("invalid_invitation")
}
