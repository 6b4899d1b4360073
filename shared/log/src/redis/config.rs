//! How Redis is reached, and what is asked of it.

use std::path::PathBuf;

use motience_settings::env::{Reader, Size, settings};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use secrecy::{ExposeSecret, SecretString};

/// Where a Sentinel listens whose address names no port.
const SENTINEL_PORT: &str = ":26379";

settings! {
    /// How Redis is reached, as it is written.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The whole address, which takes precedence over the parts; with a password in production: redis://USER:PASSWORD@HOST:PORT. Nodes of a
        /// Redis Cluster: redis://USER:PASSWORD@HOST:PORT,HOST:PORT. Behind Sentinel: redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER with
        /// the hosts of the Sentinels and the name of the master.
        REDIS_URL, example "redis://localhost:6379" => url: Option<SecretString>;
        /// Its host.
        REDIS_HOST, example "localhost" => host: Option<String>;
        /// Its port.
        REDIS_PORT, example "6379" => port: Option<u16>;
        /// Its user, where the address names none.
        REDIS_USERNAME => username: Option<String>;
        /// The user's password, where the address has none.
        REDIS_PASSWORD => password: Option<SecretString>;
        /// The user at the Sentinels, where they have any.
        REDIS_SENTINEL_USERNAME => sentinel_username: Option<String>;
        /// The password at the Sentinels, where they ask for one.
        REDIS_SENTINEL_PASSWORD => sentinel_password: Option<SecretString>;
        /// With TLS (rediss://HOST:PORT): a PEM file with the CA that may have signed its certificate. The default is what this machine trusts.
        REDIS_CA => ca: Option<PathBuf>;
        /// The node's own certificate (PEM), where Redis asks for one.
        REDIS_CERT => cert: Option<PathBuf>;
        /// The key of that certificate.
        REDIS_KEY => key: Option<PathBuf>;
        /// Memory in use at which the largest logs give up their oldest records, such as 4GiB. 0 means never. The default is nine tenths of
        /// the maxmemory of Redis.
        REDIS_MEMORY_BUDGET => budget: Option<Size<usize>>;
        /// Replicas that must have a record before it is acknowledged.
        REDIS_REPLICAS = "0" => replicas: u32;
    }
}

/// Settings of the log in Redis.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address: `redis://` or `rediss://` (TLS), or that of the Sentinels: `redis+sentinel://` or `rediss+sentinel://`.
    pub url: SecretString,
    /// The user, where the address names none.
    pub username: Option<String>,
    /// Its password, where the address has none.
    pub password: Option<SecretString>,
    /// User and password at the Sentinels.
    pub sentinel: (Option<String>, Option<SecretString>),
    /// The CA that may have signed the server's certificate; `None`: those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// This node's own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Memory in use at which the oldest records of the largest logs are given up; 0: never. `None`: nine tenths of the server's
    /// `maxmemory`.
    pub budget: Option<usize>,
    /// Whether a server is refused that would lose records silently: in production.
    pub strict: bool,
    /// The setting that names the server, for messages.
    pub(super) setting: &'static str,
}

