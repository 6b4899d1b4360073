//! The harness's own hands in the databases: the rows of `data_history`, and the lock of a log's file.

use std::path::Path;

use anyhow::Result;
use sqlx::{Connection as _, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{record, verify::Row};

const ROWS: &str = "SELECT CAST(producer_id AS BIGINT), CAST(payload AS TEXT) FROM data_history ORDER BY id";

pub(crate) async fn postgres(url: &str) -> Result<Vec<Row>> {
    let mut connection = PgConnection::connect(url).await?;
    let rows: Vec<(i64, String)> = sqlx::query_as(ROWS).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows.into_iter().map(row).collect())
}

pub(crate) async fn sqlite(path: &Path) -> Result<Vec<Row>> {
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path).read_only(true)).await?;
    let rows: Vec<(i64, String)> = sqlx::query_as(ROWS).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows.into_iter().map(row).collect())
}

/// How many places the log in this file has given out, over all producers.
pub(crate) async fn places(log: &Path) -> Result<i64> {
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(log).read_only(true)).await?;
    let (places,): (i64,) = sqlx::query_as("SELECT COALESCE(SUM(last), 0) FROM logs").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(places)
}

/// The write lock of a SQLite file, as another process may hold it: a backup, a slow disk.
pub(crate) struct Held(SqliteConnection);

impl Held {
    pub(crate) async fn take(path: &Path) -> Result<Self> {
        let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
        Ok(Self(connection))
    }

    pub(crate) async fn release(mut self) -> Result<()> {
        sqlx::query("ROLLBACK").execute(&mut self.0).await?;
        Ok(self.0.close().await?)
    }
}

fn row((producer, data): (i64, String)) -> Row {
    Row { producer, id: record::read_data(&data).map_err(|e| format!("{e:#}")) }
}
