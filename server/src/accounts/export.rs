//! `GET /account/export`: everything that is held about the caller's account, as a ZIP of JSON.
//!
//! ```text
//! rows and records, a part at a time -> a thread that compresses -> pieces, a few at a time -> body
//! ```

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use motience_auth::Grant;
use motience_backend::Backend;
use motience_http::{ApiError, Bearer};
use motience_proto::model::{Offset, Role};
use motience_store::{PERSONAL_TABLES, PersonalRows, PersonalTable, Store};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tracing::{info, warn};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::http::Shared;

/// Exports of a node at once: each has a thread for as long as its client takes to read it.
const AT_ONCE: usize = 2;
/// Pieces that wait for the client.
const PIECES: usize = 4;
/// Bytes of a piece.
const PIECE: usize = 64 * 1024;
/// Longest wait for rows of a replica: the database itself can be asked.
const REPLICA_LIMIT: Duration = Duration::from_secs(3);
/// Bytes of records read at once.
const READ: usize = 256 * 1024;

static EXPORTS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE)));

/// Everything that is held about the caller's account: `TABLE.ndjson` for each table that has rows about it, without secrets, and
/// `records.ndjson` with the records in a producer's log.
#[utoipa::path(get, path = "/account/export", tag = "account", security(("bearer" = [])), responses(
    (status = 200, description = "The archive", content((String = "application/zip"))),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which exports nothing"),
    (status = 503, description = "The database is unreachable, or others are exporting"),
))]
pub(super) async fn export(State(services): State<Shared>, Bearer(grant): Bearer) -> Result<Response, ApiError> {
    let permit = Arc::clone(&EXPORTS)
        .try_acquire_owned()
        .map_err(|_| ApiError::unavailable("busy", "Others are exporting their accounts. Try again in a moment."))?;
    // An answer that begins comes to its end, unless the database is lost on the way.
    services.backend.store.ping().await?;
    info!(user = %grant.user, "an account is exported");
    services.backend.record_of_account("account.export", grant.user, grant.user, Value::Null).await;
    let (pieces, read) = mpsc::channel(PIECES);
    let (backend, runtime) = (Arc::clone(&services.backend), Handle::current());
    tokio::task::spawn_blocking(move || archive(&backend, &grant, &runtime, &pieces, permit));
    let body = stream::unfold(read, |mut read| async { read.recv().await.map(|piece| (piece, read)) });
    let mut response = Body::from_stream(body).into_response();
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, "application/zip"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"motience-account.zip\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    response.headers_mut().extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
    Ok(response)
}

/// Writes the archive. A failure cuts the answer off, which its reader sees: the list of an archive comes last.
fn archive(backend: &Backend, grant: &Grant, runtime: &Handle, pieces: &mpsc::Sender<io::Result<Bytes>>, _permit: OwnedSemaphorePermit) {
    let mut zip = ZipWriter::new_stream(Pieces { gathered: Vec::with_capacity(PIECE), pieces: pieces.clone() });
    let written = tables(&mut zip, backend, grant, runtime).and_then(|()| records(&mut zip, backend, grant, runtime));
    let written = written.and_then(|()| Ok(zip.finish()?.into_inner().flush()?));
    if let Err(e) = written {
        warn!(error = %e, user = %grant.user, "an export has ended early");
        // Nobody may be there to be told.
        let _ = pieces.blocking_send(Err(io::Error::other("the export has ended early")));
    }
}

fn tables<W: Write + io::Seek>(zip: &mut ZipWriter<W>, backend: &Backend, grant: &Grant, runtime: &Handle) -> anyhow::Result<()> {
    for table in PERSONAL_TABLES {
        let mut position = Some(0);
        let mut is_begun = false;
        while let Some(from) = position {
            let part = runtime.block_on(part(&backend.store, table, grant, from))?;
            if !part.rows.is_empty() && !std::mem::replace(&mut is_begun, true) {
                begin(zip, table.name)?;
            }
            for row in &part.rows {
                zip.write_all(row.as_bytes())?;
                zip.write_all(b"\n")?;
            }
            position = part.next;
        }
    }
    Ok(())
}

/// Rows of the history come from a replica where there is one, but for the last, which it may not have yet.
async fn part(store: &Store, table: &PersonalTable, grant: &Grant, from: i64) -> Result<PersonalRows, motience_store::Error> {
    if let Some(replica) = store.replica_of(grant.user.producer()).filter(|_| table.is_history()) {
        match timeout(REPLICA_LIMIT, replica.personal_rows(table, grant.user, from)).await {
            Ok(Ok(part)) if part.next.is_some() => return Ok(part),
            Ok(Ok(_)) => {}
            Ok(Err(e)) => store.replica_failed(&e),
            Err(e) => store.replica_failed(&e),
        }
    }
    store.personal_rows(table, grant.user, from).await
}

/// The records of a producer's log, as consumers receive them.
fn records<W: Write + io::Seek>(zip: &mut ZipWriter<W>, backend: &Backend, grant: &Grant, runtime: &Handle) -> anyhow::Result<()> {
    if grant.role != Role::Producer {
        return Ok(());
    }
    let (log, key) = (backend.relay.log(), grant.log_key());
    let last = runtime.block_on(log.bounds(key))?.last;
    let mut after = Offset(0);
    begin(zip, "records")?;
    while after < last {
        let fetch = runtime.block_on(log.read(key, after, READ))?;
        let Some(newest) = fetch.batches.last() else { return Ok(()) };
        let newest = newest.last();
        for entry in fetch.batches.iter().flat_map(|batch| batch.entries()).filter(|entry| !entry.is_erased()) {
            zip.write_all(&entry.message)?;
            zip.write_all(b"\n")?;
        }
        after = newest;
    }
    Ok(())
}

fn begin<W: Write + io::Seek>(zip: &mut ZipWriter<W>, name: &str) -> anyhow::Result<()> {
    // Longer than 4 GiB, if it must be: that has to be said before its length is known.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).large_file(true);
    Ok(zip.start_file(format!("{name}.ndjson"), options)?)
}

/// Gathers what is written into pieces, and waits for their reader.
struct Pieces {
    gathered: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE)));
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
