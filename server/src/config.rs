//! The server's settings: each part reads its own variables, this file joins them and checks how they fit together.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use motience_certs::Source;
use motience_shared::{
    backend::{self, Kind},
    env::{self, Env},
};

use crate::{h3, http, ingest, webtransport};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Accounts.
    pub ap: bool,
    /// Subscriptions.
    pub sm: bool,
    /// Data streams over HTTP, and the history.
    pub dsm: bool,
    /// Devices over QUIC.
    pub ingest: bool,
    /// Producers and consumers over WebSocket, and the pages.
    pub wss: bool,
}

impl Roles {
    /// Everything in one process.
    pub const ALL: Self = Self { ap: true, sm: true, dsm: true, ingest: true, wss: true };

    /// Those that it has, as they are written.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [(self.ap, "ap"), (self.sm, "sm"), (self.dsm, "dsm"), (self.ingest, "ingest"), (self.wss, "wss")];
        all.into_iter().filter_map(|(has, name)| has.then_some(name))
    }
}

/// The text names no role.
#[derive(Clone, Debug, thiserror::Error)]
#[error("'{0}' is no role; the roles are ap, sm, dsm, ingest and wss, separated by commas")]
pub struct UnknownRole(String);

impl FromStr for Roles {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let mut roles = Self { ap: false, sm: false, dsm: false, ingest: false, wss: false };
        for name in text.split(',').map(str::trim) {
            match name {
                "ap" => roles.ap = true,
                "sm" => roles.sm = true,
                "dsm" => roles.dsm = true,
                "ingest" => roles.ingest = true,
                "wss" => roles.wss = true,
                "all" => roles = Self::ALL,
                other => return Err(UnknownRole(other.to_owned())),
            }
        }
        Ok(roles)
    }
}

/// All settings of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the node does. `--roles`, ROLES.
    pub roles: Roles,
    /// Whether this is a production node. MOTIENCE_ENV or NODE_ENV.
    pub production: bool,
    /// Database, log and accounts.
    pub backend: backend::Config,
    /// Limits of the HTTP services.
    pub http: http::Config,
    /// AP_PORT, 3001.
    pub ap: SocketAddr,
    /// SM_PORT, 3002.
    pub sm: SocketAddr,
    /// DSM_PORT, 3003.
    pub dsm: SocketAddr,
    /// The operations listener: health, readiness, metrics. OPERATIONS_PORT, 9090.
    pub operations: SocketAddr,
    /// All of the node's services under TLS. HTTPS_PORT, the number of QUIC_PORT.
    pub https: SocketAddr,
    /// The QUIC endpoint.
    pub ingest: ingest::Config,
    /// HTTP/3 on it.
    pub h3: h3::Config,
    /// WebTransport on it.
    pub webtransport: webtransport::Config,
    /// The WebSocket gateway.
    pub gateway: motience_gateway::Config,
    /// The certificate of QUIC, and of WebSocket where that is under TLS.
    pub certificate: Source,
    /// Whether records are also written to `data_history`. PERSIST, false.
    pub persist: bool,
}

