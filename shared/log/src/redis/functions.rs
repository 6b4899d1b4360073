//! The functions that Redis runs: their source, their names, and how they come into a server.
//!
//! A library is named by what is in it. So nodes of several versions never overwrite each other's, and one that is there needs
//! not be loaded again, which a full Redis would refuse.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection};

use super::seal;

const SOURCE: &str = concat!(include_str!("../trim.lua"), include_str!("../sessions.lua"), include_str!("../motience.lua"));
/// No function, so that it needs not be loaded, and runs where Redis has no memory left.
const SWEEP: &str = concat!("#!lua flags=allow-oom\n", include_str!("../trim.lua"), include_str!("../sweep.lua"));

/// The library's name and source.
static LIBRARY: LazyLock<(String, String)> = LazyLock::new(|| {
    let hash = digest(&SHA256, SOURCE.as_bytes());
    let hash = seal::hex(&hash.as_ref()[..6]);
    let name = format!("motience_{hash}");
    let source = format!("#!lua name={name}\n{}", SOURCE.replace("LIBRARY_", &format!("{name}_")));
    (name, source)
});

/// A call of one of them.
pub(super) fn call(name: &str) -> Cmd {
    let mut call = redis::cmd("FCALL");
    call.arg(format!("{}_{name}", LIBRARY.0));
    call
}

/// A call of the script that removes the oldest records of a log; it still lacks its keys.
pub(super) fn sweep() -> Cmd {
    let mut call = redis::cmd("EVAL");
    call.arg(SWEEP);
    call
}

/// A call of the script that grants a slice of a shared bucket; it still lacks its key.
pub(super) fn lease() -> Cmd {
    let mut call = redis::cmd("EVAL");
    call.arg(include_str!("../lease.lua"));
    call
}

/// Loads the library where the server does not have it.
pub(super) async fn load(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let (name, source) = &*LIBRARY;
    let there: Value = redis::cmd("FUNCTION").arg("LIST").arg("LIBRARYNAME").arg(name).query_async(connection).await?;
    if matches!(&there, Value::Array(found) if !found.is_empty()) {
        return Ok(());
    }
    match redis::cmd("FUNCTION").arg("LOAD").arg(source).query_async::<Value>(connection).await {
        // Another node was faster.
        Err(e) if e.to_string().contains("already exists") => Ok(()),
        result => result.map(drop),
    }
}
