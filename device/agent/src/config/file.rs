//! The configuration file's keys.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use motience_device::{
    client::{Gateway, QuicSettings},
    link::{self, Controller, Redundancy, plan::MAX_REDUNDANCY},
    outbox::{self, Storage},
};
use secrecy::SecretString;
use serde::Deserialize;

use super::{COMMAND_TIMEOUT, Error, FILE_INTERVAL, Kind, Lane, Sensor, time};

/// The longest silence of a connection: servers give one up after a minute, and so do many NATs.
const MAX_KEEP_ALIVE: f64 = 50.0;
/// The longest that records may gather before they are written.
const MAX_COMMIT_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) device_id: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) auth_url: Option<String>,
    pub(super) server_url: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) fallback_url: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) send_interval_secs: Option<f64>,
    pub(super) shutdown_grace_secs: Option<f64>,
    pub(super) refused_wait_secs: Option<f64>,
    pub(super) insecure_plaintext: Option<bool>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) status_file: Option<PathBuf>,
    pub(super) log: Option<String>,
    pub(super) gso: Option<bool>,
    #[serde(default)]
    pub(super) outbox: Outbox,
    #[serde(default)]
    pub(super) link: Link,
    pub(super) sensors: Option<Vec<SensorKeys>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outbox {
    storage: Option<StorageKey>,
    path: Option<PathBuf>,
    records: Option<usize>,
    bytes: Option<usize>,
    policy: Option<outbox::Policy>,
    order: Option<outbox::Order>,
    commit_interval_ms: Option<u64>,
    commit_bytes: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    redundancy: Option<RedundancyKey>,
    budget: Option<f64>,
    metered: Option<bool>,
    compact: Option<bool>,
    congestion: Option<Controller>,
    keep_alive_secs: Option<f64>,
}

/// `"auto"`, `"off"`, or a number of redundant transmissions.
#[derive(Deserialize)]
#[serde(untagged)]
enum RedundancyKey {
    Fixed(u8),
    Named(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StorageKey {
    Memory,
    Disk,
}

/// The keys of all kinds; [`SensorKeys::check`] refuses those of another kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SensorKeys {
    kind: KindKey,
    name: Option<String>,
    interval_secs: Option<f64>,
    lane: Option<Lane>,
    command: Option<Vec<String>>,
    timeout_secs: Option<f64>,
    path: Option<PathBuf>,
    from_start: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindKey {
    System,
    Command,
    Stdin,
    File,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let name = || format!("the configuration file {}", path.display());
        let text = fs::read_to_string(path).map_err(|e| Error::new(name(), format!("cannot be read: {e}")))?;
        Self::parse(&text).map_err(|e| Error::new(name(), format!("is wrong: {e}")))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            // Not the error's own form, which quotes the line: it may hold the password.
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            line.map_or_else(|| error.message().to_owned(), |line| format!("line {line}: {}", error.message()))
        })
    }
}

impl Outbox {
    pub(super) fn check(self, default: PathBuf) -> Result<outbox::Config, Error> {
        let storage = match (self.storage, self.path) {
            (Some(StorageKey::Memory), None) => Storage::Memory,
            (Some(StorageKey::Memory), Some(_)) => return Err(Error::new("outbox.path", "does not go with storage \"memory\"")),
            (_, Some(path)) if path.file_name().is_none() => return Err(Error::new("outbox.path", "must name a file")),
            (_, path) => Storage::Disk(path.unwrap_or(default)),
        };
        let defaults = outbox::Config::default();
        let config = outbox::Config {
            storage,
            records: self.records.unwrap_or(defaults.records),
            bytes: self.bytes.unwrap_or(defaults.bytes),
            policy: self.policy.unwrap_or(defaults.policy),
            order: self.order.unwrap_or(defaults.order),
            commit_interval: self.commit_interval_ms.map_or(defaults.commit_interval, Duration::from_millis),
            commit_bytes: self.commit_bytes.unwrap_or(defaults.commit_bytes),
            ..defaults
        };
        if config.records == 0 || config.bytes == 0 {
            return Err(Error::new("outbox", "must have room for at least one record"));
        }
        if config.commit_interval > MAX_COMMIT_INTERVAL {
            let most = MAX_COMMIT_INTERVAL.as_millis();
            return Err(Error::new("outbox.commit_interval_ms", format!("must be at most {most}: records are not safe before")));
        }
        Ok(config)
    }
}

