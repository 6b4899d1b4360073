//! The agent's settings: a TOML file, over environment variables, over defaults.
//!
//! The file wins over the environment, the process's own over that of a `.env` file. But for `USERNAME`: desktop shells set it to
//! the person at the keyboard, who is not the device, so that `MOTIENCE_USERNAME`, and `USERNAME` in `.env`, win over it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use motience_certs::Trust;
use motience_device::{
    backoff::Backoff,
    client::{Gateway, QuicSettings, Server},
    link,
    login::Identity,
    outbox,
};
use motience_proto::model::DeviceId;
use motience_settings::env::{self, Env, Group as _, Subject, settings};
use secrecy::SecretString;

use crate::places;

mod assemble;
mod error;
mod file;
mod sensor;

pub use error::Error;
pub use sensor::{Kind, Lane, Sensor};

use file::File;

/// How often sensors read where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the outbox may take to empty at the end.
const GRACE: Duration = Duration::from_secs(10);
/// How long the agent waits when the service refuses it.
const REFUSED: Duration = Duration::from_secs(300);

/// Everything the agent needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The device's name within its account.
    pub device_id: DeviceId,
    /// The account.
    pub username: String,
    /// Its password; empty where the device has an identity of its own.
    pub password: SecretString,
    /// Where the device's identity is kept, see [`Identity`]; `None`: the device has none, and logs in by the password.
    pub identity: Option<PathBuf>,
    /// The authentication service.
    pub auth_url: String,
    /// The ingest server.
    pub server: Server,
    /// The name its certificate must carry, where it is not the host.
    pub server_name: Option<String>,
    /// The gateway to go to where UDP does not get through; `None`: there is none.
    pub fallback: Option<Gateway>,
    /// Certificates that are trusted.
    pub trust: Trust,
    /// Sensors that are read.
    pub sensors: Vec<Sensor>,
    /// The outbox.
    pub outbox: outbox::Config,
    /// Waits between attempts to connect.
    pub backoff: Backoff,
    /// Bursts in one system call.
    pub gso: bool,
    /// Redundancy against losses, and how bytes are saved.
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
    /// Logs that are written, as in `RUST_LOG`.
    pub log: String,
}

/// Settings of an enrolment.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The authentication service.
    pub auth_url: String,
    /// The ingest server, where it is said.
    pub server_url: Option<String>,
    /// A file of certificates that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Where the identity will be kept.
    pub place: PathBuf,
    /// The device's name, where it is said.
    pub device_id: Option<DeviceId>,
    /// Logs that are written.
    pub log: String,
}

/// Settings of the command line, which take precedence over all others.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
    /// `--server`.
    pub server: Option<String>,
    /// `--auth`.
    pub auth: Option<String>,
    /// `--status-file`.
    pub status_file: Option<PathBuf>,
    /// `--insecure-plaintext`.
    pub insecure_plaintext: bool,
}

settings! {
    /// The settings that environment variables have.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The device's name within its account; needed, unless the device has enrolled.
        DEVICE_ID, example "rpi_001" => device_id: Option<String>;
        /// The account; this or USERNAME is needed, unless the device has enrolled (`motience-device enrol`).
        MOTIENCE_USERNAME, example "producer1" => motience_username: Option<String>;
        /// Another name of MOTIENCE_USERNAME. In `.env` it takes precedence over the USERNAME that desktop shells set to the person at the
        /// keyboard.
        USERNAME, example "producer1" => username: Option<String>;
        /// The password of the account; needed, unless the device has enrolled.
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

    /// Whether the environment has a password, or names a file with it.
    fn has_password(&self) -> bool {
        !matches!(self.0.secret("PASSWORD"), Ok(None))
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
            identity: None,
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
        let place = assemble::identity_place(file.identity.as_deref(), file.state_dir.as_deref(), variables);
        let (username, device_id) = match Identity::read(&place).ok().flatten() {
            Some(identity) => {
                let enrolled = assemble::enrolled_username(&identity);
                (username.or(Some(enrolled)), device_id.or_else(|| Some(identity.certificate.device_id.to_string())))
            }
            None => (username, device_id),
        };
        let name = username.zip(device_id).map(|(username, device_id)| places::file_name(assemble::identity(&username, &device_id)));
        Ok((overrides.status_file.clone().or(file.status_file), name))
    }

    /// Settings of an enrolment, which needs nothing of an account.
    pub fn enrolment(overrides: &Overrides, variables: &Variables) -> Result<Enrolment, Error> {
        let file = overrides.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        assemble::enrolment(file, overrides, variables)
    }

    /// Puts file, environment and command line together.
    pub fn load(overrides: &Overrides, variables: &Variables) -> Result<Self, Error> {
        let file = overrides.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        assemble::assemble(file, overrides, variables)
    }
}

#[cfg(test)]
mod tests;
