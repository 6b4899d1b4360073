//! The page of each document at `/api-docs/`: Swagger UI within a frame of our own, with a second tab where the service streams.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::Path,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Redirect, Response},
    routing::{MethodRouter, get},
};
use motience_http::{ApiError, compression};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{
        Content, OpenApi, Ref, RefOr, Server,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::shapes::Problem;

/// Swagger UI sets styles within the page and shows pictures that it carries with it; requests are tried on the service itself.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// The page of a service that streams: `TITLE` stands for that of the document, and the other services have no lines with `streams`.
const PAGE: &str = include_str!("docs/index.html");

/// A document and its page, of a service that is found under `prefix`. `streams`: the AsyncAPI document is beside it.
///
/// Addresses are relative to where the document or the page is found, so that they hold behind a proxy which takes a prefix off. The
/// document is kept as bytes: a router is copied for each request, and whatever its handlers hold is copied with it.
pub(super) fn documented(prefix: &str, streams: bool, document: OpenApi) -> Router {
    let mut document = completed(document);
    let page = page(&document.info.title, streams);
    // The folder above `api-docs/`.
    document.servers = Some(vec![Server::new("..")]);
    let document = Bytes::from(document.to_json().expect("the names in a document are texts, so it is JSON"));
    let config = Arc::new(utoipa_swagger_ui::Config::from("openapi.json"));
    let at = |name: &str| format!("{prefix}/api-docs{name}");
    guarded(
        Router::new()
            .route(&at(""), get(async || Redirect::temporary("api-docs/")))
            .route(&at("/"), file("text/html; charset=utf-8", page))
            .route(&at("/openapi.json"), file("application/json", document))
            .route(&at("/docs.css"), file("text/css; charset=utf-8", Bytes::from_static(include_bytes!("docs/docs.css"))))
            .route(&at("/docs.js"), file("text/javascript; charset=utf-8", Bytes::from_static(include_bytes!("docs/docs.js"))))
            .route(&at("/{*name}"), get(move |Path(name): Path<String>| async move { part(&name, config) })),
    )
}

fn page(title: &str, streams: bool) -> Bytes {
    let lines = PAGE.lines().filter(|line| streams || !line.contains("streams"));
    lines.fold(String::new(), |page, line| page + line + "\n").replace("TITLE", title).into()
}

/// Pages of documents, which nobody may frame, and which run no scripts but their own.
pub(crate) fn guarded(router: Router) -> Router {
    let set = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    router.layer(compression()).layer(set(header::CONTENT_SECURITY_POLICY, POLICY)).layer(set(header::REFERRER_POLICY, "no-referrer"))
}

/// A file that is made once and given to everybody.
pub(crate) fn file(kind: &'static str, bytes: Bytes) -> MethodRouter {
    get(move || async move { ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], bytes) })
}

/// A file of Swagger UI.
fn part(name: &str, config: Arc<utoipa_swagger_ui::Config<'static>>) -> Result<Response, ApiError> {
    let found = utoipa_swagger_ui::serve(name, config).map_err(ApiError::internal)?;
    let file = found.ok_or_else(|| ApiError::not_found("There is nothing at this path."))?;
    // Megabytes that stand in the program already are not copied for each who asks.
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let mut response = ([(header::CONTENT_TYPE, file.content_type)], bytes).into_response();
    if file.gzpipped {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// Completes a document with the parts that hold for every operation: how to authenticate, and the form of every refusal.
pub(crate) fn completed(mut document: OpenApi) -> OpenApi {
    let bearer = SecurityScheme::Http(Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build());
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", bearer);
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let problem = RefOr::T(Content::new(Some(Ref::from_schema_name(Problem::name()))));
    let operations =
        document.paths.paths.values_mut().flat_map(|item| [&mut item.get, &mut item.post, &mut item.put, &mut item.delete]).flatten();
    for (status, response) in operations.flat_map(|operation| &mut operation.responses.responses) {
        if let RefOr::T(response) = response
            && status.as_str() >= "400"
        {
            response.content.insert("application/problem+json".to_owned(), problem.clone());
        }
    }
    document
}
