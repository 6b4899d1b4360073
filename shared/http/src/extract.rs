//! Parts of a request that handlers ask for: JSON, query, path, bearer token. Each refusal is a problem document.

use std::{error::Error, marker::PhantomData, sync::Arc};

use axum::{
    extract::{
        FromRequest, FromRequestParts, Request,
        path::ErrorKind,
        rejection::{JsonRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use motience_auth::{Denied, Grant};
use motience_backend::Backend;
use motience_limits::uploads::Upload;
use motience_proto::model::{ConsumerId, ProducerId};
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{ApiError, PeerCertificate, collect};

/// A JSON body, in and out. A request's body has to be an object: serde would fill a struct's fields from an array too.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// Query parameters.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

/// Path parameters.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

/// The caller, by the access token of a login. A key is refused: what keys may do is asked for with [`Scoped`].
#[derive(Clone, Debug)]
pub struct Bearer(pub Grant);

/// A caller whose login or key has a right.
#[derive(Clone, Debug)]
pub struct Scoped<R> {
    /// Its grant.
    pub grant: Grant,
    right: PhantomData<R>,
}

/// A right that a request needs.
pub trait Right {
    /// Whether a grant has it.
    fn check(grant: &Grant) -> Result<(), Denied>;
}

/// To send records, as a producer.
#[derive(Clone, Copy, Debug)]
pub struct Publish;

/// To read records of somebody; whose is asked for each producer.
#[derive(Clone, Copy, Debug)]
pub struct Consume;

/// To read lists and statistics.
#[derive(Clone, Copy, Debug)]
pub struct Look;

/// To enrol, label and revoke devices, as a producer.
#[derive(Clone, Copy, Debug)]
pub struct ManageDevices;

/// To make, see and end keys.
#[derive(Clone, Copy, Debug)]
pub struct ManageKeys;

/// To decide who receives a producer's records, how long they stay and which are erased.
#[derive(Clone, Copy, Debug)]
pub struct Decide;

/// Nothing but a good token.
#[derive(Clone, Copy, Debug)]
pub struct AnyToken;

impl Right for Publish {
    fn check(grant: &Grant) -> Result<(), Denied> {
        grant.may_publish()
    }
}

impl Right for Consume {
    fn check(grant: &Grant) -> Result<(), Denied> {
        grant.may_consume_any()
    }
}

impl Right for Look {
    fn check(grant: &Grant) -> Result<(), Denied> {
        grant.may_look()
    }
}

impl Right for ManageDevices {
    fn check(grant: &Grant) -> Result<(), Denied> {
        grant.may_manage_devices()
    }
}

impl Right for ManageKeys {
    fn check(grant: &Grant) -> Result<(), Denied> {
        grant.may_manage_keys()
    }
}

impl Right for Decide {
    fn check(grant: &Grant) -> Result<(), Denied> {
        grant.may_decide()
    }
}

impl Right for AnyToken {
    fn check(_grant: &Grant) -> Result<(), Denied> {
        Ok(())
    }
}

/// A caller that is a producer, by a login.
#[derive(Clone, Debug)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// Its grant.
    pub grant: Grant,
}

/// A caller that is a consumer, by a login or a key that reads records.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Its id.
    pub id: ConsumerId,
    /// Its grant.
    pub grant: Grant,
}

/// A caller that operates the platform, by a login or a key.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Its grant.
    pub grant: Grant,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(unsupported_media_type());
        }
        let body = collect(request).await?;
        object(&body.bytes).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Reads a body that must be a JSON object, whatever its declared type.
pub fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // Some programs put this mark before UTF-8; it means nothing.
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", "The body must be a JSON object."),
            Err(e) => malformed_json(&e.to_string()),
        });
    }
    axum::Json::from_bytes(body).map(|axum::Json(value)| value).map_err(|e| json_error(&e))
}

fn json_error(rejection: &JsonRejection) -> ApiError {
    match rejection {
        JsonRejection::JsonDataError(e) => unfit("invalid_field", "The body", e),
        JsonRejection::JsonSyntaxError(e) => malformed_json(&words(e)),
        other => malformed_json(&words(other)),
    }
}

