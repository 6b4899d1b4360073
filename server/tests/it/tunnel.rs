//! motience/1 in a WebSocket, by a hand-made client.

use std::collections::VecDeque;

use bytes::BytesMut;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use motience_proto::{
    model::{ProducerEpoch, Seq},
    wire::{CloseCode, Frame, Hello, Intent, Limits, Record, Skipped, TokenRefresh, VERSION, Welcome, compact::Encoder, features},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest, handshake::client::Request},
};

use crate::{
    gateway::{Pair, consume, next_json, pair},
    harness::{self, Account, LIMIT, Node, PASSWORD, account, http},
    quic::{self, acked, ap, closed_with, record},
    tls,
};

pub(crate) type Plain = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A device at its end of the tunnel.
pub(crate) struct Tunnel<S> {
    socket: S,
    frames: VecDeque<Frame>,
}

/// Frame or close of the server.
#[derive(Debug)]
enum Received {
    Frame(Frame),
    Closed(u16, String),
}

fn request(node: &Node) -> Request {
    let url = node.at.wss1.as_deref().unwrap().replace("/producer", "/motience");
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "motience.1".parse().unwrap());
    request
}

pub(crate) fn hello(token: &str, device: &str, epoch: u64) -> Hello {
    let (token, device_id) = (token.to_owned(), device.to_owned());
    Hello { version: VERSION, intent: Intent::Produce, token, device_id, epoch: ProducerEpoch(epoch), features: 0 }
}

pub(crate) async fn open(node: &Node) -> Tunnel<Plain> {
    let (socket, answer) = connect_async(request(node)).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "motience.1");
    Tunnel { socket, frames: VecDeque::new() }
}

/// A tunnel past its Welcome.
async fn enter(node: &Node, producer: &Account, epoch: u64) -> (Tunnel<Plain>, Welcome) {
    let mut tunnel = open(node).await;
    let welcome = tunnel.enter(hello(&producer.token, "d", epoch)).await;
    (tunnel, welcome)
}

impl<S> Tunnel<S>
where
    S: Sink<Message, Error = Error> + Stream<Item = Result<Message, Error>> + Unpin,
{
    /// Sends frames as one message.
    pub(crate) async fn send(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let mut out = BytesMut::new();
        frames.into_iter().for_each(|frame| frame.encode(&mut out));
        self.socket.send(Message::Binary(out.freeze())).await.unwrap();
    }

    async fn receive(&mut self) -> Received {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Received::Frame(frame);
            }
            match timeout(LIMIT, self.socket.next()).await.expect("a message in time").unwrap().unwrap() {
                Message::Binary(message) => {
                    let mut message = BytesMut::from(message);
                    while let Some(frame) = Frame::decode(&mut message, Limits::for_records(1 << 20)).unwrap() {
                        self.frames.push_back(frame);
                    }
                    assert!(message.is_empty(), "whole frames only");
                }
                Message::Close(Some(close)) => return Received::Closed(close.code.into(), close.reason.to_string()),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        match self.receive().await {
            Received::Frame(frame) => frame,
            closed => panic!("{closed:?}"),
        }
    }

    /// The next frame, or the code that the server closes with.
    pub(crate) async fn frame_or_code(&mut self) -> Result<Frame, u16> {
        match self.receive().await {
            Received::Frame(frame) => Ok(frame),
            Received::Closed(code, _) => Err(code),
        }
    }

    pub(crate) async fn enter(&mut self, hello: Hello) -> Welcome {
        self.send([Frame::Hello(hello)]).await;
        match self.frame().await {
            Frame::Welcome(welcome) => welcome,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until all of `numbers` are acknowledged, and nothing else.
    async fn acked(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        harness::acked(numbers, async || self.frame().await).await;
    }

    /// Waits for the end, past whatever comes before it.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Received::Closed(code, reason) = self.receive().await {
                return (code, reason);
            }
        }
    }
}

fn code(code: CloseCode) -> u16 {
    4100 + u16::try_from(code.number()).unwrap()
}

