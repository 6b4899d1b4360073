//! One stream, written by pulling: a chunk is made when the client has taken the last one, out of what the logs hold by then.
//! Nothing is queued for a client; one that reads slowly costs a cursor.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use motience_auth::Standing;
use motience_http::Answer;
use motience_limits::permits::Permit;
use motience_relay::{
    SubscriberWatch,
    pipeline::{Event, Item, Pipeline, json},
};
use motience_runtime::lifecycle::Leave;
use motience_session::{heard, subscription_message};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::DropGuard;

use super::format::Format;

/// Bytes after which a chunk is handed over.
const CHUNK: usize = 64 * 1024;

/// A stream on its way to a client.
pub(super) struct Session {
    parts: Parts,
    out: BytesMut,
    scratch: BytesMut,
    beat: Instant,
    open: Open,
    over: bool,
}

/// Parts of a session.
pub(super) struct Parts {
    pub(super) pipeline: Pipeline,
    pub(super) standing: Arc<Standing>,
    /// News of the reader's subscribers, where it is a producer and asked for them.
    pub(super) news: Option<SubscriberWatch>,
    /// Whether it says when each record came.
    pub(super) received: bool,
    pub(super) format: Format,
    /// Interval of keep-alives.
    pub(super) beat_every: Duration,
    /// Producers that it follows at most.
    pub(super) most: usize,
    pub(super) leave: Leave,
    /// The writer of the body, which is told when the standing ends.
    pub(super) answer: Option<Answer>,
    pub(super) _permit: Permit,
    /// Tells whoever waits with it for the end of the token.
    pub(super) _left: DropGuard,
}

impl Session {
    pub(super) fn new(parts: Parts) -> Self {
        let (open, beat) = (Open::new(parts.format), Instant::now() + parts.beat_every);
        let mut session = Self { parts, out: BytesMut::new(), scratch: BytesMut::new(), beat, open, over: false };
        session.check();
        session.parts.format.begin(session.parts.pipeline.cursors(), &mut session.out);
        session
    }

    /// The next chunk of the body; `None` after the end.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        while self.out.is_empty() {
            if self.over {
                return None;
            }
            let parts = &mut self.parts;
            tokio::select! {
                biased;
                () = parts.leave.asked().cancelled() => self.end("draining"),
                () = sleep_until(self.beat) => self.show_cursors(),
                subscription = heard(&mut parts.news) => {
                    parts.format.notice(&subscription_message(&subscription), parts.pipeline.cursors(), &mut self.out);
                }
                event = parts.pipeline.next() => match event {
                    Event::Ready => self.write(),
                    Event::Changed => {
                        self.tell_news();
                        self.check();
                    }
                    Event::Ended if parts.standing.is_ended() => self.end("ended_by_operator"),
                    Event::Ended => self.end("token_ended"),
                },
            }
            // A selection may let nothing through for long.
            tokio::task::consume_budget().await;
        }
        Some(self.out.split().freeze())
    }

    /// Writes what can be had without waiting, up to a chunk.
    fn write(&mut self) {
        let Parts { pipeline, format, received, .. } = &mut self.parts;
        let mut records = 0;
        while self.out.len() < CHUNK
            && let Some(item) = pipeline.take()
        {
            match item {
                Item::Record(record) => {
                    records += 1;
                    self.scratch.clear();
                    record.put_json(*received, &mut self.scratch);
                    format.record(&self.scratch, pipeline.cursors(), &mut self.out);
                }
                Item::Notice(notice) => format.notice(&notice.json(), pipeline.cursors(), &mut self.out),
            }
        }
        if !self.out.is_empty() {
            self.beat = Instant::now() + self.parts.beat_every;
            self.open.count(records, self.out.len() as u64);
        }
    }

    /// Says what others have changed of the reader's subscriptions.
    fn tell_news(&mut self) {
        for (producer, status) in self.parts.pipeline.take_news() {
            let notice = json::subscription(producer, status);
            self.parts.format.notice(&notice, self.parts.pipeline.cursors(), &mut self.out);
        }
    }

    /// Ends a stream that follows fewer producers than were named, or more than it may.
    fn check(&mut self) {
        if !self.parts.pipeline.lacks().is_empty() {
            self.end("unsubscribed");
        } else if self.parts.pipeline.cursors().len() > self.parts.most {
            self.end("too_many_producers");
        }
    }

    /// Sends a keep-alive, and moves the client's cursors past records that its selection leaves out.
    fn show_cursors(&mut self) {
        self.parts.pipeline.moved();
        self.parts.format.beat(self.parts.pipeline.cursors(), &mut self.out);
        self.beat = Instant::now() + self.parts.beat_every;
    }

    fn end(&mut self, why: &str) {
        let mut notice = json!({"type": "end", "why": why});
        let lacking: Vec<String> = self.parts.pipeline.lacks().iter().map(ToString::to_string).collect();
        if !lacking.is_empty() {
            notice["producer_ids"] = lacking.into();
        }
        self.parts.format.notice(&notice, self.parts.pipeline.cursors(), &mut self.out);
        self.over = true;
        if let (Some(answer), "token_ended" | "ended_by_operator") = (&self.parts.answer, why) {
            answer.over();
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
