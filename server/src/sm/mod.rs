//! sm, the subscriptions service: who receives whose records. One operation a file.

mod lists;
mod subscribe;
mod unsubscribe;

use std::sync::Arc;

use axum::Router;
use utoipa::{OpenApi, openapi};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{Service, Services, Shared, limited, secured};

#[derive(OpenApi)]
#[openapi(info(title = "Motience: subscriptions", description = "Who receives whose records. Every path also answers under `/api`."))]
struct Document;

/// The whole service on a port of its own.
pub fn router(services: &Arc<Services>) -> Router {
    service(services).alone(services)
}

/// What it does and how it is described.
pub(crate) fn service(services: &Arc<Services>) -> Service {
    let (operations, document) = operations().with_state(Shared(Arc::clone(services))).split_for_parts();
    let operations = limited(operations, services);
    Service { name: "motience-sm", prefix: "/sm", alias: "/api", operations, document, streams: false, more: Router::new() }
}

/// Its OpenAPI document.
pub fn document() -> openapi::OpenApi {
    secured(operations().into_openapi())
}

fn operations() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(subscribe::subscribe))
        .routes(routes!(unsubscribe::unsubscribe))
        .routes(routes!(lists::subscriptions))
        .routes(routes!(lists::subscribers))
}
