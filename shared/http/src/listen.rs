//! The addresses that a process listens on, and what a node may offer there.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use motience_settings::env::{Reader, Value, settings};
use tokio::net::{TcpListener, TcpSocket};

use super::Proxies;

/// Connections that the system keeps for a listener until they are accepted; it may keep fewer (net.core.somaxconn).
const BACKLOG: u32 = 4096;
/// Tries to find one port that is free on both loopback addresses, where any port will do.
const TRIES: usize = 16;

/// The host of a listener, as BIND_ADDRESS names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// `localhost`: this machine only, by 127.0.0.1 and by ::1.
    Localhost,
    /// One address, or every address of a family.
    Ip(IpAddr),
}

settings! {
    /// Where a process listens, and what it may take there.
    #[derive(Clone, Copy, Debug)]
    pub struct Listening {
        /// The address on which everything listens: `localhost` (127.0.0.1 and ::1), an IP address, `0.0.0.0` or `::` for all. A development
        /// node listens on this machine only, so that nobody else reaches a platform which someone tries out.
        BIND_ADDRESS = "localhost", production "0.0.0.0" => host: Host;
        /// Whether a production node may take passwords and tokens without TLS from the network. Not needed where TRUSTED_PROXIES names the
        /// proxies that bring TLS.
        INSECURE_PLAINTEXT = "false" => plaintext: bool;
    }
}

settings! {
    /// The ports of the three services. The pages find the services by them too.
    #[derive(Clone, Copy, Debug)]
    pub struct ServicePorts {
        /// ap: accounts.
        AP_PORT = "3001" => ap: u16;
        /// sm: subscriptions.
        SM_PORT = "3002" => sm: u16;
        /// dsm: data streams and history.
        DSM_PORT = "3003" => dsm: u16;
    }
}

impl Value for Host {
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self::Localhost);
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(Self::Ip).map_err(|_| "must be localhost or an IP address such as 0.0.0.0 or ::".to_owned())
    }
}

impl Host {
    /// Whether only this machine reaches it.
    pub fn is_loopback(self) -> bool {
        match self {
            Self::Localhost => true,
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
        }
    }

    /// A port of it.
    pub fn at(self, port: u16) -> ListenAddress {
        ListenAddress { host: self, port }
    }
}

/// A host and a port; port 0 is any that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    host: Host,
    port: u16,
}

impl ListenAddress {
    /// The port; 0: any.
    pub fn port(self) -> u16 {
        self.port
    }

    /// Whether only this machine reaches it.
    pub fn is_loopback(self) -> bool {
        self.host.is_loopback()
    }

    /// Where these sockets of it listen: the port is known then, also where any was asked for.
    pub fn local(self, sockets: &[TcpListener]) -> SocketAddr {
        sockets.first().and_then(|first| first.local_addr().ok()).unwrap_or(self.first())
    }

    /// The address that is opened first: for `localhost` that of IPv4.
    pub fn first(self) -> SocketAddr {
        match self.host {
            Host::Localhost => (Ipv4Addr::LOCALHOST, self.port).into(),
            Host::Ip(ip) => (ip, self.port).into(),
        }
    }

    /// Opens TCP listeners, one for each address, all on one port.
    pub fn listen(self) -> io::Result<Vec<TcpListener>> {
        self.open(tcp, TcpListener::local_addr)
    }

