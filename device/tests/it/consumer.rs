//! Following producers.

use std::time::Duration;

use bytes::Bytes;
use motience_device::{
    Consumer, Credentials,
    backoff::Backoff,
    consumer::{Config, Delivery, Error},
};
use motience_proto::{
    model::{Cursor, GapCause, LogEpoch, Offset, Order, ProducerEpoch, ProducerId, RecordId, Seq},
    wire::{CloseCode, DeliveryCursor, Entry, Followed, Frame, Gap, Intent, Start, Subscribe, features},
};

use crate::support::{peer::Peer, soon};

const WHO: ProducerId = ProducerId(5);

fn start(peer: &Peer) -> Consumer {
    let mut config = Config::new(peer.config());
    config.policy.backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(50) };
    Consumer::start(config, Credentials::Token("t".into())).unwrap()
}

fn cursor_frame() -> Frame {
    Frame::Cursor(DeliveryCursor { producer: WHO, cursor: cursor(0) })
}

fn entry(offset: u64) -> Frame {
    Frame::Entry(Entry { offset: Offset(offset), record_id: name(offset), message: message(offset) })
}

fn cursor(offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(1), offset: Offset(offset) }
}

fn name(seq: u64) -> RecordId {
    RecordId { producer_epoch: ProducerEpoch(3), seq: Seq(seq) }
}

fn subscribe(start: Start) -> Option<Frame> {
    Some(Frame::Subscribe(Subscribe { producer: WHO, start, cursor_name: String::new(), selection: String::new(), order: Order::Log }))
}

fn message(offset: u64) -> Bytes {
    format!("{{\"n\":{offset}}}").into()
}

fn record(offset: u64) -> Delivery {
    Delivery::Record { producer: WHO, cursor: cursor(offset), record_id: name(offset), message: message(offset) }
}

async fn next(consumer: &mut Consumer) -> Delivery {
    soon("a delivery", consumer.next()).await.unwrap()
}

#[tokio::test]
async fn a_follow_resumes_behind_the_last_record() {
    let peer = Peer::start();
    let mut consumer = start(&peer);
    consumer.subscribe(WHO, Start::Live).await.unwrap();
    let mut guest = peer.guest().await;
    assert_eq!(guest.hello.intent, Intent::Consume);
    guest.welcome("").await;
    assert_eq!(guest.control().await, subscribe(Start::Live));
    guest.put(Frame::Followed(Followed { producer: WHO, refusal: String::new() })).await;
    assert_eq!(next(&mut consumer).await, Delivery::Following { producer: WHO });
    let _stream = guest.deliver(&[cursor_frame(), entry(7), entry(8)]).await;
    assert_eq!(next(&mut consumer).await, record(7));
    assert_eq!(next(&mut consumer).await, record(8));
    guest.close(CloseCode::Draining);

    let mut guest = peer.guest().await;
    guest.welcome("").await;
    assert_eq!(guest.control().await, subscribe(Start::After(cursor(8))));
    assert_eq!(guest.hello.features & features::CAUSES, features::CAUSES);
    let gap = |from, to, cause| Frame::Gap(Gap { producer: WHO, from: Offset(from), to: Offset(to), cause });
    // The second is one of a server that does not say.
    let gaps = [gap(10, 12, Some(GapCause::Erased)), gap(13, 14, None)];
    let _stream = guest.deliver(&[&[cursor_frame(), entry(8), entry(9)], &gaps[..]].concat()).await;
    assert_eq!(next(&mut consumer).await, record(9), "the double is removed");
    let told = |from, to, cause| Delivery::Gap { producer: WHO, from: Offset(from), to: Offset(to), cause };
    assert_eq!(next(&mut consumer).await, told(10, 12, Some(GapCause::Erased)));
    assert_eq!(next(&mut consumer).await, told(13, 14, None));
    guest.put(Frame::Followed(Followed { producer: WHO, refusal: "unsubscribed".into() })).await;
    assert_eq!(next(&mut consumer).await, Delivery::Ended { producer: WHO, refusal: "unsubscribed".into() });
    consumer.shutdown().await;
    soon("the close", guest.connection.closed()).await;
}

#[tokio::test]
async fn a_refusal_for_good_ends_it() {
    let peer = Peer::start();
    let mut consumer = start(&peer);
    peer.guest().await.close(CloseCode::Forbidden);
    assert!(matches!(soon("the end", consumer.next()).await, Err(Error::Stopped(_))));
    assert!(matches!(consumer.next().await, Err(Error::Stopped(_))));
}

#[tokio::test]
async fn a_slow_reader_loses_nothing() {
    const COUNT: u64 = 20_000;
    let peer = Peer::start();
    let mut consumer = start(&peer);
    consumer.subscribe(WHO, Start::Earliest).await.unwrap();
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    guest.control().await;
    let sender = tokio::spawn(async move {
        let mut stream = guest.deliver(&[cursor_frame()]).await;
        let mut bytes = bytes::BytesMut::new();
        for offset in 1..=COUNT {
            entry(offset).encode(&mut bytes);
        }
        stream.write_all(&bytes).await.unwrap();
        (guest, stream)
    });
    for offset in 1..=COUNT {
        assert_eq!(next(&mut consumer).await, record(offset));
    }
    drop(soon("the sender", sender).await.unwrap());
}
