//! A native consumer: one unidirectional stream for each producer it follows, so that none delays another.

mod feed;

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use motience_shared::{
    auth::Grant,
    model::{CursorName, Fence, ProducerId, RangeSet, Selection},
    rate::Bucket,
    relay::{
        Durable, ReadFrom,
        view::{self, Thinned, View},
    },
    wire::{CloseCode, Followed, Frame, From, Subscribe, Welcome, features},
};
use quinn::Connection;
use time::OffsetDateTime;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use self::feed::Feed;
use super::{
    Shared,
    connection::{Control, Ending, write},
    control::{WRITE_LIMIT, ended, expires_in, renew, unexpected},
};

pub(super) async fn serve(
    connection: &Connection,
    control: Control,
    mut grant: Grant,
    offered: u64,
    shared: &Arc<Shared>,
) -> Result<(), Ending> {
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
        durability: backend.relay.log().durability(),
        features: offered & features::VIEW,
    })
    .encode(&mut out);
    let consumer = grant.user.consumer();
    let changes = backend.relay.watch_subscriptions(consumer);
    let mut durable = backend.relay.durable(consumer);
    let mut follows: HashMap<ProducerId, Follow> = HashMap::new();
    let mut feeds: JoinSet<Result<(), Ending>> = JoinSet::new();
    let mut drain_told = false;
    let mut pace = Bucket::new(shared.config.control);
    let over = backend.ended(&grant);
    tokio::pin!(over);
    loop {
        if !out.is_empty() {
            timeout(WRITE_LIMIT, write(&mut send, &mut out)).await.map_err(|_| Ending::Gone("the control stream is not read".into()))??;
        }
        tokio::select! {
            frame = recv.next() => match paced(frame?, &mut pace)? {
                Some(Frame::Subscribe(subscribe)) => {
                    let refusal = if follows.contains_key(&subscribe.producer) {
                        None
                    } else {
                        let refusal = refusal(shared, consumer, subscribe.producer, follows.len()).await?;
                        match refusal {
                            None => match begin(&subscribe, &durable).await? {
                                Ok((from, name, view)) => {
                                    let stop = CancellationToken::new();
                                    let thinned = view.map(|view| Thinned::new(view, shared.config.view));
                                    let feed = Feed::new(subscribe.producer, backend.relay.subscriber(), thinned);
                                    feeds.spawn(feed.run(connection.clone(), from, stop.clone()));
                                    follows.insert(subscribe.producer, Follow { stop, name });
                                    None
                                }
                                Err(refusal) => Some(refusal),
                            },
                            refused => refused,
                        }
                    };
                    followed(subscribe.producer, refusal.unwrap_or_default(), &mut out);
                }
                Some(Frame::Unsubscribe(unsubscribe)) => {
                    if let Some(follow) = follows.remove(&unsubscribe.producer) {
                        follow.stop.cancel();
                    }
                    followed(unsubscribe.producer, "unsubscribed", &mut out);
                }
                Some(Frame::Confirm(confirm)) => {
                    // Of a follow that ended in between, or without a name, there is no cursor to move.
                    if let Some(name) = follows.get(&confirm.producer).and_then(|follow| follow.name.as_ref()) {
                        durable.confirm(name, confirm.producer, confirm.cursor);
                    }
                }
                Some(Frame::TokenRefresh(refresh)) => {
                    renew(backend, &mut grant, &refresh, &mut out)?;
                    over.set(backend.ended(&grant));
                }
                Some(Frame::Ping) => Frame::Pong.encode(&mut out),
                Some(Frame::Pong) => {}
                Some(Frame::Done) => {
                    durable.finish().await;
                    return Ok(());
                }
                Some(other) => return Err(unexpected(&other)),
                None => return Err(Ending::Gone("the consumer closed its control stream".into())),
            },
            () = changes.changed() => {
                let allowed = backend.store.follows(consumer).await.map_err(store_away)?;
                follows.retain(|producer, follow| {
                    let stays = allowed.contains(producer);
                    if !stays {
                        follow.stop.cancel();
                        followed(*producer, "unsubscribed", &mut out);
                    }
                    stays
                });
            }
            () = durable.due() => durable.flush().await,
            Some(finished) = feeds.join_next() => match finished {
                Ok(Ok(())) => {}
                Ok(Err(ending)) => return Err(ending),
                Err(e) => return Err(Ending::new(CloseCode::Internal, format!("a feed failed: {e}"))),
            },
            () = &mut over => return Err(ended()),
            () = shared.draining.cancelled(), if !drain_told => {
                Frame::Drain.encode(&mut out);
                drain_told = true;
            }
        }
    }
}

/// Lets a frame through, if the consumer may still ask for something: confirmations cost nothing.
fn paced(frame: Option<Frame>, pace: &mut Bucket) -> Result<Option<Frame>, Ending> {
    if !matches!(frame, None | Some(Frame::Confirm(_) | Frame::Done)) && pace.take(1).is_err() {
        metrics::counter!("motience_limited_total", "reason" => "control").increment(1);
        return Err(Ending::new(CloseCode::RateLimited, "too many requests on this connection (RATE_LIMIT_CONTROL)"));
    }
    Ok(frame)
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

/// One follow.
struct Follow {
    stop: CancellationToken,
    /// The durable cursor that its confirmations move.
    name: Option<CursorName>,
}

/// Where a follow begins, the durable cursor it moves, and what it shows; or why it does not begin.
type Beginning = Result<(ReadFrom, Option<CursorName>, Option<View>), &'static str>;

async fn begin(subscribe: &Subscribe, durable: &Durable) -> Result<Beginning, Ending> {
    let from = match subscribe.from {
        From::Live => ReadFrom::Live,
        From::Earliest => ReadFrom::Earliest,
        From::After(cursor) => ReadFrom::After(cursor),
        From::Time(ms) => {
            ReadFrom::Time(OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH))
        }
    };
    let Ok(view) = view(&subscribe.view) else { return Ok(Err(view::Error::CODE)) };
    if subscribe.durable.is_empty() {
        return Ok(Ok((from, None, view)));
    }
    let Ok(name) = CursorName::new(&subscribe.durable) else { return Ok(Err("invalid_cursor_name")) };
    let from = durable.place(&name, subscribe.producer, from).await?;
    Ok(Ok((from, Some(name), view)))
}

/// A follow's view; `None` where it wants everything. The client made the text of a selection, so what is wrong with its
/// expressions is told over HTTP, where people try them.
fn view(text: &str) -> Result<Option<View>, ()> {
    if text.is_empty() {
        return Ok(None);
    }
    let selection: Selection = serde_json::from_str(text).map_err(|_| ())?;
    View::of(&selection).map(Some).map_err(|_| ())
}
