//! A session through a WebSocket, for networks that let no UDP through: the same frames in binary messages.
//!
//! Epoch, numbers and fence are those of QUIC sessions, so a device changes between the two without losing or doubling a
//! record. There is one order for everything, hence no lanes: what is sent on any of them goes here. Reading never waits for
//! writing.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use motience_proto::{
    model::ProducerEpoch,
    wire::{CloseCode, Frame, Hello, Intent, Limits, Record, VERSION, Welcome, compact, features},
};
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Mutex, mpsc},
    time,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode as SocketCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{Config, Error};

/// Where gateways listen for producers when an address names no port.
const DEFAULT_PORT: u16 = 8001;
/// The path of the tunnel.
const PATH: &str = "/motience";
/// The subprotocol of the tunnel.
const PROTOCOL: &str = "motience.1";
/// WebSocket close codes are this plus motience/1's own.
const CLOSE_BASE: u16 = 4100;
/// Longest message accepted, in bytes: the gateway sends control frames only.
const MAX_MESSAGE: usize = 256 * 1024;
/// Bytes after which a message is written, whatever else is queued.
const GROUP_BYTES: usize = 64 * 1024;
/// Frames taken from a queue at once.
const GROUP: usize = 256;
/// How long the farewell may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Where a gateway is, written `wss://host:8001`. `ws://` only where nobody listens in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    host: String,
    port: u16,
    tls: bool,
}

/// The text is no gateway's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a gateway is written like wss://host:8001, not {0:?}")]
pub struct InvalidGateway(String);

impl FromStr for Gateway {
    type Err = InvalidGateway;

    fn from_str(text: &str) -> Result<Self, InvalidGateway> {
        let invalid = || InvalidGateway(text.to_owned());
        let url = reqwest::Url::parse(text).map_err(|_| invalid())?;
        let tls = match url.scheme() {
            "wss" => true,
            "ws" => false,
            _ => return Err(invalid()),
        };
        // `Url` leaves out the port that is usual for the scheme; ours is another.
        let usual = text.ends_with(":443") || text.ends_with(":80") || text.contains(":443/") || text.contains(":80/");
        let port = if usual { url.port_or_known_default() } else { url.port() };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        if !matches!(url.path(), "" | "/" | PATH) || url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(invalid());
        }
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port: port.unwrap_or(DEFAULT_PORT), tls })
    }
}

impl Gateway {
    /// The gateway's name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the way there is encrypted.
    pub fn is_secure(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{}://{host}:{}{PATH}", if self.tls { "wss" } else { "ws" }, self.port)
    }
}

/// TCP, with TLS around it or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// A tunnel after `Welcome`.
pub(super) struct Tunnel {
    pub(super) welcome: Welcome,
    pub(super) sink: Sink,
    pub(super) source: Source,
}

/// The half that writes.
pub(super) struct Sink {
    socket: SplitSink<Socket, Message>,
    templates: Option<Arc<Mutex<compact::Encoder>>>,
}

/// The half that reads.
pub(super) struct Source {
    socket: SplitStream<Socket>,
    buffer: BytesMut,
    limits: Limits,
    silence: Duration,
    templates: Option<Arc<Mutex<compact::Encoder>>>,
}

/// Says `Hello` and waits for `Welcome`. The caller sets the time limit.
pub(super) async fn open(socket: Socket, config: &Config, token: &SecretString, epoch: ProducerEpoch) -> Result<Tunnel, Error> {
    let (mut sink, socket) = socket.split();
    let hello = Hello {
        version: VERSION,
        intent: Intent::Produce,
        token: token.expose_secret().to_owned(),
        device_id: config.device_id.as_str().to_owned(),
        epoch,
        features: config.features(features::COMPACT),
    };
    let mut message = BytesMut::new();
    Frame::Hello(hello).encode(&mut message);
    sink.send(Message::Binary(message.freeze())).await.map_err(lost)?;
    let silence = config.quic.idle_timeout;
    let mut source = Source { socket, buffer: BytesMut::new(), limits: Limits::control(), silence, templates: None };
    let welcome = match source.next().await? {
        Frame::Welcome(welcome) => welcome,
        other => return Err(Error::Protocol(format!("{} instead of Welcome", other.name()))),
    };
    let templates = (welcome.features & features::COMPACT != 0).then(Arc::default);
    source.templates.clone_from(&templates);
    Ok(Tunnel { welcome, sink: Sink { socket: sink, templates }, source })
}

/// Connects, up to where `Hello` can be said. `name`: what the certificate must carry, where it is not the gateway's host.
/// The caller sets the time limit.
pub(super) async fn upgrade(gateway: &Gateway, name: Option<&str>, tls: &Arc<rustls::ClientConfig>) -> Result<Socket, Error> {
    let tcp = TcpStream::connect((gateway.host.as_str(), gateway.port)).await.map_err(|e| Error::Lost(e.to_string()))?;
    // Records are gathered already; what is written is to leave.
    let _ = tcp.set_nodelay(true);
    let stream: Box<dyn Stream> = if gateway.tls {
        let name = ServerName::try_from(name.unwrap_or(&gateway.host).to_owned()).map_err(|e| Error::Config(format!("{gateway}: {e}")))?;
        Box::new(TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(|e| Error::Tls(e.to_string()))?)
    } else {
        Box::new(tcp)
    };
    let mut request = gateway.to_string().into_client_request().map_err(lost)?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE)).read_buffer_size(16 * 1024);
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await.map_err(lost)?;
    Ok(socket)
}

