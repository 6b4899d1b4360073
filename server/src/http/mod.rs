//! What ap, sm and dsm share: their settings, their limits, the layers around every router, and their documents.

mod client;
mod layers;
mod rate;
pub(crate) mod shapes;

use std::{sync::Arc, time::Duration};

use axum::Router;
use motience_shared::{
    backend::Backend,
    env::{self, Env},
    http::{self as shared_http, HasBackend, Limits},
};
use utoipa::openapi::{
    OpenApi,
    security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_swagger_ui::SwaggerUi;

pub use client::{ClientAddress, Proxies};
pub use rate::{Rate, Rates};

/// Settings of the HTTP services.
#[derive(Clone, Debug)]
pub struct Config {
    /// Limits of each listener.
    pub limits: Limits,
    /// Bytes of a request's body. HTTP_MAX_BODY_BYTES, 64 KiB; `POST /data` has its own.
    pub body: usize,
    /// Bytes of the body of `POST /data`. DATA_MAX_BODY_BYTES, 1 MiB.
    pub data_body: usize,
    /// Records in one `POST /data`. DATA_MAX_RECORDS, 1,000.
    pub data_records: usize,
    /// Time for a request to be answered. HTTP_REQUEST_LIMIT, 30 s.
    pub request: Duration,
    /// Origins that a browser's pages may call from; empty in development: any. CORS_ORIGINS.
    pub origins: Vec<String>,
    /// Whether an empty `origins` means any.
    pub any_origin: bool,
    /// Proxies whose X-Forwarded-For is believed. TRUSTED_PROXIES, none.
    pub proxies: Proxies,
    /// How often each address and each account may register, log in and refresh.
    pub rates: Rates,
}

impl Config {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let config = Self {
            limits: Limits::from_env(env)?,
            body: env.bytes("HTTP_MAX_BODY_BYTES", 64 * 1024)?,
            data_body: env.bytes("DATA_MAX_BODY_BYTES", 1 << 20)?,
            data_records: env.parse("DATA_MAX_RECORDS", 1000)?,
            request: env.duration("HTTP_REQUEST_LIMIT", Duration::from_secs(30))?,
            origins: env.list("CORS_ORIGINS"),
            any_origin: !env.production(),
            proxies: env.parse("TRUSTED_PROXIES", Proxies::default())?,
            rates: Rates::from_env(env)?,
        };
        if let Some(bad) = config.origins.iter().find(|o| o.parse::<axum::http::HeaderValue>().is_err()) {
            return Err(env::Error::invalid("CORS_ORIGINS", format_args!("'{bad}' is no origin")));
        }
        Ok(config)
    }
}

/// What the handlers of the three services use.
#[derive(Debug)]
pub struct Services {
    /// Accounts, store, relay.
    pub backend: Arc<Backend>,
    /// Settings.
    pub config: Config,
    /// Rate limits in force.
    pub limiters: rate::Limiters,
}

impl Services {
    /// The services over one backend.
    pub fn new(backend: Arc<Backend>, config: Config) -> Arc<Self> {
        let limiters = rate::Limiters::new(&config.rates);
        Arc::new(Self { backend, config, limiters })
    }
}

/// The state of every router: the services, shared. A newtype, so that the extractors of callers can be had from it.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<Services>);

impl std::ops::Deref for Shared {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl HasBackend for Shared {
    fn backend(&self) -> &Arc<Backend> {
        &self.0.backend
    }
}

/// A whole service: its operations at the root and under `alias`, its document and Swagger UI at `/api-docs`, what
/// operators ask, and the layers that hold for every request.
pub(crate) fn assemble(name: &'static str, operations: Router, document: OpenApi, alias: &str, services: &Arc<Services>) -> Router {
    let router = Router::new()
        .merge(operations.clone())
        .nest(alias, operations)
        .merge(SwaggerUi::new("/api-docs").url("/api-docs/openapi.json", secured(document)))
        .merge(shared_http::operations(name, Arc::clone(&services.backend)));
    layers::around(router, services)
}

/// Every document names the one way to authenticate.
fn secured(mut document: OpenApi) -> OpenApi {
    let bearer = SecurityScheme::Http(Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build());
    document.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    document
}
