//! The migrations of the two databases, embedded into the program.
//!
//! A node applies what is missing when it opens the store. How to write one is told in this crate's README.

use sqlx::migrate::Migrator;

/// The migrations of an embedded (SQLite) store.
pub fn sqlite() -> Migrator {
    tolerant(sqlx::migrate!("./sqlite"))
}

/// The migrations of a clustered (PostgreSQL) store. Several nodes may start at once: the migrator takes a lock in the database.
pub fn postgres() -> Migrator {
    tolerant(sqlx::migrate!("./postgres"))
}

/// While a cluster is upgraded node by node, an old node may start on a database that a new one has already migrated.
/// Since migrations only expand, it can work there; so a migration it does not know is no error.
fn tolerant(mut migrator: Migrator) -> Migrator {
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_steps() {
        let steps = |m: Migrator| m.iter().map(|step| (step.version, step.description.to_string())).collect::<Vec<_>>();
        assert_eq!(steps(sqlite()), steps(postgres()));
        assert_eq!(sqlite().iter().count(), 9);
    }
}
