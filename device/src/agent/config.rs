//! The agent's settings: a TOML file, over environment variables, over defaults.
//!
//! The file wins over the environment: desktop shells set `USERNAME` to the person at the keyboard, who is not the
//! device. A `.env` file counts as environment, below the process's own.

use std::{
    collections::HashMap,
    env, fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use motience_certs::Trust;
use motience_shared::model::DeviceId;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    names,
    sensors::{Kind, Sensor},
};
use crate::{
    backoff::Backoff,
    client::{Gateway, Server, Transport},
    link, outbox,
};

mod file;

use file::File;

/// How often sensors read where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often a followed file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the outbox may take to empty at the end.
const GRACE: Duration = Duration::from_secs(10);
/// The longest setting of any time; more is a mistake of units.
const MAX_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Everything the agent needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The device's name within its account.
    pub device_id: DeviceId,
    /// The account.
    pub username: String,
    /// Its password.
    pub password: SecretString,
    /// The authentication service.
    pub auth_url: String,
    /// The ingest server.
    pub server: Server,
    /// The name its certificate must carry, where it is not the host.
    pub server_name: Option<String>,
    /// The gateway to go to where UDP does not get through; `None`: there is none.
    pub fallback: Option<Gateway>,
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// What is read.
    pub sensors: Vec<Sensor>,
    /// The outbox.
    pub outbox: outbox::Config,
    /// Waits between attempts to connect.
    pub backoff: Backoff,
    /// Bursts in one system call.
    pub gso: bool,
    /// What is done about losses, and how bytes are saved.
    pub link: link::Settings,
    /// How often a quiet connection sends a packet.
    pub keep_alive: Duration,
    /// How long the outbox may take to empty at the end.
    pub grace: Duration,
    /// Where sensors keep their place; `None`: nowhere. The outbox's own place is in its settings.
    pub state_dir: Option<PathBuf>,
    /// Where the status is written; `None`: nowhere.
    pub status_file: Option<PathBuf>,
    /// What is logged, as in `RUST_LOG`.
    pub log: String,
}

/// A setting that cannot work: its names, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}")]
pub struct Error {
    setting: String,
    problem: String,
}

impl Error {
    pub(super) fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}

/// What the command line says; it wins over everything.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
    /// `--server`.
    pub server: Option<String>,
    /// `--status-file`.
    pub status_file: Option<PathBuf>,
}

/// Environment variables: the process's own over those of `.env`.
pub struct Variables(HashMap<String, String>);

impl Variables {
    /// Reads `.env` and the process's environment.
    pub fn load() -> Result<Self, Error> {
        let mut variables = HashMap::new();
        match dotenvy::from_filename_iter(".env") {
            Ok(pairs) => {
                for pair in pairs {
                    let (name, value) = pair.map_err(|_| Error::new(".env", "has a line that is not NAME=value"))?;
                    variables.insert(name, value);
                }
            }
            Err(error) if error.not_found() => {}
            Err(error) => return Err(Error::new(".env", format!("cannot be read: {error}"))),
        }
        variables.extend(env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))));
        Ok(Self(variables))
    }

    /// These and no others.
    pub fn from_pairs<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A variable; an empty one counts as absent.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Where the status file is when nothing says so: a folder that is emptied with the machine's memory.
    pub fn default_status_file(&self) -> PathBuf {
        let dir = match (self.get("RUNTIME_DIRECTORY"), self.get("XDG_RUNTIME_DIR")) {
            (Some(dir), _) => PathBuf::from(dir),
            (None, Some(dir)) => Path::new(dir).join("motience-device"),
            (None, None) => env::temp_dir().join("motience-device"),
        };
        dir.join("status.json")
    }

    fn default_state_dir(&self) -> PathBuf {
        match (self.get("STATE_DIRECTORY"), self.get("XDG_STATE_HOME"), self.get("HOME")) {
            (Some(dir), _, _) => dir.into(),
            (None, Some(dir), _) => Path::new(dir).join("motience-device"),
            (None, None, Some(home)) => Path::new(home).join(".local/state/motience-device"),
            (None, None, None) => "motience-device-state".into(),
        }
    }
}

impl fmt::Debug for Variables {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Config {
    /// The defaults around what has none.
    pub fn new(
        device_id: DeviceId,
        username: impl Into<String>,
        password: SecretString,
        auth_url: impl Into<String>,
        server: Server,
    ) -> Self {
        Self {
            device_id,
            username: username.into(),
            password,
            auth_url: auth_url.into(),
            server,
            server_name: None,
            fallback: None,
            trust: Trust::default(),
            sensors: vec![Sensor::system(INTERVAL)],
            outbox: outbox::Config::default(),
            backoff: Backoff::default(),
            gso: true,
            link: link::Settings::default(),
            keep_alive: Transport::default().keep_alive,
            grace: GRACE,
            state_dir: None,
            status_file: None,
            log: "info".into(),
        }
    }

