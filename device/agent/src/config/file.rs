//! The configuration file's keys.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use motience_device::{
    client::QuicSettings,
    link::{self, Controller, Redundancy, plan::MAX_REDUNDANCY},
    outbox::{self, Storage},
};
use secrecy::SecretString;
use serde::Deserialize;
use toml::{Table, Value};

use super::{Error, Kind, Lane, Sensor, error::Mistakes};

/// The longest setting of any time; more is a mistake of units.
const MAX_TIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest silence of a connection: servers give one up after a minute, and so do many NATs.
const MAX_KEEP_ALIVE: Duration = Duration::from_secs(50);
/// How often a followed file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that records may gather before they are written.
const MAX_COMMIT_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) device_id: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) identity: Option<PathBuf>,
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
        let mut wrong = Mistakes::of(None);
        let name = format!("the configuration file {}", path.display());
        let text = wrong.setting(&name, fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}")));
        let file = text.map(|text| Self::parse(&text));
        let file =
            file.and_then(|parsed| parsed.map_err(|all| all.iter().for_each(|one| wrong.refuse(&name, format!("is wrong: {one}")))).ok());
        wrong.finish(file)
    }

    /// Reads the text. The error has a sentence for each key that is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        toml::from_str(text).map_err(|error| Self::all_wrong(text).unwrap_or_else(|| vec![sentence(text, &error)]))
    }

    /// Tries the keys of a TOML text one by one, and returns a sentence for each that is wrong. `None` for a text that is no TOML.
    fn all_wrong(text: &str) -> Option<Vec<String>> {
        let mut found = Vec::new();
        let mut attempt = |path: String, table: Table| {
            let Err(error) = table.try_into::<Self>() else { return true };
            // The parser quotes a value that is of another kind.
            let secret = path == "password" && error.message().starts_with("invalid type");
            found.push(format!("{path}: {}", if secret { "must be a text in quotes" } else { error.message() }));
            false
        };
        let one = |key: &str, value: Value| Table::from_iter([(key.to_owned(), value)]);
        for (name, value) in toml::from_str::<Table>(text).ok()? {
            match value {
                Value::Table(keys) => {
                    for (key, value) in keys {
                        attempt(format!("{name}.{key}"), one(&name, one(&key, value).into()));
                    }
                }
                Value::Array(sensors) if name == "sensors" => {
                    for (n, sensor) in sensors.into_iter().enumerate() {
                        let alone = |keys: Value| one("sensors", vec![keys].into());
                        let keys = sensor.as_table().cloned().unwrap_or_default();
                        let wrong = keys.iter().filter(|(key, value)| {
                            let mut keys = one("kind", "system".into());
                            keys.insert((*key).clone(), (*value).clone());
                            !attempt(format!("{key} of sensor {}", n + 1), alone(keys.into()))
                        });
                        if wrong.count() == 0 {
                            attempt(format!("sensor {}", n + 1), alone(sensor));
                        }
                    }
                }
                value => {
                    attempt(name.clone(), one(&name, value));
                }
            }
        }
        (!found.is_empty()).then_some(found)
    }
}

/// The parser's error with its line; not the error's own form, which quotes the line, and that may hold the password.
fn sentence(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
    line.map_or_else(|| error.message().to_owned(), |line| format!("line {line}: {}", error.message()))
}

impl Outbox {
    /// The outbox's settings; `default` is its file unless another is named.
    pub(super) fn check(self, default: PathBuf, wrong: &mut Mistakes<'_>) -> outbox::Config {
        match (self.storage, &self.path) {
            (Some(StorageKey::Memory), Some(_)) => wrong.refuse("outbox.path", "does not go with storage \"memory\""),
            (_, Some(path)) if path.file_name().is_none() => wrong.refuse("outbox.path", "must name a file"),
            _ => {}
        }
        let storage = match self.storage {
            Some(StorageKey::Memory) => Storage::Memory,
            _ => Storage::Disk(self.path.unwrap_or(default)),
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
            wrong.refuse("outbox", "must have room for at least one record");
        }
        if config.commit_interval > MAX_COMMIT_INTERVAL {
            let most = MAX_COMMIT_INTERVAL.as_millis();
            wrong.refuse("outbox.commit_interval_ms", format_args!("must be at most {most}: records are not safe before"));
        }
        config
    }
}

