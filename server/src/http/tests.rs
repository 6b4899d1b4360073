//! The services without sockets: requests go straight into the routers, over a backend in memory.

mod account_life;
mod accounts;
mod attempts;
mod audit;
mod compression;
mod consent;
mod cursors;
mod data;
mod devices;
mod documents;
mod encodings;
mod erasures;
mod history;
mod keys;
mod layers;
mod operators;
mod pages;
mod refusals;
mod replica;
mod requests;
mod retention;
mod room;
mod stream;
mod subscriptions;
mod upload;

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use motience_auth::random_id;
use motience_backend as backend;
use motience_proto::model::{Role, User, Visibility};
use motience_runtime::{
    clock::{Clock, Manual},
    lifecycle::Shutdown,
};
use motience_settings::env::Env;
use motience_store::{self as store, NewUser};
use serde_json::Value;
use time::macros::datetime;
use tower::ServiceExt as _;

use super::*;

/// The services, their routers and the time of day.
pub(crate) struct Platform {
    pub(crate) services: Arc<Services>,
    pub(crate) time: Manual,
    ap: Router,
    sm: Router,
    dsm: Router,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Bytes,
}

/// A body that is sent.
pub(crate) enum Sent<'a> {
    Nothing,
    Json(Value),
    Text(&'a str, &'a str),
}

/// The services under these settings.
pub(crate) async fn platform(settings: &[(&str, &str)]) -> Platform {
    platform_on(settings, store::Config::SqliteMemory).await
}

/// The services under these settings and over this database.
pub(crate) async fn platform_on(settings: &[(&str, &str)], store: store::Config) -> Platform {
    let env = Env::from_pairs(settings.iter().copied());
    let mut config = backend::Config::from_env(&env).unwrap();
    config.store = store;
    config.volatile = true;
    let (clock, time) = Clock::manual(datetime!(2026-01-01 00:00 UTC));
    let services = Services::new(Backend::open(config, clock).await.unwrap(), Config::from_env(&env).unwrap(), Shutdown::new());
    let (ap, sm, dsm) = (crate::accounts::router(&services), crate::subscriptions::router(&services), crate::data::router(&services));
    Platform { services, time, ap, sm, dsm }
}

impl Platform {
    pub(crate) async fn ap(&self, method: Method, path: &str, token: Option<&str>, body: Sent<'_>) -> Answer {
        send(&self.ap, request(method, path, token, body)).await
    }

    pub(crate) async fn sm(&self, method: Method, path: &str, token: Option<&str>, body: Sent<'_>) -> Answer {
        send(&self.sm, request(method, path, token, body)).await
    }

    pub(crate) async fn dsm(&self, method: Method, path: &str, token: Option<&str>, body: Sent<'_>) -> Answer {
        send(&self.dsm, request(method, path, token, body)).await
    }

    /// An account with a token, without the time that a password takes.
    pub(crate) async fn account(&self, role: Role, name: &str) -> (User, String) {
        let backend = &self.services.backend;
        let new = NewUser { username: name.to_owned(), password_hash: "none".to_owned(), role, device_id: None, strict_device: false };
        let user = backend.store.create_user(new).await.unwrap();
        let token = backend.tokens.issue(&user, &random_id()).unwrap().access_token;
        (user, token)
    }
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    Answer { status: head.status, headers: head.headers, body: to_bytes(body, 16 << 20).await.unwrap() }
}

pub(crate) fn request(method: Method, path: &str, token: Option<&str>, body: Sent<'_>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    match body {
        Sent::Nothing => request.body(Body::empty()),
        Sent::Json(json) => request.header(header::CONTENT_TYPE, "application/json").body(Body::from(json.to_string())),
        Sent::Text(kind, text) => request.header(header::CONTENT_TYPE, kind).body(Body::from(text.to_owned())),
    }
    .unwrap()
}

impl Answer {
    /// The body of a success.
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body of a refusal, in the one form that all have.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json(status);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!((problem["code"].as_str(), problem["status"].as_u64()), (Some(code), Some(status.into())), "{problem}");
        assert_eq!(problem["error"], problem["detail"]);
        assert_eq!(status == 401, self.headers.contains_key(header::WWW_AUTHENTICATE));
        assert_eq!(matches!(status, 429 | 503), self.headers.contains_key(header::RETRY_AFTER));
        problem
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
