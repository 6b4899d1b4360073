//! The producer side of motience/1, over any [`Transport`].
//!
//! In: an admitted device and its frames, from any transport.
//! Out: batches of records; acknowledgements and refusals back to the device.
//! Next: `shared/relay/src/publisher.rs`: one publisher for each session.
//!
//! ```text
//! admit -> Welcome -> records, templates, skipped numbers, health, renewals up | acknowledgements, refusals down -> drain or close
//! ```
//!
//! One batch at a time is on its way to the log's writer. While that is behind, frames that come beside the records are still read.

use std::{
    convert::Infallible,
    pin::pin,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use motience_auth::Standing;
use motience_cluster::{Path, Presence};
use motience_log as log;
use motience_proto::wire::{Ack, Compact, Frame, Hello, Record, Template, TemplateAccepted, Welcome, compact::Decoder, features};
use motience_relay::{self as relay, Committed, Publisher, SubscriberWatch};
use motience_runtime::clock::until;
use tracing::debug;

use super::{
    Admitted, CloseReason, Host,
    acks::AckQueue,
    admission::{device_revoked, refreshed},
    batch::{IngestBatch, Receipt},
    latest::Latest,
    subscribers::{heard, subscriber_watch, subscription_frame},
    while_authorized,
};

/// Batches that may wait for their commit; a device further ahead is read no faster than they go.
const MAX_PENDING: usize = 1024;
/// Bytes of new records that make a batch full. A compact record is far longer than its frame.
const BATCH_BYTES: usize = 256 * 1024;
/// Frames that make a batch full.
const BATCH_FRAMES: usize = 1024;
/// Refusals that make a batch full: the session reads a device that sends more bad records only as fast as it can refuse them.
const BATCH_REFUSALS: usize = 64;
/// Bytes of answers that are written before more frames are read.
const WRITE: usize = 64 * 1024;

/// Longest wait of a batch for the rates of its account's plan: until then the device is only read no faster. A device that would have to wait
/// longer is told so, and comes back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How motience/1 travels between a device and this node.
pub trait Transport: Send {
    /// The transport's name in reports.
    const KIND: motience_proto::model::Transport;
    /// The optional abilities of a device that the transport can carry.
    const FEATURES: u64;

    /// Returns the next frame that `wanted` asks for. Cancel-safe.
    fn recv(&mut self, wanted: Wanted) -> impl Future<Output = Result<Received, CloseReason>> + Send;

    /// Sends whole frames of the control stream, which the device must take in time.
    fn send(&mut self, frames: Bytes) -> impl Future<Output = Result<(), CloseReason>> + Send;

    /// A look at the network path, where the transport knows it.
    fn path(&self) -> Option<impl Fn() -> Path + Send + Sync + 'static>;

    /// The link's round-trip time; none where the transport does not know it.
    fn rtt(&self) -> Duration {
        Duration::ZERO
    }

    /// Counts records that came, and their bytes.
    fn count(&self, _records: u64, _bytes: u64) {}
}

/// The frames that a session is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Every frame.
    All,
    /// Frames that do not wait behind records. A transport with one order for everything has none.
    Control,
}

/// A frame, and how it came.
#[derive(Debug)]
pub enum Received {
    /// In order, and for good.
    Frame(Frame),
    /// In a datagram.
    Datagram(Frame),
}

/// Whether a frame carries nothing, so that a peer has a ration of them.
pub fn carries_nothing(frame: &Frame) -> bool {
    matches!(frame, Frame::Ping | Frame::Pong | Frame::Done | Frame::Health(_) | Frame::TokenRefresh(_))
}

