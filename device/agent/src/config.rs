//! The agent's settings: a TOML file, over environment variables, over defaults.
//!
//! The file wins over the environment, the process's own over that of a `.env` file. But for `USERNAME`: desktop shells set it to
//! the person at the keyboard, who is not the device, so that `MOTIENCE_USERNAME`, and `USERNAME` in `.env`, win over it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use motience_certs::Trust;
use motience_device::{
    backoff::Backoff,
    client::{Gateway, QuicSettings, Server},
    link, outbox,
};
use motience_proto::model::DeviceId;
use motience_settings::env::{self, Env, Group as _, Subject, settings};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::{names, places};

mod file;
mod sensor;

pub use sensor::{Kind, Lane, Sensor};

use file::File;

/// How often sensors read where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often a followed file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the outbox may take to empty at the end.
const GRACE: Duration = Duration::from_secs(10);
/// How long the agent waits when the service refuses it.
const REFUSED: Duration = Duration::from_secs(300);
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
    /// Where the refresh token is kept; `None`: nowhere, and each start needs a login.
    pub token_file: Option<PathBuf>,
    /// How long the agent waits, at least, when the service refuses this device, until it asks again.
    pub refused: Duration,
    /// What is logged, as in `RUST_LOG`.
    pub log: String,
}

/// A setting that cannot work: its names, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}{}{problem}", if problem.is_empty() { "" } else { " " })]
pub struct Error {
    setting: String,
    problem: String,
}

impl From<env::Error> for Error {
    fn from(error: env::Error) -> Self {
        Self::new(error.to_string(), "")
    }
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
    /// `--insecure-plaintext`.
    pub insecure_plaintext: bool,
}

settings! {
    /// The settings that environment variables have.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The device's name within its account; needed.
        DEVICE_ID, example "rpi_001" => device_id: Option<String>;
        /// The account; this or USERNAME is needed.
        MOTIENCE_USERNAME, example "producer1" => motience_username: Option<String>;
        /// Another name of MOTIENCE_USERNAME. In `.env` it takes precedence over the USERNAME that desktop shells set to the person at the
        /// keyboard.
        USERNAME, example "producer1" => username: Option<String>;
        /// The password of the account; needed.
        PASSWORD, example "pass123" => password: Option<SecretString>;
        /// The authentication service, ap.
        AUTH_URL = "http://localhost:3001" => auth_url: String;
        /// A gateway's producer port, for networks that let no UDP through. The agent refuses http:// and ws:// to other machines, unless
        /// INSECURE_PLAINTEXT allows them.
        FALLBACK_URL, example "wss://localhost:8001" => fallback_url: Option<String>;
        /// Whether passwords, tokens and records may travel to other machines without encryption.
        INSECURE_PLAINTEXT = "false" => insecure_plaintext: bool;
        /// The ingest server.
        SERVER_URL = "quic://localhost:4433" => server_url: String;
        /// How often the sensors are read, in seconds.
        SEND_INTERVAL_SECS = "5" => send_interval_secs: f64, > 0;
        /// A PEM file with the CA to trust instead of the system's, such as certs/dev/ca.pem.
        CA => ca: Option<PathBuf>;
        /// The logs to write, such as `warn` or `info,motience_device=debug`.
        RUST_LOG = "info" => log: String;
    }
}

/// All settings that environment variables have, as a file that an operator can copy.
pub fn example() -> String {
    let title = "Device agent (motience-device); its configuration file takes precedence over these";
    env::example("", &[Subject { title, groups: &[Settings::SETTINGS] }], &[])
}

/// Environment variables: the process's own over those of `.env`.
#[derive(Debug)]
pub struct Variables(Env);

