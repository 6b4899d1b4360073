//! The part of the load test that tests use too: a bad network link between two namespaces of this machine.

pub mod link;
