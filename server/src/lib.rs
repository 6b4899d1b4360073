//! The Motience server: accounts, subscriptions, data streams, QUIC ingest and the WebSocket gateway, in one process or
//! in many.

pub mod ingest;