    /// Puts file, environment and command line together.
    pub fn load(overrides: &Overrides, variables: &Variables) -> Result<Self, Error> {
        let file = match &overrides.config {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        Self::assemble(file, overrides, variables)
    }

    fn assemble(file: File, overrides: &Overrides, variables: &Variables) -> Result<Self, Error> {
        let text = |value: Option<String>, name: &str| value.or_else(|| variables.get(name).map(str::to_owned));
        let needed = |value: Option<String>, key: &str, name: &str| {
            text(value, name).ok_or_else(|| Error::new(format!("{name} (in the configuration file: {key})"), "is missing"))
        };
        let device_id = needed(file.device_id, "device_id", "DEVICE_ID")?;
        let device_id = DeviceId::new(&device_id).map_err(|e| Error::new("DEVICE_ID (device_id)", format!("cannot be used: {e}")))?;
        let username = needed(file.username, "username", "USERNAME")?;
        let password = match (file.password, file.password_file) {
            (Some(_), Some(_)) => return Err(Error::new("password", "and password_file exclude each other")),
            (Some(password), None) => password,
            (None, Some(path)) => {
                let text = fs::read_to_string(&path)
                    .map_err(|e| Error::new("password_file", format!("{} cannot be read: {e}", path.display())))?;
                text.trim_end_matches(['\r', '\n']).to_owned().into()
            }
            (None, None) => needed(None, "password", "PASSWORD")?.into(),
        };
        if password.expose_secret().is_empty() {
            return Err(Error::new("PASSWORD (password)", "is empty"));
        }
        let auth_url = text(file.auth_url, "AUTH_URL").unwrap_or_else(|| "http://localhost:3001".into());
        let server = overrides.server.clone().or_else(|| text(file.server_url, "SERVER_URL"));
        let server = server
            .unwrap_or_else(|| "quic://localhost".into())
            .parse()
            .map_err(|e| Error::new("SERVER_URL (server_url)", format!("cannot be used: {e}")))?;
        let ca = overrides.ca.clone().or_else(|| text(file.ca, "CA").map(PathBuf::from));

        let interval = match (file.send_interval_secs, variables.get("SEND_INTERVAL_SECS")) {
            (Some(secs), _) => Some(secs),
            (None, Some(secs)) => {
                Some(secs.parse().map_err(|_| Error::new("SEND_INTERVAL_SECS", format!("must be a number of seconds, not {secs:?}")))?)
            }
            (None, None) => None,
        };
        let interval = time("SEND_INTERVAL_SECS (send_interval_secs)", interval)?.unwrap_or(INTERVAL);

        let mut config = Self::new(device_id, username, password, auth_url, server);
        config.server_name = file.server_name;
        config.fallback = file::gateway(text(file.fallback_url, "FALLBACK_URL"))?;
        (config.link, config.keep_alive) = file.link.check()?;
        config.trust = ca.map_or(Trust::Platform, Trust::Ca);
        config.sensors = match file.sensors {
            Some(sensors) => sensors.into_iter().enumerate().map(|(n, sensor)| sensor.check(n, interval)).collect::<Result<_, _>>()?,
            None => vec![Sensor::system(interval)],
        };
        if config.sensors.is_empty() {
            return Err(Error::new("sensors", "is empty: there would be nothing to send"));
        }
        if config.sensors.iter().filter(|sensor| sensor.kind == Kind::Stdin).count() > 1 {
            return Err(Error::new("sensors", "has more than one of kind \"stdin\""));
        }
        config.gso = file.gso.unwrap_or(true);
        config.grace = time("shutdown_grace_secs", file.shutdown_grace_secs)?.unwrap_or(GRACE);
        let state_dir = file.state_dir.unwrap_or_else(|| variables.default_state_dir());
        // One for each account and device: what one has taken must never be sent as another's.
        let identity = names::hash(&[config.username.as_bytes(), config.device_id.as_str().as_bytes()]);
        config.outbox = file.outbox.check(state_dir.join(format!("outbox-{identity:016x}.redb")))?;
        config.state_dir = Some(state_dir);
        config.status_file = Some(overrides.status_file.clone().or(file.status_file).unwrap_or_else(|| variables.default_status_file()));
        config.log = text(file.log, "RUST_LOG").unwrap_or(config.log);
        Ok(config)
    }
}

/// A number of seconds as a time above zero.
fn time(setting: &str, secs: Option<f64>) -> Result<Option<Duration>, Error> {
    let Some(secs) = secs else { return Ok(None) };
    match Duration::try_from_secs_f64(secs) {
        Ok(time) if !time.is_zero() && time <= MAX_TIME => Ok(Some(time)),
        _ => Err(Error::new(setting, format!("must be above 0 and at most {} seconds, not {secs}", MAX_TIME.as_secs()))),
    }
}

#[cfg(test)]
mod tests;
