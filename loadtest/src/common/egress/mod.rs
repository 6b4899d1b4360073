//! The egresses of a node, each read by a small client of its own, which removes nothing and repairs nothing: whatever the node
//! says comes out as it was said.

mod http;
mod http3;
mod native;
mod webtransport;
mod wss2;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use motience_proto::model::Cursor;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::common::{
    accounts::Account,
    server::{self, Addresses},
};

/// Longest wait for a connection and for the first answer on it.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// An egress of the node, as a client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
pub(crate) enum Egress {
    /// WebSocket, as every existing client knows it: without cursors.
    Plain,
    /// motience/1: a record comes without its cursor here.
    Native,
    /// WebSocket, `motience.v2`.
    Wss2,
    /// `GET /stream` as server-sent events over HTTP/1.1.
    Sse,
    /// `GET /stream` as server-sent events over HTTP/3.
    Sse3,
    /// `GET /stream` as NDJSON over HTTP/1.1.
    Ndjson,
    /// `GET /stream` as NDJSON over HTTP/3.
    Ndjson3,
    /// WebTransport, a stream for each producer.
    WebTransport,
}

impl Egress {
    /// Those that give out JSON with cursors.
    pub(crate) const RESUMING: [Self; 6] = [Self::Wss2, Self::Sse, Self::Sse3, Self::Ndjson, Self::Ndjson3, Self::WebTransport];

    /// As reports name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "wss2",
            Self::Native => "motience/1",
            Self::Wss2 => "motience.v2",
            Self::Sse => "SSE, HTTP/1.1",
            Self::Sse3 => "SSE, HTTP/3",
            Self::Ndjson => "NDJSON, HTTP/1.1",
            Self::Ndjson3 => "NDJSON, HTTP/3",
            Self::WebTransport => "WebTransport",
        }
    }
}

/// Where an egress is, and who comes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// A WebSocket's URL, the base URL of the data service, or `host:port` of the QUIC endpoint: as the egress needs it.
    pub(crate) server: String,
    /// CA of the server; `None` trusts the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The consumer's access token.
    pub(crate) token: String,
    /// Producers to follow. WebTransport asks for each; the others deliver all subscriptions of the consumer.
    pub(crate) producers: Vec<i64>,
    /// The address that a WebSocket comes from; `None`: whichever the system gives.
    pub(crate) source: Option<Ipv4Addr>,
}

/// Where to begin with each producer.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    /// With the next record.
    Live,
    /// After these; a producer that is not named begins at its log's oldest record.
    After(BTreeMap<i64, Cursor>),
}

/// A message or the end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Incoming {
    /// A record or a notice: a JSON object.
    Message(String),
    /// The connection is over, and how.
    End(String),
}

impl Incoming {
    /// The `type` of a notice; `None` for a record.
    pub(crate) fn notice(text: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Notice {
            r#type: String,
        }
        serde_json::from_str(text).ok().map(|Notice { r#type }| r#type)
    }

    /// Whether it only says where an egress stands.
    pub(crate) fn is_position(text: &str) -> bool {
        Self::notice(text).is_some_and(|kind| matches!(&*kind, "cursors" | "cursor" | "subscribed"))
    }
}

/// A consumer's connection.
pub(crate) enum Connection {
    Native(Box<native::Session>),
    Wss2(wss2::Socket),
    Http(http::Stream),
    WebTransport(Box<webtransport::Session>),
}

impl Connection {
    /// Connects and asks for the records; where they are to be live ones, every later record comes.
    pub(crate) async fn open(egress: Egress, target: &Target, start: &Start) -> Result<Self> {
        let opening = async {
            Ok(match egress {
                Egress::Native => Self::Native(Box::new(native::Session::open(target, start).await?)),
                Egress::Plain | Egress::Wss2 => Self::Wss2(wss2::Socket::open(egress, target, start).await?),
                Egress::Sse | Egress::Ndjson | Egress::Sse3 | Egress::Ndjson3 => {
                    Self::Http(http::Stream::open(egress, target, start).await?)
                }
                Egress::WebTransport => Self::WebTransport(Box::new(webtransport::Session::open(target, start).await?)),
            })
        };
        timeout(CONNECT_LIMIT, opening).await.context("no answer in time")?
    }

    /// Returns once the node has answered on a connection of `motience.v2`; at once for others, whose answer is there when they are open.
    pub(crate) async fn answers(&mut self) -> Result<()> {
        match self {
            Self::Wss2(socket) => timeout(CONNECT_LIMIT, socket.ping()).await.context("no answer in time")?,
            _ => Ok(()),
        }
    }

    /// Reads the next message. An error is one of the protocol: nothing that a bad network could do. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Incoming> {
        match self {
            Self::Native(session) => session.next().await,
            Self::Wss2(socket) => Ok(socket.next().await),
            Self::Http(stream) => stream.next().await,
            Self::WebTransport(session) => Ok(session.next().await),
        }
    }
}

impl Target {
    /// Where a server's egress is.
    pub(crate) fn at(egress: Egress, addresses: &Addresses, account: &Account, producers: Vec<i64>) -> Self {
        let server = match egress {
            Egress::Plain | Egress::Wss2 => &addresses.wss2,
            Egress::Sse | Egress::Ndjson => &addresses.dsm,
            Egress::Native | Egress::Sse3 | Egress::Ndjson3 | Egress::WebTransport => &addresses.quic,
        };
        Self { server: server.clone(), ca: addresses.ca.clone(), token: account.token.clone(), producers, source: None }
    }

    /// `host:port` of a URL, or of itself; every node of a test listens on the loopback of IPv4.
    fn address(&self) -> Result<SocketAddr> {
        server::address(&self.server)
    }
}

impl Start {
    /// Where to begin with one producer, as every egress reads it.
    fn of(&self, producer: i64) -> String {
        match self {
            Self::Live => "live".to_owned(),
            Self::After(cursors) => cursors.get(&producer).map_or_else(|| "earliest".to_owned(), ToString::to_string),
        }
    }

    /// Start positions of all producers: `{"1":"7-456","2":"earliest"}`.
    fn map(&self, producers: &[i64]) -> Result<String> {
        let places: BTreeMap<String, String> = producers.iter().map(|p| (p.to_string(), self.of(*p))).collect();
        Ok(serde_json::to_string(&places)?)
    }
}

/// Percent-encoded: the characters that a query cannot hold.
fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
