//! The AsyncAPI document: everything that streams, described once, beside the OpenAPI documents of what does not.

use serde_json::Value;

/// The document, in one file of its own.
const DOCUMENT: &str = include_str!("asyncapi.json");

/// The document.
pub(crate) fn document() -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).expect("the embedded document is JSON: a test reads it");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document
}