impl Variables {
    /// Reads `.env` and the process's environment.
    pub fn load() -> Result<Self, Error> {
        Ok(Self(Env::load()?))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    fn username(&self) -> Option<&str> {
        self.get("MOTIENCE_USERNAME").or_else(|| self.0.get_in_file("USERNAME")).or_else(|| self.get("USERNAME"))
    }

    /// Folders where status files may be when nothing says so; the first is where this process writes its own. All of them are
    /// emptied with the machine's memory.
    pub fn status_dirs(&self) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        dirs.extend(self.get("RUNTIME_DIRECTORY").map(PathBuf::from));
        dirs.extend(self.get("XDG_RUNTIME_DIR").map(|dir| Path::new(dir).join("motience-device")));
        dirs.push(places::own_temporary_dir());
        dirs.push(places::SYSTEMD_DIR.into());
        dirs
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
            keep_alive: QuicSettings::default().keep_alive,
            grace: GRACE,
            state_dir: None,
            status_file: None,
            token_file: None,
            refused: REFUSED,
            log: "info".into(),
        }
    }

    /// Where `motience-device status` has to look: a file that the settings name, or the name of the device's file in one of
    /// [`Variables::status_dirs`]; neither where they name no device. Needs no password.
    pub fn whereabouts(overrides: &Overrides, variables: &Variables) -> Result<(Option<PathBuf>, Option<String>), Error> {
        let file = overrides.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let username = file.username.or_else(|| variables.username().map(str::to_owned));
        let device_id = file.device_id.or_else(|| variables.get("DEVICE_ID").map(str::to_owned));
        let name = username.zip(device_id).map(|(username, device_id)| places::file_name(identity(&username, &device_id)));
        Ok((overrides.status_file.clone().or(file.status_file), name))
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
        let given = Settings::from_env(&variables.0)?;
        let device_id = file.device_id.or(given.device_id);
        let username = file.username.or_else(|| variables.username().map(str::to_owned));
        let has_password = file.password.is_some() || file.password_file.is_some() || given.password.is_some();
        let missing: Vec<&str> = [
            (device_id.is_some(), "DEVICE_ID (in the configuration file: device_id)"),
            (username.is_some(), "MOTIENCE_USERNAME, or USERNAME (in the configuration file: username)"),
            (has_password, "PASSWORD (in the configuration file: password)"),
        ]
        .into_iter()
        .filter_map(|(there, setting)| (!there).then_some(setting))
        .collect();
        let (Some(device_id), Some(username), true) = (device_id, username, has_password) else {
            let verb = if missing.len() == 1 { "is" } else { "are" };
            let places = "settings come from the file of --config, from the environment, or from .env";
            return Err(Error::new(missing.join("; "), format!("{verb} missing: {places}")));
        };
        let device_id = DeviceId::new(&device_id).map_err(|e| Error::new("DEVICE_ID (device_id)", format!("cannot be used: {e}")))?;
        let password = match (file.password, file.password_file) {
            (Some(_), Some(_)) => return Err(Error::new("password", "and password_file exclude each other")),
            (Some(password), None) => password,
            (None, Some(path)) => {
                let text = fs::read_to_string(&path)
                    .map_err(|e| Error::new("password_file", format!("{} cannot be read: {e}", path.display())))?;
                text.trim_end_matches(['\r', '\n']).to_owned().into()
            }
            (None, None) => given.password.unwrap_or_default(),
        };
        if password.expose_secret().is_empty() {
            return Err(Error::new("PASSWORD (password)", "is empty"));
        }
        let auth_url = file.auth_url.unwrap_or(given.auth_url);
        let server = overrides.server.clone().or(file.server_url).unwrap_or(given.server_url);
        let server = server.parse().map_err(|e| Error::new("SERVER_URL (server_url)", format!("cannot be used: {e}")))?;
        let ca = overrides.ca.clone().or(file.ca.map(PathBuf::from)).or(given.ca);
        let interval = file.send_interval_secs.unwrap_or(given.send_interval_secs);
        let interval = time("SEND_INTERVAL_SECS (send_interval_secs)", Some(interval))?.unwrap_or(INTERVAL);

        let mut config = Self::new(device_id, username, password, auth_url, server);
        config.server_name = file.server_name;
        config.fallback = file::gateway(file.fallback_url.or(given.fallback_url))?;
        if !(file.insecure_plaintext.unwrap_or(given.insecure_plaintext) || overrides.insecure_plaintext) {
            refuse_plaintext(&config)?;
        }
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
        let identity = identity(&config.username, config.device_id.as_str());
        config.outbox = file.outbox.check(state_dir.join(format!("outbox-{identity:016x}.redb")))?;
        config.token_file = Some(state_dir.join(format!("token-{identity:016x}.json")));
        config.state_dir = Some(state_dir);
        let default = || Some(variables.status_dirs().first()?.join(places::file_name(identity)));
        config.status_file = overrides.status_file.clone().or(file.status_file).or_else(default);
        config.refused = time("refused_wait_secs", file.refused_wait_secs)?.unwrap_or(REFUSED);
        config.log = file.log.unwrap_or(given.log);
        Ok(config)
    }
}

/// Names of files are made of it: one for each account and device.
fn identity(username: &str, device_id: &str) -> u64 {
    names::hash(&[username.as_bytes(), device_id.as_bytes()])
}

/// A password, tokens and records must not travel where others can read them.
fn refuse_plaintext(config: &Config) -> Result<(), Error> {
    let refuse = |setting: &str, secure: &str, host: &str| {
        Err(Error::new(
            setting,
            format!(
                "would send secrets to {host} without encryption: write {secure}, or allow it with --insecure-plaintext (insecure_plaintext, INSECURE_PLAINTEXT)"
            ),
        ))
    };
    // What cannot be read at all is told later, with how it is written.
    if let Ok(url) = Url::parse(&config.auth_url)
        && url.scheme() == "http"
        && let Some(host) = url.host_str()
        && !is_loopback(host)
    {
        return refuse("AUTH_URL (auth_url)", "https://", host);
    }
    match &config.fallback {
        Some(gateway) if !gateway.is_secure() && !is_loopback(gateway.host()) => {
            refuse("FALLBACK_URL (fallback_url)", "wss://", gateway.host())
        }
        _ => Ok(()),
    }
}

/// Whether the name or address is this machine's own.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
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
