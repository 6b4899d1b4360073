//! The parts that the three REST services share: settings, limits, the layers around every router, and documents.

mod attempts;
mod audited;
mod docs;
pub(crate) mod http3;
mod layers;
mod limiters;
mod rates;
mod requests;
pub(crate) mod shapes;
pub(crate) mod stream;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod time_index;
mod visibility;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware::from_fn_with_state, response::Redirect, routing::get};
use motience_backend::Backend;
use motience_http::{self as shared_http, Detail, HasBackend, HasProxies, Limits, Proxies, tolerant};
use motience_runtime::lifecycle::Shutdown;
use motience_settings::env::{Value, one_of, settings};
use parking_lot::RwLock;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use docs::documented;
pub(crate) use docs::{completed, file, guarded};
pub(crate) use layers::TimeoutExemption;
pub use rates::Rates;
pub use visibility::ProducerVisibility;

use self::time_index::TimeIndex;

settings! {
    /// Settings of the HTTP services.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// Largest body of a request, except POST /data.
        HTTP_MAX_BODY_BYTES = "64KiB" => body: usize as Size, > 0;
        /// Largest body of POST /data, unless it is a stream of lines.
        DATA_MAX_BODY_BYTES = "1MiB" => data_body: usize as Size, > 0;
        /// Largest page of a list.
        HTTP_MAX_PAGE_BYTES = "1MiB" => page: usize as Size, > 0;
        /// Most records in one POST /data.
        DATA_MAX_RECORDS = "1000" => data_records: usize, > 0;
        /// Longest time for one request to be answered.
        HTTP_REQUEST_LIMIT = "30s" => request: Duration, > 0;
        /// Requests of one account at once, except POST /data.
        MAX_REQUESTS_PER_ACCOUNT = "16" => requests_each: usize, > 0;
        /// Readers of history at once. The default is one less than there are processors, so that one is left to live traffic.
        HISTORY_READERS => history_readers: Option<usize>, > 0;
        /// How many times longer than its compressed form a body may be, beyond twice the longest plain one.
        HTTP_MAX_INFLATION = "200" => inflation: u64, > 0;
        /// Who may register: anybody (`open`), whoever has an invitation of an operator (`invite`), or nobody (`closed`).
        REGISTRATION = "open" => registration: Registration;
        /// Origins whose pages may call the APIs, such as https://app.example; `*` is any, and is refused in production.
        CORS_ORIGINS = "*", production "" => origins: CorsOrigins;
        /// Who sees a producer that does not say so itself: `open`, everybody, and subscribes; `listed`, everybody, and asks; `private`, only
        /// those it invites.
        PRODUCER_VISIBILITY = "open" => visibility: ProducerVisibility;
    }
    with {
        /// Limits of each listener.
        limits: Limits,
        /// Live streams.
        stream: stream::Config,
        /// How often each address and each account may register, log in and refresh.
        rates: Rates,
        /// How much the services' ports tell of the node.
        detail: Detail,
    }
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Anybody.
    Open,
    /// Whoever has an invitation.
    Invite,
    /// Nobody: operators make accounts.
    Closed,
}

impl Registration {
    /// As the setting is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invite => "invite",
            Self::Closed => "closed",
        }
    }
}

impl Value for Registration {
    fn parse(text: &str) -> Result<Self, String> {
        one_of(text, &[("open", Self::Open), ("invite", Self::Invite), ("closed", Self::Closed)])
    }
}

/// Origins whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Any.
    Any,
    /// These, as browsers write them.
    Named(Vec<String>),
}

impl Value for CorsOrigins {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let origin = |text: &String| {
            is_origin(text).then_some(()).ok_or_else(|| format!("must be origins such as https://app.example; '{text}' is not"))
        };
        let named = Vec::<String>::parse(text)?;
        named.iter().try_for_each(origin)?;
        Ok(Self::Named(named))
    }
}

/// `scheme://host[:port]`, as browsers send it: anything more would never match.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' '])) && text.parse::<axum::http::HeaderValue>().is_ok()
}

/// The parts that the handlers of the three services use.
#[derive(Debug)]
pub struct Services {
    /// Accounts, store, relay.
    pub backend: Arc<Backend>,
    /// Settings.
    pub config: Config,
    /// Rate limits in force.
    pub limiters: limiters::Limiters,
    /// Origins whose pages may call now.
    pub(crate) origins: Arc<RwLock<CorsOrigins>>,
    /// Times in the logs that were read.
    pub(crate) time_index: TimeIndex,
    /// The node's end. Streams without an end of their own leave when they are asked to.
    pub shutdown: Shutdown,
}

