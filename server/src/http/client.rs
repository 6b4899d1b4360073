//! Where a request comes from: the peer, or, behind proxies that are trusted, whom they name.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use axum::{
    Extension,
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
};

use super::Shared;

/// Networks whose X-Forwarded-For is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<(IpAddr, u8)>);

/// The text is no list of addresses and networks.
#[derive(Clone, Debug, thiserror::Error)]
#[error("'{0}' is no address or network such as 10.0.0.0/8")]
pub struct InvalidNetwork(String);

impl Proxies {
    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|&(network, prefix)| contains(network, prefix, address))
    }

    /// The right-most address that no trusted proxy has: everything left of it may be made up by the client.
    fn client(&self, peer: IpAddr, forwarded: &str) -> IpAddr {
        let mut client = peer;
        for hop in forwarded.split(',').rev().map(|h| h.trim().parse::<IpAddr>()) {
            if !self.trusts(client) {
                break;
            }
            match hop {
                Ok(address) => client = address,
                Err(_) => break,
            }
        }
        client
    }
}

impl FromStr for Proxies {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let network = |text: &str| {
            let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
            let address: IpAddr = address.parse().ok()?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let prefix = if prefix.is_empty() { bits } else { prefix.parse().ok()? };
            (prefix <= bits).then_some((address, prefix))
        };
        text.split(',')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(|t| network(t).ok_or_else(|| InvalidNetwork(t.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => u32::from(prefix) == 0 || (n.to_bits() ^ a.to_bits()) >> (32 - u32::from(prefix)) == 0,
        (IpAddr::V6(n), IpAddr::V6(a)) => u32::from(prefix) == 0 || (n.to_bits() ^ a.to_bits()) >> (128 - u32::from(prefix)) == 0,
        _ => false,
    }
}

/// The client that a rate limit counts: an IPv4 address, or an IPv6 /64, which one subscriber has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(a) => Self(IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX)))),
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromRequestParts<Shared> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Infallible> {
        let peer = Extension::<ConnectInfo<SocketAddr>>::from_request_parts(parts, state).await;
        // Without a socket (a router called directly) all requests count as one client's.
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Extension(ConnectInfo(peer))| peer.ip());
        let forwarded: Vec<&str> = parts.headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        Ok(Self::of(state.config.proxies.client(peer, &forwarded.join(","))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let proxies: Proxies = "10.0.0.0/8, ::1".parse().unwrap();
        assert_eq!(proxies.client(ip("203.0.113.5"), "1.1.1.1"), ip("203.0.113.5"), "a stranger names nobody");
        assert_eq!(proxies.client(ip("10.1.2.3"), "9.9.9.9, 198.51.100.7"), ip("198.51.100.7"), "left of the last stranger is hearsay");
        assert_eq!(proxies.client(ip("10.1.2.3"), "198.51.100.7, 10.9.9.9"), ip("198.51.100.7"));
        assert_eq!(proxies.client(ip("10.1.2.3"), ""), ip("10.1.2.3"));
        assert!("10.0.0.0/40".parse::<Proxies>().is_err());
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client() {
        assert_eq!(ClientAddress::of(ip("2001:db8::1")), ClientAddress::of(ip("2001:db8::ffff:2")));
        assert_ne!(ClientAddress::of(ip("2001:db8::1")), ClientAddress::of(ip("2001:db8:0:1::1")));
        assert_eq!(ClientAddress::of(ip("::ffff:192.0.2.1")), ClientAddress::of(ip("192.0.2.1")));
    }
}
