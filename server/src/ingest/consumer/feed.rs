//! One follow: a producer's entries on a stream of their own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use motience_auth::Standing;
use motience_proto::{
    model::{Cursor, ProducerId},
    wire::{self, Entry, Frame, Gap, StreamKind},
};
use motience_relay::{
    Delivery, Rights, Subscriber,
    order::Record,
    view::{self, Thinned},
};
use motience_session::CloseReason;
use quinn::{Connection, SendStream, VarInt};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::{control::within, frames::write};

/// Bytes of entries written at once.
const WRITE: usize = 64 * 1024;
/// How long a follow with a view may go without saying how far it has come, while nothing of it is wanted.
const CURSOR_EVERY: Duration = Duration::from_secs(5);
/// How long a consumer may take for the last of a stream that has ended; then it is reset, so that nothing of it is kept.
const LAST_LIMIT: Duration = Duration::from_secs(1);
/// For a stream that is given up.
const GIVEN_UP: VarInt = VarInt::from_u32(0);

/// Writes a producer's entries until told to stop.
pub(super) struct Feed {
    producer: ProducerId,
    subscriber: Subscriber,
    thinned: Option<Thinned>,
    ready: Vec<Record>,
    out: BytesMut,
    /// How long the consumer may leave the stream unread.
    limit: Duration,
    /// What the consumer was last told of a view's place, and when.
    told: Cursor,
    told_at: Instant,
}

/// Where a feed writes, and by what right.
struct Outlet {
    stream: SendStream,
    standing: Arc<Standing>,
    rights: Arc<Rights>,
    stop: CancellationToken,
    limit: Duration,
}

/// Why a feed writes no more.
enum Halt {
    /// The follow has ended; `torn`: in the middle of a write.
    Stopped {
        torn: bool,
    },
    Closed(CloseReason),
}

impl Outlet {
    /// Writes all of `out`, unless the follow's right is over. Between word of a change of it and a look at it nothing is written.
    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Halt> {
        if !self.rights.may_write(&self.stop, &self.standing).await {
            return Err(Halt::Stopped { torn: false });
        }
        match self.stop.run_until_cancelled(within(self.limit, write(&mut self.stream, out))).await {
            Some(written) => written.map_err(Halt::Closed),
            None => Err(Halt::Stopped { torn: true }),
        }
    }
}

impl Feed {
    /// The subscriber follows the producer already.
    pub(super) fn new(producer: ProducerId, subscriber: Subscriber, thinned: Option<Thinned>, limit: Duration) -> Self {
        let (told, told_at) = (Cursor::default(), Instant::now());
        Self { producer, subscriber, thinned, ready: Vec::new(), out: BytesMut::new(), limit, told, told_at }
    }

    /// Ends with `stop`, whatever the consumer reads. A stream that ends in the middle of a write, which the consumer did not take, is
    /// reset.
    pub(super) async fn run(
        mut self,
        connection: Connection,
        standing: Arc<Standing>,
        rights: Arc<Rights>,
        stop: CancellationToken,
    ) -> Result<(), CloseReason> {
        let limit = self.limit;
        let Some(stream) = stop.run_until_cancelled(within(limit, connection.open_uni())).await else { return Ok(()) };
        let mut outlet = Outlet { stream: stream?, standing, rights, stop, limit };
        let torn = match self.follow(&mut outlet).await {
            Err(Halt::Closed(ending)) => return Err(ending),
            Err(Halt::Stopped { torn }) => torn,
            Ok(never) => match never {},
        };
        // Errors say that the connection is gone, which ends the stream as well.
        if torn || outlet.stream.finish().is_err() || timeout(LAST_LIMIT, outlet.stream.stopped()).await.is_err() {
            let _ = outlet.stream.reset(GIVEN_UP);
        }
        Ok(())
    }

    async fn follow(&mut self, outlet: &mut Outlet) -> Result<std::convert::Infallible, Halt> {
        let after = self.subscriber.cursor(self.producer).unwrap_or_default();
        StreamKind::Feed.encode(&mut self.out);
        self.say_place(after);
        if let Some(thinned) = &mut self.thinned {
            thinned.start(self.producer, after);
        }
        outlet.write(&mut self.out).await?;
        let stop = outlet.stop.clone();
        loop {
            let mut wrote = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Halt::Stopped { torn: false }),
                () = view::due(self.thinned.as_ref()) => {
                    if let Some(thinned) = &mut self.thinned {
                        thinned.expire(Instant::now(), &mut self.ready);
                    }
                    wrote = self.write_ready(outlet).await?;
                }
                () = sleep_until((self.told_at + CURSOR_EVERY).into()), if self.moved().is_some() => wrote = true,
                next = self.subscriber.next() => {
                    let mut delivery = Some(next);
                    while let Some(next) = delivery {
                        wrote |= self.deliver(&next, outlet).await?;
                        delivery = if outlet.rights.is_stale() { None } else { self.subscriber.try_next() };
                    }
                }
            }
            if let Some(place) = self.moved().filter(|_| wrote || self.told_at.elapsed() >= CURSOR_EVERY) {
                self.say_place(place);
            }
            if !self.out.is_empty() {
                outlet.write(&mut self.out).await?;
            }
        }
    }

    /// Whether entries were written.
    async fn deliver(&mut self, delivery: &Delivery, outlet: &mut Outlet) -> Result<bool, Halt> {
        let mut wrote = true;
        match (&mut self.thinned, delivery) {
            (Some(thinned), _) => {
                thinned.deliver(delivery, Instant::now(), &mut self.ready);
                wrote = self.write_ready(outlet).await?;
            }
            (None, Delivery::Batch { batch, after }) => {
                for (offset, record_id, message) in batch.after(*after) {
                    Frame::Entry(Entry { offset, record_id, message: message.clone() }).encode(&mut self.out);
                    if self.out.len() >= WRITE {
                        outlet.write(&mut self.out).await?;
                    }
                }
            }
            (None, _) => {}
        }
        match delivery {
            Delivery::Batch { .. } => {}
            Delivery::Gap { producer, from, to, .. } => Frame::Gap(Gap { producer: *producer, from: *from, to: *to }).encode(&mut self.out),
            Delivery::Reset { producer, cursor } => {
                debug!(%producer, %cursor, "the log was reset");
                self.say_place(*cursor);
            }
        }
        Ok(wrote)
    }

    async fn write_ready(&mut self, outlet: &mut Outlet) -> Result<bool, Halt> {
        let wrote = !self.ready.is_empty();
        for Record { offset, record_id, message, .. } in self.ready.drain(..) {
            Frame::Entry(Entry { offset, record_id, message }).encode(&mut self.out);
            if self.out.len() >= WRITE {
                outlet.write(&mut self.out).await?;
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
