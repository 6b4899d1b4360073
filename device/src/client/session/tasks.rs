//! Tasks of a session, each of which reads or writes one kind of stream. None waits for another.

use std::sync::Arc;

use bytes::BytesMut;
use motience_proto::wire::{CloseCode, Frame, Limits, StreamKind};
use quinn::{Connection, SendStream, VarInt};
use tokio::{sync::mpsc, task::JoinSet, time};

use super::{CONTROL, Event, LAST_WORD, event::event};
use crate::client::{
    Error,
    frames::Frames,
    lanes::{self, Uplink},
    tunnel::Source,
};

/// Entries in one event.
const MAX_ENTRIES: usize = 256;

/// Closes a connection whose server broke the protocol.
pub(super) fn broken(connection: &Connection, reason: String) -> Error {
    connection.close(VarInt::from_u32(CloseCode::Protocol.number()), reason.as_bytes());
    Error::Protocol(reason)
}

pub(super) async fn put(stream: &mut SendStream, frames: &[Frame]) -> Result<(), Error> {
    let mut buffer = BytesMut::new();
    for frame in frames {
        frame.encode(&mut buffer);
    }
    stream.write_chunk(buffer.freeze()).await.map_err(lanes::lost)
}

pub(super) async fn write_control(mut stream: SendStream, mut queue: mpsc::Receiver<Frame>) -> Result<(), Error> {
    let mut frames = Vec::new();
    while queue.recv_many(&mut frames, CONTROL).await > 0 {
        put(&mut stream, &frames).await?;
        frames.clear();
    }
    Ok(())
}

/// Ends with the tunnel: then the events end, which tells the session.
pub(super) async fn read_tunnel(mut source: Source, events: mpsc::Sender<Event>) -> Result<(), Error> {
    loop {
        let frame = source.next().await?;
        if let Some(event) = event(frame)?
            && events.send(event).await.is_err()
        {
            return Ok(());
        }
    }
}

pub(super) async fn read_control(
    connection: Connection,
    mut frames: Frames,
    uplink: Option<Arc<Uplink>>,
    events: mpsc::Sender<Event>,
) -> Result<(), Error> {
    while let Some(frame) = frames.next().await? {
        if let (Frame::TemplateAccepted(accepted), Some(uplink)) = (&frame, &uplink) {
            uplink.template_accepted(accepted.id);
            continue;
        }
        let Some(event) = event(frame)? else { continue };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
    // The close that explains the end of the stream travels beside it.
    let end = time::timeout(LAST_WORD, connection.closed()).await;
    Err(end.map_or_else(|_| Error::Lost("the server ended the control stream".into()), Error::from))
}

/// Takes every stream the server opens and reads it in a task of its own.
pub(super) async fn accept_deliveries(connection: Connection, limits: Limits, events: mpsc::Sender<Event>) -> Result<(), Error> {
    let mut deliveries = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // QUIC bounds how many there can be: `max_deliveries`.
            stream = connection.accept_uni() => {
                deliveries.spawn(read_delivery(Frames::new(stream?, limits), events.clone()));
            }
            Some(ended) = deliveries.join_next() => match ended {
                Ok(result) => result?,
                Err(error) => return Err(Error::Lost(error.to_string())),
            },
        }
    }
}

async fn read_delivery(mut frames: Frames, events: mpsc::Sender<Event>) -> Result<(), Error> {
    let producer = match (frames.kind().await?, frames.next().await?) {
        (Some(StreamKind::Delivery), Some(Frame::Cursor(cursor))) => {
            let producer = cursor.producer;
            if events.send(Event::Cursor(cursor)).await.is_err() {
                return Ok(());
            }
            producer
        }
        (None, _) | (_, None) => return Ok(()),
        _ => return Err(Error::Protocol("a stream that is no delivery stream".into())),
    };
    while let Some(first) = frames.next().await? {
        let mut entries = Vec::new();
        let mut frame = Some(first);
        let mut other = None;
        while let Some(next) = frame {
            match next {
                Frame::Entry(entry) => entries.push(entry),
                Frame::Cursor(cursor) if cursor.producer == producer => other = Some(Event::Cursor(cursor)),
                Frame::Gap(gap) if gap.producer == producer => other = Some(Event::Gap(gap)),
                wrong => return Err(Error::Protocol(format!("{} on a delivery stream", wrong.name()))),
            }
            if other.is_some() || entries.len() == MAX_ENTRIES {
                break;
            }
            frame = frames.buffered()?;
        }
        let entries = (!entries.is_empty()).then_some(Event::Entries { producer, entries });
        for event in entries.into_iter().chain(other) {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
