//! The two databases: how each is opened, migrated and closed.

pub(crate) mod postgres;
pub(crate) mod sqlite;
