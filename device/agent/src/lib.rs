//! The device agent: sensors into a [`Producer`], until it is told to stop.
//!
//! The `motience-device` program and the server's demonstration both call [`run`].

use std::{sync::Arc, time::Duration};

use motience_certs::Trust;
use motience_device::{
    client,
    login::{self, Algorithm, Auth, Credentials, Home, Identity},
    outbox::{self, Storage},
    policy::Failure,
    producer::{self, Producer, Stats},
};
use motience_proto::model::Role;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

pub mod cli;
pub mod config;
mod names;
mod notify;
mod places;
pub mod sensors;
pub mod status;

pub use config::{Config, Enrolment};

use sensors::{Context, Counts, Sink};

/// How long a sensor may take to end before it is cut off, beside the grace for the outbox.
const SENSOR_END: Duration = Duration::from_secs(2);

/// Why the agent ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work.
    #[error("{0}")]
    Config(String),
    /// The outbox's file cannot be used: another agent has it, or the disk fails.
    #[error(transparent)]
    Outbox(outbox::Error),
    /// The server refused, and nobody asks again.
    #[error("the server refused this device: {0}")]
    Refused(Failure),
}

impl From<login::Error> for Error {
    fn from(error: login::Error) -> Self {
        match error {
            login::Error::Config(reason) => Self::Config(reason),
            error => Self::Refused(error.into()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connection(client::Error::Config(reason)) | Failure::Login(login::Error::Config(reason)) => Self::Config(reason),
            failure => Self::Refused(failure),
        }
    }
}

impl From<producer::Error> for Error {
    fn from(error: producer::Error) -> Self {
        match error {
            producer::Error::Stopped(failure) => failure.into(),
            producer::Error::Disk(error) => Self::Outbox(error),
            error => Self::Config(error.to_string()),
        }
    }
}

/// Runs until `shutdown` is cancelled, or every sensor has ended and its records are settled. Where the service refuses this device it
/// holds its records, waits, and asks again. Returns the last statistics.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<Stats, Error> {
    let auth = Auth::new(&config.auth_url, &config.trust)?;
    let credentials = match &config.identity {
        Some(place) => {
            let identity = Identity::read(place)?.ok_or_else(|| Error::Config(format!("there is no identity in {}", place.display())))?;
            Credentials::identity(auth, identity)
        }
        None => {
            let account = Credentials::account(auth, config.username.clone(), config.password.clone());
            config.token_file.iter().fold(account, |account, file| account.kept_in(file.clone()))
        }
    };
    let producer = Arc::new(Producer::start(config.producer(), credentials)?);
    let sensing = shutdown.child_token();
    let mut sensors = JoinSet::new();
    let mut counts = Vec::new();
    for sensor in &config.sensors {
        let counted = Arc::new(Counts::new(sensor));
        counts.push(counted.clone());
        let sink = Sink::new(producer.clone(), &config, sensor, counted);
        let context = Context { shutdown: sensing.clone(), state_dir: config.state_dir.clone(), grace: config.grace };
        sensors.spawn(sensors::run(sensor.clone(), sink, context));
    }
    tracing::info!(device_id = %config.device_id, server = config.server.host, port = config.server.port, sensors = counts.len(), "started");

    let mut board = status::Board::new(&config, counts);
    let mut watchdog = notify::Watchdog::new();
    let failure = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        failure = producer.stopped() => Some(failure),
        () = all_settled(&mut sensors, &producer) => None,
        () = board.keep(&producer, &mut watchdog) => None,
    };
    notify::stopping();
    sensing.cancel();
    let deadline = Instant::now() + config.grace;
    // Sensors that remember their place wait for their records, within the grace.
    let ended = async { while sensors.join_next().await.is_some() {} };
    if time::timeout_at(deadline + SENSOR_END, ended).await.is_err() {
        tracing::warn!("a sensor did not end; it is cut off");
    }
    sensors.shutdown().await;
    let stats = match Arc::into_inner(producer) {
        Some(producer) => producer.shutdown(deadline.saturating_duration_since(Instant::now())).await,
        None => Stats::default(),
    };
    if stats.outbox.records > 0 {
        match config.outbox.storage {
            Storage::Memory => tracing::warn!(records = stats.outbox.records, "records were not acknowledged in time and are lost"),
            Storage::Disk(_) => tracing::info!(records = stats.outbox.records, "records wait in the outbox for the next start"),
        }
    }
    board.end(&stats);
    tracing::info!(acked = stats.outbox.acked, refused = stats.outbox.refused, dropped = stats.outbox.dropped, "stopped");
    failure.map_or(Ok(stats), |failure| Err(failure.into()))
}

/// Makes the account that the configuration names.
pub async fn register(config: &Config) -> Result<(), Error> {
    let auth = Auth::new(&config.auth_url, &config.trust)?;
    let user = auth.register(&config.username, &config.password, Role::Producer, Some(config.device_id.as_str())).await?;
    tracing::info!(username = config.username, %user, "registered");
    Ok(())
}

/// Enrols this device by a token, with a new key of its own. `anew`: although it is enrolled already.
pub async fn enrol(config: &Enrolment, token: &str, algorithm: Algorithm, anew: bool) -> Result<Identity, Error> {
    let trust = config.ca.clone().map_or(Trust::Platform, Trust::Ca);
    let auth = Auth::new(&config.auth_url, &trust)?;
    let known = Identity::read(&config.place)?;
    if let (Some(known), false) = (&known, anew) {
        let place = config.place.display();
        return Err(Error::Config(format!(
            "this is the device '{}' already ({place}): --anew gives it another key",
            known.certificate.device_id
        )));
    }
    // The agent may run in another folder.
    let ca = config.ca.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    let home = Home { auth_url: config.auth_url.clone(), server_url: config.server_url.clone(), ca };
    let enrolment = login::Enrolment { token, named: config.device_id.as_ref(), algorithm, home };
    let identity = match known {
        None => Identity::enrol(&auth, &config.place, enrolment).await?,
        Some(_) => Identity::enrol_anew(&auth, &config.place, enrolment).await?,
    };
    tracing::info!(device_id = %identity.certificate.device_id, producer = %identity.certificate.producer_id, "enrolled");
    Ok(identity)
}

/// Every sensor came to its end, as standard input does, and what they read is settled.
async fn all_settled(sensors: &mut JoinSet<()>, producer: &Producer) {
    while sensors.join_next().await.is_some() {}
    // A producer that stopped for good is the business of another arm.
    if producer.flush(Duration::MAX).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Config {
    fn producer(&self) -> producer::Config {
        let mut client = client::Config::new(self.server.clone(), self.trust.clone(), self.device_id.clone());
        client.server_name = self.server_name.clone();
        client.fallback = self.fallback.clone();
        client.quic.gso = self.gso;
        client.quic.keep_alive = self.keep_alive;
        client.link = self.link;
        let mut producer = producer::Config::new(client);
        producer.outbox = self.outbox.clone();
        producer.policy.backoff = self.backoff;
        // Nobody may be near to start it anew.
        producer.policy.refused = Some(self.refused);
        producer
    }
}
