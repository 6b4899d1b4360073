//! Every setting of the server and the gateway, as `motience-server settings` prints them and `.env.example` begins.

use motience_auth as auth;
use motience_backend as backend;
use motience_cluster::Most;
use motience_gateway::certificate;
use motience_http::{Announced, FrameRate, Limits as HttpLimits, Listening, Operations, Proxies, ServicePorts};
use motience_limits::{permits, uploads};
use motience_log::{self as log, Retention};
use motience_relay::{
    self as relay,
    pipeline::{reorder, sampler},
};
use motience_runtime::{lifecycle, telemetry};
use motience_settings::env::{Group, Mode, Subject, example};
use motience_store as store;

use crate::{config, http, ingest, webtransport};

const HEAD: &str = "\
Every setting of the server, the gateway and the device agent, with its default. The commands `motience-server settings` and
`motience-device settings` print them.

Copy this file to `.env` and change what you need. Settings that are commented out show their defaults, or an example where
there is none; the others are defaults too, so that the file as it is changes nothing. No secret is in it: a development node
makes its own. Durations are written 500ms, 30s, 15m, 1h, 7d; sizes 4096, 64KiB, 16MiB; rates 20/m (s, m or h) or off; lists
with commas. The environment of the process takes precedence over this file.";

/// Those that an operator sees first, and that stand there without a `#`.
const SET: [&str; 11] = [
    "NODE_ENV",
    "JWT_SECRET",
    "JWT_EXPIRES_IN",
    "JWT_REFRESH_EXPIRES_IN",
    "AP_PORT",
    "SM_PORT",
    "DSM_PORT",
    "WSS1_PORT",
    "WSS2_PORT",
    "WSS1_UI_PORT",
    "WSS2_UI_PORT",
];

/// The groups by subject. A test fails where one that is read is missing.
const SUBJECTS: [Subject; 16] = [
    Subject {
        title: "Common",
        groups: &[
            Mode::SETTINGS,
            telemetry::Logging::SETTINGS,
            telemetry::Traces::SETTINGS,
            backend::Settings::SETTINGS,
            lifecycle::Drain::SETTINGS,
        ],
    },
    Subject { title: "Tokens and passwords", groups: &[auth::Settings::SETTINGS, auth::HashLimits::SETTINGS] },
    Subject { title: "Tokens of other issuers (OpenID Connect)", groups: &[motience_oidc::Settings::SETTINGS] },
    Subject { title: "Devices with keys of their own", groups: &[backend::devices::Settings::SETTINGS] },
    Subject { title: "PostgreSQL. If none of these is set, the accounts are in SQLite, in DATA_DIR", groups: &[store::Settings::SETTINGS] },
    Subject {
        title: "Redis. If unset, the log is kept in the server process, and that process must run all roles",
        groups: &[log::redis::Settings::SETTINGS],
    },
    Subject {
        title: "Addresses and ports; 0 is any free port",
        groups: &[Listening::SETTINGS, Proxies::SETTINGS, Announced::SETTINGS, ServicePorts::SETTINGS, Operations::SETTINGS],
    },
    Subject { title: "Server", groups: &[config::Settings::SETTINGS, certificate::Settings::SETTINGS] },
    Subject { title: "Rates of requests", groups: &[http::Rates::SETTINGS] },
    Subject {
        title: "HTTP",
        groups: &[
            HttpLimits::SETTINGS,
            FrameRate::SETTINGS,
            http::Config::SETTINGS,
            http::stream::Config::SETTINGS,
            uploads::Limits::SETTINGS,
        ],
    },
    Subject { title: "Connections, whatever they come by", groups: &[permits::Limits::SETTINGS] },
    Subject {
        title: "Log and relay",
        groups: &[Retention::SETTINGS, backend::retention::Choice::SETTINGS, relay::Limits::SETTINGS, Most::SETTINGS],
    },
    Subject {
        title: "Devices and consumers, by whatever transport",
        groups: &[motience_session::Limits::SETTINGS, reorder::Limits::SETTINGS, sampler::Limits::SETTINGS],
    },
    Subject { title: "QUIC", groups: &[ingest::Config::SETTINGS, ingest::Readable::SETTINGS] },
    Subject {
        title: "HTTP/3 and WebTransport, on the QUIC port",
        groups: &[http::http3::Config::SETTINGS, webtransport::Config::SETTINGS],
    },
    Subject {
        title: "WebSocket gateway, and the pages",
        groups: &[motience_gateway::Config::SETTINGS, motience_gateway::PublicUrls::SETTINGS],
    },
];

/// All of them, as a file that an operator can copy.
pub(crate) fn text() -> String {
    example(HEAD, &SUBJECTS, &SET)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use motience_settings::{dotenv, env::Env};

    use super::*;
    use crate::config::Config;

    const FILE: &str = include_str!("../../.env.example");

    /// Every setting of the file, commented out or not.
    fn known() -> BTreeSet<String> {
        let text: String = FILE
            .lines()
            .map(|line| line.strip_prefix('#').unwrap_or(line))
            .filter(|line| !line.starts_with(' '))
            .fold(String::new(), |text, line| text + if line.contains('=') { line } else { "" } + "\n");
        dotenv::parse(".env.example", text.as_bytes()).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_example_is_made_of_the_declarations() {
        let text = text();
        assert!(FILE.starts_with(&text), "write .env.example anew (CONTRIBUTING.md, How to add): it should begin\n\n{text}");
    }

    #[test]
    fn every_setting_that_is_read_is_listed_once_and_has_a_good_default() {
        let listed: Vec<&str> = SUBJECTS.iter().flat_map(|subject| subject.groups).copied().flatten().map(|setting| setting.name).collect();
        let once: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(once.len(), listed.len(), "a setting stands there twice");
        for mode in ["development", "production"] {
            let mut read = BTreeSet::new();
            let env = Env::from_pairs([("NODE_ENV", mode)]);
            let _ = env.read(|reader| {
                Config::read(reader, None);
                read = reader.seen().clone();
            });
            assert_eq!(once, read, "{mode}");
        }
        assert!(SET.iter().all(|name| once.contains(name)));
    }

    #[test]
    fn what_is_deployed_sets_nothing_that_is_not_read() {
        let known = known();
        assert!(known.len() > 150, "{}", known.len());
        let compose = include_str!("../../docker-compose.yml");
        let variable = |line: &'static str| line.trim().split_once(": ").map(|(name, _)| name);
        let is_name = |name: &str| name.len() > 1 && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let foreign = |name: &str| name.starts_with("POSTGRES_") || name.starts_with("REDISCLI_");
        let mut set: Vec<&str> = compose.lines().filter_map(variable).filter(|name| is_name(name) && !foreign(name)).collect();
        assert!(set.len() > 10, "{set:?}");
        for unit in [
            include_str!("../../deploy/systemd/motience-server.service"),
            include_str!("../../deploy/systemd/motience-gateway.service"),
            include_str!("../../deploy/systemd/motience-device.service"),
        ] {
            let lines = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
            set.extend(lines.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('=')).map(|(name, _)| name));
        }
        let pods = include_str!("../../deploy/kubernetes/base/settings.env").lines().filter_map(|line| line.split_once('='));
        set.extend(pods.map(|(name, _)| name));
        assert!(set.contains(&"CERTS_DIR") && set.contains(&"TRUSTED_PROXIES"), "{set:?}");
        for name in set {
            assert!(known.contains(name), "{name}");
        }
    }
}
