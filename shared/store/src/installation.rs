//! The table `installation`: one row, the name by which this installation is told from others that share a Redis with it.

use futures_util::TryFutureExt;
use motience_auth::random_id;

use super::{Error, Store, on};

impl Store {
    /// The installation's id, made at the first start: whoever uses the same database is part of the same installation. A copy of the
    /// database is so too, and needs a Redis of its own.
    pub async fn installation(&self) -> Result<String, Error> {
        // Of several nodes that start at once one makes it, and all read that one.
        let new = &random_id()[..ID_DIGITS];
        on!(self, writer, |db| sqlx::query(MAKE).bind(new).execute(db).map_ok(drop))?;
        on!(self, writer, |db| sqlx::query_scalar::<_, String>(FIND).fetch_one(db))
    }
}

/// 64 bits: few installations share a Redis.
const ID_DIGITS: usize = 16;

const MAKE: &str = "INSERT INTO installation (one, id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING";
const FIND: &str = "SELECT id FROM installation WHERE one = 1";
