//! How Redis is reached, and what is asked of it.

use std::path::PathBuf;

use motience_settings::env::{self, Env};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use secrecy::{ExposeSecret, SecretString};

/// Settings of the log in Redis.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address: `redis://` or `rediss://` (TLS). REDIS_URL, or REDIS_HOST and REDIS_PORT.
    pub url: SecretString,
    /// The user, where the address names none. REDIS_USERNAME.
    pub username: Option<String>,
    /// Its password, where the address has none. REDIS_PASSWORD.
    pub password: Option<SecretString>,
    /// Who may have signed the server's certificate; `None`: whom this machine trusts. REDIS_CA.
    pub ca: Option<PathBuf>,
    /// This node's own certificate and its key. REDIS_CERT and REDIS_KEY.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Memory in use at which the oldest records of the largest logs are given up; 0: never. REDIS_MEMORY_BUDGET, nine tenths of the
    /// server's `maxmemory`.
    pub budget: Option<usize>,
    /// Whether a server is refused that would lose records silently: in production.
    pub strict: bool,
    /// The setting that names the server, for messages.
    pub(super) setting: &'static str,
}

impl Config {
    /// Reads the variables named on the fields. `None`: there is no Redis.
    pub fn from_env(env: &Env) -> Result<Option<Self>, env::Error> {
        let path = |name| env.get(name).map(PathBuf::from);
        let identity = match (path("REDIS_CERT"), path("REDIS_KEY")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(env::Error::invalid("REDIS_KEY", "is missing: REDIS_CERT needs its key")),
            (None, Some(_)) => return Err(env::Error::invalid("REDIS_CERT", "is missing: REDIS_KEY needs its certificate")),
        };
        let ca = path("REDIS_CA");
        let tls = ca.is_some() || identity.is_some();
        let (url, setting) = match env.secret("REDIS_URL") {
            Some(url) => (url, "REDIS_URL"),
            None if env.has("REDIS_HOST") || env.has("REDIS_PORT") => {
                let port: u16 = env.parse("REDIS_PORT", 6379)?;
                let host = env.get("REDIS_HOST").unwrap_or("localhost");
                (format!("redis{}://{host}:{port}/", if tls { "s" } else { "" }).into(), "REDIS_HOST")
            }
            None => return Ok(None),
        };
        let budget = env.has("REDIS_MEMORY_BUDGET").then(|| env.bytes("REDIS_MEMORY_BUDGET", 0)).transpose()?;
        let username = env.get("REDIS_USERNAME").map(str::to_owned);
        let config =
            Self { url, username, password: env.secret("REDIS_PASSWORD"), ca, identity, budget, strict: env.production(), setting };
        let info = config.info().map_err(|problem| env::Error::invalid(setting, problem))?;
        if tls && !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(env::Error::invalid(setting, "must begin with rediss:// where REDIS_CA or REDIS_CERT are set"));
        }
        let local = matches!(info.addr(), ConnectionAddr::Unix(_));
        if config.strict && !local && config.identity.is_none() && info.redis_settings().password().is_none_or(str::is_empty) {
            return Err(env::Error::invalid(
                "REDIS_URL",
                "names a Redis without a password; a production node needs one: redis://USER:PASSWORD@HOST:PORT, or REDIS_PASSWORD",
            ));
        }
        Ok(Some(config))
    }

    /// Where and as whom to connect. The error never quotes the address, which may hold a password.
    pub(super) fn info(&self) -> Result<ConnectionInfo, &'static str> {
        let info =
            self.url.expose_secret().into_connection_info().map_err(|_| "is no Redis address: redis://HOST:PORT or rediss://HOST:PORT")?;
        let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let (None, Some(name)) = (settings.username(), &self.username) {
            settings = settings.set_username(name);
        }
        if let (None, Some(password)) = (settings.password(), &self.password) {
            settings = settings.set_password(password.expose_secret());
        }
        Ok(info.set_redis_settings(settings))
    }
}

impl From<String> for Config {
    /// The server at this address, with defaults for everything else.
    fn from(url: String) -> Self {
        let (username, password, ca, identity, budget) = (None, None, None, None, None);
        Self { url: url.into(), username, password, ca, identity, budget, strict: false, setting: "REDIS_URL" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Config>, env::Error> {
        Config::from_env(&Env::from_pairs(pairs.iter().copied()))
    }

    #[test]
    fn the_address_and_its_parts() {
        assert!(read(&[]).unwrap().is_none());
        let host = read(&[("REDIS_HOST", "h"), ("REDIS_USERNAME", "u"), ("REDIS_PASSWORD", "p@s s")]).unwrap().unwrap();
        let info = host.info().unwrap();
        assert_eq!(info.addr().to_string(), "h:6379");
        assert_eq!((info.redis_settings().username(), info.redis_settings().password()), (Some("u"), Some("p@s s")));
        let url = read(&[("REDIS_URL", "rediss://a:b@h:1/"), ("REDIS_USERNAME", "u"), ("REDIS_PASSWORD", "p")]).unwrap().unwrap();
        assert_eq!(url.info().unwrap().redis_settings().password(), Some("b"), "the address wins");
        assert!(matches!(
            read(&[("REDIS_HOST", "h"), ("REDIS_CA", "ca.pem")]).unwrap().unwrap().info().unwrap().addr(),
            ConnectionAddr::TcpTls { .. }
        ));
        assert_eq!(read(&[("REDIS_HOST", "h"), ("REDIS_MEMORY_BUDGET", "1GiB")]).unwrap().unwrap().budget, Some(1 << 30));
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
