//! A native consumer: one unidirectional stream for each producer it follows, so that none delays another.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use motience_shared::{
    auth::Grant,
    model::{Fence, LogEpoch, ProducerId, RangeSet},
    relay::{Delivery, ReadFrom, Subscriber},
    wire::{CloseCode, Entry, Feed, Followed, Frame, From, Gap, StreamKind, Subscribe, Welcome},
};
use quinn::{Connection, SendStream};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Shared,
    connection::{Control, Ending, write},
    control::{WRITE_LIMIT, ended, expires_in, renew, unexpected},
};

/// Bytes of entries written at once.
const WRITE: usize = 64 * 1024;
/// Gap notices that wait to be written.
const GAPS: usize = 16;

pub(super) async fn serve(connection: &Connection, control: Control, mut grant: Grant, shared: &Arc<Shared>) -> Result<(), Ending> {
    let Control { mut send, mut recv } = control;
    let backend = &shared.backend;
    let mut out = BytesMut::new();
    Frame::Welcome(Welcome {
        node: backend.node.clone(),
        fence: Fence(0),
        seen: RangeSet::new(),
        max_record: backend.relay.limits().record as u64,
        credit: 0,
        token_expires_in: expires_in(backend, &grant),
        durability: backend.relay.log().durability().to_owned(),
        features: 0,
    })
    .encode(&mut out);
    let consumer = grant.user.consumer();
    let changes = backend.relay.watch_subscriptions(consumer);
    let (gaps, mut told_gaps) = mpsc::channel(GAPS);
    let mut follows: HashMap<ProducerId, CancellationToken> = HashMap::new();
    let mut feeds: JoinSet<Result<(), Ending>> = JoinSet::new();
    let mut drain_told = false;
    loop {
        if !out.is_empty() {
            timeout(WRITE_LIMIT, write(&mut send, &mut out)).await.map_err(|_| Ending::Gone("the control stream is not read".into()))??;
        }
        tokio::select! {
            frame = recv.next() => match frame? {
                Some(Frame::Subscribe(subscribe)) => {
                    let refusal = if follows.contains_key(&subscribe.producer) {
                        None
                    } else {
                        let refusal = refusal(shared, consumer, subscribe.producer, follows.len()).await?;
                        if refusal.is_none() {
                            let stop = CancellationToken::new();
                            follows.insert(subscribe.producer, stop.clone());
                            feeds.spawn(feed(connection.clone(), subscribe, backend.relay.subscriber(), gaps.clone(), stop));
                        }
                        refusal
                    };
                    followed(subscribe.producer, refusal.unwrap_or_default(), &mut out);
                }
                Some(Frame::Unsubscribe(unsubscribe)) => {
                    if let Some(stop) = follows.remove(&unsubscribe.producer) {
                        stop.cancel();
                    }
                    followed(unsubscribe.producer, "unsubscribed", &mut out);
                }
                Some(Frame::TokenRefresh(refresh)) => renew(backend, &mut grant, &refresh, &mut out)?,
                Some(Frame::Ping) => Frame::Pong.encode(&mut out),
                Some(Frame::Pong) => {}
                Some(Frame::Done) => return Ok(()),
                Some(other) => return Err(unexpected(&other)),
                None => return Err(Ending::Gone("the consumer closed its control stream".into())),
            },
            () = changes.changed() => {
                let allowed = backend.store.follows(consumer).await.map_err(store_away)?;
                follows.retain(|producer, stop| {
                    let stays = allowed.contains(producer);
                    if !stays {
                        stop.cancel();
                        followed(*producer, "unsubscribed", &mut out);
                    }
                    stays
                });
            }
            Some(gap) = told_gaps.recv() => Frame::Gap(gap).encode(&mut out),
            Some(finished) = feeds.join_next() => match finished {
                Ok(Ok(())) => {}
                Ok(Err(ending)) => return Err(ending),
                Err(e) => return Err(Ending::new(CloseCode::Internal, format!("a feed failed: {e}"))),
            },
            () = backend.ended(&grant) => return Err(ended()),
            () = shared.draining.cancelled(), if !drain_told => {
                Frame::Drain.encode(&mut out);
                drain_told = true;
            }
        }
    }
}

