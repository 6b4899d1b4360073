//! MQTT 3.1.1 as much as the comparison needs: a publisher with QoS 1 that never waits for acknowledgements, and a subscriber.
//!
//! Packets are rumqttc's. Its client is not used: it holds records back while a window is full and leaves its socket to the
//! kernel at the end, and both would be measured.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use rumqttc::{Codec, Connect, ConnectReturnCode, Packet, PubAck, Publish, QoS, Subscribe, SubscribeReasonCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::Framed;

/// Bytes of a packet at most: far more than a record.
const MAX_PACKET: usize = 1 << 20;
/// Seconds between keep-alives, more than a round takes.
const KEEP_ALIVE: u16 = 60;

/// A connected client.
pub(crate) struct Client<S>(Framed<S, Codec>);

/// The half that publishes.
pub(crate) struct Publisher<S> {
    sink: SplitSink<Framed<S, Codec>, Packet>,
    topic: String,
    packet_id: u16,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Client<S> {
    pub(crate) async fn connect(stream: S, name: &str) -> Result<Self> {
        let mut client = Self(Framed::new(stream, Codec { max_incoming_size: MAX_PACKET, max_outgoing_size: MAX_PACKET }));
        client.0.send(Packet::Connect(Connect { keep_alive: KEEP_ALIVE, ..Connect::new(name) })).await?;
        match client.receive().await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(client),
            other => bail!("the broker refused the connection: {other:?}"),
        }
    }

    /// Subscribes with QoS 1.
    pub(crate) async fn subscribe(&mut self, topic: &str) -> Result<()> {
        self.0.send(Packet::Subscribe(Subscribe { pkid: 1, ..Subscribe::new(topic, QoS::AtLeastOnce) })).await?;
        match self.receive().await? {
            Packet::SubAck(ack) if !ack.return_codes.contains(&SubscribeReasonCode::Failure) => Ok(()),
            other => bail!("the broker refused the subscription: {other:?}"),
        }
    }

    /// The payload of the next message, which is acknowledged.
    pub(crate) async fn next(&mut self) -> Result<Bytes> {
        loop {
            if let Packet::Publish(Publish { qos, pkid, payload, .. }) = self.receive().await? {
                if qos != QoS::AtMostOnce {
                    self.0.send(Packet::PubAck(PubAck::new(pkid))).await?;
                }
                return Ok(payload);
            }
        }
    }

    async fn receive(&mut self) -> Result<Packet> {
        Ok(self.0.next().await.context("the broker closed the connection")??)
    }

    /// A publisher. Acknowledgements are read and dropped: the consumer tells what arrived.
    pub(crate) fn publisher(self, topic: &str) -> Publisher<S> {
        let (sink, mut stream) = self.0.split();
        tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
        Publisher { sink, topic: topic.into(), packet_id: 0 }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Publisher<S> {
    pub(crate) async fn publish(&mut self, payload: impl Into<Vec<u8>>) -> Result<()> {
        self.feed(payload).await?;
        self.flush().await
    }

    /// Puts a message into the buffer.
    pub(crate) async fn feed(&mut self, payload: impl Into<Vec<u8>>) -> Result<()> {
        self.packet_id = self.packet_id % u16::MAX + 1;
        let publish = Publish { pkid: self.packet_id, ..Publish::new(&self.topic, QoS::AtLeastOnce, payload) };
        Ok(self.sink.feed(Packet::Publish(publish)).await?)
    }

    /// Sends what is in the buffer.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        Ok(self.sink.flush().await?)
    }
}
