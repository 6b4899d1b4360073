//! Pieces that tests and measurements share: a server, accounts, devices, consumers of every egress, and flows of records between them.

pub(crate) mod accounts;
pub(crate) mod consumers;
pub(crate) mod devices;
pub(crate) mod egress;
pub(crate) mod flow;
pub(crate) mod mqtt;
pub(crate) mod part;
pub(crate) mod payload;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod report;
pub(crate) mod seen;
pub(crate) mod server;
