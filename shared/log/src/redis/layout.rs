//! The version of what the nodes of an installation keep in Redis.
//!
//! The key `layout` has the highest layout that any node has written. A node that cannot read that layout does not start. A release that reads a
//! new layout comes before the one that writes it, so nodes may be one release apart.

use redis::{RedisError, aio::MultiplexedConnection};
use tracing::warn;

/// The layout that this version writes, which is also the newest that it reads. 1: an entry for each record; 2: chunks of records.
pub(super) const LAYOUT: u64 = 2;

/// Notes this version's layout under `key`. Returns the one of a newer version, if this one cannot read it.
pub(super) async fn check(connection: &mut MultiplexedConnection, key: &str) -> Result<Option<u64>, RedisError> {
    let mut note = redis::cmd("SET");
    note.arg(key).arg(LAYOUT).arg("NX").arg("GET");
    let noted: Option<u64> = match note.query_async(connection).await {
        // Room can be made, and replicas come back: the layout is noted with the next connection.
        Err(e) if is_passing(&e) => {
            warn!(error = %e, "the layout of this version cannot be noted in Redis yet");
            return Ok(None);
        }
        noted => noted?,
    };
    match noted {
        Some(newer) if newer > LAYOUT => return Ok(Some(newer)),
        Some(older) if older < LAYOUT => redis::cmd("SET").arg(key).arg(LAYOUT).exec_async(connection).await?,
        _ => {}
    }
    Ok(None)
}

/// Whether Redis only takes no writes now.
pub(super) fn is_passing(error: &RedisError) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS"))
}
