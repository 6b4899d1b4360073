//! The client against a small motience/1 server of our own, over real QUIC sockets.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod agent;
mod auth;
mod consumer;
mod outbox;
mod peer;
mod producer;
mod session;
mod silence;
mod token;

/// Time limit of every wait in these tests.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// Waits for a condition with the time limit.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not within the time limit: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Waits for a future with the time limit.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not within the time limit: {what}"))
}
