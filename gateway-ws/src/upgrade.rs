//! Who may open a WebSocket: the token from one of its three places, the role, the origin, and a permit.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};
use motience_auth::{self as auth, Grant};
use motience_http::{ApiError, ClientAddress, bearer, check_origin};
use motience_limits::permits::{Permit, Share};
use motience_proto::model::{Role, Transport};
use motience_relay::pipeline;

use crate::{Shared, handshake::Upgrade};

/// The subprotocol that offers a token: `["bearer", TOKEN]`.
const BEARER: &str = "bearer";
/// The subprotocol of consumers that want offsets, resume and gap notices.
const V2: &str = "motience.v2";

/// A request to become a WebSocket, with what its query says.
pub(crate) struct Request {
    upgrade: Result<Upgrade, ApiError>,
    headers: HeaderMap,
    query: Result<Query, ApiError>,
}

#[derive(Default)]
struct Query {
    token: Option<String>,
    v: Option<String>,
    resume: Option<String>,
    cursors: Option<String>,
    received_at: Option<String>,
    events: Option<String>,
    wishes: pipeline::Request,
}

impl Query {
    /// Of a member that is there twice the last counts, but for `where`, of which all do.
    fn read(members: Vec<(String, String)>) -> Self {
        let mut query = Self::default();
        for (name, value) in members {
            let Some(value) = query.wishes.take(&name, value) else { continue };
            match name.as_str() {
                "token" => query.token = Some(value),
                "v" => query.v = Some(value),
                "resume" => query.resume = Some(value),
                "cursors" => query.cursors = Some(value),
                "received_at" => query.received_at = Some(value),
                "events" => query.events = Some(value),
                _ => {}
            }
        }
        query
    }
}

/// A request that may go on.
pub(crate) struct Admitted {
    pub(crate) upgrade: Upgrade,
    pub(crate) grant: Grant,
    pub(crate) v2: bool,
    pub(crate) resume: Option<String>,
    /// Whether the client wants to be told where it begins with each producer.
    pub(crate) cursors: bool,
    /// Whether it wants to know when each record came.
    pub(crate) received: bool,
    /// Events that a producer wants to hear of.
    pub(crate) events: Option<String>,
    /// The pipeline's part of the query.
    pub(crate) wishes: pipeline::Request,
    pub(crate) permit: Permit,
}

/// How the client of a socket is connected.
pub(crate) fn connected(client: ClientAddress) -> auth::Client {
    auth::Client { transport: Transport::WebSocket, address: Some(client.ip()), device: None }
}

impl<S: Send + Sync> FromRequestParts<S> for Request {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        // The rejection quotes the query, which holds the token.
        let query = axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(members)| Query::read(members))
            .map_err(|_| ApiError::malformed("The query cannot be read."));
        let headers = parts.headers.clone();
        Ok(Self { upgrade: Upgrade::from_request_parts(parts, state).await, headers, query })
    }
}

impl Request {
    /// Checks everything that can be checked before the upgrade.
    pub(crate) async fn admit(self, role: Role, max_message: usize, shared: &Shared) -> Result<Admitted, ApiError> {
        let query = self.query?;
        let upgrade = self.upgrade?;
        check_origin(&self.headers, &shared.config.origins)?;
        // Before anything is looked up: those who are asked to leave come back at once, and a node without another beside it would be held up by them.
        if shared.shutdown.draining().begun().is_cancelled() {
            return Err(ApiError::draining());
        }
        let offered = upgrade.offered();
        let after_bearer = offered.iter().position(|p| p == BEARER).and_then(|at| offered.get(at + 1));
        let token = query
            .token
            .as_deref()
            .or_else(|| bearer(&self.headers))
            .or(after_bearer.map(String::as_str))
            .ok_or_else(|| ApiError::unauthenticated("no_token", "Log in, and connect with `?token=`."))?;
        let grant = shared.backend.authenticate(token).await?;
        match role {
            Role::Producer => shared.backend.may_publish(&grant)?,
            _ => grant.may_follow()?,
        }
        let v2 = offered.iter().any(|p| p == V2) || query.v.as_deref() == Some("2");
        let permit = shared.backend.permits.account(grant.user, Share::Connections, Transport::WebSocket)?;
        // A client that offers nothing we know expects the first it offered, as the `ws` package answered; a browser closes without one.
        let first = offered.iter().find(|protocol| !protocol.is_empty()).cloned();
        let spoken: Vec<String> = [V2, BEARER].into_iter().map(str::to_owned).chain(first).collect();
        let upgrade = upgrade.protocols(spoken).longest(max_message);
        let Query { resume, cursors, received_at, events, wishes, .. } = query;
        let cursors = cursors.as_deref() == Some("true");
        let received = received_at.as_deref() == Some("true");
        Ok(Admitted { upgrade, grant, v2, resume, cursors, received, events, wishes, permit })
    }
}
