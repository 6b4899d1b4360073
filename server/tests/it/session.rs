//! The producer session of motience/1: each of its behaviours over both transports, with the same assertions.

use std::{collections::VecDeque, net::Ipv4Addr, ops::RangeInclusive, sync::Arc};

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use motience_certs::{Trust, client};
use motience_proto::{
    model::{ProducerEpoch, Seq},
    wire::{
        ALPN, CloseCode, Frame, Health, Hello, Intent, Limits, Record, Skipped, StreamKind, TokenRefresh, VERSION, Welcome,
        compact::Encoder, features,
    },
};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::{
    gateway::{Pair, Socket, consume, next_json, pair},
    harness::{self, Account, LIMIT, Node, PASSWORD, account, http},
    quic::{ap, record_of},
};

const TRANSPORTS: [Transport; 2] = [Transport::Quic, Transport::Tunnel];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Quic,
    Tunnel,
}

/// A device's end of a session, by hand.
struct Peer {
    link: Link,
    frames: VecDeque<Frame>,
}

enum Link {
    Quic {
        _endpoint: Endpoint,
        connection: Connection,
        control: SendStream,
        recv: RecvStream,
        buffer: BytesMut,
        uplink: Option<SendStream>,
    },
    Tunnel(Socket),
}

/// The server's next word: a frame, or the code of motience/1 with which it closes and the text.
#[derive(Debug)]
enum Received {
    Frame(Frame),
    Closed(u32, String),
}

impl Peer {
    /// A connection that has said nothing.
    async fn open(node: &Node, transport: Transport) -> Self {
        let link = match transport {
            Transport::Quic => {
                let tls = client::quic_config(&Trust::Ca(node.at.ca.clone().unwrap()), &[ALPN]).unwrap();
                let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
                let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                endpoint.set_default_client_config(config);
                let connecting = endpoint.connect(node.at.quic.as_deref().unwrap().parse().unwrap(), "localhost").unwrap();
                let connection = timeout(LIMIT, connecting).await.expect("a connection in time").unwrap();
                let (control, recv) = connection.open_bi().await.unwrap();
                Link::Quic { _endpoint: endpoint, connection, control, recv, buffer: BytesMut::new(), uplink: None }
            }
            Transport::Tunnel => {
                let url = node.at.wss1.as_deref().unwrap().replace("/producer", "/motience");
                let mut request = url.into_client_request().unwrap();
                request.headers_mut().insert("sec-websocket-protocol", "motience.1".parse().unwrap());
                Link::Tunnel(connect_async(request).await.unwrap().0)
            }
        };
        Self { link, frames: VecDeque::new() }
    }

    /// A session past its Welcome.
    async fn enter(node: &Node, transport: Transport, hello: Hello) -> (Self, Welcome) {
        let mut peer = Self::open(node, transport).await;
        peer.say([Frame::Hello(hello)]).await;
        match peer.frame().await {
            Frame::Welcome(welcome) => (peer, welcome),
            other => panic!("{transport:?}: {other:?}"),
        }
    }

    /// Sends frames of the control stream. A server that has closed already is received later.
    async fn say(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let mut out = BytesMut::new();
        frames.into_iter().for_each(|frame| frame.encode(&mut out));
        match &mut self.link {
            Link::Quic { control, .. } => drop(timeout(LIMIT, control.write_all(&out)).await.expect("it is read")),
            Link::Tunnel(socket) => drop(timeout(LIMIT, socket.send(Message::Binary(out.freeze()))).await.expect("it is read")),
        }
    }

    /// Sends frames with records, over QUIC on the ordered lane.
    async fn send(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let Link::Quic { connection, uplink, .. } = &mut self.link else { return self.say(frames).await };
        let mut out = BytesMut::new();
        if uplink.is_none() {
            *uplink = Some(connection.open_uni().await.unwrap());
            StreamKind::Ordered.encode(&mut out);
        }
        frames.into_iter().for_each(|frame| frame.encode(&mut out));
        drop(timeout(LIMIT, uplink.as_mut().unwrap().write_all(&out)).await.expect("it is read"));
    }

