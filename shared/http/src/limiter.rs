//! Who may hold a connection to a listener: so many in all, and so many from one address. A connection over either limit is
//! answered at once; nobody waits behind others in the listener's backlog.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use axum::{body::to_bytes, response::IntoResponse as _};
use motience_limits::permits::{self, give_back};
use motience_runtime::descriptors::{self, Descriptor};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use super::{ApiError, ClientAddress, Proxies};

/// Refusals that are written at once; beyond them a connection is closed without a word.
const REFUSALS: usize = 64;
/// Time for a refused client to read why.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of a refused client's request that are read and thrown away, so that the answer is not lost with them.
const REFUSED_REQUEST: u64 = 64 * 1024;

/// The limits of one listener.
pub(super) struct Limiter {
    open: Arc<Mutex<Open>>,
    most: usize,
    most_each: usize,
    /// Peers who speak for many clients: the limit for an address does not hold for them.
    trusted: Proxies,
    refusals: Arc<Semaphore>,
    /// Whether its connections may take the last file descriptors.
    kept: bool,
}

#[derive(Default)]
struct Open {
    all: usize,
    each: HashMap<ClientAddress, usize>,
}

/// The right to hold one connection; given back when dropped.
pub(super) struct Permit {
    open: Arc<Mutex<Open>>,
    /// `None` for a trusted peer, and for one who is not known yet.
    address: Option<ClientAddress>,
    _descriptor: Option<Descriptor>,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The listener has all the connections it may have.
    Full,
    /// The peer's address has.
    Address,
    /// The process has no file descriptor left but those for its operator.
    Descriptors,
    /// A balancer has not said, as it should, whom it speaks for.
    Unannounced,
}

impl Limiter {
    pub(super) fn new(most: usize, most_each: usize, trusted: Proxies) -> Self {
        Self { open: Arc::default(), most, most_each, trusted, refusals: Arc::new(Semaphore::new(REFUSALS)), kept: false }
    }

    /// A limiter whose connections may take the last file descriptors (`kept`).
    pub(super) fn keeping(self, kept: bool) -> Self {
        Self { kept, ..self }
    }

    /// A permit for a connection from this peer.
    pub(super) fn enter(&self, peer: IpAddr) -> Result<Permit, Refused> {
        let mut permit = self.enter_unnamed()?;
        self.name(&mut permit, peer)?;
        Ok(permit)
    }

    /// A permit for a connection whose client is not known yet.
    pub(super) fn enter_unnamed(&self) -> Result<Permit, Refused> {
        let descriptor = if self.kept { None } else { Some(descriptors::take().ok_or(Refused::Descriptors)?) };
        let mut open = self.open.lock();
        if open.all >= self.most {
            return Err(Refused::Full);
        }
        open.all += 1;
        metrics::gauge!("motience_connections").increment(1);
        Ok(Permit { open: Arc::clone(&self.open), address: None, _descriptor: descriptor })
    }

    /// Counts a connection as this client's.
    pub(super) fn name(&self, permit: &mut Permit, client: IpAddr) -> Result<(), Refused> {
        if self.trusted.trusts(client) {
            return Ok(());
        }
        let (address, mut open) = (ClientAddress::of(client), self.open.lock());
        let each = open.each.entry(address).or_default();
        if *each >= self.most_each {
            return Err(Refused::Address);
        }
        *each += 1;
        permit.address = Some(address);
        Ok(())
    }

    /// Tells the client why, where it speaks HTTP without TLS, and closes.
    pub(super) fn refuse(&self, stream: TcpStream, why: Refused, tls: bool) {
        why.count();
        // A word would hold the descriptor that is missing.
        if tls || why == Refused::Descriptors {
            return;
        }
        if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
            tokio::spawn(async move {
                // A client that does not read it is not waited for.
                let _ = timeout(REFUSAL_LIMIT, why.tell(stream)).await;
                drop(permit);
            });
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        metrics::gauge!("motience_connections").decrement(1);
        let mut open = self.open.lock();
        open.all -= 1;
        give_back(&mut open.each, self.address);
    }
}

impl Refused {
    pub(super) fn count(self) {
        let reason = match self {
            Self::Full => "full",
            Self::Address => "address",
            Self::Descriptors => "descriptors",
            Self::Unannounced => "proxy_header",
        };
        metrics::counter!("motience_connections_refused_total", "reason" => reason).increment(1);
    }

    async fn tell(self, mut stream: TcpStream) -> std::io::Result<()> {
        let error = ApiError::from(match self {
            Self::Address => permits::Refusal::Address,
            Self::Full | Self::Descriptors | Self::Unannounced => permits::Refusal::Node,
        });
        let (head, body) = error.into_response().into_parts();
        let body = to_bytes(body, 4096).await.map_err(std::io::Error::other)?;
        let mut answer = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
        for (name, value) in &head.headers {
            answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        answer.extend(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).bytes());
        answer.extend(body);
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REFUSED_REQUEST), &mut tokio::io::sink()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_settings::env::Env;

    #[test]
    fn an_address_cannot_take_everything_and_a_trusted_proxy_may() {
        let trusted = Proxies::from_env(&Env::from_pairs([("TRUSTED_PROXIES", "192.0.2.9")])).unwrap();
        let limiter = Limiter::new(4, 2, trusted);
        let enter = |peer: &str| limiter.enter(peer.parse().unwrap());
        let held = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert_eq!(enter("2001:db8::3").err(), Some(Refused::Address), "a /64 is one client");
        let others = [enter("192.0.2.9").unwrap(), enter("192.0.2.9").unwrap()];
        assert_eq!(enter("192.0.2.1").err(), Some(Refused::Full));
        drop(others);
        drop(held);
        assert!(limiter.open.lock().each.is_empty(), "nothing is kept of who has left");
        assert!((0..3).all(|n| enter(&format!("192.0.2.{n}")).is_ok()));
    }
}
