//! The server's settings: each part reads its own variables, this file joins them and checks how they fit together.

use std::{fmt, str::FromStr};

use motience_backend::{self as backend, Kind};
use motience_certs::Source;
use motience_gateway::certificate;
use motience_http::{ListenAddress, Listening, Operations, ServicePorts, check_plaintext};
use motience_runtime::telemetry::{Logging, Traces};
use motience_settings::env::{self, Env, Reader, Value, settings};

use crate::{
    http::{self, CorsOrigins, http3},
    ingest, webtransport,
};

/// The operations port of a server, unless OPERATIONS_PORT says otherwise.
pub const OPERATIONS_PORT: u16 = 9090;

/// Roles of a node.
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

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Roles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut roles = Self { ap: false, sm: false, dsm: false, ingest: false, wss: false };
        for name in text.split(',').map(str::trim) {
            match name {
                "ap" => roles.ap = true,
                "sm" => roles.sm = true,
                "dsm" => roles.dsm = true,
                "ingest" => roles.ingest = true,
                "wss" => roles.wss = true,
                "all" => roles = Self::ALL,
                other => {
                    return Err(format!("must be some of ap, sm, dsm, ingest and wss, separated by commas, or all; '{other}' is none"));
                }
            }
        }
        Ok(roles)
    }
}

impl Value for Roles {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

settings! {
    /// Settings of a node by itself, as they are written.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The roles of the node: any of ap, sm, dsm, ingest, wss. Fewer than all need Redis and PostgreSQL.
        ROLES = "all" => roles: Roles;
        /// Whether records are also kept in the table data_history.
        PERSIST = "false" => persist: bool;
        /// All services under TLS: HTTP/1.1 and 2 (TCP), which say where HTTP/3 is. The default is the number of QUIC_PORT.
        HTTPS_PORT, example "4433" => https_port: Option<u16>;
    }
}

/// All settings of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The roles of the node: those of `--roles`, or else of ROLES.
    pub roles: Roles,
    /// Whether this is a production node.
    pub production: bool,
    /// Database, log and accounts.
    pub backend: backend::Config,
    /// Limits of the HTTP services.
    pub http: http::Config,
    /// Where ap listens.
    pub ap: ListenAddress,
    /// Where sm listens.
    pub sm: ListenAddress,
    /// Where dsm listens.
    pub dsm: ListenAddress,
    /// The operations listener: health, readiness, metrics.
    pub operations: ListenAddress,
    /// All of the node's services under TLS.
    pub https: ListenAddress,
    /// The QUIC endpoint.
    pub ingest: ingest::Config,
    /// HTTP/3 on it.
    pub h3: http3::Config,
    /// WebTransport on it.
    pub webtransport: webtransport::Config,
    /// The WebSocket gateway.
    pub gateway: motience_gateway::Config,
    /// The certificate of QUIC, and of WebSocket where that is under TLS.
    pub certificate: Source,
    /// Whether records are also written to `data_history`.
    pub persist: bool,
    /// The collector of traces.
    pub traces: Traces,
}

impl Config {
    /// Reads all settings and checks how they fit together; the error has everything that is wrong. `roles` wins over ROLES.
    pub fn from_env(env: &Env, roles: Option<Roles>) -> Result<Self, env::Error> {
        env.read(|reader| Self::checked(reader, roles))
    }

    /// Reads all settings and checks how they fit together.
    pub(crate) fn checked(reader: &mut Reader<'_>, roles: Option<Roles>) -> Self {
        let config = Self::read(reader, roles);
        config.check(reader);
        config
    }

    /// Reads all settings.
    pub(crate) fn read(reader: &mut Reader<'_>, roles: Option<Roles>) -> Self {
        let (settings, ports): (Settings, ServicePorts) = (reader.group(), reader.group());
        let (host, ingest) = (reader.group::<Listening>().host, reader.group::<ingest::Config>());
        ingest.ids.check(reader);
        // Only for what is wrong with it: logs are set up for commands too, which read nothing else.
        let _: Logging = reader.group();
        Self {
            roles: roles.unwrap_or(settings.roles),
            production: reader.production(),
            backend: backend::Config::read(reader),
            http: reader.group(),
            ap: host.at(ports.ap),
            sm: host.at(ports.sm),
            dsm: host.at(ports.dsm),
            operations: Operations::address(reader, OPERATIONS_PORT),
            https: host.at(settings.https_port.unwrap_or(ingest.port)),
            ingest,
            h3: reader.group(),
            webtransport: reader.group(),
            gateway: reader.group(),
            certificate: certificate::source(reader),
            persist: settings.persist,
            traces: reader.group(),
        }
    }

