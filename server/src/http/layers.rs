//! The layers around every router. They hold for each request, whatever it asks.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use axum::{
    Extension, Router,
    body::HttpBody as _,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use motience_http::{ApiError, Client, Inflation, called_host, inflate, log_refusals, without_port};
use motience_limits::uploads::{self, Owner};
use motience_runtime::{
    histogram,
    traces::{self, Kind, Open, Parent},
};
use tokio::time::{Duration, timeout};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    set_header::SetResponseHeaderLayer,
};

use tracing::{Instrument as _, field::Empty, info_span};

use super::{Config, CorsOrigins, Services, Shared, audited::audited};

/// How long a browser may remember what it was told about origins.
const CORS_MEMORY: Duration = Duration::from_secs(3600);

/// Headers that pages may send: those that the services read, and those that tracing libraries add to every request by themselves.
const ALLOWED_HEADERS: [&str; 31] = [
    "authorization",
    "content-type",
    "content-encoding",
    "last-event-id",
    "idempotency-key",
    "cache-control",
    "x-requested-with",
    // W3C Trace Context and Baggage.
    "traceparent",
    "tracestate",
    "baggage",
    "x-request-id",
    "request-id",
    "x-correlation-id",
    "correlation-id",
    // Zipkin.
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    // Sentry, Datadog, New Relic, Jaeger, AWS, Google, Azure.
    "sentry-trace",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-origin",
    "x-datadog-sampling-priority",
    "x-datadog-tags",
    "newrelic",
    "uber-trace-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "request-context",
];
/// Place of a span in its trace (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";
const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'none'";

