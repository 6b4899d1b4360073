//! Clients of the systems: what sends records into a channel, and what receives those of a channel.

use anyhow::Result;
use bytes::Bytes;
use tokio::net::TcpStream;

use super::{motience, nats, redis};
use crate::common::mqtt;

/// Where one producer's records go.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    /// Number of the run.
    pub(super) run: usize,
    /// Number of the producer in the run.
    pub(super) pair: usize,
    /// Whether many consumers receive it.
    pub(super) fan: bool,
}

impl Channel {
    /// Its subject, topic or key.
    pub(super) fn topic(&self) -> String {
        format!("run{}.p{}", self.run, self.pair)
    }
}

/// A producer.
pub(super) enum Sender {
    Redis(redis::Sender),
    Nats(nats::Sender),
    Mqtt(mqtt::Publisher<TcpStream>),
    WebSocket(motience::WebSocket),
    // Boxed, as the others are a third of its size.
    Quic(Box<motience::Quic>),
}

impl Sender {
    /// Sends records, at once.
    pub(super) async fn send(&mut self, records: &[Bytes]) -> Result<()> {
        match self {
            Self::Redis(sender) => sender.send(records).await,
            Self::Nats(sender) => sender.send(records).await,
            Self::Mqtt(publisher) => {
                for record in records {
                    publisher.feed(record.as_ref()).await?;
                }
                publisher.flush().await
            }
            Self::WebSocket(socket) => socket.send(records).await,
            Self::Quic(device) => device.send(records).await,
        }
    }
}

/// A consumer.
pub(super) enum Receiver {
    Redis(redis::Receiver),
    Nats(nats::Receiver),
    Mqtt(mqtt::Client<TcpStream>),
    // Boxed, as the others are a third of its size.
    Motience(Box<motience::Consumer>),
}

impl Receiver {
    /// Waits for records. Returns how many came.
    pub(super) async fn receive(&mut self) -> Result<u64> {
        match self {
            Self::Redis(receiver) => receiver.receive().await,
            Self::Nats(receiver) => receiver.receive().await,
            Self::Mqtt(client) => client.next().await.map(|_| 1),
            Self::Motience(consumer) => consumer.receive().await,
        }
    }
}
