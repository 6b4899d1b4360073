//! A device's QUIC connection as the transport of a producer session: its control stream, its uplink streams, its datagrams.
//!
//! In: the streams and datagrams of a device's QUIC connection.
//! Out: frames, one after the other, when the session asks for one.
//! Next: `shared/session/src/producer.rs`: the session.

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use motience_cluster::Path;
use motience_limits::uploads::{Part, Upload};
use motience_proto::wire::{Frame, Limits, StreamKind, features};
use motience_session::{CloseReason, Received, Transport, Wanted};
use quinn::{Connection, RecvStream};
use tokio::time::Duration;

use super::{
    control::within,
    frames::{Control, READ},
};

/// A device's connection.
pub(super) struct Device {
    connection: Connection,
    control: Control,
    /// How long the device may leave its control stream unread.
    write: Duration,
    /// Uplink streams, each until it has brought something. The transport bounds how many there are.
    uplinks: FuturesUnordered<BoxFuture<'static, Result<Uplink, CloseReason>>>,
    /// The uplink stream whose records are given out.
    current: Option<Uplink>,
    limits: Limits,
    /// Whether datagrams were agreed on.
    datagrams: bool,
    /// Bytes of the uplink streams that were read and not given out yet.
    upload: Upload,
}

impl Device {
    /// `offered`: the abilities in its Hello; `max_record`: the longest record, in bytes.
    pub(super) fn new(connection: &Connection, control: Control, offered: u64, max_record: usize, write: Duration, upload: Upload) -> Self {
        Self {
            connection: connection.clone(),
            control,
            write,
            uplinks: FuturesUnordered::new(),
            current: None,
            limits: Limits::for_records(max_record),
            datagrams: offered & features::LATEST != 0,
            upload,
        }
    }

    /// The next record of the current uplink stream. Once it has brought no more, the stream is read on.
    fn next_record(&mut self) -> Result<Option<Frame>, CloseReason> {
        let Some(uplink) = &mut self.current else { return Ok(None) };
        if let Some(frame) = Frame::decode(&mut uplink.buffer, self.limits)? {
            return if is_record(&frame) { Ok(Some(frame)) } else { Err(CloseReason::unexpected(&frame)) };
        }
        match self.current.take() {
            Some(uplink) if !uplink.ended => self.uplinks.push(uplink.read().boxed()),
            Some(uplink) if !uplink.buffer.is_empty() => return Err(CloseReason::protocol("a lane ends within a record")),
            _ => {}
        }
        Ok(None)
    }
}

impl Transport for Device {
    const KIND: motience_proto::model::Transport = motience_proto::model::Transport::Quic;
    const FEATURES: u64 = features::COMPACT | features::LATEST;

    async fn recv(&mut self, wanted: Wanted) -> Result<Received, CloseReason> {
        let records = wanted == Wanted::All;
        loop {
            if records && let Some(record) = self.next_record()? {
                return Ok(Received::Frame(record));
            }
            tokio::select! {
                frame = self.control.recv.next() => return match frame? {
                    Some(frame) if is_record(&frame) => Err(CloseReason::unexpected(&frame)),
                    Some(frame) => Ok(Received::Frame(frame)),
                    None => Err(CloseReason::gone("the device closed its control stream")),
                },
                stream = self.connection.accept_uni(), if records => {
                    let uplink = Uplink::new(stream.map_err(CloseReason::gone)?, self.upload.part());
                    self.uplinks.push(uplink.read().boxed());
                }
                Some(uplink) = self.uplinks.next(), if records => self.current = Some(uplink?),
                datagram = self.connection.read_datagram(), if records && self.datagrams => {
                    let mut datagram = datagram.map_err(CloseReason::gone)?.into();
                    let frame = Frame::decode(&mut datagram, self.limits)?.filter(|_| datagram.is_empty());
                    return frame.map(Received::Datagram).ok_or_else(|| CloseReason::protocol("a datagram is one frame"));
                }
            }
        }
    }

    async fn send(&mut self, frames: Bytes) -> Result<(), CloseReason> {
        within(self.write, self.control.send.write_chunk(frames)).await
    }

    fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    fn count(&self, records: u64, bytes: u64) {
        super::count("producer", records, bytes);
    }

    fn path(&self) -> Option<impl Fn() -> Path + Send + Sync + 'static> {
        let path = self.connection.clone();
        Some(move || Path { rtt: path.rtt(), address: path.remote_address(), packets: path.stats().udp_rx.datagrams })
    }
}

fn is_record(frame: &Frame) -> bool {
    matches!(frame, Frame::Record(_) | Frame::Compact(_))
}

/// One uplink stream.
struct Uplink {
    stream: RecvStream,
    /// Bytes read, from the next frame on.
    buffer: BytesMut,
    /// Whether the stream's kind was read.
    opened: bool,
    /// Whether the stream has ended.
    ended: bool,
    /// Room for the buffer. Most streams hold hardly anything, and need none.
    room: Part,
}

impl Uplink {
    fn new(stream: RecvStream, room: Part) -> Self {
        Self { stream, buffer: BytesMut::new(), opened: false, ended: false, room }
    }

    /// Waits until the stream has brought something behind its kind, or has ended.
    async fn read(mut self) -> Result<Self, CloseReason> {
        loop {
            self.room.set(self.buffer.len())?;
            let chunk = self.stream.read_chunk(READ, true).await.map_err(CloseReason::gone)?;
            self.take(chunk.map(|chunk| chunk.bytes));
            // The end mostly comes with the last record.
            if !self.ended
                && let Some(next) = self.stream.read_chunk(READ, true).now_or_never()
            {
                self.take(next.map_err(CloseReason::gone)?.map(|chunk| chunk.bytes));
            }
            self.room.set(self.buffer.len())?;
            if self.is_opened()? || self.ended {
                return Ok(self);
            }
        }
    }

    /// Takes what the stream has brought; `None`: its end.
    fn take(&mut self, bytes: Option<Bytes>) {
        match bytes {
            // The one copy: from here on a record is a slice of this buffer.
            Some(bytes) => self.buffer.extend_from_slice(&bytes),
            None => self.ended = true,
        }
    }

    fn is_opened(&mut self) -> Result<bool, CloseReason> {
        if !self.opened {
            match StreamKind::decode(&mut self.buffer)? {
                Some(StreamKind::Ordered | StreamKind::Independent) => self.opened = true,
                Some(StreamKind::Delivery) => return Err(CloseReason::protocol("a device opens no delivery stream")),
                None => {}
            }
        }
        Ok(self.opened)
    }
}
