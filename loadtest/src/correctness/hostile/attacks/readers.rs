//! Clients that ask for much and read nothing.

use std::sync::Arc;

use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::sleep};

use super::{HOLD, crowd};
use crate::correctness::hostile::{
    raw,
    target::{Count, Target},
};

/// HTTP/2 connections whose streams may send nothing.
const ANSWERS: usize = 3;
/// Requests on each.
const REQUESTS: u32 = 100;
/// Readers of each kind.
const READERS: usize = 40;

/// Asks for pages of history on streams whose window is zero.
pub(super) async fn answers(target: Arc<Target>, count: Count) {
    crowd(ANSWERS, move |_| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let path = format!("/history/{}?limit=1000", target.producer);
            let stream = many(&target, &path, &target.consumer_token).await?;
            count.add(u64::from(REQUESTS));
            hold(stream).await;
            Ok(())
        }
    })
    .await;
}

/// Opens event streams, sockets, and HTTP/2 connections full of streams, from the log's beginning, and reads none.
pub(super) async fn unread(target: Arc<Target>, count: Count) {
    crowd(READERS * 4, move |n| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let token = &target.crowd_token;
            let stream = match n % 4 {
                0 => request(&target, &format!("/stream?from=earliest&token={token}")).await?,
                1 => request(&target, &format!("/stream?from=earliest&every=24h&token={token}")).await?,
                2 => {
                    let path = format!("/consumer?v=2&resume=%7B%22{}%22%3A%22earliest%22%7D&token={token}", target.producer);
                    raw::websocket(&target.addresses.wss2, &path).await?
                }
                // A few are enough of these: each holds a hundred streams.
                _ if n < 4 * 4 => many(&target, "/stream?from=earliest", token).await?,
                _ => raw::websocket(&target.addresses.wss2, &format!("/consumer?token={token}")).await?,
            };
            count.add(1);
            hold(stream).await;
            Ok(())
        }
    })
    .await;
}

async fn request(target: &Target, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = raw::tcp(&target.addresses.dsm).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

async fn many(target: &Target, path: &str, token: &str) -> anyhow::Result<TcpStream> {
    let mut stream = raw::tcp(&target.addresses.dsm).await?;
    let mut bytes = raw::http2(0);
    for n in 0..REQUESTS {
        bytes.extend(raw::http2_get(2 * n + 1, path, Some(token)));
    }
    stream.write_all(&bytes).await?;
    Ok(stream)
}

/// Keeps a connection without reading from it.
async fn hold(stream: TcpStream) {
    sleep(HOLD).await;
    drop(stream);
}