impl Source {
    /// The next frame. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            while let Some(frame) = Frame::decode(&mut self.buffer, self.limits)? {
                match (frame, &self.templates) {
                    (Frame::TemplateAccepted(accepted), Some(templates)) => templates.lock().await.accepted(accepted.id),
                    (frame, _) => return Ok(frame),
                }
            }
            if !self.buffer.is_empty() {
                return Err(Error::Protocol("a message ends within a frame".into()));
            }
            // The gateway pings more often than that.
            let message = time::timeout(self.silence, self.socket.next()).await;
            match message.map_err(|_| Error::Lost("nothing was heard within the idle time limit".into()))? {
                Some(Ok(Message::Binary(message))) => self.buffer.extend_from_slice(&message),
                Some(Ok(Message::Close(frame))) => return Err(closed(frame)),
                Some(Ok(Message::Text(_))) => return Err(Error::Protocol("a text message".into())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(Error::Lost("the gateway closed the connection".into())),
            }
        }
    }
}

impl Sink {
    /// Writes what comes to the queues until they close or `closing` is cancelled; then says farewell.
    pub(super) async fn run(
        mut self,
        mut control: mpsc::Receiver<Frame>,
        mut lanes: [mpsc::Receiver<Record>; 2],
        closing: CancellationToken,
    ) -> Result<(), Error> {
        let [ordered, independent] = &mut lanes;
        let (mut frames, mut one, mut other) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let closes = tokio::select! {
                biased;
                count = control.recv_many(&mut frames, GROUP) => count == 0,
                count = ordered.recv_many(&mut one, GROUP) => count == 0,
                count = independent.recv_many(&mut other, GROUP) => count == 0,
                () = closing.cancelled() => true,
            };
            let mut message = BytesMut::new();
            for frame in frames.drain(..) {
                frame.encode(&mut message);
            }
            for record in one.drain(..).chain(other.drain(..)) {
                self.encode(record, &mut message).await;
                if message.len() >= GROUP_BYTES {
                    self.send(message.split()).await?;
                }
            }
            self.send(message).await?;
            if closes {
                break;
            }
        }
        let farewell = CloseFrame { code: SocketCode::Normal, reason: "done".into() };
        // Whether the gateway still hears it matters to nobody.
        let _ = time::timeout(CLOSE_LIMIT, self.socket.send(Message::Close(Some(farewell)))).await;
        Ok(())
    }

    async fn encode(&self, record: Record, message: &mut BytesMut) {
        let Some(templates) = &self.templates else { return Frame::Record(record).encode(message) };
        let (frame, template) = templates.lock().await.encode(record);
        Frame::from(frame).encode(message);
        if let Some(template) = template {
            Frame::Template(template).encode(message);
        }
    }

    async fn send(&mut self, message: BytesMut) -> Result<(), Error> {
        if message.is_empty() { Ok(()) } else { self.socket.send(Message::Binary(message.freeze())).await.map_err(lost) }
    }
}

fn closed(frame: Option<CloseFrame>) -> Error {
    let Some(frame) = frame else { return Error::Lost("the gateway closed the connection".into()) };
    let number = u16::from(frame.code).checked_sub(CLOSE_BASE).map(u64::from);
    match number.and_then(CloseCode::from_number) {
        Some(code) => Error::Closed { code, reason: frame.reason.to_string() },
        None => Error::Lost(format!("the gateway closed the connection: {} {}", u16::from(frame.code), frame.reason)),
    }
}

fn lost(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::Http(response) => Error::Lost(format!("the gateway answered {}", response.status())),
        error => Error::Lost(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, written) in [
            ("wss://gateway.example.com", "wss://gateway.example.com:8001/motience"),
            ("wss://gateway.example.com:443", "wss://gateway.example.com:443/motience"),
            ("wss://10.0.0.1:9001/motience", "wss://10.0.0.1:9001/motience"),
            ("ws://[::1]:8001/", "ws://[::1]:8001/motience"),
        ] {
            assert_eq!(text.parse::<Gateway>().unwrap().to_string(), written);
        }
        for text in ["", "gateway", "https://gateway", "wss://", "wss://u:p@gateway", "wss://gateway/other", "wss://gateway?x=1"] {
            assert!(text.parse::<Gateway>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_close_keeps_its_meaning() {
        let frame = |code: u16| Some(CloseFrame { code: code.into(), reason: "why".into() });
        assert!(matches!(closed(frame(4104)), Error::Closed { code: CloseCode::Fenced, .. }));
        assert!(matches!(closed(frame(1001)), Error::Lost(_)));
        assert!(matches!(closed(None), Error::Lost(_)));
    }
}