fn records(numbers: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Frame> {
    numbers.map(|n| Frame::Record(record(n)))
}

#[tokio::test]
async fn records_go_through_the_tunnel_once_and_under_tls_too() {
    for variables in [&[][..], &[("WSS_TLS", "true")]] {
        let node = Node::embedded(variables).await;
        let producer = account(ap(&node), "producer", "p").await;
        if variables.is_empty() {
            flow(open(&node).await, &producer).await;
        } else {
            flow(Tunnel { socket: tls::secure(&node, request(&node)).await, frames: VecDeque::new() }, &producer).await;
        }
    }
}

async fn flow<S>(mut tunnel: Tunnel<S>, producer: &Account)
where
    S: Sink<Message, Error = Error> + Stream<Item = Result<Message, Error>> + Unpin,
{
    // Hello and the first records share a message.
    let hello = Frame::Hello(hello(&producer.token, "d", 7));
    tunnel.send([hello].into_iter().chain(records(1..=10))).await;
    let Frame::Welcome(welcome) = tunnel.frame().await else { panic!("Welcome first") };
    assert_eq!((welcome.durability.as_str(), welcome.max_record, welcome.credit), ("file", 64 * 1024, 8192));
    assert!(welcome.seen.is_empty() && welcome.token_expires_in > 3000);
    tunnel.acked(1..=10).await;
    tunnel.send(records(11..=500).chain([Frame::Ping])).await;
    assert_eq!(tunnel.frame().await, Frame::Pong);
    tunnel.acked(11..=500).await;
    // A retry is acknowledged again, and changes nothing.
    tunnel.send(records(490..=500)).await;
    tunnel.acked(490..=500).await;
    tunnel.send([Frame::Skipped(Skipped { ranges: (501..=510).collect() })]).await;
    tunnel.acked(501..=510).await;
    let bad = Record { seq: Seq(511), json: r#"{"producer_id":"9","data":1}"#.into() };
    tunnel.send([Frame::Record(bad), Frame::Done]).await;
    let Frame::Refused(refused) = tunnel.frame().await else { panic!("a refusal") };
    assert_eq!((refused.seq, refused.code.as_str()), (Seq(511), "unknown_field"));
}

#[tokio::test]
async fn a_device_that_changes_between_quic_and_the_tunnel_neither_loses_nor_doubles_a_record() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut egress = consume(&node, &consumer, "").await;
    let mut by_quic = quic::connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    for n in 1..=3 {
        by_quic.send(motience_device::client::Lane::Independent, record(n)).await.unwrap();
    }
    acked(&mut by_quic, 1..=3).await;
    let (mut tunnel, welcome) = enter(&node, &producer, 7).await;
    assert_eq!(welcome.seen.to_string(), "1-3");
    assert!(welcome.fence > by_quic.welcome().fence);
    assert_eq!(closed_with(&mut by_quic).await, CloseCode::Fenced, "the older one is closed though it sends nothing");
    tunnel.send(records(2..=6)).await;
    tunnel.acked(2..=6).await;
    // And back.
    let mut back = quic::connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    assert_eq!(back.welcome().seen.to_string(), "1-6");
    assert_eq!(tunnel.closed().await.0, code(CloseCode::Fenced));
    back.send(motience_device::client::Lane::Ordered, record(6)).await.unwrap();
    back.send(motience_device::client::Lane::Ordered, record(7)).await.unwrap();
    acked(&mut back, 6..=7).await;
    for n in 1..=7 {
        assert_eq!(next_json(&mut egress).await["data"]["n"], n);
    }
}

#[tokio::test]
async fn compact_records_come_out_as_they_went_in() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut egress = consume(&node, &consumer, "").await;
    let mut tunnel = open(&node).await;
    let welcome = tunnel.enter(Hello { features: u64::MAX >> 2, ..hello(&producer.token, "d", 1) }).await;
    assert_eq!(welcome.features, features::COMPACT | features::SUBSCRIBERS, "there are no datagrams here");
    let (mut encoder, mut compact) = (Encoder::new(), 0);
    for n in 1..=20 {
        let (sent, template) = encoder.encode(record(n));
        let frame = Frame::from(sent);
        compact += usize::from(matches!(frame, Frame::Compact(_)));
        let announced = template.is_some();
        tunnel.send(template.map(Frame::Template).into_iter().chain([frame])).await;
        if announced {
            let Frame::TemplateAccepted(accepted) = tunnel.frame().await else { panic!("an answer to the template") };
            encoder.accepted(accepted.id);
        }
        tunnel.acked(n..=n).await;
        let message = next_json(&mut egress).await;
        let sent: Value = serde_json::from_slice(&record(n).json).unwrap();
        assert_eq!((&message["data"], &message["timestamp"]), (&sent["data"], &sent["timestamp"]));
    }
    assert!(compact > 10, "{compact} of 20 were compact");

    // Without the agreement there is no such frame.
    let mut other = open(&node).await;
    assert_eq!(other.enter(hello(&producer.token, "e", 1)).await.features, 0);
    let mut encoder = Encoder::new();
    let template = (1..).find_map(|n| encoder.encode(record(n)).1).unwrap();
    other.send([Frame::Template(template)]).await;
    assert_eq!(other.closed().await.0, code(CloseCode::Protocol));
}

