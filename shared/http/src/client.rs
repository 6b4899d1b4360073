//! Where a request comes from: the peer, or, behind proxies that are trusted, whom they name.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Extension,
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, request::Parts},
};
use ipnet::IpNet;
use motience_limits::permits::ClientAddress;
use motience_settings::env::{Value, one_of, settings};

settings! {
    /// Proxies whose word on where a request comes from is believed, and the header in which they say it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Proxies {
        /// Proxies, as addresses or networks, whose word on where a request comes from is believed.
        TRUSTED_PROXIES = "" => networks: Vec<Network>;
        /// The header that these proxies write: `x-forwarded-for`, `forwarded` (RFC 7239), or `any`. Name it where they pass the other one on
        /// as the client made it.
        FORWARDED_HEADER = "any" => header: ForwardedHeader;
    }
}

/// The header that is read. A proxy that writes one of the two passes the other on as the client made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, or `Forwarded` where there is none.
    Any,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

impl Value for ForwardedHeader {
    fn parse(text: &str) -> Result<Self, String> {
        one_of(text, &[("any", Self::Any), ("x-forwarded-for", Self::XForwardedFor), ("forwarded", Self::Forwarded)])
    }
}

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Value for Network {
    fn parse(text: &str) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| "must be an address or a network such as 10.0.0.0/8".to_owned())
    }
}

impl Network {
    /// Whether this address is of it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl Proxies {
    /// Whether any proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether the peer at this address speaks for others.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The right-most address that no trusted proxy has: everything left of it may be made up by the client.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let mut client = peer;
        for hop in self.hops(headers).into_iter().rev() {
            match hop {
                Some(address) if self.trusts(client) => client = address,
                _ => break,
            }
        }
        client
    }

    /// The addresses that requests are said to have come through, the nearest last; `None`: one that hides its own.
    fn hops(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let lines = |name: &str| {
            let lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            lines.collect::<Vec<_>>().join(",")
        };
        let forwarded = || list(&lines("forwarded"), ',').into_iter().map(named).collect();
        let x_forwarded_for = || list(&lines("x-forwarded-for"), ',').into_iter().map(node).collect();
        match self.header {
            ForwardedHeader::XForwardedFor => x_forwarded_for(),
            ForwardedHeader::Forwarded => forwarded(),
            ForwardedHeader::Any if headers.contains_key("x-forwarded-for") => x_forwarded_for(),
            ForwardedHeader::Any => forwarded(),
        }
    }
}

/// The members of a list, without blanks and empty ones. A separator within quotes separates nothing.
fn list(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let members = text.split(move |c: char| {
        let plain = !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        plain && c == separator
    });
    members.map(str::trim).filter(|member| !member.is_empty()).collect()
}

