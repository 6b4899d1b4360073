//! dsm, the data service: records over HTTP, the history, live streams, consumers' cursors. One operation a file.

mod cursors;
mod data;
mod history;
mod readings;
mod streams;
mod writer;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use writer::history_writer;

use crate::{
    http::{Service, Services, Shared},
    stream,
};

#[derive(OpenApi)]
#[openapi(info(
    title = "Motience: data",
    description = "Records over HTTP, the history, live streams, consumers' cursors. Every path also answers under `/api`."
))]
struct Document;

/// The whole service on a port of its own.
pub fn router(services: &Arc<Services>) -> Router {
    service(services).alone(services)
}

/// What it does and how it is described.
pub(crate) fn service(services: &Arc<Services>) -> Service {
    let data = OpenApiRouter::new().routes(routes!(data::data)).layer(DefaultBodyLimit::max(services.config.data_body));
    let (operations, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(data)
        .routes(routes!(history::history))
        .routes(routes!(streams::streams))
        .routes(routes!(stream::stream))
        .routes(routes!(cursors::list))
        .routes(routes!(cursors::delete))
        .with_state(Shared(Arc::clone(services)))
        .split_for_parts();
    Service { name: "motience-dsm", prefix: "/dsm", alias: "/api", operations, document, more: Router::new() }
}