#[tokio::test]
async fn a_tunnel_takes_over_from_an_older_one() {
    let Pair { node, producer, .. } = pair(&[]).await;
    let (mut first, _) = enter(&node, &producer, 7).await;
    let (mut second, _) = enter(&node, &producer, 7).await;
    assert_eq!(first.closed().await, (code(CloseCode::Fenced), "a newer connection of this device took over".to_owned()));
    second.send(records(1..=1)).await;
    second.acked(1..=1).await;
}

#[tokio::test]
async fn every_refusal_has_its_code() {
    let Pair { node, producer, consumer } =
        pair(&[("HTTP_HEADER_LIMIT", "1s"), ("MAX_DEVICES_PER_ACCOUNT", "1"), ("MAX_RECORD_BYTES", "400KiB")]).await;
    let good = || hello(&producer.token, "d", 1);
    let refused = async |first: Frame| {
        let mut tunnel = open(&node).await;
        tunnel.send([first]).await;
        tunnel.closed().await
    };
    for (hello, expected, words) in [
        (Hello { version: 9, ..good() }, CloseCode::Protocol, "version 9"),
        (Hello { intent: Intent::Consume, ..good() }, CloseCode::Protocol, "the tunnel only carries records up"),
        (Hello { token: "nonsense".into(), ..good() }, CloseCode::Unauthenticated, ""),
        (Hello { token: consumer.token.clone(), ..good() }, CloseCode::Forbidden, "no producer"),
        (Hello { device_id: String::new(), ..good() }, CloseCode::Protocol, ""),
    ] {
        let (got, reason) = refused(Frame::Hello(hello)).await;
        assert!(got == code(expected) && reason.contains(words), "{got} {reason}");
    }
    assert_eq!(refused(Frame::Ping).await, (code(CloseCode::Protocol), "Ping before Hello".to_owned()));
    assert_eq!(open(&node).await.closed().await, (code(CloseCode::Done), "no Hello in time".to_owned()));

    let (mut held, _) = enter(&node, &producer, 1).await;
    assert_eq!(refused(Frame::Hello(good())).await.0, code(CloseCode::RateLimited));
    held.send([Frame::Drain]).await;
    assert_eq!(held.closed().await, (code(CloseCode::Protocol), "Drain is not expected here".to_owned()));

    for (message, expected) in [
        (Message::text("{}"), CloseCode::Protocol),
        // Half a frame; a frame no version knows; one that announces more than may be; a message over the limit.
        (Message::binary(vec![0x21, 9, 1]), CloseCode::Protocol),
        (Message::binary(vec![0x3f, 0]), CloseCode::Protocol),
        (Message::binary(vec![0x21, 0xbf, 0xff, 0xff, 0xff]), CloseCode::TooLarge),
        (Message::binary(vec![0; 600 << 10]), CloseCode::TooLarge),
    ] {
        let mut tunnel = entered(&node, &producer).await;
        let what = format!("{:?}", &message.clone().into_data()[..2]);
        tunnel.socket.send(message).await.unwrap();
        assert_eq!(tunnel.closed().await.0, code(expected), "{what}");
    }
}

