//! Databases that a newer program has changed.

use tracing::warn;

use crate::Error;

/// The lowest step that a program must know, if the database says so.
pub(super) const NEEDS: &str = "SELECT step FROM schema_needs WHERE one = 1";
/// The newest step that was applied.
pub(super) const NEWEST: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";

/// Refuses a database that no longer works with this program; says so where it is merely newer.
pub(super) fn judge(needs: i64, newest: i64) -> Result<(), Error> {
    let known = motience_migrations::newest();
    if needs > known {
        return Err(Error::Newer { needs, known });
    }
    if newest > known {
        warn!(newest, known, "a newer release has migrated the database; this program works with it, and should be upgraded too");
    }
    Ok(())
}