/// Why the consumer may not follow this producer, if it may not.
async fn refusal(
    shared: &Shared,
    consumer: motience_shared::model::ConsumerId,
    producer: ProducerId,
    follows: usize,
) -> Result<Option<&'static str>, Ending> {
    if follows >= shared.config.max_follows {
        return Ok(Some("too_many"));
    }
    let subscribed = shared.backend.store.is_following(consumer, producer).await.map_err(store_away)?;
    Ok(if subscribed { None } else { Some("not_subscribed") })
}

fn store_away(error: motience_shared::store::Error) -> Ending {
    motience_shared::relay::Error::Store(Arc::new(error)).into()
}

fn followed(producer: ProducerId, refusal: &str, out: &mut BytesMut) {
    Frame::Followed(Followed { producer, refusal: refusal.to_owned() }).encode(out);
}

/// Writes one producer's entries to a stream of its own until told to stop. A write that has begun is finished: the
/// consumer must not find half a frame.
async fn feed(
    connection: Connection,
    subscribe: Subscribe,
    subscriber: Subscriber,
    gaps: mpsc::Sender<Gap>,
    stop: CancellationToken,
) -> Result<(), Ending> {
    let mut feed = Writer { connection, producer: subscribe.producer, subscriber, gaps, out: BytesMut::new() };
    let from = match subscribe.from {
        From::Live => ReadFrom::Live,
        From::Earliest => ReadFrom::Earliest,
        From::After(offset) => ReadFrom::After(offset),
    };
    feed.subscriber.follow(subscribe.producer, from).await?;
    let epoch = feed.subscriber.log_epoch(subscribe.producer).unwrap_or_default();
    let mut stream = feed.open(epoch).await?;
    while let Some(next) = stop.run_until_cancelled(feed.subscriber.next()).await {
        let mut delivery = Some(next);
        while let Some(next) = delivery {
            feed.deliver(next, &mut stream).await?;
            delivery = if stop.is_cancelled() { None } else { feed.subscriber.try_next() };
        }
        if !feed.out.is_empty() {
            write(&mut stream, &mut feed.out).await?;
        }
    }
    // An error says that the connection is gone, which ends the stream as well.
    let _ = stream.finish();
    Ok(())
}

struct Writer {
    connection: Connection,
    producer: ProducerId,
    subscriber: Subscriber,
    gaps: mpsc::Sender<Gap>,
    out: BytesMut,
}

impl Writer {
    /// A stream with its head written. Each life of the log has a stream of its own.
    async fn open(&mut self, log_epoch: LogEpoch) -> Result<SendStream, Ending> {
        let mut stream = self.connection.open_uni().await?;
        StreamKind::Feed.encode(&mut self.out);
        Frame::Feed(Feed { producer: self.producer, log_epoch }).encode(&mut self.out);
        write(&mut stream, &mut self.out).await?;
        Ok(stream)
    }

    async fn deliver(&mut self, delivery: Delivery, stream: &mut SendStream) -> Result<(), Ending> {
        match delivery {
            Delivery::Batch { batch, after } => {
                for (offset, message) in batch.after(after) {
                    Frame::Entry(Entry { offset, message: message.clone() }).encode(&mut self.out);
                    if self.out.len() >= WRITE {
                        write(stream, &mut self.out).await?;
                    }
                }
            }
            Delivery::Gap { producer, from, to } => {
                let told = self.gaps.send(Gap { producer, from, to }).await;
                told.map_err(|_| Ending::Gone("the control stream has ended".into()))?;
            }
            Delivery::Reset { producer, epoch, after } => {
                debug!(%producer, %after, "the log was reset");
                if !self.out.is_empty() {
                    write(stream, &mut self.out).await?;
                }
                let _ = stream.finish();
                *stream = self.open(epoch).await?;
            }
        }
        Ok(())
    }
}