/// Enters once the permit of whoever was there before is free again.
async fn entered(node: &Node, producer: &Account) -> Tunnel<Plain> {
    loop {
        let mut tunnel = open(node).await;
        tunnel.send([Frame::Hello(hello(&producer.token, "d", 1))]).await;
        match tunnel.receive().await {
            Received::Frame(Frame::Welcome(_)) => return tunnel,
            Received::Closed(got, _) if got == code(CloseCode::RateLimited) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn who_does_not_offer_the_subprotocol_or_comes_from_elsewhere_gets_no_tunnel() {
    let Pair { node, .. } = pair(&[("WSS_ORIGINS", "https://app.example")]).await;
    let status = async |request: Request| match connect_async(request).await {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("{other:?}"),
    };
    let mut without = request(&node);
    without.headers_mut().remove("sec-websocket-protocol");
    assert_eq!(status(without).await, 400);
    let mut elsewhere = request(&node);
    elsewhere.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    assert_eq!(status(elsewhere).await, 403);
    let url = node.at.wss1.as_deref().unwrap().replace("ws://", "http://").replace("/producer", "/motience");
    let plain = http().get(url).send().await.unwrap();
    assert_eq!((plain.status().as_u16(), &plain.headers()["upgrade"]), (426, &"websocket".parse().unwrap()));
}

#[tokio::test]
async fn a_token_is_renewed_and_its_end_ends_the_tunnel() {
    let Pair { node, producer, consumer } = pair(&[("JWT_EXPIRES_IN", "3s")]).await;
    let (mut tunnel, welcome) = enter(&node, &producer, 1).await;
    assert!(welcome.token_expires_in <= 3);
    let body = json!({"username": producer.username, "password": PASSWORD});
    let login: Value = http().post(format!("{}/login", ap(&node))).json(&body).send().await.unwrap().json().await.unwrap();
    tunnel.send([Frame::TokenRefresh(TokenRefresh { token: login["access_token"].as_str().unwrap().into() })]).await;
    assert!(matches!(tunnel.frame().await, Frame::TokenAccepted(_)));
    assert_eq!(tunnel.closed().await.0, code(CloseCode::Unauthenticated));

    let fresh: Value = http().post(format!("{}/login", ap(&node))).json(&body).send().await.unwrap().json().await.unwrap();
    let mut other = open(&node).await;
    other.enter(hello(fresh["access_token"].as_str().unwrap(), "d", 1)).await;
    let body = json!({"username": consumer.username, "password": PASSWORD});
    let theirs: Value = http().post(format!("{}/login", ap(&node))).json(&body).send().await.unwrap().json().await.unwrap();
    other.send([Frame::TokenRefresh(TokenRefresh { token: theirs["access_token"].as_str().unwrap().into() })]).await;
    assert_eq!(other.closed().await.0, code(CloseCode::Forbidden));
}

#[tokio::test]
async fn a_draining_node_asks_the_device_to_leave_and_cuts_one_that_stays() {
    let Pair { mut node, producer, .. } = pair(&[]).await;
    let (mut tunnel, _) = enter(&node, &producer, 1).await;
    node.signal("TERM");
    assert_eq!(tunnel.frame().await, Frame::Drain);
    // Records in flight are still taken.
    tunnel.send(records(1..=1)).await;
    tunnel.acked(1..=1).await;
    assert_eq!(tunnel.closed().await.0, code(CloseCode::Draining));
    drop(tunnel);
    assert_eq!(node.ended().await, 0);
}
