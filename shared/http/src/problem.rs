//! Refusals and failures as a client sees them: RFC 9457 `application/problem+json`, with a stable `code` for programs and a plain `error`
//! sentence for legacy clients.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use motience_auth as auth;
use motience_limits::{permits, quota::Exceeded, uploads::Full};
use motience_proto::model::{Role, Status, record};
use motience_relay::{
    self as relay,
    pipeline::{InvalidRequest, scope::InvalidScope, selection},
};
use motience_store as store;
use serde_json::{Map, Value, json};
use tracing::{error, warn};

use super::refusals::Refused;

/// Seconds after which a client may ask again when a dependency is away.
const AWAY_RETRY: u32 = 2;

/// When whoever holds as many connections as it may can ask again.
const PERMIT_RETRY: Duration = Duration::from_secs(10);
/// When whoever sends too much at once may send again.
const UPLOAD_RETRY: Duration = Duration::from_secs(1);
/// When whoever has as many erasures under way as it may can ask for another: their last round is a minute after they began.
const ERASURE_RETRY: Duration = Duration::from_secs(60);

/// An answer that is no success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    sentence: String,
    field: Option<Box<str>>,
    /// Seconds.
    retry_after: Option<u32>,
    allow: Option<Box<str>>,
    /// The account that was meant: for the log alone.
    account: Option<Box<str>>,
    /// The rate of a plan that was met: `RateLimit` and `RateLimit-Policy`.
    exceeded: Option<Box<Exceeded>>,
    /// Boxed, as few errors have any.
    members: Option<Box<Map<String, Value>>>,
}

