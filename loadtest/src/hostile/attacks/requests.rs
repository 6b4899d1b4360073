//! Requests that are cheap to send and dear to answer.

use std::{sync::Arc, time::Duration};

use reqwest::Client;
use serde_json::json;

use super::crowd;
use crate::hostile::{
    raw,
    target::{Count, Target},
};

/// Searches at once.
const SEARCHES: usize = 32;
/// Logouts at once.
const LOGOUTS: usize = 16;
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

fn client() -> Client {
    let built = Client::builder().local_address(Some(raw::ATTACKER.into())).timeout(LIMIT).build();
    built.expect("a client of plain HTTP needs nothing that could be missing")
}
