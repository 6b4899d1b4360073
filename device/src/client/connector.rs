//! What outlives a connection: the socket, the TLS session tickets, the settings.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use motience_certs::client::quic_config;
use motience_shared::{
    model::Epoch,
    wire::{self, Intent},
};
use quinn::{ClientConfig, Connection, Endpoint, crypto::rustls::QuicClientConfig};
use secrecy::SecretString;
use tokio::{net::lookup_host, task::JoinSet, time};

use super::{Config, Error, Session, transport};

/// How long one address of a name may stay silent before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// How long [`Connector::idle`] waits for the last packets.
const LAST_PACKETS: Duration = Duration::from_millis(500);

/// Connects. Cheap to clone; clones share the socket and the session tickets.
#[derive(Clone)]
pub struct Connector {
    config: Arc<Config>,
    endpoint: Endpoint,
    crypto: Arc<QuicClientConfig>,
}

impl Connector {
    /// Reads the trusted certificates and opens a UDP socket. Must be called within a tokio runtime.
    pub fn new(config: Config) -> Result<Self, Error> {
        let tls = quic_config(&config.trust, &[wire::ALPN]).map_err(|e| Error::Config(e.to_string()))?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|e| Error::Config(e.to_string()))?;
        // One socket for both families, where the system can.
        let endpoint = Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())
            .or_else(|_| Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()))
            .map_err(|e| Error::socket(&e))?;
        Ok(Self { config: Arc::new(config), endpoint, crypto: Arc::new(crypto) })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Connects, says `Hello` and waits for `Welcome`, all within the time limit.
    pub async fn connect(&self, token: &SecretString, intent: Intent, epoch: Epoch) -> Result<Session, Error> {
        let connect = async {
            let connection = self.dial(intent).await?;
            Session::open(connection, &self.config, token, intent, epoch).await
        };
        time::timeout(self.config.connect_timeout, connect).await.map_err(|_| Error::Timeout)?
    }

    /// Waits, not long, until the last packets of closed connections are out.
    pub async fn idle(&self) {
        // Past the limit there is nothing left to do: the server will see the idle timeout instead of the close.
        let _ = time::timeout(LAST_PACKETS, self.endpoint.wait_idle()).await;
    }

    /// A connection to the first address that answers.
    async fn dial(&self, intent: Intent) -> Result<Connection, Error> {
        let host = &self.config.server.host;
        let failed = |reason: String| Error::Resolve { host: host.clone(), reason };
        let addresses: Vec<_> = lookup_host((host.as_str(), self.config.server.port)).await.map_err(|e| failed(e.to_string()))?.collect();
        let name = self.config.server_name.as_deref().unwrap_or(host);
        let mut config = ClientConfig::new(self.crypto.clone());
        config.transport_config(transport::config(&self.config.transport, intent));

        let mut error = failed("it has no address".into());
        let mut attempts = JoinSet::new();
        let mut left = addresses.into_iter().take(MAX_ADDRESSES);
        loop {
            match left.next() {
                Some(address) => match self.start(&config, address, name) {
                    Ok(connecting) => drop(attempts.spawn(connecting)),
                    Err(reason) => {
                        error = reason;
                        continue;
                    }
                },
                None if attempts.is_empty() => return Err(error),
                None => {}
            }
            let patience = if left.len() > 0 { STAGGER } else { self.config.connect_timeout };
            match time::timeout(patience, attempts.join_next()).await {
                Ok(Some(Ok(Ok(connection)))) => return Ok(connection),
                Ok(Some(Ok(Err(reason)))) => error = reason.into(),
                Ok(Some(Err(reason))) => error = Error::Lost(reason.to_string()),
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn start(&self, config: &ClientConfig, address: SocketAddr, name: &str) -> Result<quinn::Connecting, Error> {
        self.endpoint.connect_with(config.clone(), address, name).map_err(|e| Error::Config(e.to_string()))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("config", &self.config).finish_non_exhaustive()
    }
}
