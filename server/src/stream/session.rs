//! One stream, written by pulling: a chunk is made when the client has taken the last one, out of what the logs hold by then.
//! Nothing is queued for a client; one that reads slowly costs a cursor.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use motience_http::Answer;
use motience_limits::permits::Permit;
use motience_proto::model::record;
use motience_relay::{
    Delivery, Feed, FeedEvent,
    order::Record,
    view::{self, Thinned},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{cursors::Cursors, format::Format};

/// Bytes after which a chunk is handed over.
const CHUNK: usize = 64 * 1024;

/// A stream on its way to a client.
pub(super) struct Session {
    feed: Feed,
    thinned: Thinned,
    received: bool,
    format: Format,
    /// Where the client stands once it has read what was written.
    cursors: Cursors,
    /// What is to be written next: at most one delivery's records.
    ready: VecDeque<Ready>,
    out: BytesMut,
    scratch: BytesMut,
    beat_every: Duration,
    beat: Instant,
    most: usize,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    draining: CancellationToken,
    /// Told when the token ends.
    told: Option<Answer>,
    open: Open,
    _permit: Permit,
    /// Tells whoever waits with it for the end of the token.
    _left: DropGuard,
    over: bool,
}

/// What a session is made of.
pub(super) struct Parts {
    pub(super) feed: Feed,
    pub(super) thinned: Thinned,
    /// Whether it says when each record came.
    pub(super) received: bool,
    pub(super) format: Format,
    /// How often it says that it lives.
    pub(super) beat_every: Duration,
    /// Producers that it follows at most.
    pub(super) most: usize,
    /// Returns when the caller's token ends.
    pub(super) ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub(super) draining: CancellationToken,
    /// Whoever writes the body, to be told when the token ends.
    pub(super) over: Option<Answer>,
    pub(super) permit: Permit,
    pub(super) left: DropGuard,
}

enum Ready {
    Record(Record),
    Notice(Value),
}

impl Session {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { feed, thinned, received, format, beat_every, most, ended, draining, over: told, permit, left } = parts;
        let mut session = Self {
            feed,
            thinned,
            received,
            format,
            cursors: Cursors::default(),
            ready: VecDeque::new(),
            out: BytesMut::new(),
            scratch: BytesMut::new(),
            beat_every,
            beat: Instant::now() + beat_every,
            most,
            ended,
            draining,
            told,
            open: Open::new(format),
            _permit: permit,
            _left: left,
            over: false,
        };
        session.keep_followed();
        session.format.begin(&session.cursors, &mut session.out);
        session
    }

    /// The next chunk of the body; `None` after the end.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        while self.out.is_empty() {
            if self.over {
                return None;
            }
            self.step().await;
            self.write();
            // A view may let nothing through for long.
            tokio::task::consume_budget().await;
        }
        Some(self.out.split().freeze())
    }

    /// Waits for the next thing that happens, unless there is something to write: then only what ends it comes first.
    async fn step(&mut self) {
        if !self.ready.is_empty() {
            tokio::select! {
                biased;
                () = &mut self.ended => self.end("token_ended"),
                () = self.draining.cancelled() => self.end("draining"),
                change = self.feed.settle() => if change.is_some() { self.keep_followed() },
            }
            return;
        }
        tokio::select! {
            biased;
            () = &mut self.ended => self.end("token_ended"),
            () = self.draining.cancelled() => self.end("draining"),
            () = view::due(Some(&self.thinned)) => self.release(|thinned, out| thinned.expire(std::time::Instant::now(), out)),
            () = sleep_until(self.beat) => self.show_cursors(),
            event = self.feed.next() => match event {
                FeedEvent::Delivery(delivery) => self.take(&delivery),
                FeedEvent::Joined(_) | FeedEvent::Left(_) => self.keep_followed(),
            },
        }
    }

    /// Writes what is ready and what can be had without waiting, up to a chunk.
    fn write(&mut self) {
        let before = self.out.len();
        let mut records = 0;
        while self.out.len() < CHUNK && !self.over {
            match self.ready.pop_front() {
                Some(Ready::Record(record)) => {
                    records += 1;
                    self.cursors.0.insert(record.producer, record.cursor);
                    self.scratch.clear();
                    let received = record.received.filter(|_| self.received);
                    record::with_place(&record.message, record.offset, record.cursor, record.record_id, received, &mut self.scratch);
                    self.format.record(&self.scratch, &self.cursors, &mut self.out);
                }
                Some(Ready::Notice(notice)) => {
                    self.move_cursors();
                    self.format.notice(&notice, &self.cursors, &mut self.out);
                }
                None => match self.feed.try_next() {
                    Some(delivery) => self.take(&delivery),
                    None => break,
                },
            }
        }
        if self.out.len() > before {
            self.beat = Instant::now() + self.beat_every;
            self.open.count(records, (self.out.len() - before) as u64);
        }
    }

    fn take(&mut self, delivery: &Delivery) {
        self.release(|thinned, out| thinned.deliver(delivery, std::time::Instant::now(), out));
        self.ready.extend(delivery.notice().map(Ready::Notice));
    }

    fn release(&mut self, step: impl FnOnce(&mut Thinned, &mut Vec<Record>)) {
        let mut out = Vec::new();
        step(&mut self.thinned, &mut out);
        self.ready.extend(out.into_iter().map(Ready::Record));
    }

    /// Makes what it knows of producers equal to whom it follows. Nothing of a producer is written once its subscription is over.
    fn keep_followed(&mut self) {
        for producer in self.feed.followed() {
            if !self.cursors.0.contains_key(&producer)
                && let Some(cursor) = self.feed.cursor(producer)
            {
                self.thinned.start(producer, cursor);
                self.cursors.0.insert(producer, cursor);
            }
        }
        let feed = &self.feed;
        let follows = |producer| feed.cursor(producer).is_some();
        self.thinned.retain(follows);
        self.cursors.0.retain(|&producer, _| follows(producer));
        self.ready.retain(|ready| match ready {
            Ready::Record(record) => follows(record.producer),
            Ready::Notice(_) => true,
        });
        if !self.feed.lacks().is_empty() {
            self.end("unsubscribed");
        } else if self.cursors.0.len() > self.most {
            self.end("too_many_producers");
        }
    }

    /// Says that it lives, and moves the client's cursors past what its view does not show.
    fn show_cursors(&mut self) {
        self.move_cursors();
        self.format.beat(&self.cursors, &mut self.out);
        self.beat = Instant::now() + self.beat_every;
    }

    /// To where the client stands. Only while no record is ready.
    fn move_cursors(&mut self) {
        for (&producer, cursor) in &mut self.cursors.0 {
            if let Some(safe) = self.thinned.cursor(producer) {
                *cursor = safe;
            }
        }
    }

    fn end(&mut self, why: &str) {
        let mut notice = json!({"type": "end", "why": why});
        let lacking: Vec<String> = self.feed.lacks().iter().map(ToString::to_string).collect();
        if !lacking.is_empty() {
            notice["producer_ids"] = lacking.into();
        }
        self.format.notice(&notice, &self.cursors, &mut self.out);
        self.over = true;
        if let (Some(told), "token_ended") = (&self.told, why) {
            told.over();
        }
    }
}

/// An open stream in the metrics.
struct Open(&'static str);

impl Open {
    fn new(format: Format) -> Self {
        metrics::gauge!("motience_stream_connections", "format" => format.name()).increment(1);
        Self(format.name())
    }

    fn count(&self, records: u64, bytes: u64) {
        metrics::counter!("motience_stream_records_total", "format" => self.0).increment(records);
        metrics::counter!("motience_stream_bytes_total", "format" => self.0).increment(bytes);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("motience_stream_connections", "format" => self.0).decrement(1);
    }
}
