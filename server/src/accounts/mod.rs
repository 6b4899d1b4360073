//! The accounts service (role `ap`): registration, login, tokens, and the accounts for operators. One operation a file.

mod directory;
mod end;
mod export;
mod invitations;
mod jwks;
mod keys;
mod list;
mod login;
mod logout;
mod own_password;
mod password;
mod refresh;
mod register;
mod revoke;
mod session;
mod sessions;
mod verify;
mod visibility;

use std::sync::Arc;

use axum::Router;
use utoipa::{OpenApi, openapi};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    devices,
    http::{Service, Services, Shared, completed},
    organisations,
};

#[derive(OpenApi)]
#[openapi(info(
    title = "Motience: accounts",
    description = "Registration, login, tokens, and the accounts for operators. Every path also answers under `/api/auth`."
))]
struct Document;

/// The whole service on a port of its own.
pub fn router(services: &Arc<Services>) -> Router {
    service(services).standalone_router(services)
}

/// The service's operations and its document.
pub(crate) fn service(services: &Arc<Services>) -> Service {
    Service::new("motience-ap", "/ap", "/api/auth", operations(), services)
}

/// Its OpenAPI document.
pub fn document() -> openapi::OpenApi {
    completed(operations().into_openapi())
}

fn operations() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(register::register))
        .routes(routes!(login::login))
        .routes(routes!(refresh::refresh))
        .routes(routes!(logout::logout))
        .routes(routes!(directory::producers))
        .routes(routes!(directory::consumers))
        .routes(routes!(visibility::visibility, visibility::set_visibility))
        .routes(routes!(verify::verify))
        .routes(routes!(jwks::jwks))
        .routes(routes!(invitations::registration))
        .routes(routes!(end::end_account))
        .routes(routes!(export::export))
        .routes(routes!(password::change_password))
        .routes(routes!(password::reset_password))
        .routes(routes!(sessions::sessions))
        .routes(routes!(sessions::end_session))
        .routes(routes!(sessions::logout_everywhere))
        .routes(routes!(keys::create_key, keys::keys))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(invitations::invite, invitations::invitations))
        .routes(routes!(invitations::revoke_invitation))
        .routes(routes!(list::accounts))
        .routes(routes!(revoke::revoke))
        .routes(routes!(revoke::restore))
        .merge(devices::operations())
        .merge(organisations::operations())
}
