//! One connection.

use bytes::Bytes;
use motience_certs::Trust;
use motience_device::client::{Connector, Error, Event, Lane, Session};
use motience_proto::{
    model::{ProducerEpoch, Seq},
    wire::{CloseCode, Credit, Frame, Intent, Record, StreamKind, TokenAccepted},
};
use secrecy::SecretString;

use crate::support::{
    peer::{Guest, Peer},
    soon,
};

fn token() -> SecretString {
    "secret-token".into()
}

fn record(seq: u64) -> Record {
    Record { seq: Seq(seq), json: Bytes::from_static(b"{\"x\":1}") }
}

async fn open(peer: &Peer) -> (Session, Guest) {
    let connector = Connector::new(peer.config()).unwrap();
    let connect = tokio::spawn(async move { connector.connect(&token(), Intent::Produce, ProducerEpoch(7)).await });
    let mut guest = peer.guest().await;
    guest.welcome("1-3").await;
    (connect.await.unwrap().unwrap(), guest)
}

#[tokio::test]
async fn hello_and_welcome() {
    let peer = Peer::start();
    let (session, guest) = open(&peer).await;
    assert_eq!((guest.hello.token.as_str(), guest.hello.device_id.as_str(), guest.hello.epoch), ("secret-token", "dev", ProducerEpoch(7)));
    assert_eq!(guest.hello.intent, Intent::Produce);
    assert_eq!(session.welcome().seen.to_string(), "1-3");
}

#[tokio::test]
async fn lanes_and_answers() {
    let peer = Peer::start();
    let (mut session, mut guest) = open(&peer).await;
    let mut records = guest.records();
    session.send(Lane::Ordered, record(4)).await.unwrap();
    assert_eq!(records.next().await, (StreamKind::Ordered, record(4)));
    session.send(Lane::Independent, record(5)).await.unwrap();
    assert_eq!(records.next().await, (StreamKind::Independent, record(5)));
    for seq in 6..500 {
        session.send(Lane::Ordered, record(seq)).await.unwrap();
    }
    for seq in 6..500 {
        assert_eq!(records.next().await.1.seq, Seq(seq), "the ordered lane keeps the order");
    }
    guest.ack("4-5").await;
    guest.put(Frame::Credit(Credit { records: 9 })).await;
    guest.put(Frame::Drain).await;
    assert_eq!(session.next().await.unwrap(), Event::Acked("4-5".parse().unwrap()));
    assert_eq!(session.next().await.unwrap(), Event::Credit(9));
    assert_eq!(session.next().await.unwrap(), Event::Drain);

    session.renew(&"another".into()).await.unwrap();
    let Some(Frame::TokenRefresh(refresh)) = guest.control().await else { panic!("no TokenRefresh") };
    assert_eq!(refresh.token, "another");
    guest.put(Frame::TokenAccepted(TokenAccepted { expires_in: 60 })).await;
    assert_eq!(session.next().await.unwrap(), Event::TokenAccepted(60));

    session.finish().await;
    let end = soon("the close", guest.connection.closed()).await;
    assert!(matches!(Error::from(end), Error::Closed { code: CloseCode::Done, .. }));
}

#[tokio::test]
async fn every_close_code_arrives_with_its_reason() {
    let peer = Peer::start();
    for number in 0..9 {
        let code = CloseCode::from_number(number).unwrap();
        let (mut session, mut guest) = open(&peer).await;
        guest.ack("9").await;
        // The acknowledgement is on its way before the close: nothing that arrived is lost by it.
        assert!(matches!(soon("the ack", session.next()).await, Ok(Event::Acked(_))));
        guest.close(code);
        let end = soon("the close", session.next()).await.unwrap_err();
        assert!(matches!(&end, Error::Closed { code: got, reason } if *got == code && reason == "because"), "{end:?}");
    }
}

#[tokio::test]
async fn a_close_instead_of_welcome() {
    let peer = Peer::start();
    let connector = Connector::new(peer.config()).unwrap();
    let connect = tokio::spawn(async move { connector.connect(&token(), Intent::Produce, ProducerEpoch(7)).await });
    peer.guest().await.close(CloseCode::Unauthenticated);
    let error = soon("the answer", connect).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed { code: CloseCode::Unauthenticated, .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_told() {
    let peer = Peer::start();
    let (mut session, mut guest) = open(&peer).await;
    guest.put(Frame::Record(record(1))).await;
    let error = soon("the end", session.next()).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    let end = soon("the close", guest.connection.closed()).await;
    assert!(matches!(Error::from(end), Error::Closed { code: CloseCode::Protocol, .. }));
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let (peer, other) = (Peer::start(), Peer::start());
    let mut config = peer.config();
    config.trust = other.config().trust;
    assert!(matches!(config.trust, Trust::Ca(_)));
    let connector = Connector::new(config).unwrap();
    let connect = tokio::spawn(async move { connector.connect(&token(), Intent::Produce, ProducerEpoch(7)).await });
    let accept = tokio::spawn(async move { peer.guest().await });
    let error = soon("the refusal", connect).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    accept.abort();
}

#[tokio::test]
async fn a_silent_server_costs_the_time_limit_only() {
    let peer = Peer::start();
    let mut config = peer.config();
    config.connect_timeout = std::time::Duration::from_millis(300);
    let connector = Connector::new(config).unwrap();
    let connect = tokio::spawn(async move { connector.connect(&token(), Intent::Produce, ProducerEpoch(7)).await });
    let guest = peer.guest().await;
    assert!(matches!(soon("the limit", connect).await.unwrap(), Err(Error::Timeout)));
    soon("the connection is given up", guest.connection.closed()).await;
}