    fn check(&self, reader: &mut Reader<'_>) {
        if self.backend.kind() == Kind::Embedded && self.roles != Roles::ALL {
            let problem =
                "a node with only some roles needs Redis to meet the others: set REDIS_URL and DATABASE_URL, or give it all roles";
            reader.wrong("ROLES", problem);
        }
        if self.speaks_tls() {
            certificate::check(reader, &self.certificate);
        }
        check_plaintext(reader, self.listeners().filter(|(.., tls)| !tls).map(|(name, at, _)| (name, at)));
        let reached = self.listeners().chain([("OPERATIONS_PORT", self.operations, false)]).find(|(_, at, _)| !at.is_loopback());
        if let Some((name, at, _)) = reached {
            self.backend.auth.check_published(reader, name, at);
        }
        if self.production && self.http.origins == CorsOrigins::Any {
            let problem = "'*' lets the pages of every site call with the tokens they have; production needs the origins of its own pages";
            reader.wrong("CORS_ORIGINS", problem);
        }
    }

    /// The listeners of its roles but for the operations port, which takes no secrets: each with the setting of its port, and whether it
    /// is under TLS.
    fn listeners(&self) -> impl Iterator<Item = (&'static str, ListenAddress, bool)> + '_ {
        let own = [
            (self.roles.ap, "AP_PORT", self.ap, false),
            (self.roles.sm, "SM_PORT", self.sm, false),
            (self.roles.dsm, "DSM_PORT", self.dsm, false),
            (self.speaks_tls(), "HTTPS_PORT", self.https, true),
            (self.roles.ingest, "QUIC_PORT", self.ingest.address(), true),
        ];
        let own = own.into_iter().filter_map(|(has, name, at, tls)| has.then_some((name, at, tls)));
        own.chain(self.gateway.listeners().into_iter().filter(|_| self.roles.wss))
    }

    /// Connections that its settings allow at once, each of which takes a file descriptor.
    pub(crate) fn most_connections(&self) -> usize {
        let ports = [self.roles.ap, self.roles.sm, self.roles.dsm, self.speaks_tls()].into_iter().filter(|has| *has).count();
        let sockets = if self.roles.wss { self.backend.permits.websocket } else { 0 };
        self.http.limits.connections.saturating_mul(ports).saturating_add(sockets)
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
        assert!(config.listeners().all(|(_, at, _)| at.is_loopback()) && config.operations.is_loopback());
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
            (&[("MOTIENCE_ENV", "production"), ("BIND_ADDRESS", "localhost"), ("JWT_SECRET", "your-secret-key-here")], "JWT_SECRET"),
            (&[("MOTIENCE_ENV", "production"), ("BIND_ADDRESS", "localhost"), ("JWT_SECRET", long)], "TLS_CERT"),
            (&[("MOTIENCE_ENV", "produktion"), ("BIND_ADDRESS", "localhost"), ("JWT_SECRET", long)], "MOTIENCE_ENV"),
            (&[("BIND_ADDRESS", "0.0.0.0"), ("JWT_SECRET", "your-secret-key-here")], "JWT_SECRET"),
            (&[("OPERATIONS_ADDRESS", "::"), ("JWT_SECRET", "Your-Secret-Key-Here")], "JWT_SECRET"),
            (&[("QUIC_CREDIT", "0")], "QUIC_CREDIT"),
            (&[("HTTP3_MAX_STREAMS", "0")], "HTTP3_MAX_STREAMS"),
            (&[("WT_HELLO_LIMIT", "0s")], "WT_HELLO_LIMIT"),
        ] {
            let message = refused(pairs);
            assert!(message.lines().any(|line| line.starts_with(&format!("{variable}: "))), "{message}");
        }
    }

