//! The subscriptions service (role `sm`): which consumer receives which producer's records. One operation a file.

mod acts;
mod audit;
mod audit_chain;
pub(crate) mod decide;
mod follows;
mod lists;
mod shown;
mod subscribe;
mod unsubscribe;

use std::sync::Arc;

use axum::Router;
use utoipa::{OpenApi, openapi};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{Service, Services, Shared, completed};

#[derive(OpenApi)]
#[openapi(info(
    title = "Motience: subscriptions",
    description = "Who receives whose records, by whose consent. Every path also answers under `/api`."
))]
struct Document;

/// The whole service on a port of its own.
pub fn router(services: &Arc<Services>) -> Router {
    service(services).standalone_router(services)
}

/// The service's operations and its document.
pub(crate) fn service(services: &Arc<Services>) -> Service {
    Service::new("motience-sm", "/sm", "/api", operations(), services)
}

/// Its OpenAPI document.
pub fn document() -> openapi::OpenApi {
    completed(operations().into_openapi())
}

fn operations() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(subscribe::subscribe))
        .routes(routes!(unsubscribe::unsubscribe))
        .routes(routes!(lists::subscriptions))
        .routes(routes!(lists::subscribers))
        .routes(routes!(decide::invite))
        .routes(routes!(decide::approve))
        .routes(routes!(decide::deny))
        .routes(routes!(decide::revoke))
        .routes(routes!(decide::grant))
        .routes(routes!(acts::acts))
        .routes(routes!(audit::audit))
        .routes(routes!(audit_chain::audit_chain))
}
