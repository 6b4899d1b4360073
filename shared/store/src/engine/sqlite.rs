//! Opens an SQLite database.
//!
//! Write-ahead log, so that readers and the writer never wait for each other. `synchronous = FULL`: each commit is on the disk
//! before it is answered, so an account that was told "created" is still there after a power cut; the writes here are few, and the
//! many of the history come in batches. One connection writes: in a single process nothing can then be `locked`.

use std::{path::Path, time::Duration};

use motience_runtime::private;
use sqlx::{
    ConnectOptions as _, Connection as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::time::timeout;

use super::newer::{self, NEEDS, NEWEST};
use crate::{ACQUIRE_LIMIT, Error, MIGRATE_LIMIT, Pools};

/// Connections that read. Reading is local and short; more would only share the same processor.
const READERS: u32 = 4;

/// How long to wait for a lock of another process (a backup, the `sqlite3` shell).
const BUSY_LIMIT: Duration = Duration::from_secs(5);

pub(crate) async fn open(path: &Path) -> Result<Pools<SqlitePool>, Error> {
    prepare_file(path).await.map_err(Error::File)?;
    let options = options().filename(path).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    let writer = pool(1).connect_with(options.clone()).await?;
    migrate(&writer).await?;
    let reader = pool(READERS).connect_with(options.pragma("query_only", "ON")).await?;
    Ok(Pools { writer, reader })
}

/// Whether the file can be read, or could be made.
pub(crate) async fn probe(path: &Path) -> Result<(), Error> {
    if path.exists() {
        let mut connection = options().filename(path).create_if_missing(false).read_only(true).connect().await?;
        sqlx::query("SELECT COUNT(*) FROM sqlite_schema").execute(&mut connection).await?;
        return Ok(connection.close().await?);
    }
    let folder = path.ancestors().skip(1).find(|folder| folder.exists() || folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Error::File(std::io::Error::other(format!("{} is no folder", folder.display()))))
        }
        _ => Ok(()),
    }
}

/// Copies the database as it is now to the file `to`, where none may be, also while servers use it.
pub(crate) async fn copy(path: &Path, to: &Path) -> Result<(), Error> {
    prepare_file(to).await.map_err(Error::File)?;
    let mut connection = options().filename(path).create_if_missing(false).connect().await?;
    let name = to.to_str().ok_or_else(|| Error::File(std::io::Error::other("the name of the copy is not text")))?;
    sqlx::query("VACUUM INTO $1").bind(name).execute(&mut connection).await?;
    connection.close().await?;
    tokio::fs::File::open(to).await.map_err(Error::File)?.sync_all().await.map_err(Error::File)
}

/// Refuses a file that this program cannot work with.
pub(crate) async fn check(path: &Path) -> Result<(), Error> {
    let pool = pool(1).connect_with(options().filename(path).create_if_missing(false).read_only(true)).await?;
    let checked = refuse_newer(&pool).await;
    pool.close().await;
    checked
}

/// Each connection to `:memory:` has a database of its own, so there is one connection, and it is never closed.
pub(crate) async fn memory() -> Result<Pools<SqlitePool>, Error> {
    let pool = pool(1).test_before_acquire(false).connect_with(options().in_memory(true)).await?;
    migrate(&pool).await?;
    Ok(Pools::one(pool))
}

fn options() -> SqliteConnectOptions {
    // Rows that are deleted are written over: neither the file nor a copy of it holds what was erased.
    SqliteConnectOptions::new().create_if_missing(true).foreign_keys(true).busy_timeout(BUSY_LIMIT).pragma("secure_delete", "ON")
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .idle_timeout(None)
        .max_lifetime(None)
}

async fn migrate(pool: &SqlitePool) -> Result<(), Error> {
    refuse_newer(pool).await?;
    timeout(MIGRATE_LIMIT, motience_migrations::sqlite().run(pool)).await.map_err(|_| Error::TimedOut)?.map_err(Error::Migrate)
}

async fn refuse_newer(pool: &SqlitePool) -> Result<(), Error> {
    newer::judge(steps(pool, "schema_needs", NEEDS).await?, steps(pool, "_sqlx_migrations", NEWEST).await?)
}

/// The answer to a question about a table; 0 where there is no such table yet.
async fn steps(pool: &SqlitePool, table: &str, question: &'static str) -> Result<i64, Error> {
    let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_schema WHERE name = $1").bind(table).fetch_one(pool).await?;
    if tables == 0 { Ok(0) } else { Ok(sqlx::query_scalar(question).fetch_optional(pool).await?.unwrap_or(0)) }
}

/// Makes the file readable to its owner only, because it holds password hashes; its journals take over the mode.
async fn prepare_file(path: &Path) -> std::io::Result<()> {
    let path = path.to_owned();
    let prepared = tokio::task::spawn_blocking(move || {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            private::folder(folder)?;
        }
        private::file(&path)
    });
    prepared.await.map_err(std::io::Error::other)?
}