    async fn receive(&mut self) -> Received {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Received::Frame(frame);
            }
            match &mut self.link {
                Link::Quic { connection, recv, buffer, .. } => {
                    match timeout(LIMIT, recv.read_chunk(64 << 10, true)).await.expect("a frame in time") {
                        Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
                        _ => match timeout(LIMIT, connection.closed()).await.expect("a close in time") {
                            ConnectionError::ApplicationClosed(close) => {
                                let code = u32::try_from(close.error_code.into_inner()).unwrap();
                                return Received::Closed(code, String::from_utf8(close.reason.to_vec()).unwrap());
                            }
                            other => panic!("{other}"),
                        },
                    }
                    while let Some(frame) = Frame::decode(buffer, Limits::control()).unwrap() {
                        self.frames.push_back(frame);
                    }
                }
                Link::Tunnel(socket) => match timeout(LIMIT, socket.next()).await.expect("a message in time").unwrap().unwrap() {
                    Message::Binary(message) => {
                        let mut message = BytesMut::from(message);
                        while let Some(frame) = Frame::decode(&mut message, Limits::control()).unwrap() {
                            self.frames.push_back(frame);
                        }
                        assert!(message.is_empty(), "whole frames only");
                    }
                    Message::Close(Some(close)) => {
                        let code = u16::from(close.code);
                        return Received::Closed(u32::from(code.checked_sub(4100).unwrap_or(code)), close.reason.to_string());
                    }
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                },
            }
        }
    }

    async fn frame(&mut self) -> Frame {
        match self.receive().await {
            Received::Frame(frame) => frame,
            closed => panic!("{closed:?}"),
        }
    }

    /// Waits until all of `numbers` are acknowledged, and nothing else.
    async fn acked(&mut self, numbers: RangeInclusive<u64>) {
        harness::acked(numbers, async || self.frame().await).await;
    }

    /// Waits for the end, past whatever comes before it.
    async fn closed(&mut self) -> (u32, String) {
        loop {
            if let Received::Closed(code, text) = self.receive().await {
                return (code, text);
            }
        }
    }
}

fn hello(token: &str, device: &str) -> Hello {
    let (token, device_id) = (token.to_owned(), device.to_owned());
    Hello { version: VERSION, intent: Intent::Produce, token, device_id, epoch: ProducerEpoch(7), features: 0 }
}

fn records(device: &str, numbers: RangeInclusive<u64>) -> impl Iterator<Item = Frame> {
    numbers.map(move |n| Frame::Record(record_of(device, n)))
}

/// A fresh token of an account.
async fn token(node: &Node, account: &Account) -> String {
    let body = json!({"username": account.username, "password": PASSWORD});
    let login: Value = http().post(format!("{}/login", ap(node))).json(&body).send().await.unwrap().json().await.unwrap();
    login["access_token"].as_str().unwrap().to_owned()
}

fn renewal(token: String) -> Frame {
    Frame::TokenRefresh(TokenRefresh { token })
}

#[tokio::test]
async fn admission_is_refused_with_the_code_and_the_reason() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let good = || hello(&producer.token, "d");
    let table = [
        (Frame::Hello(Hello { version: 9, ..good() }), CloseCode::Protocol, "version 9 is not spoken here"),
        (Frame::Hello(Hello { token: "nonsense".into(), ..good() }), CloseCode::Unauthenticated, ""),
        (Frame::Hello(Hello { token: consumer.token.clone(), ..good() }), CloseCode::Forbidden, "this account is no producer"),
        (Frame::Hello(Hello { device_id: String::new(), ..good() }), CloseCode::Protocol, ""),
        (Frame::Ping, CloseCode::Protocol, "Ping before Hello"),
    ];
    for transport in TRANSPORTS {
        for (first, code, text) in &table {
            let mut peer = Peer::open(&node, transport).await;
            peer.say([first.clone()]).await;
            let (got, reason) = peer.closed().await;
            assert!(got == code.number() && reason.contains(text), "{transport:?} {first:?}: {got} {reason}");
        }
        let (mut peer, _) = Peer::enter(&node, transport, good()).await;
        peer.say([Frame::Drain]).await;
        assert_eq!(peer.closed().await, (CloseCode::Protocol.number(), "Drain is not expected here".to_owned()), "{transport:?}");
    }
}

