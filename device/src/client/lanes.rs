//! Records up: what is queued is encoded into one buffer and written at once.
//!
//! - `ordered`: one long stream; a lost packet delays what follows it. Cheapest.
//! - `independent`: a stream for each group that is queued at the moment; a lost packet delays only its group.

use bytes::{Bytes, BytesMut};
use motience_shared::wire::{Frame, Record, StreamKind};
use quinn::{Connection, SendStream, WriteError};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Error;

/// Records that wait for a lane's writer.
pub(super) const QUEUE: usize = 1024;
/// Records taken from the queue at once.
const GROUP: usize = 256;
/// Bytes after which a group is written, whatever else is queued.
const GROUP_BYTES: usize = 64 * 1024;

/// The way a record takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// After the record before it, and held up where that one is.
    Ordered,
    /// By itself.
    #[default]
    Independent,
}

/// Writes what comes to the lane until the queue closes or the connection ends.
pub(super) async fn write(lane: Lane, connection: Connection, mut queue: mpsc::Receiver<Record>) -> Result<(), Error> {
    let mut group = Vec::with_capacity(GROUP);
    let mut buffer = BytesMut::new();
    let mut stream = None;
    while queue.recv_many(&mut group, GROUP).await > 0 {
        for record in group.drain(..) {
            if buffer.is_empty() && (lane == Lane::Independent || stream.is_none()) {
                kind(lane).encode(&mut buffer);
            }
            Frame::Record(record).encode(&mut buffer);
            if buffer.len() >= GROUP_BYTES {
                flush(lane, &connection, &mut stream, buffer.split().freeze()).await?;
            }
        }
        if !buffer.is_empty() {
            flush(lane, &connection, &mut stream, buffer.split().freeze()).await?;
        }
    }
    if let Some(mut stream) = stream {
        // An error says that the stream is closed, which is what is wanted.
        let _ = stream.finish();
    }
    Ok(())
}

fn kind(lane: Lane) -> StreamKind {
    match lane {
        Lane::Ordered => StreamKind::Ordered,
        Lane::Independent => StreamKind::Independent,
    }
}

async fn flush(lane: Lane, connection: &Connection, long: &mut Option<SendStream>, bytes: Bytes) -> Result<(), Error> {
    match lane {
        Lane::Ordered => {
            if long.is_none() {
                *long = Some(connection.open_uni().await?);
            }
            let Some(stream) = long.as_mut() else { return Ok(()) };
            stream.write_chunk(bytes).await.map_err(lost)
        }
        Lane::Independent => {
            let mut stream = connection.open_uni().await?;
            stream.write_chunk(bytes).await.map_err(lost)?;
            // Dropping would reset it; an error says that the connection is gone, and the reader sees that.
            let _ = stream.finish();
            Ok(())
        }
    }
}

pub(super) fn lost(error: WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(error) => error.into(),
        error => Error::Protocol(format!("the server stopped reading: {error}")),
    }
}