impl Link {
    /// The link's settings, and the time between packets of a quiet connection.
    pub(super) fn check(self) -> Result<(link::Settings, Duration), Error> {
        let (defaults, asked) = (link::Settings::default(), self.redundancy.is_some());
        let redundancy = match self.redundancy {
            None => defaults.redundancy,
            Some(RedundancyKey::Fixed(count)) if count <= MAX_REDUNDANCY => Redundancy::Always(count),
            Some(RedundancyKey::Fixed(count)) => {
                return Err(Error::new("link.redundancy", format!("is at most {MAX_REDUNDANCY} redundant transmissions, not {count}")));
            }
            Some(RedundancyKey::Named(name)) => name.parse().map_err(|e| Error::new("link.redundancy", format!("cannot be used: {e}")))?,
        };
        let budget = self.budget.unwrap_or(defaults.budget);
        if !(1.0..=5.0).contains(&budget) {
            return Err(Error::new("link.budget", format!("must lie between 1 and 5 times the bytes without redundancy, not {budget}")));
        }
        let metered = self.metered.unwrap_or(false);
        if metered && asked && redundancy != Redundancy::Off {
            return Err(Error::new("link.redundancy", "does not go with metered = true, which switches it off"));
        }
        let keep_alive = super::time("link.keep_alive_secs", self.keep_alive_secs)?.unwrap_or(QuicSettings::default().keep_alive);
        if keep_alive.as_secs_f64() > MAX_KEEP_ALIVE {
            return Err(Error::new(
                "link.keep_alive_secs",
                format!("must be at most {MAX_KEEP_ALIVE}: the server gives up a silent connection"),
            ));
        }
        let settings = link::Settings {
            redundancy: if metered { Redundancy::Off } else { redundancy },
            budget,
            compact: self.compact.unwrap_or(defaults.compact),
            controller: self.congestion.unwrap_or(defaults.controller),
            ..defaults
        };
        Ok((settings, keep_alive))
    }
}

/// The gateway that devices go to where UDP does not get through.
pub(super) fn gateway(url: Option<String>) -> Result<Option<Gateway>, Error> {
    let parse = |url: String| url.parse().map_err(|e| Error::new("FALLBACK_URL (fallback_url)", format!("cannot be used: {e}")));
    url.map(parse).transpose()
}

impl SensorKeys {
    /// `n` counts from 0.
    pub(super) fn check(self, n: usize, default_interval: Duration) -> Result<Sensor, Error> {
        let setting = |key: &str| format!("{key} of sensor {}", n + 1);
        let only = |given: bool, key: &str, kind: KindKey| {
            if given && self.kind != kind { Err(Error::new(setting(key), "does not belong to this kind")) } else { Ok(()) }
        };
        only(self.command.is_some(), "command", KindKey::Command)?;
        only(self.timeout_secs.is_some(), "timeout_secs", KindKey::Command)?;
        only(self.path.is_some(), "path", KindKey::File)?;
        only(self.from_start.is_some(), "from_start", KindKey::File)?;
        if self.kind == KindKey::File && self.lane == Some(Lane::Latest) {
            return Err(Error::new(setting("lane"), "cannot be \"latest\": a file's place is remembered by what was acknowledged"));
        }
        let interval = time(&setting("interval_secs"), self.interval_secs)?;
        let kind = match self.kind {
            KindKey::System => Kind::System,
            KindKey::Stdin => Kind::Stdin,
            KindKey::Command => Kind::Command {
                command: self
                    .command
                    .filter(|command| command.first().is_some_and(|program| !program.is_empty()))
                    .ok_or_else(|| Error::new(setting("command"), "is missing: write [\"program\", \"argument\"]"))?,
                timeout: time(&setting("timeout_secs"), self.timeout_secs)?.unwrap_or(COMMAND_TIMEOUT),
            },
            KindKey::File => Kind::File {
                path: self.path.ok_or_else(|| Error::new(setting("path"), "is missing"))?,
                from_start: self.from_start.unwrap_or(false),
            },
        };
        let default_interval = if self.kind == KindKey::File { FILE_INTERVAL } else { default_interval };
        Ok(Sensor { name: self.name, kind, interval: interval.unwrap_or(default_interval), lane: self.lane.unwrap_or_default() })
    }
}
