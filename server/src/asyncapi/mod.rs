//! The AsyncAPI document: everything that streams, described once, beside the OpenAPI documents of what does not.

#[cfg(test)]
mod tests;

use axum::{Router, body::Bytes};
use serde_json::Value;

use crate::http::{file, guarded};

/// The document, in one file of its own.
const DOCUMENT: &str = include_str!("asyncapi.json");

/// The document.
pub(crate) fn document() -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).expect("the embedded document is JSON: a test reads it");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document
}

/// The document beside the page of the service that streams.
pub(crate) fn router() -> Router {
    // Made once: a router is copied for each request, with what its handlers hold.
    let document = Bytes::from(document().to_string());
    guarded(Router::new().route("/api-docs/asyncapi.json", file("application/json", document)))
}
