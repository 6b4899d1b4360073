//! Connector: the socket, the TLS session tickets and the settings that outlive a connection, and the choice of transport.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use motience_certs::client::{quic_config, tcp_config};
use motience_proto::{
    model::ProducerEpoch,
    wire::{self, Intent, Record},
};
use parking_lot::{Mutex, MutexGuard};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime, ZeroRttAccepted, crypto::rustls::QuicClientConfig};
use quinn_proto::RandomConnectionIdGenerator;
use secrecy::SecretString;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::lookup_host, pin, task::JoinSet, time};

use super::{Config, Error, Session, quic, tunnel};
use crate::link::Networks;

/// How long one address of a name may stay silent before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// How long QUIC is tried alone before the tunnel is tried beside it.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long an answer to a first flight is waited for while the tunnel could be had.
const FIRST_FLIGHT: Duration = Duration::from_millis(1500);
/// Bytes of the ids that the server puts in its packets: an endpoint has a few connections, and each packet carries one.
const ID: usize = 4;
/// How long [`Connector::idle`] waits for the last packets.
const LAST_PACKETS: Duration = Duration::from_millis(500);

/// Connects. Cheap to clone; clones share the socket and the session tickets.
#[derive(Clone)]
pub struct Connector {
    config: Arc<Config>,
    endpoint: Endpoint,
    crypto: Arc<QuicClientConfig>,
    /// For the tunnel; `None` where there is no fallback.
    tls: Option<Arc<rustls::ClientConfig>>,
    shared: Arc<Shared>,
    networks: Arc<Networks>,
}

/// State that connections leave behind for the next.
#[derive(Default)]
struct Shared {
    /// Only there may the first flight carry anything.
    known: Mutex<Option<Known>>,
    early: EarlyCount,
}

/// Where the last connection led to.
#[derive(Clone, Copy)]
struct Known {
    peer: SocketAddr,
    /// Records that may be in flight there.
    credit: u64,
}

