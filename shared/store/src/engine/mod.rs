//! The two databases: how each is opened, migrated and closed.

mod newer;
pub(crate) mod postgres;
pub(crate) mod sqlite;