/// Serves an admitted device until it leaves or has to, at the latest with the end of its token.
pub async fn produce<T: Transport>(
    transport: &mut T,
    hello: &Hello,
    admitted: &Admitted,
    host: Host<'_>,
) -> Result<Infallible, CloseReason> {
    let Admitted { device, standing } = admitted;
    let key = standing.grant().log_key();
    let relay = &host.backend.relay;
    let session = while_authorized(standing, async {
        let publisher = relay.publisher(key, log::SessionName::device(device), hello.epoch).await?.patient(PATIENCE);
        let presence = host.backend.reports.devices.enter(key, device.as_str(), T::KIND);
        if let Some(path) = transport.path() {
            presence.watch(path);
        }
        let news = (hello.features & features::SUBSCRIBERS != 0).then(|| subscriber_watch(host.backend, &standing.grant()).ok()).flatten();
        let agreed = if news.is_some() { T::FEATURES | features::SUBSCRIBERS } else { T::FEATURES };
        let features = hello.features & agreed;
        let session = Session {
            transport,
            host,
            publisher: &publisher,
            presence: &presence,
            standing,
            batch: IngestBatch::new(&publisher),
            acks: AckQueue::default(),
            templates: (features & features::COMPACT != 0).then(Decoder::new),
            news,
            latest: (features & features::LATEST != 0).then(|| Latest::new(relay, key, device.as_str(), &presence)),
            out: BytesMut::new(),
        };
        tokio::select! {
            biased;
            // Whatever transport the newer connection came by.
            () = publisher.superseded() => Err(CloseReason::Fenced),
            ended = session.run(features) => ended,
        }
    });
    tokio::select! {
        biased;
        // By whatever credential it came. First, because its tokens end with it.
        () = host.backend.devices.revoked(key.producer, device.as_str()) => Err(device_revoked()),
        ended = session => ended,
    }
}

struct Session<'s, T> {
    transport: &'s mut T,
    host: Host<'s>,
    publisher: &'s Publisher,
    presence: &'s Presence,
    standing: &'s Standing,
    /// Records that are not submitted yet.
    batch: IngestBatch<'s>,
    acks: AckQueue,
    /// The templates of compact records, where both sides can have them.
    templates: Option<Decoder>,
    /// News of the producer's subscribers, where the device asked for them and its token may hear them.
    news: Option<SubscriberWatch>,
    /// Records in datagrams, where both sides can have them.
    latest: Option<Latest<'s>>,
    /// Frames on their way to the device.
    out: BytesMut,
}

impl<'s, T: Transport> Session<'s, T> {
    async fn run(mut self, features: u64) -> Result<Infallible, CloseReason> {
        let draining = self.host.draining;
        let mut progress = self.publisher.progress();
        let mut cut = None;
        let mut submitting = pin!(Fuse::terminated());
        // Registered once, and not for each frame.
        let mut drains = pin!(draining.cancelled().fuse());
        self.welcome(features);
        loop {
            self.write().await?;
            if submitting.is_terminated()
                && let Some(batch) = self.next_batch()
            {
                submitting.set(batch.submit().fuse());
            }
            let ready = submitting.is_terminated() && self.acks.len() < MAX_PENDING;
            let wanted = if ready { Wanted::All } else { Wanted::Control };
            tokio::select! {
                biased;
                // Cannot fail: the publisher holds the sender.
                _ = progress.changed() => {}
                receipt = &mut submitting, if !submitting.is_terminated() => self.submitted(receipt?),
                () = &mut drains, if !drains.is_terminated() => {
                    debug!("asking the device to leave");
                    Frame::Drain.encode(&mut self.out);
                    cut = Some(Instant::now() + self.host.limits.drain.connections());
                }
                () = until(cut) => return Err(CloseReason::Draining),
                () = until(self.acks.due()) => {}
                () = opened(&mut self.latest) => {}
                subscription = heard(&mut self.news) => subscription_frame(&subscription).encode(&mut self.out),
                received = self.transport.recv(wanted) => self.take_all(received, wanted).await?,
            }
            let committed = progress.borrow_and_update().clone();
            self.acknowledge(&committed).await?;
            // However fast the device sends.
            tokio::task::consume_budget().await;
        }
    }

    fn welcome(&mut self, features: u64) {
        let Host { backend, limits, .. } = self.host;
        let welcome = Welcome {
            node: backend.node.clone(),
            fence: self.publisher.fence(),
            seen: self.publisher.seen(),
            max_record: self.max_record() as u64,
            credit: limits.credit,
            token_expires_in: self.standing.expires_in(),
            durability: backend.relay.log().durability(),
            features,
        };
        Frame::Welcome(welcome).encode(&mut self.out);
    }

    /// Takes a frame and those that have come behind it, until the batch is full. Where the connection ends among them, the records
    /// before that are still handed in, if the log's writer takes them at once.
    async fn take_all(&mut self, first: Result<Received, CloseReason>, wanted: Wanted) -> Result<(), CloseReason> {
        let mut next = Some(first);
        let mut frames = 0;
        while let Some(received) = next {
            let taken = match received {
                Ok(received) => self.take(received).await,
                Err(reason) => Err(reason),
            };
            if let Err(reason) = taken {
                let _ = self.next_batch().map(|batch| batch.submit().now_or_never());
                return Err(reason);
            }
            frames += 1;
            if frames >= BATCH_FRAMES
                || self.batch.bytes() >= BATCH_BYTES
                || self.batch.refused() >= BATCH_REFUSALS
                || self.out.len() >= WRITE
            {
                break;
            }
            next = self.transport.recv(wanted).now_or_never();
        }
        Ok(())
    }

