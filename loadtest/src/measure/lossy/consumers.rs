//! The consumer's end of each system, at the server's side of the link, where nothing is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message};

use super::{
    bench::{Bench, MQTT, NODE_OUT},
    plan::System,
    telemetry::number,
};
use crate::common::{mqtt, payload::TestClock};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// When each record arrived first.
#[derive(Debug)]
pub(super) struct Arrivals {
    clock: TestClock,
    /// By number; 0: not yet.
    at: Vec<AtomicU64>,
    arrived: AtomicU64,
    doubled: AtomicU64,
}

impl Arrivals {
    /// Room for the records `1..=count`.
    pub(super) fn new(clock: TestClock, count: u64) -> Arc<Self> {
        let at = (0..=count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { clock, at, arrived: AtomicU64::new(0), doubled: AtomicU64::new(0) })
    }

    fn put(&self, number: u64) {
        let now = self.clock.now().max(1);
        let Some(at) = usize::try_from(number).ok().and_then(|n| self.at.get(n)) else { return };
        if at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.arrived.fetch_add(1, Ordering::Relaxed);
        } else {
            self.doubled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// When this record arrived, in nanoseconds of the clock.
    pub(super) fn of(&self, number: u64) -> Option<u64> {
        let at = self.at.get(usize::try_from(number).ok()?)?.load(Ordering::Relaxed);
        (at > 0).then_some(at)
    }

    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    pub(super) fn doubled(&self) -> u64 {
        self.doubled.load(Ordering::Relaxed)
    }
}

/// Means to connect; gathered outside, used inside the server's namespace.
pub(super) enum Source {
    WebSocket(String),
    Mqtt(String),
}

/// A connected consumer.
pub(super) enum Consumer {
    WebSocket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Mqtt(mqtt::Client<TcpStream>),
}

impl Source {
    pub(super) fn new(system: System, bench: &Bench, device: &str) -> Self {
        match system {
            System::Independent | System::Ordered | System::Latest | System::WebSocket => {
                Self::WebSocket(format!("{}?token={}", bench.motience.consumer_url(), bench.motience.consumer.token))
            }
            System::Node => Self::WebSocket(format!("ws://127.0.0.1:{NODE_OUT}/")),
            System::Mqtt => Self::Mqtt(device.into()),
        }
    }

    pub(super) async fn connect(self) -> Result<Consumer> {
        timeout(CONNECT_LIMIT, self.connecting()).await.context("the consumer could not connect in time")?
    }

    async fn connecting(self) -> Result<Consumer> {
        match self {
            Self::WebSocket(url) => {
                let (socket, _) = connect_async_with_config(url, None, true).await.context("the consumer was refused")?;
                Ok(Consumer::WebSocket(Box::new(socket)))
            }
            Self::Mqtt(topic) => {
                let stream = TcpStream::connect(("127.0.0.1", MQTT)).await?;
                stream.set_nodelay(true)?;
                let mut client = mqtt::Client::connect(stream, &format!("consumer-{topic}")).await?;
                client.subscribe(&topic).await?;
                Ok(Consumer::Mqtt(client))
            }
        }
    }
}

impl Consumer {
    /// Notes what this device's records do, until the connection ends.
    pub(super) async fn read(mut self, device: String, arrivals: Arc<Arrivals>) -> Result<()> {
        let note = |text: &str| number(text, &device).into_iter().for_each(|n| arrivals.put(n));
        loop {
            match &mut self {
                Self::WebSocket(socket) => match socket.next().await {
                    Some(Ok(Message::Text(text))) => note(&text),
                    Some(Ok(Message::Binary(bytes))) => note(&String::from_utf8_lossy(&bytes)),
                    Some(Ok(Message::Close(frame))) => bail!("the consumer was closed: {frame:?}"),
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return Err(e).context("the consumer was cut"),
                    None => bail!("the consumer was cut"),
                },
                Self::Mqtt(client) => note(&String::from_utf8_lossy(&client.next().await?)),
            }
        }
    }
}
