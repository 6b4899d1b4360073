//! The append-only file, written anew once after each restart of Redis.
//!
//! The writes of one function call stand in the file as a transaction. Where the file's tail is cut within a command of a
//! transaction, a Redis with `aof-load-truncated yes` (its default; seen in 7.0.15, `loadSingleAppendOnlyFile`) cuts the
//! file behind the last whole command, and not before the transaction. Redis forgets the half transaction, but its first
//! commands stay in the file: at the next restart they come back, among what was written since, at the same offsets.
//! A file that is rewritten from memory before that holds only what Redis has told anyone.

use redis::{ErrorKind, RedisError, ServerErrorKind, aio::MultiplexedConnection};

/// Has the file of a server that keeps one rewritten in the background, if nobody has in this run of it; the key `mark` remembers for which run it
/// was done. Failures are logged: an operator may
/// have forbidden it, and the log works without.
pub(super) async fn rewrite_aof(connection: &mut MultiplexedConnection, mark: &str, run: &str) {
    match attempt(connection, mark, run).await {
        Ok(true) => tracing::info!("Redis rewrites its append-only file, as after each restart"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "cannot ask Redis to rewrite its append-only file"),
    }
}

async fn attempt(connection: &mut MultiplexedConnection, mark: &str, run: &str) -> Result<bool, RedisError> {
    let done: Option<String> = redis::cmd("SET").arg(mark).arg(run).arg("GET").query_async(connection).await?;
    if done.as_deref() == Some(run) {
        return Ok(false);
    }
    match redis::cmd("BGREWRITEAOF").exec_async(connection).await {
        // A rewrite is under way already.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) => Ok(false),
        result => result.map(|()| true),
    }
}
