//! The migrations of the two databases, embedded into the program.
//!
//! A node applies the missing ones when it opens the store. This crate's README tells how to write one.

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

/// Number, file name and text of each step in a folder. `sqlx::migrate!` would do the same at the cost of building sqlx twice.
macro_rules! steps {
    ($folder:literal) => {
        steps! { $folder
            1 "0001_accounts"
            2 "0002_refresh_tokens"
            3 "0003_data_history"
            4 "0004_cursors"
            5 "0005_revoked_accounts"
            6 "0006_log_ids"
            8 "0008_logins"
            9 "0009_records"
            10 "0010_received"
            11 "0011_access"
            12 "0012_devices"
            13 "0013_keys"
            14 "0014_schema_needs"
            15 "0015_organisations"
            16 "0016_external_identities"
            17 "0017_keep"
            18 "0018_history_partitions"
            19 "0019_external_ends"
            20 "0020_retention_classes"
            21 "0021_spent_tokens"
            22 "0022_many_accounts"
        }
    };
    ($folder:literal $($number:literal $name:literal)*) => {
        [$(($number, $name, include_str!(concat!("../", $folder, "/", $name, ".sql")))),*]
    };
}

/// The migrations of an embedded (SQLite) store.
pub fn sqlite() -> Migrator {
    migrator(steps!("sqlite"))
}

/// The migrations of a clustered (PostgreSQL) store. Several nodes may start at once: the migrator takes a lock in the database.
pub fn postgres() -> Migrator {
    migrator(steps!("postgres"))
}

/// The newest step that this program knows.
pub fn newest() -> i64 {
    steps!("sqlite").into_iter().map(|(number, ..)| number).max().unwrap_or(0)
}

/// While a cluster is upgraded node by node, an old node may start on a database that a new one has already migrated.
/// Migrations expand first, so it can work there, and a migration that it does not know is no error. Whoever opens the database asks the table
/// `schema_needs` before whether that still holds.
fn migrator<const N: usize>(steps: [(i64, &'static str, &'static str); N]) -> Migrator {
    let step = |(number, name, sql): (i64, &'static str, &'static str)| {
        let description = name.split_once('_').map_or(name, |(_, description)| description).replace('_', " ");
        Migration::new(number, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(steps.map(step).into());
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Step = (i64, String, Vec<u8>, MigrationType, bool);

    fn steps(migrator: &Migrator) -> Vec<Step> {
        let step = |step: &Migration| (step.version, step.description.to_string(), step.checksum.to_vec(), step.migration_type, step.no_tx);
        migrator.iter().map(step).collect()
    }

    #[tokio::test]
    async fn every_file_is_embedded_as_sqlx_reads_it() {
        for (folder, embedded) in [("sqlite", sqlite()), ("postgres", postgres())] {
            let found = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).await.unwrap();
            assert_eq!(steps(&embedded), steps(&found), "{folder}");
        }
    }

    #[test]
    fn both_databases_have_the_same_steps() {
        let names = |migrator: Migrator| steps(&migrator).into_iter().map(|step| (step.0, step.1)).collect::<Vec<_>>();
        assert_eq!(names(sqlite()), names(postgres()));
    }
}
