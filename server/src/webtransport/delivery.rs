//! One producer's pipeline on its way to a consumer, pulled as fast as the consumer takes it: as lines of a stream, all of them, or
//! as datagrams, the newest of each device.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use motience_proto::model::ProducerId;
use motience_relay::pipeline::{
    Event, Item, Pipeline, given_out,
    json::{self, put_line},
};
use motience_session::CloseReason;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    count,
    newest::Newest,
    session::{Outgoing, Peer},
};

/// Bytes written at once, or looked through for the newest records of one turn.
const WRITE: usize = 64 * 1024;

/// Parts of a delivery.
pub(super) struct Delivery {
    pub(super) peer: Peer,
    pub(super) producer: ProducerId,
    pub(super) pipeline: Pipeline,
    /// Whether it says when each record came.
    pub(super) received: bool,
    /// How often it says how far it is.
    pub(super) beat: Duration,
    /// Cancelled when the follow ends: nothing is written after it.
    pub(super) stop: CancellationToken,
}

/// Writes to a stream of its own until the follow ends. One that ends while its stream is full ends in the middle of a line, and says
/// so by a reset.
pub(super) async fn records(mut delivery: Delivery) -> Result<(), CloseReason> {
    let stop = delivery.stop.clone();
    let Some(stream) = stop.run_until_cancelled(delivery.peer.open_uni()).await else { return Ok(()) };
    let mut stream = stream?;
    let cursor = delivery.pipeline.cursors().get(&delivery.producer).copied().unwrap_or_default();
    let mut lines = Written::default();
    lines.put(&json!({"type": "cursor", "producer_id": delivery.producer.to_string(), "cursor": cursor.to_string()}).to_string());
    let mut beat = Instant::now() + delivery.beat;
    loop {
        if !lines.out.is_empty() {
            if stop.is_cancelled() {
                break;
            }
            if !delivery.write(&mut stream, lines.out.split().freeze()).await? {
                return Ok(());
            }
            beat = Instant::now() + delivery.beat;
        }
        tokio::select! {
            biased;
            event = delivery.pipeline.next() => match event {
                Event::Ready => lines.fill(&mut delivery),
                Event::Changed => {}
                Event::Ended => break,
            },
            () = sleep_until(beat) => {
                let moved = delivery.pipeline.moved();
                if !moved.is_empty() {
                    lines.put(&json::moved(moved.iter().map(|(p, c)| (p, c))).to_string());
                }
                beat = Instant::now() + delivery.beat;
            }
        }
    }
    stream.end().await;
    Ok(())
}

/// Sends datagrams until the follow ends. A record that does not fit one, or finds no room, is dropped. Of the records of one turn only the
/// newest of each device is sent; a turn is bounded, and so is the memory it takes.
pub(super) async fn latest(mut delivery: Delivery) -> Result<(), CloseReason> {
    let mut newest = Newest::default();
    // Of records that are worth something only now, none waits for the rate of a plan.
    let quota = delivery.pipeline.unpaced();
    let mut scratch = BytesMut::new();
    loop {
        match delivery.pipeline.next().await {
            Event::Ready => {}
            Event::Changed => continue,
            Event::Ended => return Ok(()),
        }
        let mut taken = 0;
        while taken < WRITE
            && let Some(item) = delivery.pipeline.take()
        {
            if let Item::Record(record) = item {
                taken += record.message.len();
                newest.extend([record]);
            }
        }
        for record in newest.take() {
            scratch.clear();
            record.put_json(delivery.received, &mut scratch);
            let mut datagram = delivery.peer.datagram();
            datagram.extend_from_slice(&scratch);
            let bytes = datagram.len() as u64;
            if quota.take(&given_out(&record)).is_ok() && delivery.peer.send(datagram.freeze()) {
                count("consumer", 1, bytes);
            } else {
                metrics::counter!("motience_latest_dropped_total").increment(1);
            }
        }
    }
}

impl Delivery {
    /// Writes all of it; `false` where the follow has ended before the client took it.
    async fn write(&mut self, stream: &mut Outgoing, bytes: Bytes) -> Result<bool, CloseReason> {
        let written = self.stop.run_until_cancelled(stream.write_within(self.peer.write, bytes)).await;
        written.map_or(Ok(false), |written| written.map(|()| true))
    }
}

/// Lines that wait to be written.
#[derive(Default)]
struct Written {
    out: BytesMut,
    scratch: BytesMut,
}

impl Written {
    /// Takes what can be had without waiting, up to the bytes of one write.
    fn fill(&mut self, delivery: &mut Delivery) {
        let (mut records, before) = (0, self.out.len());
        while self.out.len() < WRITE
            && let Some(item) = delivery.pipeline.take()
        {
            match item {
                Item::Record(record) => {
                    records += 1;
                    self.scratch.clear();
                    record.put_json(delivery.received, &mut self.scratch);
                    put_line(&self.scratch, &mut self.out);
                    self.out.extend_from_slice(b"\n");
                }
                Item::Notice(notice) => self.put(&notice.json().to_string()),
            }
        }
        if records > 0 {
            count("consumer", records, (self.out.len() - before) as u64);
        }
    }

    fn put(&mut self, line: &str) {
        put_line(line.as_bytes(), &mut self.out);
        self.out.extend_from_slice(b"\n");
    }
}
