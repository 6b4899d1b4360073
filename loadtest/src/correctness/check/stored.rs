//! The harness's own hands in what nodes keep: the rows of `data_history`, and the files of a log.

use std::{fs::File, path::Path};

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

/// Bytes of a log's segments, which grow with each record; index files beside them do not count.
pub(crate) fn size(segments: &Path) -> Result<u64> {
    let files = std::fs::read_dir(segments)?.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "segment"));
    Ok(files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum())
}

/// The lock of a log, as another process may hold it to make a copy.
pub(crate) struct Held(File);

impl Held {
    /// Waits for the end of the write that is under way.
    pub(crate) async fn take(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        Ok(tokio::task::spawn_blocking(move || file.lock().map(|()| Self(file))).await??)
    }

    pub(crate) fn release(self) -> Result<()> {
        Ok(self.0.unlock()?)
    }
}

fn row((producer, data): (i64, String)) -> Row {
    Row { producer, id: record::read_data(&data).map_err(|e| format!("{e:#}")) }
}
