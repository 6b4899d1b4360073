//! Requests that are cheap to send and dear to answer.

use std::{sync::Arc, time::Duration};

use reqwest::Client;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{HOLD, crowd};
use crate::correctness::hostile::{
    raw,
    target::{Count, Target},
};

/// Searches at once.
const SEARCHES: usize = 32;
/// Logouts at once.
const LOGOUTS: usize = 16;
/// Bodies at once.
const BODIES: usize = 400;
/// Requests before each pause.
const BURST: usize = 200;
/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Reads the history of a year that has no records.
pub(super) async fn searches(target: Arc<Target>, count: Count) {
    let client = client();
    crowd(SEARCHES, move |_| {
        let (target, count, client) = (Arc::clone(&target), count.clone(), client.clone());
        async move {
            let url = format!("{}/history/{}?limit=1000&from=2035-01-01T00:00:00Z", target.addresses.dsm, target.producer);
            for _ in 0..BURST {
                let answer = client.get(&url).bearer_auth(&target.consumer_token).send().await?;
                count.add(1);
                answer.bytes().await?;
            }
            Ok(())
        }
    })
    .await;
}

/// Ends one login again and again.
pub(super) async fn logouts(target: Arc<Target>, count: Count) {
    let client = client();
    crowd(LOGOUTS, move |_| {
        let (target, count, client) = (Arc::clone(&target), count.clone(), client.clone());
        async move {
            let url = format!("{}/logout", target.addresses.ap);
            for _ in 0..BURST {
                client.post(&url).json(&json!({"refresh_token": target.refresh_token})).send().await?.bytes().await?;
                count.add(1);
            }
            Ok(())
        }
    })
    .await;
}

/// Sends bodies of which the last byte never comes: with a token to `POST /data`, and without one to `POST /login`.
pub(super) async fn bodies(target: Arc<Target>, count: Count) {
    crowd(BODIES, move |n| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let (url, path, token, length) = match n % 2 {
                0 => (&target.addresses.dsm, "/data", target.producer_token.as_str(), 1 << 20),
                _ => (&target.addresses.ap, "/login", "none", 64 << 10),
            };
            let mut stream = raw::tcp(url).await?;
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            count.add(1);
            stream.write_all(&vec![b' '; length - 1]).await?;
            // Until the node ends it.
            let _ = timeout(HOLD, stream.read_u8()).await;
            Ok(())
        }
    })
    .await;
}

fn client() -> Client {
    let built = Client::builder().local_address(Some(raw::ATTACKER.into())).timeout(LIMIT).build();
    built.expect("a client of plain HTTP needs nothing that could be missing")
}
