//! Real consumers: documented WebSocket clients that read as fast as they can.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::Account,
    measure::{Live, Seen},
    payload::{TestClock, mark},
};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// A connected consumer.
pub(crate) struct Consumer(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Consumer {
    pub(crate) async fn connect(wss2: &str, account: &Account) -> Result<Self> {
        let url = format!("{wss2}?token={}", account.token);
        let config = WebSocketConfig::default().read_buffer_size(64 * 1024);
        let connecting = connect_async_with_config(url, Some(config), true);
        let (socket, _) =
            timeout(CONNECT_LIMIT, connecting).await.context("a consumer could not connect in time")?.context("a consumer was refused")?;
        Ok(Self(socket))
    }

    /// Reads until `stop`, and then gives what it saw.
    pub(crate) fn read(mut self, clock: TestClock, live: Arc<Live>, stop: CancellationToken) -> JoinHandle<Seen> {
        tokio::spawn(async move {
            let mut seen = Seen::new();
            loop {
                let message = tokio::select! {
                    biased;
                    message = self.0.next() => message,
                    () = stop.cancelled() => break,
                };
                match message {
                    Some(Ok(Message::Text(text))) => match mark(&text) {
                        Some(mark) => {
                            seen.record(mark, clock.now());
                            live.delivered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                        None => live.fail(format!("a consumer received something else: {}", text.chars().take(80).collect::<String>())),
                    },
                    Some(Ok(Message::Close(frame))) => {
                        live.fail(format!("a consumer was closed: {frame:?}"));
                        break;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(e)) => {
                        live.fail(format!("a consumer was cut: {e}"));
                        break;
                    }
                    None => break,
                }
            }
            seen
        })
    }
}
