//! The data service (role `dsm`): records over HTTP, the history, live streams, consumers' cursors, devices, nodes and connections. One operation a file.

mod connections;
mod cursors;
mod devices;
mod erasures;
pub(crate) mod history;
mod nodes;
mod platform;
mod publish;
mod reader;
mod retention;
mod streams;
mod usage;
mod usage_counter;
mod writer;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit};
use motience_auth::Grant;
use motience_http::{ApiError, compression};
use motience_proto::model::{ProducerId, Role};
use motience_relay::pipeline::scope::Scope;
use motience_store::Right;
use utoipa::{OpenApi, openapi};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use usage_counter::usage_counter;
pub use writer::history_writer;

use crate::{
    asyncapi,
    http::{Service, Services, Shared, completed},
    stream,
};

#[derive(OpenApi)]
#[openapi(info(
    title = "Motience: data",
    description = "Records over HTTP, the history, live streams, consumers' cursors, devices and nodes. Every path also answers under `/api`."
))]
struct Document;

/// The whole service on a port of its own.
pub fn router(services: &Arc<Services>) -> Router {
    service(services).standalone_router(services)
}

/// The service's operations and its document.
pub(crate) fn service(services: &Arc<Services>) -> Service {
    Service {
        streams: true,
        extra_routes: asyncapi::router(),
        ..Service::new("motience-dsm", "/dsm", "/api", operations(services.config.data_body), services)
    }
}

/// Its OpenAPI document.
pub fn document() -> openapi::OpenApi {
    completed(operations(0).into_openapi())
}

/// `data_body`: largest body of `POST /data`.
fn operations(data_body: usize) -> OpenApiRouter<Shared> {
    let data = OpenApiRouter::new().routes(routes!(publish::data)).layer(DefaultBodyLimit::max(data_body));
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(data)
        .merge(OpenApiRouter::new().routes(routes!(history::history)).layer(compression()))
        .routes(routes!(streams::streams))
        .routes(routes!(stream::stream))
        .routes(routes!(erasures::erase, erasures::erasures))
        .routes(routes!(retention::retention, retention::set_retention))
        .routes(routes!(cursors::list))
        .routes(routes!(cursors::confirm, cursors::delete))
        .routes(routes!(devices::devices))
        .routes(routes!(devices::find))
        .routes(routes!(usage::usage))
        .routes(routes!(nodes::nodes))
        .routes(routes!(platform::platform))
        .routes(routes!(connections::connections))
        .routes(routes!(connections::end))
}

/// The right to see a producer's records and devices: the scope of it, which may be none.
struct Reading(Option<Scope>);

/// The right of a caller to see a producer's records and devices; `None`: it has none.
async fn may_read(services: &Shared, grant: &Grant, producer: ProducerId) -> Result<Option<Reading>, ApiError> {
    let backend = &services.backend;
    Ok(match grant.role {
        Role::Producer => (grant.user == producer.user()).then_some(Reading(None)),
        Role::Admin => Some(Reading(None)),
        Role::Consumer => match backend.store.right(grant.user.consumer(), producer, backend.clock.now()).await? {
            None => None,
            Some(Right { scope: None, .. }) => Some(Reading(None)),
            // One that cannot be read was written by a newer version: nothing rather than too much.
            Some(Right { scope: Some(text), .. }) => Scope::parse(&text).ok().map(|scope| Reading(Some(scope))),
        },
    })
}
