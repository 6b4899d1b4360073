//! Real servers for tests: a private PostgreSQL or Redis on a free port, with its data in a folder that goes with it.
//!
//! They are the installed programs; one that is missing is a failed test that names its Debian package, never a skipped one. They
//! end when dropped, and also when the test process dies without dropping anything. The functions panic: they are for tests only.

mod pgbouncer;
mod postgres;
mod process;
mod redis;
mod redis_cluster;
mod sentinel;

pub use self::{
    pgbouncer::PgBouncer,
    postgres::Postgres,
    process::{lasting_ports, port_settings},
    redis::Redis,
    redis_cluster::RedisCluster,
    sentinel::Sentinels,
};