#[tokio::test]
async fn records_are_taken_once_in_every_form() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut egress = consume(&node, &consumer, "").await;
    for (transport, device) in TRANSPORTS.into_iter().zip(["a", "b"]) {
        let (mut peer, welcome) =
            Peer::enter(&node, transport, Hello { features: features::COMPACT, ..hello(&producer.token, device) }).await;
        assert_eq!((welcome.durability.as_str(), welcome.max_record, welcome.credit), ("file", 64 * 1024, 8192));
        assert!(welcome.seen.is_empty() && welcome.token_expires_in > 3000 && welcome.features == features::COMPACT);
        peer.say([Frame::Ping, Frame::Health(Health { backlog: 3, loss_ppm: None }), Frame::Pong, Frame::Done]).await;
        assert_eq!(peer.frame().await, Frame::Pong);
        peer.send(records(device, 1..=200)).await;
        peer.acked(1..=200).await;
        // A double is acknowledged again, and changes nothing; so are skipped numbers.
        peer.send(records(device, 190..=200)).await;
        peer.acked(190..=200).await;
        peer.say([Frame::Skipped(Skipped { ranges: (201..=210).collect() })]).await;
        peer.acked(201..=210).await;
        // One that is no record is refused by name, at most as long as a record and a little, and the rest goes on.
        let long = format!(r#"{{"device_id":"{device}","timestamp":1,"data":"{}"}}"#, "x".repeat(64 * 1024));
        for (seq, json, code) in [(211, r#"{"producer_id":"9","data":1}"#, "unknown_field"), (212, long.as_str(), "too_large")] {
            peer.send([Frame::Record(Record { seq: Seq(seq), json: json.to_owned().into() })]).await;
            let Frame::Refused(refused) = peer.frame().await else { panic!("{transport:?}: a refusal") };
            assert_eq!((refused.seq, refused.code.as_str()), (Seq(seq), code), "{transport:?}");
        }
        // Templates, used once they are accepted.
        let (mut encoder, mut compact) = (Encoder::new(), 0);
        for n in 213..=230 {
            let (sent, template) = encoder.encode(record_of(device, n));
            let frame = Frame::from(sent);
            compact += usize::from(matches!(frame, Frame::Compact(_)));
            if let Some(template) = template {
                peer.say([Frame::Template(template)]).await;
                let Frame::TemplateAccepted(accepted) = peer.frame().await else { panic!("{transport:?}: an answer to the template") };
                encoder.accepted(accepted.id);
            }
            peer.send([frame]).await;
            peer.acked(n..=n).await;
        }
        assert!(compact > 10, "{transport:?}: {compact} of 18 were compact");
        for n in (1..=200).chain(213..=230) {
            let message = next_json(&mut egress).await;
            assert_eq!((&message["device_id"], &message["data"]["n"]), (&json!(device), &json!(n)), "{transport:?}");
        }
        // A frame over its limit is the end.
        let json = "x".repeat(70 * 1024).into();
        peer.send([Frame::Record(Record { seq: Seq(231), json })]).await;
        assert_eq!(peer.closed().await.0, CloseCode::TooLarge.number(), "{transport:?}");
    }
}

#[tokio::test]
async fn compact_records_need_an_agreement() {
    let Pair { node, producer, .. } = pair(&[]).await;
    for transport in TRANSPORTS {
        let (mut peer, welcome) = Peer::enter(&node, transport, hello(&producer.token, "d")).await;
        assert_eq!(welcome.features, 0);
        let mut encoder = Encoder::new();
        let template = (1..).find_map(|n| encoder.encode(record_of("d", n)).1).unwrap();
        peer.say([Frame::Template(template)]).await;
        assert_eq!(peer.closed().await, (CloseCode::Protocol.number(), "compact records were not agreed on".to_owned()), "{transport:?}");
    }
}

#[tokio::test]
async fn a_newer_session_ends_the_older_one_whatever_both_came_by() {
    let Pair { node, producer, .. } = pair(&[]).await;
    let mut number = 0;
    for older in TRANSPORTS {
        for newer in TRANSPORTS {
            let good = || hello(&producer.token, "d");
            let (mut first, welcome) = Peer::enter(&node, older, good()).await;
            assert_eq!(welcome.seen.prefix(), number, "{older:?} {newer:?}");
            number += 1;
            first.send(records("d", number..=number)).await;
            first.acked(number..=number).await;
            let (mut second, later) = Peer::enter(&node, newer, good()).await;
            assert!(later.fence > welcome.fence && later.seen.prefix() == number, "{older:?} {newer:?}");
            let fenced = (CloseCode::Fenced.number(), "a newer connection of this device took over".to_owned());
            assert_eq!(first.closed().await, fenced, "{older:?} {newer:?}");
            second.send(records("d", number..=number)).await;
            second.acked(number..=number).await;
        }
    }
}

#[tokio::test]
async fn a_token_is_renewed_by_its_own_account_and_its_end_ends_the_session() {
    let Pair { node, producer, .. } = pair(&[("JWT_EXPIRES_IN", "3s")]).await;
    let other = account(ap(&node), "producer", "other").await;
    for transport in TRANSPORTS {
        let (mut peer, welcome) = Peer::enter(&node, transport, hello(&token(&node, &producer).await, "d")).await;
        assert!(welcome.token_expires_in <= 3);
        peer.say([renewal(token(&node, &producer).await)]).await;
        let Frame::TokenAccepted(accepted) = peer.frame().await else { panic!("{transport:?}: an answer to the renewal") };
        assert!(accepted.expires_in <= 3);
        let ended = (CloseCode::Unauthenticated.number(), "the token has expired or was revoked".to_owned());
        assert_eq!(peer.closed().await, ended, "{transport:?}");

        let (mut peer, _) = Peer::enter(&node, transport, hello(&token(&node, &producer).await, "d")).await;
        peer.say([renewal(token(&node, &other).await)]).await;
        let theirs = (CloseCode::Forbidden.number(), "the renewed token is another account's".to_owned());
        assert_eq!(peer.closed().await, theirs, "{transport:?}");
    }
}

#[tokio::test]
async fn limits_end_the_session_that_reaches_them() {
    let limits = [("MAX_DEVICES_PER_ACCOUNT", "1"), ("LOG_MAX_DEDUP_RANGES", "4"), ("CONTROL_FRAMES_PER_SECOND", "10")];
    let Pair { node, producer, .. } = pair(&limits).await;
    for (transport, device) in TRANSPORTS.into_iter().zip(["a", "b"]) {
        let good = || hello(&producer.token, device);
        // The permit of an earlier session may take a moment to come back.
        let enter = async || loop {
            let mut peer = Peer::open(&node, transport).await;
            peer.say([Frame::Hello(good())]).await;
            match peer.receive().await {
                Received::Frame(Frame::Welcome(_)) => return peer,
                Received::Closed(code, _) if code == CloseCode::RateLimited.number() => {}
                other => panic!("{transport:?}: {other:?}"),
            }
        };
        let mut peer = enter().await;
        let mut second = Peer::open(&node, transport).await;
        second.say([Frame::Hello(good())]).await;
        assert_eq!(second.closed().await.0, CloseCode::RateLimited.number(), "{transport:?}: too many devices");
        // Every second number leaves a hole.
        peer.send((1..=5).flat_map(|n| records(device, 2 * n..=2 * n))).await;
        let (code, text) = peer.closed().await;
        assert!(code == CloseCode::RateLimited.number() && text.contains("more than 4 separate runs"), "{transport:?}: {code} {text}");
        // Ten seconds' worth may come at once. A tunnel says it in WebSocket's own code, as documented.
        let mut peer = enter().await;
        peer.say(std::iter::repeat_n(Frame::Ping, 300)).await;
        let flooded = if transport == Transport::Quic { CloseCode::RateLimited.number() } else { 1008 };
        assert_eq!(peer.closed().await.0, flooded, "{transport:?}: too many pings");
    }
}

#[tokio::test]
async fn a_draining_node_takes_what_is_in_flight_and_cuts_a_device_that_stays() {
    for transport in TRANSPORTS {
        let Pair { mut node, producer, .. } = pair(&[]).await;
        let (mut peer, _) = Peer::enter(&node, transport, hello(&producer.token, "d")).await;
        node.signal("TERM");
        assert_eq!(peer.frame().await, Frame::Drain, "{transport:?}");
        peer.send(records("d", 1..=1)).await;
        peer.acked(1..=1).await;
        assert_eq!(peer.closed().await, (CloseCode::Draining.number(), "the node is going away".to_owned()), "{transport:?}");
        drop(peer);
        assert_eq!(node.ended().await, 0, "{transport:?}");
    }
}
