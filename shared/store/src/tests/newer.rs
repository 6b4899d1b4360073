//! Databases that a newer release has migrated: worked with while that is safe, and refused in words afterwards.

use sqlx::{Connection as _, PgConnection, SqliteConnection};

use super::*;
use crate::Error;

/// A step that this program does not know.
const UNKNOWN: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', TRUE, ";

async fn refused(config: &Config) {
    let Err(error) = Store::open(config).await else { panic!("it is opened") };
    assert!(matches!(error, Error::Newer { needs: 998, .. }) && !error.is_unavailable(), "{error:?}");
    let known = motience_migrations::newest().to_string();
    assert!(["newer release", "998", &known, "upgrade"].iter().all(|part| error.to_string().contains(part)), "{error}");
}

#[tokio::test]
async fn a_newer_sqlite_database_is_worked_with_while_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path());
    user(&Store::open(&config).await.unwrap(), "before", Role::Producer).await;
    let path = folder.path().join("data/motience.db");
    let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{UNKNOWN} x'00', 0)"))).execute(&mut connection).await.unwrap();
    user(&Store::open(&config).await.unwrap(), "after", Role::Producer).await;
    sqlx::raw_sql("UPDATE schema_needs SET step = 998").execute(&mut connection).await.unwrap();
    refused(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_postgres_database_is_worked_with_while_it_can_be() {
    let postgres = Postgres::start().await;
    postgres.database("pooled").await;
    let pooler = PgBouncer::start(&postgres).await;
    for (database, url) in [(postgres.url(), postgres.url()), (postgres.url_of("pooled"), pooler.url("pooled"))] {
        let config = server(&url);
        // Nodes that start at once wait for each other: each step is applied once.
        let started = futures_util::future::join_all((0..4).map(|_| Store::open(&config))).await;
        for (n, store) in started.into_iter().enumerate() {
            user(&store.unwrap(), &format!("user {n}"), Role::Producer).await;
        }
        let mut connection = PgConnection::connect(&database).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{UNKNOWN} '', 0)"))).execute(&mut connection).await.unwrap();
        user(&Store::open(&config).await.unwrap(), "after", Role::Producer).await;
        sqlx::raw_sql("UPDATE schema_needs SET step = 998").execute(&mut connection).await.unwrap();
        refused(&config).await;
    }
}