pub(super) fn around(router: Router, services: &Arc<Services>) -> Router {
    router
        .fallback(async || ApiError::not_found("There is nothing at this path."))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path does not take this method.")
        })
        .layer(DefaultBodyLimit::max(services.config.body))
        // Outside of the limits of bodies, which therefore hold for what is in them.
        .layer(middleware::from_fn_with_state(inflation(&services.config), inflate))
        .layer(middleware::from_fn_with_state(Shared(Arc::clone(services)), with_room))
        .layer(middleware::from_fn_with_state(services.config.request, in_time))
        .layer(middleware::from_fn_with_state(Shared(Arc::clone(services)), audited))
        .layer(middleware::from_fn(traced))
        .layer(middleware::from_fn(count))
        .layer(middleware::from_fn_with_state(Shared(Arc::clone(services)), log_refusals))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(SetResponseHeaderLayer::if_not_present(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        // An answer that is no page needs nothing from anywhere, and no frame.
        .layer(SetResponseHeaderLayer::if_not_present(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(NO_PAGE)))
        .layer(SetResponseHeaderLayer::if_not_present(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")))
        // Every answer depends on who asks; tokens above all must stay out of caches.
        .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(cors(services))
}

/// Exempts a request from the limit on its time. A request that takes as long as its body has limits on that instead.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimeoutExemption(Arc<AtomicBool>);

impl TimeoutExemption {
    /// Lifts the limit, for this request.
    pub(crate) fn claim(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ends a request that takes too long to be answered; how long the answer's body takes is another matter.
async fn in_time(State(limit): State<Duration>, mut request: Request, next: Next) -> Response {
    let exemption = TimeoutExemption::default();
    request.extensions_mut().insert(exemption.clone());
    let mut answered = std::pin::pin!(next.run(request));
    match timeout(limit, answered.as_mut()).await {
        Ok(response) => response,
        Err(_) if exemption.0.load(Ordering::Relaxed) => answered.await,
        Err(_) => ApiError::unavailable("too_slow", "The request took too long. Try again.").into_response(),
    }
}

/// Gives a request's body its place among all that is taken in: of its connection, and of its client's address until its account is known.
async fn with_room(
    State(services): State<Shared>,
    connection: Option<Extension<uploads::Connection>>,
    Client(client): Client,
    mut request: Request,
    next: Next,
) -> Response {
    if !request.body().is_end_stream() {
        let connection = connection.map(|Extension(connection)| connection).unwrap_or_default();
        let upload = services.backend.uploads.upload(&connection, Owner::Address(client));
        request.extensions_mut().insert(upload);
    }
    next.run(request).await
}

/// Makes a span of a sampled request: of one whose client samples it, and by chance of others. The client is told its place.
async fn traced(request: Request, next: Next) -> Response {
    if !traces::are_on() {
        return next.run(request).await;
    }
    let parent = request.headers().get(TRACEPARENT).and_then(|header| Parent::parse(header.to_str().ok()?));
    let Some(mut span) = Open::begin("request", Kind::Server, parent) else { return next.run(request).await };
    span.note("http.request.method", request.method());
    // The route and not the path, which holds ids.
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        span.note("http.route", &route.as_str());
    }
    let context = span.context();
    let logged = info_span!("request", trace = format!("{:032x}", context.trace), user = Empty);
    let mut response = traces::within(Some(context), next.run(request)).instrument(logged).await;
    span.note("http.response.status_code", &response.status().as_u16());
    if let Ok(told) = HeaderValue::from_str(&context.to_string()) {
        response.headers_mut().insert(TRACEPARENT, told);
    }
    response
}

/// Counts by version of HTTP, and by outcome. Paths are left out: they hold ids.
async fn count(request: Request, next: Next) -> Response {
    let version = match request.version() {
        Version::HTTP_3 => "3",
        Version::HTTP_2 => "2",
        _ => "1",
    };
    metrics::counter!("motience_http_requests_total", "version" => version).increment(1);
    let begun = Instant::now();
    let response = next.run(request).await;
    let first_byte = match version {
        "3" => histogram!("motience_http_first_byte_seconds", "version" => "3"),
        "2" => histogram!("motience_http_first_byte_seconds", "version" => "2"),
        _ => histogram!("motience_http_first_byte_seconds", "version" => "1"),
    };
    first_byte.since(begun);
    if let Some(span) = response.headers().get(TRACEPARENT).and_then(|header| Parent::parse(header.to_str().ok()?)) {
        first_byte.show(begun.elapsed(), span.context.trace);
    }
    let class = match response.status().as_u16() {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    metrics::counter!("motience_http_responses_total", "status" => class).increment(1);
    response
}

/// The panic's text may hold anything, so it is not sent; the panic hook has printed it.
fn panicked(_cause: Box<dyn Any + Send>) -> Response {
    ApiError::internal("a handler panicked").into_response()
}

/// Bodies with a limit of their own meet that first, and are told so in its words.
fn inflation(config: &Config) -> Inflation {
    let longest = config.body.max(config.data_body);
    Inflation { free: (longest as u64).saturating_mul(2).max(1 << 20), most: config.inflation }
}

/// Whether a page comes from the very host that it calls, on whatever port: the platform's own pages do. Tokens and not cookies
/// say who calls, so a page gets nothing by it that it does not hold already.
fn own(origin: &HeaderValue, request: &Parts) -> bool {
    let called = called_host(&request.uri, &request.headers);
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| without_port(host));
    called.is_some_and(|called| page.is_some_and(|page| page.eq_ignore_ascii_case(called)))
}

fn cors(services: &Services) -> CorsLayer {
    let named = Arc::clone(&services.origins);
    let is_named = move |origin: &HeaderValue| match &*named.read() {
        CorsOrigins::Any => true,
        CorsOrigins::Named(named) => named.iter().any(|name| name.as_bytes() == origin.as_bytes()),
    };
    let origins = match services.config.origins {
        CorsOrigins::Any => AllowOrigin::any(),
        CorsOrigins::Named(_) => AllowOrigin::predicate(move |origin, request| is_named(origin) || own(origin, request)),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(ALLOWED_HEADERS.map(HeaderName::from_static))
        .expose_headers([header::RETRY_AFTER, header::LINK])
        .max_age(CORS_MEMORY)
}