/// Address that `for=` names in an element of `Forwarded` (RFC 7239, section 4).
fn named(element: &str) -> Option<IpAddr> {
    let pairs = list(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value)).find(|(name, _)| name.eq_ignore_ascii_case("for")).and_then(|(_, value)| node(value))
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`, each in quotes or not.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"').trim();
    let (host, bare) = match text.strip_prefix('[') {
        Some(rest) => (rest.split_once(']')?.0, false),
        None => (text, true),
    };
    // The zone of a link-local address is the proxy's own affair.
    let host = host.split_once('%').map_or(host, |(host, _)| host);
    host.parse().ok().or_else(|| if bare { text.split_once(':')?.0.parse::<Ipv4Addr>().ok().map(IpAddr::V4) } else { None })
}

/// The client that sent a request, as an extractor.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub ClientAddress);

impl Client {
    /// The client that sent a request with these headers over a connection of `peer`.
    pub fn of_request(proxies: &Proxies, peer: IpAddr, headers: &HeaderMap) -> Self {
        Self(ClientAddress::of(proxies.client(peer, headers)))
    }
}

/// State of a router that knows which proxies are trusted.
pub trait HasProxies: Send + Sync {
    /// The proxies.
    fn proxies(&self) -> &Proxies;
}

impl<S: HasProxies> HasProxies for Arc<S> {
    fn proxies(&self) -> &Proxies {
        (**self).proxies()
    }
}

impl<S: HasProxies> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let peer = Extension::<ConnectInfo<SocketAddr>>::from_request_parts(parts, state).await;
        // Without a socket (a router called directly) all requests count as one client's.
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Extension(ConnectInfo(peer))| peer.ip());
        Ok(Self::of_request(state.proxies(), peer, &parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_settings::env::Env;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies(header: &str) -> Proxies {
        Proxies::from_env(&Env::from_pairs([("TRUSTED_PROXIES", "10.0.0.0/8, ::1"), ("FORWARDED_HEADER", header)])).unwrap()
    }

    /// Client of a peer's request with these headers.
    fn client(header: &str, peer: &str, lines: &[(&'static str, &str)]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        proxies(header).client(ip(peer), &headers)
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let x = |peer, value| client("any", peer, &[("x-forwarded-for", value)]);
        assert_eq!(x("203.0.113.5", "1.1.1.1"), ip("203.0.113.5"), "a stranger names nobody");
        assert_eq!(x("10.1.2.3", "9.9.9.9, 198.51.100.7"), ip("198.51.100.7"), "left of the last stranger is hearsay");
        assert_eq!(x("10.1.2.3", "198.51.100.7, 10.9.9.9"), ip("198.51.100.7"));
        assert_eq!(x("::ffff:10.1.2.3", "198.51.100.7"), ip("198.51.100.7"));
        assert_eq!(x("10.1.2.3", ""), ip("10.1.2.3"));
        for wrong in [("TRUSTED_PROXIES", "10.0.0.0/40"), ("FORWARDED_HEADER", "via")] {
            assert!(Proxies::from_env(&Env::from_pairs([wrong])).unwrap_err().to_string().starts_with(wrong.0));
        }
    }

    #[test]
    fn addresses_are_read_however_proxies_write_them() {
        for (written, address) in [
            ("198.51.100.7:4711", "198.51.100.7"),
            ("\"198.51.100.7:4711\"", "198.51.100.7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("fe80::7%eth0", "fe80::7"),
            (" 198.51.100.7 ,", "198.51.100.7"),
            ("9.9.9.9:1, [2001:db8::7]:2, 10.0.0.1:3", "2001:db8::7"),
            // Who hides its address is not told from the proxy that knows it.
            ("198.51.100.7, unknown", "10.1.2.3"),
            ("198.51.100.7, _hidden", "10.1.2.3"),
            ("198.51.100.7, [2001:db8::7", "10.1.2.3"),
            ("198.51.100.7, 1.2.3.4.5", "10.1.2.3"),
        ] {
            assert_eq!(client("any", "10.1.2.3", &[("x-forwarded-for", written)]), ip(address), "{written}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (written, address) in [
            ("for=198.51.100.7", "198.51.100.7"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("by=203.0.113.43; FOR = 192.0.2.60 ;host=\"a, b; for=1.1.1.1\"", "192.0.2.60"),
            ("for=9.9.9.9, for=\"198.51.100.7:1\", for=10.0.0.2", "198.51.100.7"),
            ("for=\"_x, for=9.9.9.9\", for=198.51.100.7", "198.51.100.7"),
            ("for=198.51.100.7, proto=https", "10.1.2.3"),
            ("for=198.51.100.7, for=unknown", "10.1.2.3"),
        ] {
            assert_eq!(client("any", "10.1.2.3", &[("forwarded", written)]), ip(address), "{written}");
        }
        // Several lines are one list.
        let lines = [("forwarded", "for=9.9.9.9"), ("forwarded", "for=198.51.100.7")];
        assert_eq!(client("any", "10.1.2.3", &lines), ip("198.51.100.7"));
    }

    #[test]
    fn a_client_cannot_use_the_header_that_its_proxy_does_not_write() {
        let both = [("x-forwarded-for", "198.51.100.7"), ("forwarded", "for=192.0.2.60")];
        assert_eq!(client("any", "10.1.2.3", &both), ip("198.51.100.7"));
        assert_eq!(client("X-Forwarded-For", "10.1.2.3", &both), ip("198.51.100.7"));
        assert_eq!(client("forwarded", "10.1.2.3", &both), ip("192.0.2.60"));
        assert_eq!(client("x-forwarded-for", "10.1.2.3", &both[1..]), ip("10.1.2.3"));
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client() {
        assert_eq!(ClientAddress::of(ip("2001:db8::1")), ClientAddress::of(ip("2001:db8::ffff:2")));
        assert_ne!(ClientAddress::of(ip("2001:db8::1")), ClientAddress::of(ip("2001:db8:0:1::1")));
        assert_eq!(ClientAddress::of(ip("::ffff:192.0.2.1")), ClientAddress::of(ip("192.0.2.1")));
    }
}
