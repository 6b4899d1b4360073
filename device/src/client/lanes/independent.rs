//! The independent lane's writer: a stream for each group, and for redundant transmissions that no group took along in time.

use bytes::BytesMut;
use motience_proto::wire::{Record, StreamKind};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{GROUP, GROUP_BYTES, Uplink, send_stream};
use crate::client::Error;

/// Writes what comes until the queue closes or the connection ends.
pub(super) async fn write(uplink: &Uplink, mut queue: mpsc::Receiver<Record>) -> Result<(), Error> {
    let mut group = Vec::with_capacity(GROUP);
    loop {
        let deadline = uplink.redundant.lock().deadline();
        let count = tokio::select! {
            biased;
            count = queue.recv_many(&mut group, GROUP) => count,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                let standalone = uplink.redundant.lock().standalone(Instant::now());
                if !standalone.is_empty() {
                    let mut buffer = BytesMut::with_capacity(1 + standalone.len());
                    StreamKind::Independent.encode(&mut buffer);
                    buffer.unsplit(standalone);
                    send_stream(&uplink.connection, buffer.freeze()).await?;
                }
                continue;
            }
        };
        if count == 0 {
            return Ok(());
        }
        send(uplink, &mut group).await?;
    }
}

async fn send(uplink: &Uplink, group: &mut Vec<Record>) -> Result<(), Error> {
    // One time for all of it: a redundant transmission that is due only now must not piggyback on its own record's packet.
    let now = Instant::now();
    uplink.observe(now);
    uplink.redundant.lock().begin(now, group.len(), &uplink.settings, &uplink.meter);
    let mut buffer = BytesMut::new();
    let count = group.len();
    for (n, record) in group.drain(..).enumerate() {
        if buffer.is_empty() {
            StreamKind::Independent.encode(&mut buffer);
        }
        let (seq, start) = (record.seq, buffer.len());
        uplink.encode(record, &mut buffer);
        uplink.redundant.lock().sent(now, seq, &buffer[start..]);
        let last = n + 1 == count;
        if last {
            uplink.redundant.lock().piggyback(now, &mut buffer);
        }
        if last || buffer.len() >= GROUP_BYTES {
            send_stream(&uplink.connection, buffer.split().freeze()).await?;
        }
    }
    Ok(())
}
