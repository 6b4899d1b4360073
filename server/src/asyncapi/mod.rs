//! The AsyncAPI document: everything that streams, described once, beside the OpenAPI documents of what does not; and the page
//! that shows both.

#[cfg(test)]
mod tests;

use axum::{
    Router,
    body::Bytes,
    http::{HeaderValue, header},
    routing::{MethodRouter, get},
};
use serde_json::Value;

use crate::http::guarded;

/// The document, in one file of its own.
const DOCUMENT: &str = include_str!("asyncapi.json");

/// The document.
pub(crate) fn document() -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).expect("the embedded document is JSON: a test reads it");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document
}

/// The page at `/api-docs/`, its files, and the document. Swagger UI's own files are expected beside them.
pub(crate) fn router() -> Router {
    // Made once: a router is copied for each request, with what its handlers hold.
    let document = Bytes::from(document().to_string());
    let files = Router::new()
        .route("/api-docs/", file("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/api-docs/docs.css", file("text/css; charset=utf-8", include_str!("page/docs.css")))
        .route("/api-docs/docs.js", file("text/javascript; charset=utf-8", include_str!("page/docs.js")))
        .route(
            "/api-docs/asyncapi.json",
            get(async move || ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document)),
        );
    guarded(files)
}

fn file(kind: &'static str, text: &'static str) -> MethodRouter {
    get(move || async move { ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text) })
}
