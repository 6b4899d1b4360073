//! Sessions that say too much, or nothing.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use motience_proto::{
    model::{Order, ProducerId},
    wire::{ALPN, Frame, Intent, Start, Subscribe, Unsubscribe},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use super::{HOLD, crowd};
use crate::{
    common::server::address,
    correctness::hostile::{
        quic, raw,
        target::{Count, Target},
    },
};

/// Sockets of each service that ping without reading.
const PINGING: usize = 2;
/// Pings in one write.
const PINGS: usize = 250;
/// Silent sessions of each kind.
const NAMELESS: usize = 100;
/// Pairs of Subscribe and Unsubscribe in one write, and connections that write them.
const PAIRS: usize = 50;
const FOLLOWING: usize = 3;
/// Sessions that ask for datagrams.
const DATAGRAMS: usize = 3;
/// Sockets that resume, and requests to in one write.
const RESUMING: usize = 2;
const RESUMES: usize = 50;
/// How long a write may stand still before the attacker only holds on.
const BLOCKED: Duration = Duration::from_secs(2);
/// Between two writes of what costs the attacker nothing.
const BEAT: Duration = Duration::from_millis(50);

/// Sends pings of 125 bytes and reads no pong.
pub(super) async fn pongs(target: Arc<Target>, count: Count) {
    let bytes: Arc<[u8]> = raw::frame(9, &[b'x'; 125]).repeat(PINGS).into();
    crowd(PINGING * 3, move |n| {
        let (target, count, bytes) = (Arc::clone(&target), count.clone(), Arc::clone(&bytes));
        async move {
            let addresses = &target.addresses;
            let mut stream = match n % 3 {
                0 => raw::tunnel(&addresses.wss1).await?,
                1 => raw::websocket(&addresses.wss1, &format!("/producer?token={}", target.producer_token)).await?,
                _ => raw::websocket(&addresses.wss2, &format!("/consumer?token={}", target.consumer_token)).await?,
            };
            while let Ok(written) = timeout(BLOCKED, stream.write_all(&bytes)).await {
                written?;
                count.add(PINGS as u64);
                sleep(BEAT).await;
            }
            // The node's buffer is full, and stays so for as long as it lets us.
            sleep(HOLD).await;
            Ok(())
        }
    })
    .await;
}

/// Opens tunnels, connections of motience/1 and WebTransport sessions, and never says who is there.
pub(super) async fn nameless(target: Arc<Target>, count: Count) {
    crowd(NAMELESS * 3, move |n| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            match n % 3 {
                0 => {
                    let mut stream = raw::tunnel(&target.addresses.wss1).await?;
                    count.add(1);
                    let _ = timeout(HOLD, stream.read_u8()).await;
                }
                1 => {
                    let connection = quic::connect(&target, ALPN, 0).await?;
                    count.add(1);
                    let _ = timeout(HOLD, connection.closed()).await;
                }
                _ => {
                    let session = webtransport(&target).await?;
                    count.add(1);
                    let _ = timeout(HOLD, session.closed()).await;
                }
            }
            Ok(())
        }
    })
    .await;
}

/// Follows and unfollows without letting the node open a stream.
pub(super) async fn follows(target: Arc<Target>, count: Count) {
    crowd(FOLLOWING, move |_| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let connection = quic::connect(&target, ALPN, 0).await?;
            let mut control = quic::hello(&connection, Intent::Consume, &target.consumer_token, "attacker").await?;
            let producer = ProducerId(target.producer);
            let follow =
                Subscribe { producer, start: Start::Earliest, cursor_name: String::new(), selection: String::new(), order: Order::Log };
            let pair = [Frame::Subscribe(follow), Frame::Unsubscribe(Unsubscribe { producer })];
            let bytes = quic::encoded((0..PAIRS).flat_map(|_| pair.clone()));
            while let Ok(written) = timeout(BLOCKED, control.write_all(&bytes)).await {
                written?;
                count.add(PAIRS as u64);
                sleep(BEAT).await;
            }
            let _ = timeout(HOLD, connection.closed()).await;
            Ok(())
        }
    })
    .await;
}

/// Asks for a whole log in datagrams, of which each device's newest is wanted.
pub(super) async fn datagrams(target: Arc<Target>, count: Count) {
    crowd(DATAGRAMS, move |_| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let session = webtransport(&target).await?;
            let (mut control, _answers) = session.open_bi().await?;
            let subscribe = json!({"type": "subscribe", "producer_id": target.producer.to_string(), "from": "earliest", "lane": "latest"});
            let said = format!("{}\n{subscribe}\n", json!({"type": "hello", "token": target.consumer_token}));
            control.write_all(said.as_bytes()).await?;
            count.add(1);
            let _ = timeout(Duration::from_secs(2), session.closed()).await;
            Ok(())
        }
    })
    .await;
}

/// Asks one socket to resume, again and again.
pub(super) async fn resumes(target: Arc<Target>, count: Count) {
    crowd(RESUMING, move |_| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let path = format!("/consumer?v=2&token={}", target.consumer_token);
            let mut stream = raw::websocket(&target.addresses.wss2, &path).await?;
            let resume = json!({"type": "resume", "cursors": {(target.producer.to_string()): "earliest"}}).to_string();
            let bytes = raw::frame(1, resume.as_bytes()).repeat(RESUMES);
            let mut answers = vec![0; 256 * 1024];
            loop {
                tokio::select! {
                    written = stream.write_all(&bytes) => written?,
                    // Nothing could be written: the answers stand in the way.
                    () = sleep(BLOCKED) => {}
                }
                count.add(RESUMES as u64);
                while stream.try_read(&mut answers).is_ok_and(|read| read > 0) {}
                sleep(BEAT).await;
            }
        }
    })
    .await;
}

async fn webtransport(target: &Target) -> Result<web_transport_quinn::Session> {
    let connection = quic::connect(target, b"h3", 100).await?;
    let url: url::Url = format!("https://localhost:{}/wt", address(&target.addresses.quic)?.port()).parse()?;
    Ok(web_transport_quinn::Session::connect(connection, url).await?)
}
