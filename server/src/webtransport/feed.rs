//! One producer's records on their way to a consumer, pulled as fast as it takes them: as lines of a stream, all of them, or
//! as datagrams, the newest of each device.

use std::{collections::HashMap, time::Duration};

use bytes::BytesMut;
use motience_shared::{
    model::{Cursor, ProducerId, record},
    relay::{
        Delivery, Subscriber,
        order::Record,
        places,
        view::{self, Thinned},
    },
};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    count,
    session::{Ending, Peer},
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

/// Writes to a stream of its own until the follow ends.
pub(super) async fn records(mut feed: Feed) -> Result<(), Ending> {
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
            // A follow that ends while its stream is full ends in the middle of a line, and says so by a reset.
            let Some(written) = stop.run_until_cancelled(stream.write(out.split().freeze())).await else { return Ok(()) };
            written?;
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
            match feed.subscriber.try_next() {
                Some(next) if out.len() < WRITE => step = Step::Delivery(next),
                Some(next) => {
                    // One turn more than fits is written with it, rather than kept.
                    step = Step::Delivery(next);
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                    let Some(written) = stop.run_until_cancelled(stream.write(out.split().freeze())).await else { return Ok(()) };
                    written?;
                }
                None => break,
            }
        }
        if beat <= Instant::now() {
            beat = Instant::now() + feed.beat;
        }
    }
    stream.finish();
    Ok(())
}

/// Sends datagrams until the follow ends. What does not fit one, or finds no room, goes nowhere.
pub(super) async fn latest(mut feed: Feed) -> Result<(), Ending> {
    let stop = feed.stop.clone();
    let never = Instant::now() + Duration::from_secs(365 * 24 * 3600);
    let mut scratch = BytesMut::new();
    while let Some(step) = stop.run_until_cancelled(feed.step(never)).await {
        let mut ready = Vec::new();
        match step {
            Step::Delivery(delivery) => feed.thinned.deliver(&delivery, std::time::Instant::now(), &mut ready),
            Step::Due | Step::Beat => feed.thinned.expire(std::time::Instant::now(), &mut ready),
        }
        while let Some(delivery) = feed.subscriber.try_next() {
            feed.thinned.deliver(&delivery, std::time::Instant::now(), &mut ready);
            ready = newest(ready);
        }
        for record in newest(ready) {
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

    /// Word of a cursor that went on without a record.
    fn moved(&self, told: &mut Cursor) -> Option<serde_json::Value> {
        let safe = self.thinned.cursor(self.producer).filter(|safe| safe != told)?;
        *told = safe;
        Some(places::moved([(&self.producer, &safe)]))
    }
}

/// The newest record of each device, in their order.
fn newest(records: Vec<Record>) -> Vec<Record> {
    if records.len() < 2 {
        return records;
    }
    let mut last: HashMap<String, usize> = HashMap::new();
    for (at, record) in records.iter().enumerate() {
        let device = record::Parts::of(&record.message).map(|parts| parts.device_id.into_owned()).unwrap_or_default();
        last.insert(device, at);
    }
    records.into_iter().enumerate().filter(|(at, _)| last.values().any(|last| last == at)).map(|(_, record)| record).collect()
}

/// The message with its place.
fn place<'s>(record: &Record, received: bool, scratch: &'s mut BytesMut) -> &'s [u8] {
    scratch.clear();
    record::with_place(&record.message, record.offset, record.cursor, record.name, record.received.filter(|_| received), scratch);
    scratch
}

/// A line.
fn put(message: &[u8], out: &mut BytesMut) {
    put_line(message, out);
    out.extend_from_slice(b"\n");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use motience_shared::model::{Epoch, Offset, RecordName, Seq};

    use super::*;

    #[test]
    fn of_many_records_the_newest_of_each_device_is_sent() {
        let record = |device: &str, offset| Record {
            producer: ProducerId(1),
            cursor: Cursor::default(),
            offset: Offset(offset),
            name: RecordName { epoch: Epoch(1), seq: Seq(offset) },
            received: None,
            message: Bytes::from(format!(r#"{{"producer_id":"1","device_id":"{device}","timestamp":1,"data":{{}}}}"#)),
        };
        let sent = newest(vec![record("a", 1), record("b", 2), record("a", 3), record("c", 4), record("b", 5)]);
        assert_eq!(sent.iter().map(|record| record.offset.0).collect::<Vec<_>>(), [3, 4, 5]);
    }
}