impl ApiError {
    /// An error with its stable code and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, sentence: impl Into<String>) -> Self {
        let mut sentence: String = sentence.into();
        // Words from elsewhere, such as a parser's, come without.
        if !sentence.ends_with('.') {
            sentence.push('.');
        }
        Self { status, code, sentence, field: None, retry_after: None, allow: None, account: None, exceeded: None, members: None }
    }

    /// 400: the request cannot be read.
    pub fn malformed(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", sentence)
    }

    /// 401: who are you?
    pub fn unauthenticated(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, sentence)
    }

    /// 403: not yours, or not your role.
    pub fn forbidden(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", sentence)
    }

    /// 404.
    pub fn not_found(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", sentence)
    }

    /// 422: `field` is out of bounds.
    pub fn invalid(field: &str, sentence: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", sentence);
        error.field = Some(field.into());
        error
    }

    /// 429: come back after `wait`.
    pub fn too_many(wait: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests. Try again later.");
        error.retry_after = Some(seconds(wait));
        error
    }

    /// 429, counted in the metrics by the limit that was met.
    pub fn limited(reason: &'static str, wait: Duration) -> Self {
        metrics::counter!("motience_limited_total", "reason" => reason).increment(1);
        Self::too_many(wait)
    }

    /// 503: something this node needs is away or busy.
    pub fn unavailable(code: &'static str, sentence: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, sentence);
        error.retry_after = Some(AWAY_RETRY);
        error
    }

    /// 503: this node takes nobody any more.
    pub fn draining() -> Self {
        Self::unavailable("draining", "This node is going away. Try again.")
    }

    /// 500: our fault. The cause is logged, never sent.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        error!(%cause, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The server failed. It has been noted.")
    }

    /// Replaces the code.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// Names the field that is out of bounds, where it is known.
    #[must_use]
    pub fn with_field(mut self, field: Option<String>) -> Self {
        self.field = field.map(String::into_boxed_str);
        self
    }

    /// Says which part of the request it is about.
    #[must_use]
    pub fn about(mut self, part: impl std::fmt::Display) -> Self {
        self.sentence = format!("{part}: {}", self.sentence);
        self
    }

    /// Names the methods that are allowed (405).
    #[must_use]
    pub fn allowing(mut self, methods: impl Into<String>) -> Self {
        self.allow = Some(methods.into().into_boxed_str());
        self
    }

    /// Adds an extension member (RFC 9457, section 3.2).
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.get_or_insert_default().insert(name.to_owned(), value.into());
        self
    }

    /// Says in the log which account was meant, as the client wrote it.
    #[must_use]
    pub fn meant(mut self, account: &str) -> Self {
        self.account = Some(account.into());
        self
    }

    /// The stable name, for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence, for people.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        metrics::counter!("motience_refusals_total", "status" => self.status.as_str().to_owned(), "code" => self.code).increment(1);
        let mut body = Map::new();
        body.insert("type".into(), json!("about:blank"));
        body.insert("title".into(), json!(self.status.canonical_reason().unwrap_or("Error")));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("detail".into(), json!(self.sentence));
        body.insert("code".into(), json!(self.code));
        body.insert("error".into(), json!(self.sentence));
        if let Some(field) = self.field {
            body.insert("field".into(), json!(field));
        }
        body.extend(self.members.map(|members| *members).unwrap_or_default());
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        response.extensions_mut().insert(Refused { code: self.code, account: self.account });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            // Says to what (RFC 9110, section 15.5.22; RFC 6455, section 4.4). HTTP/2 has no upgrades, and drops both but the version.
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(exceeded) = self.exceeded {
            // Structured fields (draft-ietf-httpapi-ratelimit-headers): the quota and its window, and what is left of it for how long.
            let Exceeded { unit, holder, rate, wait } = *exceeded;
            let name = format!("\"{holder}-{}\"", unit.as_str());
            let policy = HeaderValue::from_str(&format!("{name};q={rate};w=1"));
            let state = HeaderValue::from_str(&format!("{name};r=0;t={}", seconds(wait)));
            for (header, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
                if let Ok(value) = value {
                    headers.insert(HeaderName::from_static(header), value);
                }
            }
        }
        if let Some(allow) = self.allow.and_then(|a| HeaderValue::from_str(&a).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::UsernameTaken => Self::new(StatusCode::CONFLICT, "username_taken", "This username is taken."),
            store::Error::Unstorable(field) => Self::invalid(field, format!("{field} cannot be stored.")),
            store::Error::NoSubscription => Self::not_found("There is no such subscription."),
            // In the words for a producer that does not exist.
            store::Error::NotInvited => Self::not_found("There is no producer with this id."),
            store::Error::WrongState(state) => {
                Self::new(StatusCode::CONFLICT, "wrong_state", format!("The subscription is {state}, from which this does not lead on."))
            }
            store::Error::Refused(Status::Denied) => {
                Self::forbidden("The producer has refused this subscription.").with_code("subscription_denied")
            }
            store::Error::Refused(_) => Self::forbidden("The producer has ended this subscription.").with_code("subscription_revoked"),
            e @ store::Error::TooManyKeys => Self::new(StatusCode::CONFLICT, "too_many_keys", sentence(&e.to_string())),
            e @ store::Error::TooManyDevices => Self::new(StatusCode::CONFLICT, "too_many_devices", sentence(&e.to_string())),
            e @ store::Error::TooManyNames => Self::new(StatusCode::CONFLICT, "too_many_cursors", sentence(&e.to_string())),
            e @ store::Error::TooManyErasures => {
                let mut error = Self::too_many(ERASURE_RETRY).with_code("too_many_erasures");
                error.sentence = sentence(&e.to_string());
                error
            }
            e if e.is_unavailable() => {
                warn!(error = %e, "the database is unreachable");
                Self::unavailable("database_away", "The database is unreachable. Try again in a moment.")
            }
            e => Self::internal(e),
        }
    }
}

impl From<permits::Refusal> for ApiError {
    fn from(refusal: permits::Refusal) -> Self {
        match refusal {
            permits::Refusal::Node | permits::Refusal::Unauthenticated => {
                Self::unavailable("full", "This node has no room for another connection. Try again.")
            }
            permits::Refusal::Account | permits::Refusal::Address => Self::too_many(PERMIT_RETRY).with_code("too_many_connections"),
        }
    }
}

impl From<Full> for ApiError {
    fn from(full: Full) -> Self {
        match full {
            Full::Connection | Full::Account => {
                let mut error = Self::too_many(UPLOAD_RETRY).with_code("too_much_at_once");
                error.sentence = "Too much is sent at once. Send less side by side, or try again in a moment.".to_owned();
                error
            }
            Full::Node => Self::unavailable("busy", "This node takes in too much at once. Try again in a moment."),
        }
    }
}