impl Config {
    /// Reads the settings. `None`: there is no Redis.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let settings: Settings = reader.group();
        let identity = match (settings.cert, settings.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(cert), None) => {
                reader.wrong("REDIS_KEY", "is missing: REDIS_CERT needs its key");
                Some((cert.clone(), cert))
            }
            (None, Some(key)) => {
                reader.wrong("REDIS_CERT", "is missing: REDIS_KEY needs its certificate");
                Some((key.clone(), key))
            }
        };
        let tls = settings.ca.is_some() || identity.is_some();
        let (url, setting) = match settings.url {
            Some(url) => (url, "REDIS_URL"),
            None if settings.host.is_some() || settings.port.is_some() => {
                let (host, port) = (settings.host.as_deref().unwrap_or("localhost"), settings.port.unwrap_or(6379));
                (format!("redis{}://{host}:{port}/", if tls { "s" } else { "" }).into(), "REDIS_HOST")
            }
            None => return None,
        };
        let config = Self {
            url,
            username: settings.username,
            password: settings.password,
            sentinel: (settings.sentinel_username, settings.sentinel_password),
            ca: settings.ca,
            identity,
            budget: settings.budget.map(|size| size.0),
            strict: reader.production(),
            setting,
        };
        config.check(reader, tls);
        Some(config)
    }

    fn check(&self, reader: &mut Reader<'_>, tls: bool) {
        let info = match self.address() {
            Ok(address) => address.server().clone(),
            Err(problem) => return reader.wrong(self.setting, problem),
        };
        if tls && !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            reader.wrong(self.setting, "must begin with rediss:// or rediss+sentinel:// where REDIS_CA or REDIS_CERT are set");
        }
        let local = matches!(info.addr(), ConnectionAddr::Unix(_));
        if self.strict && !local && self.identity.is_none() && info.redis_settings().password().is_none_or(str::is_empty) {
            let problem =
                "names a Redis without a password; a production node needs one: redis://USER:PASSWORD@HOST:PORT, or REDIS_PASSWORD";
            reader.wrong("REDIS_URL", problem);
        }
    }

    /// Where and as whom to connect. The error never quotes the address, which may hold a password.
    pub(super) fn address(&self) -> Result<Address, &'static str> {
        const BAD: &str = "is no Redis address: redis://HOST:PORT, rediss://HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/MASTER";
        let url = self.url.expose_secret();
        let info = |url: &str| url.into_connection_info().map_err(|_| BAD);
        let (username, password) = (self.username.as_deref(), self.password.as_ref());
        let Some((scheme, rest)) = url.split_once("+sentinel://") else {
            let servers =
                each_host(url).iter().map(|url| info(url).map(|info| as_user(info, username, password))).collect::<Result<_, _>>()?;
            return Ok(Address { servers, sentinels: None });
        };
        let (user, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (hosts, master) = rest.split_once('/').ok_or(BAD)?;
        if master.is_empty() || master.contains(['/', '?', '#']) {
            return Err(BAD);
        }
        let sentinel = |host: &str| {
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port { "" } else { SENTINEL_PORT };
            let (username, password) = (self.sentinel.0.as_deref(), self.sentinel.1.as_ref());
            info(&format!("{scheme}://{host}{port}/")).map(|info| as_user(info, username, password))
        };
        let sentinels = hosts.split(',').map(sentinel).collect::<Result<Vec<_>, _>>()?;
        let named =
            info(&format!("{scheme}://{user}{}{}/", if user.is_empty() { "" } else { "@" }, hosts.split(',').next().unwrap_or(hosts)))?;
        Ok(Address { servers: vec![as_user(named, username, password)], sentinels: Some((sentinels, master.to_owned())) })
    }
}

/// Where the settings say that Redis is.
#[derive(Debug)]
pub(super) struct Address {
    /// The server, or nodes of a cluster; at least one. Behind Sentinel: as whom to connect to the master, wherever it is.
    pub(super) servers: Vec<ConnectionInfo>,
    /// The Sentinels, and how they call the master.
    pub(super) sentinels: Option<(Vec<ConnectionInfo>, String)>,
}

impl Address {
    fn server(&self) -> &ConnectionInfo {
        self.servers.first().expect("an address has at least one server")
    }
}

/// An address for each of the hosts that this one names, with commas between them.
fn each_host(url: &str) -> Vec<String> {
    let whole = || vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else { return whole() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !authority.contains(',') {
        return whole();
    }
    let (user, hosts) = authority.rfind('@').map_or(("", authority), |at| authority.split_at(at + 1));
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}")).collect()
}

/// Completes what the address does not say.
fn as_user(info: ConnectionInfo, username: Option<&str>, password: Option<&SecretString>) -> ConnectionInfo {
    let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    if let (None, Some(name)) = (settings.username(), username) {
        settings = settings.set_username(name);
    }
    if let (None, Some(password)) = (settings.password(), password) {
        settings = settings.set_password(password.expose_secret());
    }
    info.set_redis_settings(settings)
}

