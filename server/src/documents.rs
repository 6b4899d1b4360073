//! `motience-server openapi`: the documents of the interfaces, without a server.

use crate::{accounts, cli::Document, data, subscriptions};

/// A document as JSON.
pub(crate) fn text(document: Document) -> serde_json::Result<String> {
    match document {
        Document::Ap => accounts::document().to_pretty_json(),
        Document::Sm => subscriptions::document().to_pretty_json(),
        Document::Dsm => data::document().to_pretty_json(),
        Document::Asyncapi => serde_json::to_string_pretty(&crate::asyncapi::document()),
    }
}