impl From<auth::Error> for ApiError {
    fn from(error: auth::Error) -> Self {
        match error {
            auth::Error::Busy => Self::unavailable("busy", "Too many passwords are being checked. Try again in a moment."),
            auth::Error::Unavailable => Self::unavailable("database_away", "The database is unreachable. Try again in a moment."),
            auth::Error::IssuerAway => Self::unavailable("issuer_away", "The token's issuer is unreachable. Try again in a moment."),
            auth::Error::NoRole => Self::forbidden(sentence(&error.to_string())).with_code(error.code()),
            auth::Error::Internal => Self::internal(error),
            other => Self::unauthenticated(other.code(), sentence(&other.to_string())),
        }
    }
}

impl From<auth::Denied> for ApiError {
    fn from(denied: auth::Denied) -> Self {
        match denied {
            auth::Denied::Role(Role::Admin) => Self::forbidden("Only operators may do this."),
            auth::Denied::Role(role) => Self::forbidden(format!("Only {role}s may do this.")),
            auth::Denied::Scope(scope) => {
                let sentence = format!("This key lacks the scope {scope}: make one that has it.");
                Self::forbidden(sentence).with("scope", scope.to_string())
            }
            auth::Denied::Login => Self::forbidden("A key may not do this: log in."),
            auth::Denied::Credential => Self::forbidden("Here a device publishes by a key of its own. Enrol it."),
        }
        .with_code(denied.code())
    }
}

impl From<Exceeded> for ApiError {
    fn from(exceeded: Exceeded) -> Self {
        let mut error = Self::limited("plan", exceeded.wait).with_code("rate_limited");
        error.sentence = sentence(&exceeded.to_string());
        error.exceeded = Some(Box::new(exceeded));
        error
    }
}

impl From<relay::Error> for ApiError {
    fn from(error: relay::Error) -> Self {
        if !matches!(error, relay::Error::Exceeded(_)) {
            warn!(%error, "the relay failed a request");
        }
        match error {
            relay::Error::Closed => Self::draining(),
            relay::Error::Store(_) => Self::unavailable("database_away", "The database is unreachable. Try again in a moment."),
            relay::Error::Exceeded(exceeded) => exceeded.into(),
            relay::Error::Log(_) => Self::unavailable("log_away", "The log is unavailable. Try again in a moment."),
        }
    }
}

impl From<InvalidRequest> for ApiError {
    fn from(error: InvalidRequest) -> Self {
        match error {
            InvalidRequest::Selection(error) => error.into(),
            InvalidRequest::Order(_) => {
                Self::malformed(sentence(&error.to_string())).with_code("invalid_field").with_field(Some("order".to_owned()))
            }
            InvalidRequest::CursorName(_) => Self::invalid("durable", sentence(&error.to_string())),
        }
    }
}

impl From<selection::Error> for ApiError {
    fn from(error: selection::Error) -> Self {
        Self::malformed(sentence(&error.to_string()))
            .with_code(selection::Error::CODE)
            .with_field(Some(error.parameter.to_owned()))
            .with("column", error.column)
            .with("caret", error.caret())
            .with("expression", error.expression)
    }
}

impl From<InvalidScope> for ApiError {
    fn from(error: InvalidScope) -> Self {
        match error {
            InvalidScope::Selection(error) => error.into(),
            other => Self::invalid(other.field(), sentence(&other.to_string())),
        }
    }
}

impl From<record::Invalid> for ApiError {
    fn from(invalid: record::Invalid) -> Self {
        let status = match invalid {
            record::Invalid::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            record::Invalid::Json(_) => StatusCode::BAD_REQUEST,
            record::Invalid::WrongDevice { .. } | record::Invalid::DeviceRevoked { .. } => StatusCode::FORBIDDEN,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, invalid.code(), sentence(&invalid.to_string())).with_field(invalid.field().map(str::to_owned))
    }
}

/// Whole seconds, rounded up.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).unwrap_or(u32::MAX)
}

/// A capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}
