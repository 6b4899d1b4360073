//! A healthy link is left alone however seldom its sensor reads, and a dead one is left soon. These are short runs over real sockets;
//! what is decided in minutes, at intervals up to one, is tested in `producer/silence.rs`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use motience_device::{
    Credentials, Producer,
    client::{Gateway, Server, Transport},
    producer::{Config, LinkState, Stats},
};
use motience_proto::wire::{Ack, Frame, Limits};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
    time::{interval, sleep},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

use crate::support::{
    LIMIT, eventually,
    peer::{Guest, Peer, welcome},
};

/// Milliseconds between records, and how many of them.
const PACES: [(u64, u64); 6] = [(20, 100), (500, 12), (1100, 6), (2000, 4), (3000, 3), (6500, 2)];

fn start(config: Config) -> Producer {
    Producer::start(config, Credentials::Token("t".into())).unwrap()
}

/// Sends records at a pace, the first after a pause, and returns when all are settled.
async fn read(producer: &Producer, (millis, count): (u64, u64)) -> Stats {
    for _ in 0..count {
        sleep(Duration::from_millis(millis)).await;
        producer.send("{}").await.unwrap();
    }
    producer.flush(Duration::from_secs(5)).await.unwrap();
    producer.stats()
}

/// Acknowledges what comes, until the connection ends.
async fn answer(mut guest: Guest) {
    let mut records = guest.records();
    while let Some(record) = records.arrived().await {
        guest.ack(&record.seq.to_string()).await;
    }
}

/// Where nobody answers.
async fn nobody() -> (UdpSocket, Server) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, Server { host: "127.0.0.1".into(), port })
}

/// A gateway with the tunnel's other end, which acknowledges what comes.
async fn gateway() -> Gateway {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
                let name = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
                    response.headers_mut().insert("sec-websocket-protocol", "motience.1".parse().unwrap());
                    Ok(response)
                };
                let mut socket = accept_hdr_async(socket, name).await.unwrap();
                let mut pings = interval(Duration::from_secs(20));
                let mut buffer = BytesMut::new();
                loop {
                    let mut answers = BytesMut::new();
                    tokio::select! {
                        _ = pings.tick() => socket.send(Message::Ping(Default::default())).await.unwrap(),
                        message = socket.next() => match message {
                            Some(Ok(Message::Binary(message))) => buffer.extend_from_slice(&message),
                            Some(Ok(_)) => {}
                            _ => return,
                        },
                    }
                    while let Some(frame) = Frame::decode(&mut buffer, Limits::for_records(65_536)).unwrap() {
                        match frame {
                            Frame::Hello(_) => Frame::Welcome(welcome()).encode(&mut answers),
                            Frame::Record(record) => {
                                Frame::Ack(Ack { ranges: record.seq.to_string().parse().unwrap() }).encode(&mut answers);
                            }
                            _ => {}
                        }
                    }
                    if !answers.is_empty() {
                        socket.send(Message::Binary(answers.freeze())).await.unwrap();
                    }
                }
            });
        }
    });
    format!("ws://{address}").parse().unwrap()
}

async fn over_quic(pace: (u64, u64), fallback: bool) {
    let peer = Peer::start();
    let mut config = Config::new(peer.config());
    if fallback {
        config.client.fallback = Some(gateway().await);
    }
    let producer = start(config);
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let connection = guest.connection.clone();
    let address = connection.remote_address();
    let answering = tokio::spawn(answer(guest));
    let stats = read(&producer, pace).await;
    let told = format!("every {} ms, fallback: {fallback}: {stats:?}", pace.0);
    assert_eq!(
        (stats.outbox.acked, stats.transport.reconnects, stats.transport.rebinds, stats.transport.fallbacks),
        (pace.1, 0, 0, 0),
        "{told}"
    );
    assert_eq!((stats.state, stats.transport.last_error.as_deref()), (LinkState::Connected, None), "{told}");
    assert_eq!((connection.remote_address(), peer.connections()), (address, 1), "{told}");
    answering.abort();
}

async fn through_the_tunnel(pace: (u64, u64)) {
    let (_deaf, server) = nobody().await;
    // For its authority only.
    let peer = Peer::start();
    let mut config = Config::new(peer.config());
    config.client.server = server;
    config.client.fallback = Some(gateway().await);
    let producer = start(config);
    producer.connected().await.unwrap();
    let stats = read(&producer, pace).await;
    let told = format!("every {} ms: {stats:?}", pace.0);
    assert_eq!(
        (stats.outbox.acked, stats.transport.reconnects, stats.transport.rebinds, stats.transport.fallbacks),
        (pace.1, 0, 0, 1),
        "{told}"
    );
    assert_eq!(
        (stats.state, stats.transport.current, stats.transport.last_error.as_deref()),
        (LinkState::Connected, Some(Transport::Tunnel), None),
        "{told}"
    );
}

#[tokio::test]
async fn a_healthy_link_is_left_alone_at_every_pace() {
    let mut runs = JoinSet::new();
    for pace in PACES {
        runs.spawn(over_quic(pace, false));
        runs.spawn(over_quic(pace, true));
        runs.spawn(through_the_tunnel(pace));
    }
    runs.join_all().await;
}

/// Between a device and its server, until it is cut.
async fn wire(to: u16) -> (u16, Arc<AtomicBool>) {
    let wire = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (port, server) = (wire.local_addr().unwrap().port(), SocketAddr::from(([127, 0, 0, 1], to)));
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = cut.clone();
    tokio::spawn(async move {
        let (mut device, mut packet) = (server, [0; 65_536]);
        loop {
            let (length, from) = wire.recv_from(&mut packet).await.unwrap();
            let to = if from == server { device } else { server };
            if from != server {
                device = from;
            }
            if !is_cut.load(SeqCst) {
                wire.send_to(&packet[..length], to).await.unwrap();
            }
        }
    });
    (port, cut)
}

#[tokio::test]
async fn a_dead_link_is_noticed_when_something_is_owed() {
    for (fallback, rest) in [(false, 0), (true, 2500)] {
        let peer = Peer::start();
        let mut config = Config::new(peer.config());
        let (port, cut) = wire(config.client.server.port).await;
        config.client.server.port = port;
        if fallback {
            config.client.fallback = Some(gateway().await);
        }
        let producer = start(config);
        let mut guest = peer.guest().await;
        guest.welcome("").await;
        let answering = tokio::spawn(answer(guest));
        producer.send("{}").await.unwrap();
        producer.flush(LIMIT).await.unwrap();
        cut.store(true, SeqCst);
        sleep(Duration::from_millis(rest)).await;
        assert_eq!((producer.stats().transport.rebinds, producer.stats().state), (0, LinkState::Connected), "nothing is owed");
        producer.send("{}").await.unwrap();
        eventually("another port", || producer.stats().transport.rebinds == 1).await;
        eventually("the link is given up", || {
            producer.stats().transport.current != Some(Transport::Quic) || producer.stats().state != LinkState::Connected
        })
        .await;
        answering.abort();
    }
}
