//! Flow tests: the real binary, real clients, real QUIC sockets; against the embedded backend, and against a private
//! Redis and PostgreSQL with server and gateway as processes of their own.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

mod access_table;
mod backup;
mod balanced;
mod cluster;
mod connections;
mod copies;
mod damage;
mod delivery;
mod devices;
mod egress_features;
mod embedded;
mod fleet;
mod gateway;
mod h3;
mod harness;
mod http;
mod identity;
mod keys;
mod lanes;
mod memory;
mod mixed;
mod operations;
mod operators;
mod order;
mod organisations;
mod permits;
mod quic;
mod quota_ways;
mod quotas;
mod restored;
mod scrape;
mod seed;
mod session;
mod stream;
mod subscriber_events;
mod tls;
mod token_keys;
mod toy_egress;
mod traces;
mod tunnel;
mod unread;
mod unread_cost;
mod upgrade;
mod webtransport;
