//! Motience's ways in and out: WebSocket on both sides, as every existing client uses it, and QUIC for devices.

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, stream::SplitSink};
use motience_certs::Trust;
use motience_device::{
    client::{self, Lane},
    login::Credentials,
    producer::{self, Producer},
};
use motience_proto::model::DeviceId;
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message};

use crate::common::{
    accounts::Account,
    egress::{Connection, Egress, Incoming, Start, Target},
    server::Addresses,
};

/// A producer on WebSocket.
pub(super) struct WebSocket(SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>);

impl WebSocket {
    pub(super) async fn connect(addresses: &Addresses, account: &Account) -> Result<Self> {
        let url = format!("{}?token={}", addresses.wss1, account.token);
        let (socket, _) = connect_async_with_config(url, None, true).await?;
        let (sink, mut stream) = socket.split();
        // Acknowledgements are read and dropped: the consumer tells what arrived.
        tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
        Ok(Self(sink))
    }

    pub(super) async fn send(&mut self, records: &[Bytes]) -> Result<()> {
        for record in records {
            self.0.feed(Message::text(String::from_utf8(record.to_vec())?)).await?;
        }
        Ok(self.0.flush().await?)
    }
}

/// A device on QUIC, with an outbox in memory.
pub(super) struct Quic(Producer);

impl Quic {
    pub(super) fn connect(addresses: &Addresses, account: &Account) -> Result<Self> {
        let trust = addresses.ca.clone().map_or(Trust::Platform, Trust::Ca);
        let config = client::Config::new(addresses.quic.parse()?, trust, DeviceId::new("load-00001")?);
        Ok(Self(Producer::start(producer::Config::new(config), Credentials::Token(account.token.clone().into()))?))
    }

    pub(super) async fn send(&mut self, records: &[Bytes]) -> Result<()> {
        for record in records {
            self.0.enqueue(Lane::Ordered, String::from_utf8(record.to_vec())?).await?;
        }
        Ok(())
    }
}

/// A consumer on WebSocket.
pub(super) struct Consumer(Connection);

impl Consumer {
    pub(super) async fn connect(addresses: &Addresses, consumer: &Account, producer: &Account) -> Result<Self> {
        let target = Target::at(Egress::Plain, addresses, consumer, vec![producer.id]);
        Ok(Self(Connection::open(Egress::Plain, &target, &Start::Live).await?))
    }

    /// Waits for records. Returns how many came.
    pub(super) async fn receive(&mut self) -> Result<u64> {
        loop {
            let mut count = is_record(self.0.next().await?)?;
            while let Some(next) = self.0.next().now_or_never() {
                count += is_record(next?)?;
            }
            if count > 0 {
                return Ok(count);
            }
        }
    }
}

fn is_record(incoming: Incoming) -> Result<u64> {
    match incoming {
        Incoming::Message(text) => Ok(u64::from(text.contains("\"data\":"))),
        Incoming::End(how) => bail!("Motience ended the consumer: {how}"),
    }
}
