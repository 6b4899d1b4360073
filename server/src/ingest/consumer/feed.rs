//! One follow: a producer's entries on a stream of their own.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use motience_shared::{
    model::{Cursor, ProducerId},
    relay::{
        Delivery, ReadFrom, Subscriber,
        order::Record,
        view::{self, Thinned},
    },
    wire::{self, Entry, Frame, Gap, StreamKind},
};
use quinn::{Connection, SendStream};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::connection::{Ending, write};

/// Bytes of entries written at once.
const WRITE: usize = 64 * 1024;
/// How long a follow with a view may go without saying how far it has come, while nothing of it is wanted.
const CURSOR_EVERY: Duration = Duration::from_secs(5);

/// Writes a producer's entries until told to stop.
pub(super) struct Feed {
    producer: ProducerId,
    subscriber: Subscriber,
    thinned: Option<Thinned>,
    ready: Vec<Record>,
    out: BytesMut,
    /// What the consumer was last told of a view's place, and when.
    told: Cursor,
    told_at: Instant,
}

impl Feed {
    pub(super) fn new(producer: ProducerId, subscriber: Subscriber, thinned: Option<Thinned>) -> Self {
        Self { producer, subscriber, thinned, ready: Vec::new(), out: BytesMut::new(), told: Cursor::default(), told_at: Instant::now() }
    }

    /// A write that has begun is finished: the consumer must not find half a frame.
    pub(super) async fn run(mut self, connection: Connection, from: ReadFrom, stop: CancellationToken) -> Result<(), Ending> {
        self.subscriber.follow(self.producer, from).await?;
        let after = self.subscriber.cursor(self.producer).unwrap_or_default();
        let mut stream = connection.open_uni().await?;
        StreamKind::Feed.encode(&mut self.out);
        self.say_place(after);
        if let Some(thinned) = &mut self.thinned {
            thinned.start(self.producer, after);
        }
        write(&mut stream, &mut self.out).await?;
        loop {
            let mut wrote = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = view::due(self.thinned.as_ref()) => {
                    if let Some(thinned) = &mut self.thinned {
                        thinned.expire(Instant::now(), &mut self.ready);
                    }
                    wrote = self.write_ready(&mut stream).await?;
                }
                () = sleep_until((self.told_at + CURSOR_EVERY).into()), if self.moved().is_some() => wrote = true,
                next = self.subscriber.next() => {
                    let mut delivery = Some(next);
                    while let Some(next) = delivery {
                        wrote |= self.deliver(&next, &mut stream).await?;
                        delivery = if stop.is_cancelled() { None } else { self.subscriber.try_next() };
                    }
                }
            }
            if let Some(place) = self.moved().filter(|_| wrote || self.told_at.elapsed() >= CURSOR_EVERY) {
                self.say_place(place);
            }
            if !self.out.is_empty() {
                write(&mut stream, &mut self.out).await?;
            }
        }
        // An error says that the connection is gone, which ends the stream as well.
        let _ = stream.finish();
        Ok(())
    }

    /// Whether entries were written.
    async fn deliver(&mut self, delivery: &Delivery, stream: &mut SendStream) -> Result<bool, Ending> {
        let mut wrote = true;
        match (&mut self.thinned, delivery) {
            (Some(thinned), _) => {
                thinned.deliver(delivery, Instant::now(), &mut self.ready);
                wrote = self.write_ready(stream).await?;
            }
            (None, Delivery::Batch { batch, after }) => {
                for (offset, name, message) in batch.after(*after) {
                    Frame::Entry(Entry { offset, name, message: message.clone() }).encode(&mut self.out);
                    if self.out.len() >= WRITE {
                        write(stream, &mut self.out).await?;
                    }
                }
            }
            (None, _) => {}
        }
        match delivery {
            Delivery::Batch { .. } => {}
            Delivery::Gap { producer, from, to } => Frame::Gap(Gap { producer: *producer, from: *from, to: *to }).encode(&mut self.out),
            Delivery::Reset { producer, cursor } => {
                debug!(%producer, %cursor, "the log was reset");
                self.say_place(*cursor);
            }
        }
        Ok(wrote)
    }

    async fn write_ready(&mut self, stream: &mut SendStream) -> Result<bool, Ending> {
        let wrote = !self.ready.is_empty();
        for Record { offset, name, message, .. } in self.ready.drain(..) {
            Frame::Entry(Entry { offset, name, message }).encode(&mut self.out);
            if self.out.len() >= WRITE {
                write(stream, &mut self.out).await?;
            }
        }
        Ok(wrote)
    }

    /// Where a view has come to, if the consumer does not know.
    fn moved(&self) -> Option<Cursor> {
        let place = self.thinned.as_ref()?.cursor(self.producer)?;
        (place != self.told).then_some(place)
    }

    fn say_place(&mut self, after: Cursor) {
        Frame::Feed(wire::Feed { producer: self.producer, after }).encode(&mut self.out);
        (self.told, self.told_at) = (after, Instant::now());
    }
}