impl From<String> for Config {
    /// The server at this address, with defaults for everything else.
    fn from(url: String) -> Self {
        let (username, password, sentinel, ca, identity, budget) = (None, None, (None, None), None, None, None);
        Self { url: url.into(), username, password, sentinel, ca, identity, budget, strict: false, setting: "REDIS_URL" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_settings::env::{self, Env};

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Config>, env::Error> {
        Env::from_pairs(pairs.iter().copied()).read(Config::read)
    }

    #[test]
    fn the_address_and_its_parts() {
        assert!(read(&[]).unwrap().is_none());
        let host = read(&[("REDIS_HOST", "h"), ("REDIS_USERNAME", "u"), ("REDIS_PASSWORD", "p@s s")]).unwrap().unwrap();
        let info = host.address().unwrap().server().clone();
        assert_eq!(info.addr().to_string(), "h:6379");
        assert_eq!((info.redis_settings().username(), info.redis_settings().password()), (Some("u"), Some("p@s s")));
        let url = read(&[("REDIS_URL", "rediss://a:b@h:1/"), ("REDIS_USERNAME", "u"), ("REDIS_PASSWORD", "p")]).unwrap().unwrap();
        assert_eq!(url.address().unwrap().server().redis_settings().password(), Some("b"), "the address wins");
        assert!(matches!(
            read(&[("REDIS_HOST", "h"), ("REDIS_CA", "ca.pem")]).unwrap().unwrap().address().unwrap().server().addr(),
            ConnectionAddr::TcpTls { .. }
        ));
        assert_eq!(read(&[("REDIS_HOST", "h"), ("REDIS_MEMORY_BUDGET", "1GiB")]).unwrap().unwrap().budget, Some(1 << 30));
    }

    #[test]
    fn nodes_of_a_cluster() {
        let address = Config::from("rediss://u:p%2C@a:1,b:2,c/?protocol=resp3".to_owned()).address().unwrap();
        let places: Vec<String> = address.servers.iter().map(|one| one.addr().to_string()).collect();
        assert_eq!(places, ["a:1", "b:2", "c:6379"]);
        assert!(address.servers.iter().all(|one| one.redis_settings().password() == Some("p,")));
        assert!(Config::from("redis://a:1,/".to_owned()).address().is_err());
    }

    #[test]
    fn sentinels_and_the_name_of_the_master() {
        let url = "redis+sentinel://u:p%40@a:1,b,[::1],[::2]:3/main";
        let pairs = [("REDIS_URL", url), ("REDIS_SENTINEL_PASSWORD", "s"), ("REDIS_PASSWORD", "unused")];
        let address = read(&pairs).unwrap().unwrap().address().unwrap();
        let (sentinels, master) = address.sentinels.unwrap();
        let places: Vec<String> = sentinels.iter().map(|one| one.addr().to_string()).collect();
        assert_eq!((places.join(" "), &master[..]), ("a:1 b:26379 ::1:26379 ::2:3".to_owned(), "main"));
        assert!(sentinels.iter().all(|one| one.redis_settings().password() == Some("s") && one.redis_settings().username().is_none()));
        let server = address.servers[0].redis_settings();
        assert_eq!((server.username(), server.password()), (Some("u"), Some("p@")));
        let tls = Config::from("rediss+sentinel://a/main".to_owned()).address().unwrap();
        assert!(matches!(tls.server().addr(), ConnectionAddr::TcpTls { .. }));
        for bad in
            ["redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a/main/0", "redis+sentinel:///main", "http+sentinel://a/main"]
        {
            assert!(Config::from(bad.to_owned()).address().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_without_secrets() {
        for (pairs, name) in [
            (&[("REDIS_URL", "rediss://u:secret@[")][..], "REDIS_URL"),
            (&[("REDIS_URL", "redis://h"), ("REDIS_CA", "ca.pem")], "REDIS_URL"),
            (&[("REDIS_URL", "rediss://h"), ("REDIS_CERT", "c.pem")], "REDIS_KEY"),
            (&[("REDIS_URL", "redis://h"), ("MOTIENCE_ENV", "production")], "REDIS_URL"),
            (&[("REDIS_URL", "redis://h"), ("REDIS_MEMORY_BUDGET", "much")], "REDIS_MEMORY_BUDGET"),
        ] {
            let error = read(pairs).unwrap_err().to_string();
            assert!(error.starts_with(name) && !error.contains("secret"), "{error}");
        }
        read(&[("REDIS_URL", "redis://h"), ("REDIS_PASSWORD", "p"), ("MOTIENCE_ENV", "production")]).unwrap();
    }
}
