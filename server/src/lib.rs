//! The Motience server: accounts, subscriptions, data streams, QUIC ingest and the WebSocket gateway, in one process or
//! in many.

pub mod ap;
pub mod dsm;
pub mod http;
pub mod ingest;
pub mod sm;
