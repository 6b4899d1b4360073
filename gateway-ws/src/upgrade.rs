//! Who may open a WebSocket: the token from one of its three places, the role, the origin, and a free seat.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{FromRequestParts, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use motience_shared::{
    auth::Grant,
    http::{ApiError, bearer},
    model::{Role, UserId},
};
use serde::Deserialize;

use crate::{Config, Shared};

/// The subprotocol that offers a token: `["bearer", TOKEN]`.
const BEARER: &str = "bearer";
/// The subprotocol of consumers that want offsets, resume and gap notices.
const V2: &str = "motience.v2";
/// Bytes read from a socket at once: tungstenite's own default costs 128 KiB for each idle connection.
pub(crate) const READ_BUFFER: usize = 4 * 1024;

/// A request to become a WebSocket, with what its query says.
pub(crate) struct Request {
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
    query: Result<Query, ApiError>,
}

#[derive(Default, Deserialize)]
struct Query {
    token: Option<String>,
    v: Option<String>,
    resume: Option<String>,
    durable: Option<String>,
    order: Option<String>,
}

/// A request that may go on.
pub(crate) struct Admitted {
    pub(crate) upgrade: WebSocketUpgrade,
    pub(crate) grant: Grant,
    pub(crate) v2: bool,
    pub(crate) resume: Option<String>,
    pub(crate) durable: Option<String>,
    pub(crate) order: Option<String>,
    pub(crate) seat: Seat,
}

impl<S: Send + Sync> FromRequestParts<S> for Request {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        // The rejection quotes the query, which holds the token.
        let query = axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(query)| query)
            .map_err(|_| ApiError::malformed("The query cannot be read."));
        let headers = parts.headers.clone();
        Ok(Self { upgrade: WebSocketUpgrade::from_request_parts(parts, state).await, headers, query })
    }
}

impl Request {
    /// Checks everything that can be checked before the upgrade.
    pub(crate) fn admit(self, role: Role, max_message: usize, shared: &Shared) -> Result<Admitted, ApiError> {
        let query = self.query?;
        let upgrade = self.upgrade.map_err(|_| required())?;
        check_origin(&self.headers, &shared.config.origins)?;
        let offered = protocols(&self.headers);
        let after_bearer = offered.iter().position(|p| p == BEARER).and_then(|at| offered.get(at + 1));
        let token = query
            .token
            .as_deref()
            .or_else(|| bearer(&self.headers))
            .or(after_bearer.map(String::as_str))
            .ok_or_else(|| ApiError::unauthenticated("no_token", "Log in, and connect with `?token=`."))?;
        let grant = shared.backend.authenticate(token)?;
        if grant.role != role {
            return Err(ApiError::forbidden(format!("Only {role}s may connect here.")).with_code("wrong_role"));
        }
        let v2 = offered.iter().any(|p| p == V2) || query.v.as_deref() == Some("2");
        let seat = shared.seats.take(grant.user)?;
        let upgrade =
            upgrade.protocols([V2, BEARER]).read_buffer_size(READ_BUFFER).max_message_size(max_message).max_frame_size(max_message);
        Ok(Admitted { upgrade, grant, v2, resume: query.resume, durable: query.durable, order: query.order, seat })
    }
}

/// 426: a request that is no upgrade.
pub(crate) fn required() -> ApiError {
    ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "This path speaks WebSocket: connect with a WebSocket client.")
}

pub(crate) fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), ApiError> {
    // Only browsers send an origin; other clients are not what the list is about.
    let Some(origin) = headers.get(header::ORIGIN).filter(|_| !allowed.is_empty()) else { return Ok(()) };
    if allowed.iter().any(|a| a.as_bytes() == origin.as_bytes()) {
        Ok(())
    } else {
        Err(ApiError::forbidden("Pages of this origin may not connect.").with_code("origin_refused"))
    }
}

/// The subprotocols a client offers.
pub(crate) fn protocols(headers: &HeaderMap) -> Vec<String> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(|p| p.trim().to_owned()).collect()
}

/// How many connections there may be, in all and for each account.
pub(crate) struct Seats {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_each: usize,
}

#[derive(Default)]
struct Taken {
    all: usize,
    each: HashMap<UserId, usize>,
}

/// A seat; free again when dropped.
pub(crate) struct Seat {
    taken: Arc<Mutex<Taken>>,
    most_each: usize,
    /// Whose, once that is known.
    user: Option<UserId>,
}

impl Seats {
    pub(crate) fn new(config: &Config) -> Self {
        Self { taken: Arc::default(), most: config.connections, most_each: config.connections_each }
    }

    fn take(&self, user: UserId) -> Result<Seat, ApiError> {
        let mut seat = self.reserve()?;
        seat.claim(user)?;
        Ok(seat)
    }

    /// A seat for someone who is yet to say who it is.
    pub(crate) fn reserve(&self) -> Result<Seat, ApiError> {
        let mut taken = lock(&self.taken);
        if taken.all >= self.most {
            return Err(ApiError::unavailable("full", "This node has no room for another connection. Try again."));
        }
        taken.all += 1;
        Ok(Seat { taken: Arc::clone(&self.taken), most_each: self.most_each, user: None })
    }
}

impl Seat {
    /// Counts it as this account's.
    pub(crate) fn claim(&mut self, user: UserId) -> Result<(), ApiError> {
        let mut taken = lock(&self.taken);
        let each = taken.each.entry(user).or_default();
        if *each >= self.most_each {
            return Err(ApiError::too_many(std::time::Duration::from_secs(10)).with_code("too_many_connections"));
        }
        *each += 1;
        self.user = Some(user);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        let Some(user) = self.user else { return };
        if let Some(each) = taken.each.get_mut(&user) {
            *each -= 1;
            if *each == 0 {
                taken.each.remove(&user);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}