/// 400, with the JSON reader's own words.
pub fn malformed_json(words: &str) -> ApiError {
    ApiError::malformed(format!("The body is not JSON: {words}.")).with_code("malformed_json")
}

/// 422: readable, but not what is asked for. Names the field where the reader does.
fn unfit(code: &'static str, what: &str, error: &dyn Error) -> ApiError {
    let words = words(error);
    let missing = words.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let (field, sentence) = match (missing, words.split_once(": ")) {
        (Some(field), _) => (Some(field), format!("{field} is missing.")),
        (None, Some((path, problem))) if !path.contains(' ') => (Some(path), format!("{path}: {problem}.")),
        _ => (None, format!("{what} is not as expected: {words}.")),
    };
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, sentence).with_field(field.map(str::to_owned))
}

/// The reader's own words, without those of the layers above it.
fn words(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether a request declares its body as JSON: `application/json` or a format built on it.
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// 415, in the words all services use.
pub fn unsupported_media_type() -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Send JSON, with `Content-Type: application/json`.")
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(e) => Err(unfit("invalid_query", "The query", &e)),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(e)) => {
                let problem = match e.kind() {
                    // Only numbers can be told apart from other texts, and all numbers in paths are ids.
                    ErrorKind::ParseError { value, .. }
                    | ErrorKind::ParseErrorAtIndex { value, .. }
                    | ErrorKind::ParseErrorAtKey { value, .. } => format!("`{value}` is no id, which is a number"),
                    other => other.to_string(),
                };
                Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_path", format!("The path is not as expected: {problem}.")))
            }
            Err(e) => Err(ApiError::internal(e)),
        }
    }
}

/// State of a router whose handlers extract their callers.
pub trait HasBackend: Send + Sync {
    /// The backend.
    fn backend(&self) -> &Arc<Backend>;
}

impl HasBackend for Arc<Backend> {
    fn backend(&self) -> &Arc<Backend> {
        self
    }
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    // The scheme's case does not matter (RFC 9110, section 11.1).
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|t| !t.is_empty())
}

impl<R: Right, S: HasBackend> FromRequestParts<S> for Scoped<R> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let grant = caller(parts, state).await?;
        R::check(&grant)?;
        Ok(Self { grant, right: PhantomData })
    }
}

/// The grant of a request's token.
async fn caller(parts: &Parts, state: &impl HasBackend) -> Result<Grant, ApiError> {
    // A layer in front that had to know who asks has checked the token.
    let grant = match (parts.extensions.get::<Grant>(), parts.extensions.get()) {
        (Some(grant), _) => grant.clone(),
        (None, Some(PeerCertificate(shown))) if bearer(&parts.headers).is_none() => state.backend().authenticate_certificate(shown).await?,
        _ => {
            let token = bearer(&parts.headers)
                .ok_or_else(|| ApiError::unauthenticated("no_token", "Log in, and send the access token as `Authorization: Bearer …`."))?;
            state.backend().authenticate(token).await?
        }
    };
    if let Some(upload) = parts.extensions.get::<Upload>() {
        upload.is_of(grant.user);
    }
    motience_runtime::origin::is_of(grant.user.0);
    // Of the request, where that is traced.
    tracing::Span::current().record("user", tracing::field::display(grant.user));
    Ok(grant)
}

impl<S: HasBackend> FromRequestParts<S> for Bearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let grant = caller(parts, state).await?;
        grant.may_manage_account()?;
        Ok(Self(grant))
    }
}

impl<S: HasBackend> FromRequestParts<S> for Producer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Bearer(grant) = Bearer::from_request_parts(parts, state).await?;
        grant.may_publish()?;
        Ok(Self { id: grant.user.producer(), grant })
    }
}

impl<S: HasBackend> FromRequestParts<S> for Consumer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let grant = caller(parts, state).await?;
        grant.may_follow()?;
        Ok(Self { id: grant.user.consumer(), grant })
    }
}

impl<S: HasBackend> FromRequestParts<S> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let grant = caller(parts, state).await?;
        grant.may_operate()?;
        Ok(Self { grant })
    }
}