impl Link {
    /// The link's settings, and the time between packets of a quiet connection.
    pub(super) fn check(self, wrong: &mut Mistakes<'_>) -> (link::Settings, Duration) {
        let defaults = link::Settings::default();
        let asked = self.redundancy.map(|asked| match asked {
            RedundancyKey::Fixed(count) if count <= MAX_REDUNDANCY => Ok(Redundancy::Always(count)),
            RedundancyKey::Fixed(count) => Err(format!("is at most {MAX_REDUNDANCY} redundant transmissions, not {count}")),
            RedundancyKey::Named(name) => name.parse::<Redundancy>().map_err(|e| format!("cannot be used: {e}")),
        });
        let redundancy = asked.and_then(|asked| wrong.key("link.redundancy", asked));
        let metered = self.metered.unwrap_or(false);
        if metered && redundancy.is_some_and(|asked| asked != Redundancy::Off) {
            wrong.refuse("link.redundancy", "does not go with metered = true, which switches it off");
        }
        let budget = self.budget.unwrap_or(defaults.budget);
        if !(1.0..=5.0).contains(&budget) {
            wrong.refuse("link.budget", format_args!("must lie between 1 and 5 times the bytes without redundancy, not {budget}"));
        }
        let keep_alive = wrong.key("link.keep_alive_secs", time(self.keep_alive_secs)).flatten();
        let keep_alive = keep_alive.unwrap_or(QuicSettings::default().keep_alive);
        if keep_alive > MAX_KEEP_ALIVE {
            let most = MAX_KEEP_ALIVE.as_secs();
            wrong.refuse("link.keep_alive_secs", format_args!("must be at most {most}: the server gives up a silent connection"));
        }
        let settings = link::Settings {
            redundancy: if metered { Redundancy::Off } else { redundancy.unwrap_or(defaults.redundancy) },
            budget,
            compact: self.compact.unwrap_or(defaults.compact),
            controller: self.congestion.unwrap_or(defaults.controller),
            ..defaults
        };
        (settings, keep_alive)
    }
}

impl SensorKeys {
    /// The sensor, as far as its keys are good; `n` counts from 0.
    pub(super) fn check(self, n: usize, default_interval: Duration, wrong: &mut Mistakes<'_>) -> Option<Sensor> {
        let key = |name: &str| format!("{name} of sensor {}", n + 1);
        for (given, name, kind) in [
            (self.command.is_some(), "command", KindKey::Command),
            (self.timeout_secs.is_some(), "timeout_secs", KindKey::Command),
            (self.path.is_some(), "path", KindKey::File),
            (self.from_start.is_some(), "from_start", KindKey::File),
        ] {
            if given && self.kind != kind {
                wrong.refuse(key(name), "does not belong to this kind");
            }
        }
        if self.kind == KindKey::File && self.lane == Some(Lane::Latest) {
            wrong.refuse(key("lane"), "cannot be \"latest\": a file's place is remembered by what was acknowledged");
        }
        let interval = wrong.key(key("interval_secs"), time(self.interval_secs)).flatten();
        let timeout = wrong.key(key("timeout_secs"), time(self.timeout_secs)).flatten().unwrap_or(COMMAND_TIMEOUT);
        let kind = match self.kind {
            KindKey::System => Kind::System,
            KindKey::Stdin => Kind::Stdin,
            KindKey::Command => {
                let command = self.command.filter(|command| command.first().is_some_and(|program| !program.is_empty()));
                let command = wrong.key(key("command"), command.ok_or("is missing: write [\"program\", \"argument\"]"))?;
                Kind::Command { command, timeout }
            }
            KindKey::File => {
                let path = wrong.key(key("path"), self.path.ok_or("is missing"))?;
                Kind::File { path, from_start: self.from_start.unwrap_or(false) }
            }
        };
        let default_interval = if self.kind == KindKey::File { FILE_INTERVAL } else { default_interval };
        Some(Sensor { name: self.name, kind, interval: interval.unwrap_or(default_interval), lane: self.lane.unwrap_or_default() })
    }
}

/// A number of seconds as a time above zero.
pub(super) fn time(secs: Option<f64>) -> Result<Option<Duration>, String> {
    let Some(secs) = secs else { return Ok(None) };
    match Duration::try_from_secs_f64(secs) {
        Ok(time) if !time.is_zero() && time <= MAX_TIME => Ok(Some(time)),
        _ => Err(format!("must be above 0 and at most {} seconds, not {secs}", MAX_TIME.as_secs())),
    }
}