impl Services {
    /// The services over one backend, until the shutdown.
    pub fn new(backend: Arc<Backend>, config: Config, shutdown: Shutdown) -> Arc<Self> {
        let limiters = limiters::Limiters::new(&config, backend.permits.quotas());
        let origins = Arc::new(RwLock::new(config.origins.clone()));
        Arc::new(Self { backend, config, limiters, origins, time_index: TimeIndex::default(), shutdown })
    }

    /// Puts other rates and origins in force. Between any origin and some named ones lies a restart: the answers differ in more than a list.
    pub(crate) fn set(&self, config: &Config) -> bool {
        self.limiters.set(&config.rates);
        let mut origins = self.origins.write();
        let possible = (*origins == CorsOrigins::Any) == (config.origins == CorsOrigins::Any);
        if possible {
            *origins = config.origins.clone();
        }
        possible
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

impl HasProxies for Shared {
    fn proxies(&self) -> &Proxies {
        &self.0.config.limits.trusted
    }
}

/// One role's service: what it does, and how it is described.
pub(crate) struct Service {
    /// As `/health` says it.
    pub(crate) name: &'static str,
    /// Where it is found beside the others: `/ap`.
    pub(crate) prefix: &'static str,
    /// Under which its paths answer too.
    pub(crate) alias: &'static str,
    pub(crate) operations: Router,
    pub(crate) document: OpenApi,
    /// Whether the AsyncAPI document is beside it.
    pub(crate) streams: bool,
    /// Paths that are no part of its document.
    pub(crate) extra_routes: Router,
}

impl Service {
    /// A service of these operations, which hold each account to its limits, and of their document.
    pub(crate) fn new(
        name: &'static str,
        prefix: &'static str,
        alias: &'static str,
        operations: OpenApiRouter<Shared>,
        services: &Arc<Services>,
    ) -> Self {
        let (operations, document) = operations.with_state(Shared(Arc::clone(services))).split_for_parts();
        let operations = operations.route_layer(from_fn_with_state(Shared(Arc::clone(services)), requests::per_account));
        Self { name, prefix, alias, operations, document, streams: false, extra_routes: Router::new() }
    }

    /// Adds paths that are no part of the document.
    #[must_use]
    pub(crate) fn with_extra_routes(self, routes: Router) -> Self {
        Self { extra_routes: self.extra_routes.merge(routes), ..self }
    }

    /// The router of a port of its own: its operations at the root and under its alias, its document and Swagger UI at `/api-docs`, to which `/`
    /// leads, what operators ask, and the layers that hold for every request.
    pub(crate) fn standalone_router(self, services: &Arc<Services>) -> Router {
        let paths = self.paths(&["", self.alias]).chain(KNOWN.map(str::to_owned)).collect::<Vec<_>>();
        let router = Router::new()
            .merge(self.operations.clone())
            .nest(self.alias, self.operations)
            .merge(self.extra_routes)
            .merge(documented("", self.streams, self.document))
            .route("/", get(async || Redirect::temporary("api-docs/")))
            .merge(shared_http::operations(self.name, Arc::clone(&services.backend), services.config.detail, &services.shutdown));
        tolerant(layers::around(router, services), paths)
    }

    /// The paths of its document behind each of these.
    fn paths(&self, prefixes: &[&str]) -> impl Iterator<Item = String> + use<> {
        let paths = self.document.paths.paths.keys();
        let all: Vec<String> = paths.flat_map(|path| prefixes.iter().map(move |prefix| format!("{prefix}{path}"))).collect();
        all.into_iter()
    }
}

/// Paths beside those of the documents: what operators and pages ask.
const KNOWN: [&str; 4] = ["/health", "/ready", "/metrics", "/cert-hash"];

/// All of a node's services on one port: each under its prefix with its document, the operations of all at the root and
/// under their aliases too, and what operators ask, once.
pub(crate) fn combined_router(parts: impl IntoIterator<Item = Service>, extra_routes: Router, services: &Arc<Services>) -> Router {
    let mut router =
        extra_routes.merge(shared_http::operations("motience", Arc::clone(&services.backend), services.config.detail, &services.shutdown));
    let mut paths: Vec<String> = KNOWN.map(str::to_owned).into();
    for part in parts {
        paths.extend(part.paths(&["", part.prefix, part.alias]));
        router = router
            .nest(part.prefix, part.operations.clone().merge(part.extra_routes))
            .merge(part.operations.clone())
            .nest(part.alias, part.operations)
            .merge(documented(part.prefix, part.streams, part.document));
    }
    tolerant(layers::around(router, services), paths)
}