impl Config {
    /// Reads all settings and checks how they fit together. `roles` wins over ROLES.
    pub fn from_env(env: &Env, roles: Option<Roles>) -> Result<Self, env::Error> {
        let production = env.production();
        let bind: IpAddr = env.parse("BIND_ADDRESS", IpAddr::from([0, 0, 0, 0]))?;
        let port = |name: &str, default: u16| Ok::<_, env::Error>(SocketAddr::new(bind, env.parse(name, default)?));
        let ingest = ingest::Config::from_env(env, bind)?;
        let config = Self {
            roles: match roles {
                Some(roles) => roles,
                None => env.parse("ROLES", Roles::ALL)?,
            },
            production,
            backend: backend::Config::from_env(env)?,
            http: http::Config::from_env(env)?,
            ap: port("AP_PORT", 3001)?,
            sm: port("SM_PORT", 3002)?,
            dsm: port("DSM_PORT", 3003)?,
            operations: SocketAddr::new(env.parse("OPERATIONS_ADDRESS", bind)?, env.parse("OPERATIONS_PORT", 9090)?),
            https: port("HTTPS_PORT", ingest.address.port())?,
            ingest,
            h3: h3::Config::from_env(env)?,
            webtransport: webtransport::Config::from_env(env)?,
            gateway: motience_gateway::Config::from_env(env)?,
            certificate: motience_gateway::certificate::from_env(env)?,
            persist: env.flag("PERSIST", false)?,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), env::Error> {
        if self.backend.kind() == Kind::Embedded && self.roles != Roles::ALL {
            return Err(env::Error::invalid(
                "ROLES",
                "a node with only some roles needs Redis to meet the others: set REDIS_URL and DATABASE_URL, or give it all roles",
            ));
        }
        motience_gateway::certificate::check(&self.certificate, self.production && self.speaks_tls())
    }

    /// Whether any of its listeners has a certificate.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.roles.ingest || (self.roles.wss && self.gateway.tls) || !self.certificate.is_self_made()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&str, &str)]) -> String {
        Config::from_env(&Env::from_pairs(pairs.iter().copied()), None).unwrap_err().to_string()
    }

    #[test]
    fn nothing_at_all_is_a_development_node_with_every_role() {
        let config = Config::from_env(&Env::default(), None).unwrap();
        assert_eq!(config.roles, Roles::ALL);
        assert_eq!(config.ap.port(), 3001);
        assert!(!config.production && !config.persist);
    }

    #[test]
    fn the_seeds_env_file_is_a_cluster_node() {
        let env = Env::from_pairs([
            ("NODE_ENV", "development"),
            ("JWT_SECRET", "your-secret-key-here"),
            ("JWT_EXPIRES_IN", "1h"),
            ("JWT_REFRESH_EXPIRES_IN", "7d"),
            ("DB_HOST", "localhost"),
            ("DB_PORT", "5432"),
            ("DB_NAME", "motience"),
            ("DB_USER", "postgres"),
            ("DB_PASSWORD", "postgres"),
            ("REDIS_HOST", "localhost"),
            ("REDIS_PORT", "6379"),
            ("AP_PORT", "3001"),
        ]);
        assert_eq!(Config::from_env(&env, None).unwrap().backend.kind(), Kind::Cluster);
    }

    #[test]
    fn each_mistake_names_its_variable() {
        let long = "0123456789abcdef0123456789abcdef";
        for (pairs, variable) in [
            (&[("ROLES", "ap,sm")][..], "ROLES"),
            (&[("ROLES", "everything")], "ROLES"),
            (&[("AP_PORT", "99999")], "AP_PORT"),
            (&[("BIND_ADDRESS", "everywhere")], "BIND_ADDRESS"),
            (&[("REDIS_URL", "redis://localhost")], "DATABASE_URL"),
            (&[("REDIS_URL", "redis://localhost"), ("DATABASE_URL", "postgres://localhost/m")], "JWT_SECRET"),
            (&[("TLS_CERT", "a.pem")], "TLS_KEY"),
            (&[("MOTIENCE_ENV", "production"), ("JWT_SECRET", "your-secret-key-here")], "JWT_SECRET"),
            (&[("MOTIENCE_ENV", "production"), ("JWT_SECRET", long)], "TLS_CERT"),
            (&[("QUIC_CREDIT", "0")], "QUIC_CREDIT"),
            (&[("HTTP3_MAX_STREAMS", "0")], "HTTP3_MAX_STREAMS"),
            (&[("WT_HELLO_LIMIT", "0s")], "WT_HELLO_LIMIT"),
        ] {
            let message = refused(pairs);
            assert!(message.starts_with(&format!("{variable}: ")), "{message}");
        }
    }
}
