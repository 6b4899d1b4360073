//! Peers of the client for tests, here and in the agent: a motience/1 server and an authentication service; and waits with a limit.

pub(crate) mod peer;
pub(crate) mod service;

/// Time limit of every wait in these tests.
pub(crate) const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// Waits for a condition with the time limit.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not within the time limit: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Waits for a future with the time limit.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not within the time limit: {what}"))
}