/// First flights that carried records.
#[derive(Debug, Default)]
struct EarlyCount {
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl EarlyCount {
    /// Those that the server took, and those that it did not.
    fn get(&self) -> (u64, u64) {
        (self.accepted.load(Relaxed), self.refused.load(Relaxed))
    }
}

/// A connection whose handshake may still be in flight.
struct Dialed {
    connection: Connection,
    /// Where it is: whether the server will take what is sent before its end.
    early: Option<ZeroRttAccepted>,
}

impl Connector {
    /// Reads the trusted certificates and opens a UDP socket. Must be called within a tokio runtime.
    pub fn new(config: Config) -> Result<Self, Error> {
        let wrong = |e: &dyn fmt::Display| Error::Config(e.to_string());
        let tls = quic_config(&config.trust, &[wire::ALPN]).map_err(|e| wrong(&e))?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|e| wrong(&e))?;
        let tls = match &config.fallback {
            Some(_) => Some(Arc::new(tcp_config(&config.trust, &[b"http/1.1"]).map_err(|e| wrong(&e))?)),
            None => None,
        };
        let socket = socket().map_err(|e| Error::socket(&e))?;
        let mut settings = EndpointConfig::default();
        settings.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(ID)));
        let endpoint = Endpoint::new(settings, None, socket, Arc::new(TokioRuntime)).map_err(|e| Error::socket(&e))?;
        Ok(Self { config: Arc::new(config), endpoint, crypto: Arc::new(crypto), tls, shared: Arc::default(), networks: Arc::default() })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Connects, says `Hello` and waits for `Welcome`, all within the time limit.
    pub async fn connect(&self, token: &SecretString, intent: Intent, epoch: ProducerEpoch) -> Result<Session, Error> {
        self.quic(token, intent, epoch, &[]).await
    }

    /// A producer's session, by whichever way answers: QUIC, or the tunnel where there is one and QUIC is silent for
    /// [`HEAD_START`]. `Hello` is said on one of them only: two would fence each other.
    ///
    /// Records of `early`, no more than [`Self::first_flight`], travel in the first flight; [`Session::early`] says how many
    /// of them are in flight. `doubtful`: QUIC was silent just now.
    pub async fn produce(&self, token: &SecretString, epoch: ProducerEpoch, early: &[Record], doubtful: bool) -> Result<Session, Error> {
        let Some(gateway) = &self.config.fallback else { return self.quic(token, Intent::Produce, epoch, early).await };
        let dial = async {
            let dialed = time::timeout(self.config.connect_timeout, self.dial(Intent::Produce, !doubtful)).await;
            let Dialed { connection, early: accepted } = dialed.map_err(|_| Error::Timeout)??;
            match accepted {
                // Records of the first flight cannot be taken back: their connection is waited for, but not long.
                Some(accepted) => {
                    let open = self.open(connection, Some(accepted), token, Intent::Produce, epoch, early);
                    time::timeout(FIRST_FLIGHT, open).await.map_err(|_| Error::Timeout)?.map(Err)
                }
                None => Ok(Ok(connection)),
            }
        };
        let upgrade = async {
            if !doubtful {
                time::sleep(HEAD_START).await;
            }
            tracing::info!("QUIC does not answer: trying the tunnel beside it");
            let tls = self.tls.as_ref().ok_or_else(|| Error::Config("no fallback is set".into()))?;
            time::timeout(self.config.connect_timeout, tunnel::upgrade(gateway, self.config.server_name.as_deref(), tls))
                .await
                .map_err(|_| Error::Timeout)?
        };
        pin!(dial);
        pin!(upgrade);
        let (mut silent, mut blocked) = (None, None);
        loop {
            tokio::select! {
                biased;
                dialed = &mut dial, if silent.is_none() => match dialed {
                    Ok(Err(session)) => return Ok(session),
                    Ok(Ok(connection)) => {
                        let open = self.open(connection, None, token, Intent::Produce, epoch, &[]);
                        return time::timeout(self.config.connect_timeout, open).await.map_err(|_| Error::Timeout)?;
                    }
                    Err(error) if error.is_final() => return Err(error),
                    Err(error) => silent = Some(error),
                },
                socket = &mut upgrade, if blocked.is_none() => match socket {
                    Ok(socket) => {
                        let open = tunnel::open(socket, &self.config, token, epoch);
                        return time::timeout(self.config.connect_timeout, open).await.map_err(|_| Error::Timeout)?.map(Session::through);
                    }
                    Err(error) => blocked = Some(error),
                },
                else => return Err(match (silent, blocked) {
                    (Some(silent), Some(blocked)) => Error::Lost(format!("over QUIC: {silent}; by the gateway: {blocked}")),
                    (silent, blocked) => silent.or(blocked).unwrap_or(Error::Timeout),
                }),
            }
        }
    }

    async fn quic(&self, token: &SecretString, intent: Intent, epoch: ProducerEpoch, early: &[Record]) -> Result<Session, Error> {
        let connect = async {
            let Dialed { connection, early: accepted } = self.dial(intent, true).await?;
            self.open(connection, accepted, token, intent, epoch, early).await
        };
        time::timeout(self.config.connect_timeout, connect).await.map_err(|_| Error::Timeout)?
    }

    /// Says `Hello` and waits for `Welcome`. `accepted`: the handshake is in flight, and all of it is the first flight.
    async fn open(
        &self,
        connection: Connection,
        accepted: Option<ZeroRttAccepted>,
        token: &SecretString,
        intent: Intent,
        epoch: ProducerEpoch,
        early: &[Record],
    ) -> Result<Session, Error> {
        let peer = connection.remote_address();
        // Until it has shown that it works.
        *self.known() = None;
        let meter = self.networks.towards(peer);
        let open = |early| Session::open(connection.clone(), &self.config, token, intent, epoch, early, &meter);
        let session = match accepted {
            None => open(&[]).await?,
            Some(accepted) => {
                // The first flight's streams must be gone before others are opened: where it was refused, those have the same numbers, and
                // quinn forgets who waits for a number when a stream of it is dropped. Nobody would hear of acknowledgements then.
                let session = {
                    let first = open(early);
                    pin!(first);
                    tokio::select! {
                        biased;
                        taken = accepted => if taken { Some(first.await?) } else { None },
                        session = &mut first => Some(session?),
                    }
                };
                match session {
                    Some(session) => {
                        self.shared.early.accepted.fetch_add(u64::from(!early.is_empty()), Relaxed);
                        session
                    }
                    // Nothing of it was looked at: the server forgot us. The connection goes on all the same.
                    None => {
                        self.shared.early.refused.fetch_add(u64::from(!early.is_empty()), Relaxed);
                        open(&[]).await?
                    }
                }
            }
        };
        *self.known() = Some(Known { peer, credit: session.welcome().credit });
        Ok(session)
    }

    /// How many records the next first flight may carry: the credit that the server gave last, where it is known.
    pub fn first_flight(&self) -> u64 {
        self.known().map_or(0, |known| known.credit)
    }

    /// First flights that carried records.
    pub fn early(&self) -> (u64, u64) {
        self.shared.early.get()
    }

    /// Goes on with another socket, hence another port: the way out where a NAT has forgotten the old one. Connections stay.
    pub fn rebind(&self) -> Result<(), Error> {
        socket().and_then(|socket| self.endpoint.rebind(socket)).map_err(|e| Error::socket(&e))
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.shared.known.lock()
    }

    /// Waits, not long, until the last packets of closed connections are out.
    pub async fn idle(&self) {
        // Past the limit there is nothing left to do: the server will see the idle timeout instead of the close.
        let _ = time::timeout(LAST_PACKETS, self.endpoint.wait_idle()).await;
    }

    /// A connection to the first address that answers.
    async fn dial(&self, intent: Intent, early: bool) -> Result<Dialed, Error> {
        let host = &self.config.server.host;
        let failed = |reason: String| Error::Resolve { host: host.clone(), reason };
        let found = lookup_host((host.as_str(), self.config.server.port)).await.map_err(|e| failed(e.to_string()))?;
        let mut addresses: Vec<_> = found.collect();
        let name = self.config.server_name.as_deref().unwrap_or(host);

        // The socket is of both families: what it calls an address may be its IPv6 form.
        let same = |a: SocketAddr, b: SocketAddr| a.ip().to_canonical() == b.ip().to_canonical() && a.port() == b.port();
        let known = self.known().filter(|_| early && intent == Intent::Produce);
        let known = known.and_then(|known| addresses.iter().copied().find(|address| same(known.peer, *address)));
        addresses.sort_by_key(|address| Some(*address) != known);

        let mut error = failed("it has no address".into());
        let mut attempts = JoinSet::new();
        let mut left = addresses.into_iter().take(MAX_ADDRESSES);
        loop {
            match left.next() {
                Some(address) => match self.start(intent, address, name) {
                    Ok(connecting) if Some(address) == known => match connecting.into_0rtt() {
                        Ok((connection, early)) => return Ok(Dialed { connection, early: Some(early) }),
                        // There is no ticket for it: an attempt like any other.
                        Err(connecting) => drop(attempts.spawn(connecting)),
                    },
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
                Ok(Some(Ok(Ok(connection)))) => return Ok(Dialed { connection, early: None }),
                Ok(Some(Ok(Err(reason)))) => error = reason.into(),
                Ok(Some(Err(reason))) => error = Error::Lost(reason.to_string()),
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn start(&self, intent: Intent, address: SocketAddr, name: &str) -> Result<quinn::Connecting, Error> {
        let mut config = ClientConfig::new(self.crypto.clone());
        let meter = self.networks.towards(address);
        config.transport_config(quic::config(&self.config.quic, intent, &self.config.link, &meter));
        self.endpoint.connect_with(config, address, name).map_err(|e| Error::Config(e.to_string()))
    }
}

/// One socket for both families, where the system can.
fn socket() -> io::Result<UdpSocket> {
    let bound = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bound((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_: io::Error| bound((Ipv4Addr::UNSPECIFIED, 0).into()))
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("config", &self.config).finish_non_exhaustive()
    }
}
