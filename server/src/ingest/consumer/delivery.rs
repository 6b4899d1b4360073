//! One follow: a producer's pipeline, encoded onto a stream of its own.

use std::time::Duration;

use bytes::BytesMut;
use motience_proto::{
    model::{Cursor, ProducerId},
    wire::{DeliveryCursor, Entry, Frame, Gap, StreamKind},
};
use motience_relay::{
    Notice,
    pipeline::{Begun, DeliveredRecord, Event, Item, Pipeline},
};
use motience_session::CloseReason;
use quinn::{Connection, SendStream, VarInt};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::{
    super::{control::within, count, frames::write},
    Form,
};

/// Bytes of entries written at once.
const WRITE: usize = 64 * 1024;
/// How long a follow with stages may go without saying how far it has come, while no record leaves it.
const CURSOR_EVERY: Duration = Duration::from_secs(5);
/// How long a consumer may take for the last of a stream that has ended; then it is reset, so that nothing of it is kept.
const LAST_LIMIT: Duration = Duration::from_secs(1);
/// For a stream that is given up.
const GIVEN_UP: VarInt = VarInt::from_u32(0);

/// Writes what leaves the pipeline until its follow ends (`stop`), whatever the consumer reads. A stream that ends in the middle of a
/// write, which the consumer did not take, is reset.
pub(super) async fn run(Begun { producer, pipeline, stop, .. }: Begun<()>, connection: Connection, form: Form) -> Result<(), CloseReason> {
    let Some(stream) = stop.run_until_cancelled(within(form.write, connection.open_uni())).await else { return Ok(()) };
    let mut stream = stream?;
    let mut delivery = Delivery { producer, pipeline: *pipeline, form, out: BytesMut::new(), told: None, told_at: Instant::now() };
    let torn = loop {
        if stop.is_cancelled() {
            break false;
        }
        match stop.run_until_cancelled(delivery.write(&mut stream)).await {
            Some(written) => written?,
            None => break true,
        }
        if !delivery.next().await {
            break false;
        }
    };
    // Errors say that the connection is gone, which ends the stream as well.
    if torn || stream.finish().is_err() || timeout(LAST_LIMIT, stream.stopped()).await.is_err() {
        let _ = stream.reset(GIVEN_UP);
    }
    Ok(())
}

struct Delivery {
    producer: ProducerId,
    pipeline: Pipeline,
    form: Form,
    out: BytesMut,
    /// The cursor that the consumer was told last; `None` before the first one.
    told: Option<Cursor>,
    told_at: Instant,
}

impl Delivery {
    async fn write(&mut self, stream: &mut SendStream) -> Result<(), CloseReason> {
        if self.told.is_none() {
            StreamKind::Delivery.encode(&mut self.out);
            self.say_cursor();
        }
        if self.out.is_empty() {
            return Ok(());
        }
        within(self.form.write, write(stream, &mut self.out)).await
    }

    /// Waits for the next thing to write; `false` once the follow has ended.
    async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            event = self.pipeline.next() => match event {
                Event::Ready => self.encode(),
                Event::Changed => {}
                Event::Ended => return false,
            },
            () = sleep_until(self.told_at + CURSOR_EVERY), if !self.pipeline.is_plain() => {
                self.told_at = Instant::now();
                self.say_moved();
            }
        }
        true
    }

    fn encode(&mut self) {
        let (mut drained, mut records, mut bytes) = (false, 0, 0);
        while self.out.len() < WRITE {
            match self.pipeline.take() {
                Some(Item::Record(DeliveredRecord { offset, record_id, message, .. })) => {
                    records += 1;
                    bytes += message.len() as u64;
                    Frame::Entry(Entry { offset, record_id, message }).encode(&mut self.out);
                }
                Some(Item::Notice(Notice::Gap { producer, from, to, cause })) => {
                    let cause = self.form.causes.then_some(cause);
                    Frame::Gap(Gap { producer, from, to, cause }).encode(&mut self.out);
                }
                Some(Item::Notice(Notice::Reset { producer, cursor })) => {
                    debug!(%producer, %cursor, "the log was reset");
                    self.say_cursor();
                }
                None => {
                    drained = true;
                    break;
                }
            }
        }
        count("consumer", records, bytes);
        // Entries that were written show how far a plain follow is; of others only this does.
        if drained && !self.out.is_empty() && !self.pipeline.is_plain() {
            self.say_moved();
        }
    }

    /// Says where a follow with stages has come to, if the consumer does not know.
    fn say_moved(&mut self) {
        self.pipeline.moved();
        if self.pipeline.cursors().get(&self.producer) != self.told.as_ref() {
            self.say_cursor();
        }
    }

    fn say_cursor(&mut self) {
        let cursor = self.pipeline.cursors().get(&self.producer).copied().unwrap_or_default();
        Frame::Cursor(DeliveryCursor { producer: self.producer, cursor }).encode(&mut self.out);
        (self.told, self.told_at) = (Some(cursor), Instant::now());
    }
}
