//! One producer's records on their way to a consumer, pulled as fast as it takes them: as lines of a stream, all of them, or
//! as datagrams, the newest of each device.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use motience_auth::Standing;
use motience_proto::model::{Cursor, ProducerId, record};
use motience_relay::{
    Delivery, Rights, Subscriber,
    order::Record,
    places,
    view::{self, Thinned},
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
use crate::stream::put_line;

/// Bytes written at once.
const WRITE: usize = 64 * 1024;

/// What a feed is made of. Its subscriber follows the producer already.
pub(super) struct Feed {
    pub(super) peer: Peer,
    pub(super) producer: ProducerId,
    pub(super) subscriber: Subscriber,
    pub(super) thinned: Thinned,
    /// Whether it says when each record came.
    pub(super) received: bool,
    /// How often it says how far it is.
    pub(super) beat: Duration,
    pub(super) standing: Arc<Standing>,
    pub(super) rights: Arc<Rights>,
    /// Cancelled when the follow ends: nothing is written after it.
    pub(super) stop: CancellationToken,
}

/// What happens in a feed.
enum Step {
    Delivery(Delivery),
    /// A window of the view is over.
    Due,
    Beat,
}

/// Writes to a stream of its own until the follow ends. One that ends while its stream is full ends in the middle of a line, and says
/// so by a reset.
pub(super) async fn records(mut feed: Feed) -> Result<(), CloseReason> {
    let stop = feed.stop.clone();
    let Some(stream) = stop.run_until_cancelled(feed.peer.open_uni()).await else { return Ok(()) };
    let mut stream = stream?;
    let mut told = feed.subscriber.cursor(feed.producer).unwrap_or_default();
    feed.thinned.start(feed.producer, told);
    let mut out = BytesMut::new();
    let mut scratch = BytesMut::new();
    let begin = json!({"type": "feed", "producer_id": feed.producer.to_string(), "cursor": told.to_string()}).to_string();
    put(begin.as_bytes(), &mut out);
    let mut beat = Instant::now() + feed.beat;
    loop {
        if !out.is_empty() {
            if !feed.write(&mut stream, &mut out).await? {
                return Ok(());
            }
            beat = Instant::now() + feed.beat;
        }
        let Some(mut step) = stop.run_until_cancelled(feed.step(beat)).await else { break };
        let mut ready = Vec::new();
        loop {
            let notice = match &step {
                Step::Delivery(delivery) => {
                    feed.thinned.deliver(delivery, std::time::Instant::now(), &mut ready);
                    delivery.notice()
                }
                Step::Due => {
                    feed.thinned.expire(std::time::Instant::now(), &mut ready);
                    None
                }
                Step::Beat => feed.moved(&mut told),
            };
            let (records, before) = (ready.len() as u64, out.len());
            for record in ready.drain(..) {
                told = record.cursor;
                put(place(&record, feed.received, &mut scratch), &mut out);
            }
            if records > 0 {
                count("consumer", records, (out.len() - before) as u64);
            }
            if let Some(notice) = notice {
                put(notice.to_string().as_bytes(), &mut out);
            }
            if out.len() >= WRITE && !feed.write(&mut stream, &mut out).await? {
                return Ok(());
            }
            match feed.try_next() {
                Some(next) => step = Step::Delivery(next),
                None => break,
            }
        }
        if beat <= Instant::now() {
            beat = Instant::now() + feed.beat;
        }
    }
    stream.end().await;
    Ok(())
}

/// Sends datagrams until the follow ends. What does not fit one, or finds no room, goes nowhere. Of what one turn brings only the
/// newest of each device is sent; a turn is bounded, so what is kept of it is too.
pub(super) async fn latest(mut feed: Feed) -> Result<(), CloseReason> {
    let stop = feed.stop.clone();
    let never = Instant::now() + Duration::from_secs(365 * 24 * 3600);
    let mut scratch = BytesMut::new();
    let mut newest = Newest::default();
    while let Some(step) = stop.run_until_cancelled(feed.step(never)).await {
        let mut ready = Vec::new();
        match step {
            Step::Delivery(delivery) => feed.thinned.deliver(&delivery, std::time::Instant::now(), &mut ready),
            Step::Due | Step::Beat => feed.thinned.expire(std::time::Instant::now(), &mut ready),
        }
        newest.extend(ready.drain(..));
        while let Some(delivery) = feed.try_next() {
            feed.thinned.deliver(&delivery, std::time::Instant::now(), &mut ready);
            newest.extend(ready.drain(..));
        }
        if !feed.rights.may_write(&feed.stop, &feed.standing).await {
            return Ok(());
        }
        for record in newest.take() {
            let mut datagram = feed.peer.datagram();
            datagram.extend_from_slice(place(&record, feed.received, &mut scratch));
            let bytes = datagram.len() as u64;
            if feed.peer.send(datagram.freeze()) {
                count("consumer", 1, bytes);
            } else {
                metrics::counter!("motience_latest_dropped_total").increment(1);
            }
        }
    }
    Ok(())
}

impl Feed {
    /// Waits for what happens next. Cancel-safe.
    async fn step(&mut self, beat: Instant) -> Step {
        tokio::select! {
            biased;
            () = view::due(Some(&self.thinned)) => Step::Due,
            delivery = self.subscriber.next() => Step::Delivery(delivery),
            () = sleep_until(beat) => Step::Beat,
        }
    }

    /// What can be read without waiting; nothing once there is word that its right may have changed.
    fn try_next(&mut self) -> Option<Delivery> {
        if self.rights.is_stale() { None } else { self.subscriber.try_next() }
    }

    /// Writes all of `out`; `false` once the follow or its right has ended.
    async fn write(&self, stream: &mut Outgoing, out: &mut BytesMut) -> Result<bool, CloseReason> {
        if !self.rights.may_write(&self.stop, &self.standing).await {
            return Ok(false);
        }
        let written = self.stop.run_until_cancelled(stream.write_within(self.peer.write, out.split().freeze())).await;
        written.map_or(Ok(false), |written| written.map(|()| true))
    }

    /// Word of a cursor that went on without a record.
    fn moved(&self, told: &mut Cursor) -> Option<serde_json::Value> {
        let safe = self.thinned.cursor(self.producer).filter(|safe| safe != told)?;
        *told = safe;
        Some(places::moved([(&self.producer, &safe)]))
    }
}

/// The message with its place.
fn place<'s>(record: &Record, received: bool, scratch: &'s mut BytesMut) -> &'s [u8] {
    scratch.clear();
    record::with_place(&record.message, record.offset, record.cursor, record.record_id, record.received.filter(|_| received), scratch);
    scratch
}

/// A line.
fn put(message: &[u8], out: &mut BytesMut) {
    put_line(message, out);
    out.extend_from_slice(b"\n");
}
