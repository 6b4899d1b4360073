//! Records on their way in: each unidirectional stream is a lane. What one read brings is one group, and one group is
//! one submission to the log's writer.

use bytes::BytesMut;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use motience_limits::uploads::{UNCOUNTED, Upload};
use motience_proto::wire::{Frame, Limits, Record, StreamKind};
use motience_relay::{Intake, Presence, Publisher};
use motience_session::CloseReason;
use quinn::{Connection, RecvStream};

use super::{frames::READ, outcomes::Outcomes, shapes::Shapes};

/// Bytes of records that are handed on as one group: a compact record is far longer than its frame.
const GROUP: usize = 256 * 1024;

/// What reading records needs.
#[derive(Clone, Copy)]
pub(super) struct Entrance<'s> {
    pub(super) publisher: &'s Publisher,
    pub(super) presence: &'s Presence,
    pub(super) outcomes: &'s Outcomes,
    pub(super) shapes: &'s Shapes,
    /// Longest record.
    pub(super) max_record: usize,
    /// What is read of the lanes and not handed on yet.
    pub(super) upload: &'s Upload,
}

/// Reads every lane the device opens, until the connection ends. How many at once is bounded by the transport.
pub(super) async fn read_all(connection: &Connection, entrance: Entrance<'_>) -> Result<(), CloseReason> {
    let mut lanes = FuturesUnordered::new();
    loop {
        tokio::select! {
            lane = connection.accept_uni() => lanes.push(read(lane.map_err(CloseReason::gone)?, entrance)),
            Some(ended) = lanes.next() => ended?,
        }
    }
}

async fn read(mut lane: RecvStream, entrance: Entrance<'_>) -> Result<(), CloseReason> {
    let limits = Limits::for_records(entrance.max_record);
    let mut buffer = BytesMut::new();
    let mut opened = false;
    // Most lanes hold hardly anything, and need no room of their own.
    let mut room = None;
    loop {
        let Some(chunk) = lane.read_chunk(READ, true).await.map_err(CloseReason::gone)? else {
            return if buffer.is_empty() { Ok(()) } else { Err(CloseReason::protocol("a lane ends within a record")) };
        };
        // The one copy: from here on a record is a slice of this buffer.
        buffer.extend_from_slice(&chunk.bytes);
        if buffer.len() > UNCOUNTED {
            room.get_or_insert_with(|| entrance.upload.part()).set(buffer.len())?;
        }
        if !opened {
            match StreamKind::decode(&mut buffer)? {
                Some(StreamKind::Ordered | StreamKind::Independent) => opened = true,
                Some(StreamKind::Feed) => return Err(CloseReason::protocol("a device opens no feed")),
                None => continue,
            }
        }
        entrance.take(&mut buffer, limits).await?;
        if let Some(room) = &mut room {
            room.set(buffer.len())?;
        }
    }
}

impl Entrance<'_> {
    /// Submits all complete records in the buffer as one group.
    async fn take(self, buffer: &mut BytesMut, limits: Limits) -> Result<(), CloseReason> {
        let mut group = Intake::new(self.publisher);
        while let Some(frame) = Frame::decode(buffer, limits)? {
            group.record(self.record(frame)?)?;
            if group.bytes() >= GROUP {
                self.submit(std::mem::replace(&mut group, Intake::new(self.publisher))).await?;
            }
        }
        self.submit(group).await
    }

    /// The record that a frame holds, in whichever form.
    pub(super) fn record(self, frame: Frame) -> Result<Record, CloseReason> {
        match frame {
            Frame::Record(record) => Ok(record),
            Frame::Compact(compact) => self.shapes.expand(&compact, self.max_record),
            other => Err(CloseReason::unexpected(&other)),
        }
    }

    async fn submit(self, group: Intake<'_>) -> Result<(), CloseReason> {
        self.presence.seen(group.new_records());
        if let Some(submitted) = group.submit().await? {
            self.outcomes.submitted(submitted).await?;
        }
        Ok(())
    }
}
