//! Answers in a shorter form for clients that can read it (`Accept-Encoding`: zstd, gzip).
//!
//! Only long answers that are no streams have it: history, documents, pages. A stream has to pass on each record at once. An answer with a token
//! in it is never compressed: its length would tell something of the token to whoever can add text to the answer (BREACH).

use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, predicate::SizeAbove},
};

/// Shortest answer that is worth it, in bytes.
const SHORTEST: u16 = 1024;

/// The layer of one route or router.
pub fn compression() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(SizeAbove::new(SHORTEST.into()))
}