    /// Good in production, behind a proxy.
    const PRODUCTION: [(&str, &str); 5] = [
        ("MOTIENCE_ENV", "Production"),
        ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("TLS_CERT", "cert.pem"),
        ("TLS_KEY", "key.pem"),
        ("TRUSTED_PROXIES", "10.0.0.0/8"),
    ];

    #[test]
    fn production_refuses_each_default_that_is_not_safe_on_a_network() {
        let with = |more: &[(&'static str, &'static str)]| {
            let env = more.iter().fold(Env::from_pairs(PRODUCTION), |env, (name, value)| env.with(name, *value));
            Config::from_env(&env, None).map(drop).map_err(|e| e.to_string())
        };
        with(&[]).unwrap();
        with(&[("TRUSTED_PROXIES", ""), ("INSECURE_PLAINTEXT", "true")]).unwrap();
        with(&[("TRUSTED_PROXIES", ""), ("BIND_ADDRESS", "localhost")]).unwrap();
        let (own, cluster) = (("DATABASE_URL", "postgres://me:own@db/motience"), ("REDIS_URL", "redis://:own@log"));
        with(&[own, cluster]).unwrap();
        for (more, variable) in [
            (&[("TRUSTED_PROXIES", "")][..], "INSECURE_PLAINTEXT"),
            (&[("TRUSTED_PROXIES", ""), ("WSS_TLS", "true"), ("ROLES", "wss"), own, cluster], "INSECURE_PLAINTEXT"),
            (&[("DB_HOST", "db"), cluster], "DB_PASSWORD"),
            (&[("DATABASE_URL", "postgres://postgres:postgres@db/motience")], "DATABASE_URL"),
            (&[own, ("REDIS_URL", "redis://log:6379")], "REDIS_URL"),
            (&[own, ("REDIS_URL", "redis://user:@log:6379")], "REDIS_URL"),
            (&[own, ("REDIS_HOST", "log")], "REDIS_URL"),
            (&[("CORS_ORIGINS", "*")], "CORS_ORIGINS"),
            (&[("JWT_SECRET", "")], "JWT_SECRET"),
            (&[("JWT_SECRET", "changeme")], "JWT_SECRET"),
            (&[("TLS_CERT", ""), ("TLS_KEY", "")], "TLS_CERT"),
        ] {
            let error = with(more).unwrap_err();
            assert!(error.starts_with(&format!("{variable}: ")) && error.lines().count() == 1, "{variable}: {error}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let told = refused(&[
            ("AP_PORT", "http"),
            ("QUIC_CREDIT", "0"),
            ("QUIC_IDLE_TIMEOUT", "soon"),
            ("JWT_EXPIRES_IN", "never"),
            ("LOG_DURABILITY", "paper"),
            ("TLS_CERT", "a.pem"),
            ("PERSIST", "maybe"),
        ]);
        for variable in ["AP_PORT", "QUIC_CREDIT", "QUIC_IDLE_TIMEOUT", "JWT_EXPIRES_IN", "LOG_DURABILITY", "TLS_KEY", "PERSIST"] {
            assert_eq!(told.lines().filter(|line| line.starts_with(&format!("{variable}: "))).count(), 1, "{variable}: {told}");
        }
    }

    #[test]
    fn a_setting_that_is_missing_hides_no_other() {
        let named = |pairs: &[(&str, &str)]| -> Vec<String> {
            refused(pairs).lines().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(named(&[("MOTIENCE_ENV", "production")]), ["JWT_SECRET", "TLS_CERT", "INSECURE_PLAINTEXT"]);
        let log = ("REDIS_URL", "redis://log");
        let found = named(&[("MOTIENCE_ENV", "production"), log, ("ROLES", "ap"), ("CORS_ORIGINS", "*"), ("WSS_PING_INTERVAL", "soon")]);
        // No mistake is made up either: with the Redis of these settings a node may have some roles only.
        let expected = ["DATABASE_URL", "REDIS_URL", "JWT_SECRET", "WSS_PING_INTERVAL", "INSECURE_PLAINTEXT", "CORS_ORIGINS"];
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(sorted(found), sorted(expected.map(str::to_owned).into()));
    }
}