    async fn take(&mut self, received: Received) -> Result<(), CloseReason> {
        let frame = match received {
            Received::Frame(frame) => frame,
            Received::Datagram(frame) => return self.datagram(frame),
        };
        match frame {
            Frame::Record(record) => self.batch.record(record)?,
            Frame::Compact(compact) => {
                let record = self.expand(&compact)?;
                self.batch.record(record)?;
            }
            Frame::Template(template) => self.learn(template)?,
            Frame::Skipped(skipped) => self.batch.skip(&skipped.ranges),
            Frame::TokenRefresh(refresh) => refreshed(self.host.backend, self.standing, &refresh).await?.encode(&mut self.out),
            Frame::Health(health) => self.presence.health(health.loss_ppm, health.backlog),
            Frame::Ping => Frame::Pong.encode(&mut self.out),
            // The device waits for the last acknowledgements, and closes.
            Frame::Done => self.acks.end(),
            Frame::Pong => {}
            other => return Err(CloseReason::unexpected(&other)),
        }
        Ok(())
    }

    fn datagram(&mut self, frame: Frame) -> Result<(), CloseReason> {
        let record = match frame {
            Frame::Record(record) => record,
            Frame::Compact(compact) => self.expand(&compact)?,
            other => return Err(CloseReason::unexpected(&other)),
        };
        if let Some(latest) = &mut self.latest {
            latest.take(record);
        }
        Ok(())
    }

    /// The record that a compact one stands for.
    fn expand(&mut self, compact: &Compact) -> Result<Record, CloseReason> {
        let limit = self.max_record();
        let json = self.templates()?.expand(compact, limit)?;
        Ok(Record { seq: compact.seq, json })
    }

    fn learn(&mut self, template: Template) -> Result<(), CloseReason> {
        let id = self.templates()?.add(template)?;
        Frame::TemplateAccepted(TemplateAccepted { id }).encode(&mut self.out);
        Ok(())
    }

    fn templates(&mut self) -> Result<&mut Decoder, CloseReason> {
        self.templates.as_mut().ok_or_else(|| CloseReason::protocol("compact records were not agreed on"))
    }

    /// The batch that is to be submitted, if there is anything in it.
    fn next_batch(&mut self) -> Option<IngestBatch<'s>> {
        if self.batch.is_empty() {
            return None;
        }
        let batch = std::mem::replace(&mut self.batch, IngestBatch::new(self.publisher));
        self.transport.count(batch.records(), batch.bytes() as u64);
        self.standing.count(batch.new_records());
        self.presence.seen(batch.new_records());
        Some(batch)
    }

    fn submitted(&mut self, mut receipt: Receipt) {
        receipt.refused.drain(..).for_each(|refused| Frame::Refused(refused).encode(&mut self.out));
        self.acks.add(receipt);
    }

    /// Acknowledges the records that are in the log. If nothing more can be written, it acknowledges the last ones, and the session ends.
    async fn acknowledge(&mut self, committed: &Committed) -> Result<(), CloseReason> {
        let now = Instant::now();
        self.acks.commit(committed.up_to, now, || self.transport.rtt());
        let ranges = self.acks.take(now, committed.error.is_some() || !self.out.is_empty());
        Ack::of(&ranges).for_each(|ack| Frame::Ack(ack).encode(&mut self.out));
        let Some(error) = &committed.error else { return Ok(()) };
        self.write().await?;
        Err(relay::Error::from(error.clone()).into())
    }

    /// Writes the frames that wait for it.
    async fn write(&mut self) -> Result<(), CloseReason> {
        if self.out.is_empty() { Ok(()) } else { self.transport.send(self.out.split().freeze()).await }
    }

    fn max_record(&self) -> usize {
        self.host.backend.relay.limits().record
    }
}

/// Goes on with opening a publisher for datagrams. Waits for ever where there is nothing to open.
async fn opened(latest: &mut Option<Latest<'_>>) {
    match latest {
        Some(latest) => latest.opened().await,
        None => std::future::pending().await,
    }
}
