//! A server that can be reached, and what its errors mean.

use std::{fmt, path::Path};

use redis::{Client, ClientTlsConfig, ConnectionAddr, ErrorKind, RedisError, ServerErrorKind, TlsCertificates};

use super::{Config, layout::LAYOUT};
use crate::Error;

/// A server to connect to, and how messages name it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) client: Client,
    /// `Redis at HOST:PORT (SETTING)`.
    name: String,
    /// See [`Config::strict`].
    pub(super) strict: bool,
}

impl Place {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let problem = |setting: &str, problem: String| Error::Unavailable(format!("{setting} {problem}"));
        let info = config.info().map_err(|e| problem(config.setting, e.to_owned()))?;
        let name = format!("Redis at {} ({})", info.addr(), config.setting);
        let read = |setting: &str, path: &Path| {
            std::fs::read(path).map_err(|e| problem(setting, format!("names {}, which cannot be read: {e}", path.display())))
        };
        let client = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            let root_cert = config.ca.as_deref().map(|path| read("REDIS_CA", path)).transpose()?;
            let client_tls = match &config.identity {
                Some((cert, key)) => Some(ClientTlsConfig { client_cert: read("REDIS_CERT", cert)?, client_key: read("REDIS_KEY", key)? }),
                None => None,
            };
            Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
                .map_err(|e| problem("REDIS_CA, REDIS_CERT or REDIS_KEY", format!("cannot be used: {e}")))?
        } else {
            Client::open(info).map_err(|_| problem(config.setting, "is no Redis address".to_owned()))?
        };
        Ok(Self { client, name, strict: config.strict })
    }

    /// The log is away, for this reason.
    pub(super) fn away(&self, reason: impl fmt::Display) -> Error {
        Error::Unavailable(format!("{}: {reason}", self.name))
    }

    /// A newer version of the program has written this layout.
    pub(super) fn newer(&self, found: u64) -> Error {
        Error::Newer(format!(
            "{}: a newer release of Motience wrote its logs (layout {found}); this program reads layouts up to {LAYOUT}: upgrade it",
            self.name
        ))
    }

    /// Describes an error of Redis or of the connection to it as unavailability.
    pub(super) fn unavailable(&self, error: &RedisError) -> Error {
        self.away(Told(error))
    }

    /// Classifies an answer that is an error. A refusal (full, read-only, too few replicas, forbidden) is no damage: it ends.
    pub(super) fn judge(&self, error: &RedisError) -> Error {
        let damage = match error.kind() {
            ErrorKind::Server(ServerErrorKind::ResponseError) => !is_forbidden(error),
            ErrorKind::Extension => error.code() == Some("WRONGTYPE"),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => true,
            _ => false,
        };
        if damage { Error::Damaged(format!("{}: {}", self.name, Told(error))) } else { self.unavailable(error) }
    }
}

/// Whether the ACL forbids it. Within a function Redis gives such an error no code of its own.
fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) || error.to_string().contains("The user executing the script can't")
}

/// Whether Redis has no memory left.
pub(super) fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

/// An error in Redis's own words, once.
struct Told<'a>(&'a RedisError);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.detail()) {
            (Some("OOM"), _) => f.write_str("its memory is full (maxmemory)"),
            (Some(code), Some(detail)) => write!(f, "{code} {detail}"),
            _ => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_its_setting() {
        let config = Config { ca: Some("/nowhere/ca.pem".into()), ..Config::from("rediss://h".to_owned()) };
        let error = Place::new(&config).unwrap_err().to_string();
        assert!(error.contains("REDIS_CA names /nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn an_error_names_host_and_setting_once_and_no_secret() {
        let place = Place::new(&Config::from("redis://u:secret@h:1".to_owned())).unwrap();
        let error = place.unavailable(&RedisError::from((ErrorKind::Io, "refused", "by the host".to_owned()))).to_string();
        for part in ["h:1", "REDIS_URL", "by the host"] {
            assert_eq!(error.matches(part).count(), 1, "{error}");
        }
        assert!(!error.contains("secret"));
    }
}
