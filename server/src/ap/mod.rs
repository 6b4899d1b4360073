//! ap, the accounts service: registration, login, tokens, and who there is. One operation a file.

mod list;
mod login;
mod logout;
mod refresh;
mod register;
mod session;
mod verify;

use std::sync::Arc;

use axum::Router;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{Service, Services, Shared};

#[derive(OpenApi)]
#[openapi(info(title = "Motience: accounts", description = "Registration, login and tokens. Every path also answers under `/api/auth`."))]
struct Document;

/// The whole service on a port of its own.
pub fn router(services: &Arc<Services>) -> Router {
    service(services).alone(services)
}

/// What it does and how it is described.
pub(crate) fn service(services: &Arc<Services>) -> Service {
    let (operations, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(register::register))
        .routes(routes!(login::login))
        .routes(routes!(refresh::refresh))
        .routes(routes!(logout::logout))
        .routes(routes!(list::producers))
        .routes(routes!(list::consumers))
        .routes(routes!(verify::verify))
        .with_state(Shared(Arc::clone(services)))
        .split_for_parts();
    Service { name: "motience-ap", prefix: "/ap", alias: "/api/auth", operations, document, more: Router::new() }
}