    /// Opens each address with `open`, all on one port. A machine without IPv6 has no ::1, which is no failure.
    pub fn open<S>(self, open: impl Fn(SocketAddr) -> io::Result<S>, local: impl Fn(&S) -> io::Result<SocketAddr>) -> io::Result<Vec<S>> {
        let mut tries = 1..=TRIES;
        loop {
            let first = open(self.first())?;
            if self.host != Host::Localhost {
                return Ok(vec![first]);
            }
            let port = local(&first)?.port();
            match open((Ipv6Addr::LOCALHOST, port).into()) {
                Ok(second) => return Ok(vec![first, second]),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    if self.port != 0 || tries.next().is_none() {
                        return Err(e);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(e),
                Err(_) => return Ok(vec![first]),
            }
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Host::Ip(address.ip()).at(address.port())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Localhost => write!(f, "localhost:{}", self.port),
            Host::Ip(_) => self.first().fmt(f),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that starts again must not wait for the connections of its last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Refuses a production node that would take passwords and tokens in the clear from the network. `plain` are its listeners without TLS,
/// each with the setting of its port.
pub fn check_plaintext(reader: &mut Reader<'_>, plain: impl IntoIterator<Item = (&'static str, ListenAddress)>) {
    let allowed = reader.group::<Listening>().plaintext || !reader.group::<Proxies>().is_empty();
    if allowed || !reader.production() {
        return;
    }
    let open: Vec<String> =
        plain.into_iter().filter(|(_, at)| !at.is_loopback()).map(|(setting, at)| format!("{at} ({setting})")).collect();
    if open.is_empty() {
        return;
    }
    let problem = format!(
        "is off, and {} would take passwords and tokens without TLS from the network. Name the proxies that bring TLS in TRUSTED_PROXIES, \
         listen on BIND_ADDRESS=localhost, or set INSECURE_PLAINTEXT=true",
        open.join(", ")
    );
    reader.wrong("INSECURE_PLAINTEXT", problem);
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_settings::env::Env;

    fn host(pairs: &[(&str, &str)]) -> Host {
        Listening::from_env(&Env::from_pairs(pairs.iter().copied())).unwrap().host
    }

    #[test]
    fn development_listens_on_this_machine_only_and_production_everywhere() {
        assert_eq!(host(&[]), Host::Localhost);
        assert_eq!(host(&[("NODE_ENV", "production")]), Host::Ip(Ipv4Addr::UNSPECIFIED.into()));
        for (text, loopback) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("127.0.0.2", true),
            ("::1", true),
            ("[::1]", true),
            ("::", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(host(&[("BIND_ADDRESS", text)]).is_loopback(), loopback, "{text}");
        }
        for wrong in ["everywhere", "127.0.0.1:80", "example.com", "[::1"] {
            let error = Listening::from_env(&Env::from_pairs([("BIND_ADDRESS", wrong)])).unwrap_err().to_string();
            assert!(error.starts_with("BIND_ADDRESS: "), "{error}");
        }
    }

    #[tokio::test]
    async fn localhost_is_one_port_of_both_families() {
        let listeners = Host::Localhost.at(0).listen().unwrap();
        let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let port = addresses[0].port();
        let expected: Vec<SocketAddr> = vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
        assert!(addresses == expected || addresses == expected[..1], "{addresses:?}");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_on_one_of_the_two_is_taken() {
        // Whoever has it there would be taken for us by half of the clients.
        let Ok(other) = tcp((Ipv6Addr::LOCALHOST, 0).into()) else { return };
        let taken = other.local_addr().unwrap().port();
        assert_eq!(Host::Localhost.at(taken).listen().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn production_takes_no_password_in_the_clear_from_the_network() {
        let check = |pairs: &[(&str, &str)], host: &str| {
            let env = Env::from_pairs(pairs.iter().copied());
            env.read(|reader| check_plaintext(reader, [("AP_PORT", Host::parse(host).unwrap().at(3001))]))
        };
        let production = ("MOTIENCE_ENV", "production");
        let error = check(&[production], "0.0.0.0").unwrap_err().to_string();
        assert!(error.starts_with("INSECURE_PLAINTEXT: ") && error.contains("0.0.0.0:3001 (AP_PORT)"), "{error}");
        for (pairs, host) in [
            (&[production][..], "localhost"),
            (&[production, ("INSECURE_PLAINTEXT", "true")], "::"),
            (&[production, ("TRUSTED_PROXIES", "10.0.0.0/8")], "0.0.0.0"),
            (&[("MOTIENCE_ENV", "development")], "0.0.0.0"),
        ] {
            check(pairs, host).unwrap();
        }
    }
}
