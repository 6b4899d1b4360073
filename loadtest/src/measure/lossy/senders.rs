//! The device's end of each system: connected, then told to send one record after the other.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use motience_certs::Trust;
use motience_device::{Credentials, Producer, client, client::Lane, link::Controller, producer};
use motience_loadtest::link::SERVER;
use motience_proto::model::DeviceId;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::{
    bench::{Bench, MQTT_TLS, NODE_IN},
    plan::System,
};
use crate::common::mqtt;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long a device may take to end.
const END_LIMIT: Duration = Duration::from_millis(200);
/// The name in the servers' certificate.
const NAME: &str = "localhost";

/// Means to connect; gathered outside, used inside the device's namespace.
pub(super) enum Target {
    /// No lane: in datagrams.
    Quic {
        lane: Option<Lane>,
        port: u16,
        ca: PathBuf,
        token: String,
        congestion: Controller,
    },
    WebSocket {
        url: String,
        at: SocketAddr,
    },
    Mqtt {
        tls: Arc<ClientConfig>,
        topic: String,
    },
}

impl Target {
    pub(super) fn new(system: System, bench: &Bench, device: &str, congestion: Controller) -> Result<Self> {
        let motience = &bench.motience;
        let quic =
            |lane| Ok(Self::Quic { lane, port: motience.quic()?, ca: motience.ca()?, token: motience.producer.token.clone(), congestion });
        let websocket = |port: u16, path: String| Self::WebSocket { url: format!("ws://{SERVER}:{port}{path}"), at: (SERVER, port).into() };
        match system {
            System::Independent => quic(Some(Lane::Independent)),
            System::Ordered => quic(Some(Lane::Ordered)),
            System::Latest => quic(None),
            System::WebSocket => Ok(websocket(motience.wss1()?, format!("/producer?token={}", motience.producer.token))),
            System::Node => Ok(websocket(NODE_IN, "/".into())),
            System::Mqtt => Ok(Self::Mqtt { tls: Arc::clone(&bench.tls), topic: device.into() }),
        }
    }

    pub(super) async fn connect(self, device: &str) -> Result<Sender> {
        timeout(CONNECT_LIMIT, self.connecting(device)).await.context("the device could not connect in time")?
    }

    async fn connecting(self, device: &str) -> Result<Sender> {
        match self {
            Self::Quic { lane, port, ca, token, congestion } => {
                let mut client = client::Config::new(format!("{SERVER}:{port}").parse()?, Trust::Ca(ca), DeviceId::new(device)?);
                client.server_name = Some(NAME.into());
                client.link.controller = congestion;
                let producer = Box::new(Producer::start(producer::Config::new(client), Credentials::Token(token.into()))?);
                producer.connected().await?;
                Ok(Sender::Quic { producer, lane })
            }
            Self::WebSocket { url, at } => {
                let (socket, _) = client_async(url, dial(at).await?).await.context("the WebSocket was refused")?;
                let (sink, mut stream) = socket.split();
                // Acknowledgements are read and dropped: what counts is what the consumer sees.
                tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
                Ok(Sender::WebSocket(sink))
            }
            Self::Mqtt { tls, topic } => {
                let name = ServerName::try_from(NAME).context("a fixed name")?;
                let stream = TlsConnector::from(tls).connect(name, dial((SERVER, MQTT_TLS).into()).await?).await?;
                let client = mqtt::Client::connect(stream, device).await?;
                Ok(Sender::Mqtt(client.publisher(&topic)))
            }
        }
    }
}

/// A connected device.
pub(super) enum Sender {
    Quic { producer: Box<Producer>, lane: Option<Lane> },
    WebSocket(SplitSink<WebSocketStream<TcpStream>, Message>),
    Mqtt(mqtt::Publisher<TlsStream<TcpStream>>),
}

impl Sender {
    pub(super) async fn send(&mut self, json: String) -> Result<()> {
        match self {
            Self::Quic { producer, lane: Some(lane) } => producer.enqueue(*lane, json).await.map(drop).context("the outbox took no more"),
            Self::Quic { producer, lane: None } => producer.send_latest(json).context("the producer has stopped"),
            Self::WebSocket(sink) => sink.send(Message::text(json)).await.context("the WebSocket was cut"),
            Self::Mqtt(publisher) => publisher.publish(json).await.context("the MQTT connection was cut"),
        }
    }

    pub(super) async fn end(self) {
        // The TCP ones are reset, so that nothing of this round is under way in the next.
        if let Self::Quic { producer, .. } = self {
            producer.shutdown(END_LIMIT).await;
        }
    }
}

async fn dial(at: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    Ok(stream)
}
