//! Records on their way in: each unidirectional stream is a lane. What one read brings is one group, and one group is
//! one submission to the log's writer.

use bytes::BytesMut;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use motience_shared::{
    model::RangeSet,
    relay::{Publisher, Refusal},
    wire::{CloseCode, Frame, Limits, Refused, StreamKind},
};
use quinn::{Connection, RecvStream};

use super::{
    connection::{Ending, READ},
    control::unexpected,
    producer::Outcomes,
};

/// Reads every lane the device opens, until the connection ends. How many at once is bounded by the transport.
pub(super) async fn read_all(connection: &Connection, max_record: usize, publisher: &Publisher, outcomes: &Outcomes) -> Result<(), Ending> {
    let limits = Limits::for_records(max_record);
    let mut lanes = FuturesUnordered::new();
    loop {
        tokio::select! {
            lane = connection.accept_uni() => lanes.push(read(lane?, limits, publisher, outcomes)),
            Some(ended) = lanes.next() => ended?,
        }
    }
}

async fn read(mut lane: RecvStream, limits: Limits, publisher: &Publisher, outcomes: &Outcomes) -> Result<(), Ending> {
    let mut buffer = BytesMut::new();
    let mut opened = false;
    loop {
        let Some(chunk) = lane.read_chunk(READ, true).await? else {
            return if buffer.is_empty() { Ok(()) } else { Err(Ending::new(CloseCode::Protocol, "a lane ends within a record")) };
        };
        // The one copy: from here on a record is a slice of this buffer.
        buffer.extend_from_slice(&chunk.bytes);
        if !opened {
            match StreamKind::decode(&mut buffer)? {
                Some(StreamKind::Ordered | StreamKind::Independent) => opened = true,
                Some(StreamKind::Feed) => return Err(Ending::new(CloseCode::Protocol, "a device opens no feed")),
                None => continue,
            }
        }
        submit(&mut buffer, limits, publisher, outcomes).await?;
    }
}

/// Submits all complete records in the buffer as one group.
async fn submit(buffer: &mut BytesMut, limits: Limits, publisher: &Publisher, outcomes: &Outcomes) -> Result<(), Ending> {
    let mut group = publisher.group();
    let mut records = RangeSet::new();
    let mut refusals = Vec::new();
    while let Some(frame) = Frame::decode(buffer, limits)? {
        let Frame::Record(record) = frame else { return Err(unexpected(&frame)) };
        metrics::counter!("motience_records_received_total").increment(1);
        match group.push(record.seq, record.json) {
            Ok(()) => {
                records.insert(record.seq.0);
            }
            Err(Refusal::Invalid(invalid)) => {
                group.skip(record.seq);
                refusals.push(Refused { seq: record.seq, code: invalid.code().to_owned(), message: invalid.to_string() });
            }
            Err(e @ Refusal::TooScattered) => return Err(Ending::new(CloseCode::Protocol, e.to_string())),
            Err(Refusal::Ended(e)) => return Err(e.into()),
        }
    }
    if !records.is_empty() || !refusals.is_empty() {
        match group.submit().await {
            Ok(ticket) => outcomes.submitted(ticket, records),
            Err(Refusal::Ended(e)) => return Err(e.into()),
            Err(e) => return Err(Ending::new(CloseCode::Internal, e.to_string())),
        }
    }
    for refused in refusals {
        metrics::counter!("motience_records_refused_total").increment(1);
        outcomes.refused.send(refused).await.map_err(|_| Ending::Gone("the control stream has ended".into()))?;
    }
    Ok(())
}
