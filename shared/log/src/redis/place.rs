//! A server that can be reached, and what its errors mean.

use std::{fmt, path::Path, sync::Arc};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind,
    TlsCertificates, aio::MultiplexedConnection,
};

use super::{
    Config,
    layout::LAYOUT,
    sentinel::{At, Sentinels},
};
use crate::Error;

/// A server to connect to, and how messages name it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The server. Behind Sentinel: as whom to connect to it, wherever it is.
    server: Client,
    sentinels: Option<Arc<Sentinels>>,
    /// `Redis at HOST:PORT (SETTING)`.
    name: String,
    /// The setting that names it.
    setting: &'static str,
    /// See [`Config::strict`].
    pub(super) strict: bool,
}

impl Place {
    /// The places that the settings name: one server, the master of some Sentinels, or nodes of a cluster.
    pub(super) fn all(config: &Config) -> Result<Vec<Self>, Error> {
        let problem = |setting: &str, problem: String| Error::Unavailable(format!("{setting} {problem}"));
        let address = config.address().map_err(|e| problem(config.setting, e.to_owned()))?;
        let read = |setting: &str, path: &Path| {
            std::fs::read(path).map_err(|e| problem(setting, format!("names {}, which cannot be read: {e}", path.display())))
        };
        let tls = address.servers.iter().any(|server| matches!(server.addr(), ConnectionAddr::TcpTls { .. }));
        let certificates = if tls {
            let root_cert = config.ca.as_deref().map(|path| read("REDIS_CA", path)).transpose()?;
            let client_tls = match &config.identity {
                Some((cert, key)) => Some(ClientTlsConfig { client_cert: read("REDIS_CERT", cert)?, client_key: read("REDIS_KEY", key)? }),
                None => None,
            };
            Some(TlsCertificates { client_tls, root_cert })
        } else {
            None
        };
        let client = |info: ConnectionInfo| match &certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone())
                .map_err(|e| problem("REDIS_CA, REDIS_CERT or REDIS_KEY", format!("cannot be used: {e}"))),
            None => Client::open(info).map_err(|_| problem(config.setting, "is no Redis address".to_owned())),
        };
        let mut named = None;
        let sentinels = match address.sentinels {
            Some((sentinels, master)) => {
                let places: Vec<String> = sentinels.iter().map(|one| one.addr().to_string()).collect();
                named = Some(format!("Redis {master:?} of the Sentinels at {} ({})", places.join(", "), config.setting));
                let sentinels = sentinels.into_iter().map(client).collect::<Result<_, _>>()?;
                Some(Arc::new(Sentinels::new(sentinels, master)))
            }
            None => None,
        };
        let place = |info: ConnectionInfo| {
            let name = named.clone().unwrap_or_else(|| format!("Redis at {} ({})", info.addr(), config.setting));
            Ok(Self { server: client(info)?, sentinels: sentinels.clone(), name, setting: config.setting, strict: config.strict })
        };
        address.servers.into_iter().map(place).collect()
    }

    /// Another server of this one's cluster.
    pub(super) fn at(&self, at: &At) -> Result<Self, Error> {
        let info = self.server.get_connection_info().clone();
        let info = info.clone().set_addr(moved(info.addr().clone(), at));
        let name = format!("Redis at {} ({})", info.addr(), self.setting);
        let server = Client::open(info).map_err(|e| self.unavailable(&e))?;
        Ok(Self { server, sentinels: None, name, setting: self.setting, strict: self.strict })
    }

    /// The server's host.
    pub(super) fn host(&self) -> String {
        match self.server.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
            _ => String::new(),
        }
    }

    /// Opens a connection to the server, and tells where that is, if it may be elsewhere later.
    pub(super) async fn open(&self, config: &AsyncConnectionConfig) -> Result<(MultiplexedConnection, Option<At>), RedisError> {
        let Some(sentinels) = &self.sentinels else {
            return Ok((self.server.get_multiplexed_async_connection_with_config(config).await?, None));
        };
        let at = sentinels.master().await?;
        let info = self.server.get_connection_info().clone();
        let there = Client::open(info.clone().set_addr(moved(info.addr().clone(), &at)))?;
        Ok((there.get_multiplexed_async_connection_with_config(config).await?, Some(at)))
    }

    /// Whether a connection that was opened to this address leads to the server that is asked for by now.
    pub(super) fn is_there(&self, at: Option<&At>) -> bool {
        self.sentinels.as_ref().is_none_or(|sentinels| sentinels.present().as_ref() == at)
    }

    /// Returns when a connection that was opened to this address no longer leads to the server that is asked for.
    pub(super) async fn left(&self, at: Option<&At>) {
        match &self.sentinels {
            Some(sentinels) => sentinels.left(at).await,
            None => std::future::pending().await,
        }
    }

    /// Looks where the server is, as long as it runs. Returns at once where it has one address for ever.
    pub(super) async fn look(&self) {
        if let Some(sentinels) = &self.sentinels {
            sentinels.look(&self.name).await;
        }
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
            ErrorKind::Server(ServerErrorKind::ResponseError) => !is_forbidden(error) && !is_moving(error),
            ErrorKind::Extension => error.code() == Some("WRONGTYPE"),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => true,
            _ => false,
        };
        if damage { Error::Damaged(format!("{}: {}", self.name, Told(error))) } else { self.unavailable(error) }
    }
}

/// An address of this kind at another place.
fn moved(mut address: ConnectionAddr, at: &At) -> ConnectionAddr {
    if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } = &mut address {
        (*host, *port) = at.clone();
    }
    address
}

/// Whether the ACL forbids it. Within a function Redis gives such an error no code of its own.
fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) || error.to_string().contains("The user executing the script can't")
}

/// Whether a function came to a key whose slot is just being moved.
fn is_moving(error: &RedisError) -> bool {
    error.to_string().contains("non local key")
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
        let error = Place::all(&config).unwrap_err().to_string();
        assert!(error.contains("REDIS_CA names /nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn an_error_names_host_and_setting_once_and_no_secret() {
        let place = Place::all(&Config::from("redis://u:secret@h:1".to_owned())).unwrap().remove(0);
        let error = place.unavailable(&RedisError::from((ErrorKind::Io, "refused", "by the host".to_owned()))).to_string();
        for part in ["h:1", "REDIS_URL", "by the host"] {
            assert_eq!(error.matches(part).count(), 1, "{error}");
        }
        assert!(!error.contains("secret"));
    }
}
