//! `motience-server openapi`: the documents of the interfaces, without a server.

use crate::{ap, cli::Document, dsm, sm};

/// A document as JSON.
pub(crate) fn text(document: Document) -> serde_json::Result<String> {
    match document {
        Document::Ap => ap::document().to_pretty_json(),
        Document::Sm => sm::document().to_pretty_json(),
        Document::Dsm => dsm::document().to_pretty_json(),
        Document::Asyncapi => serde_json::to_string_pretty(&crate::asyncapi::document()),
    }
}
