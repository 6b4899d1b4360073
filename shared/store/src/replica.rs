//! A read replica of PostgreSQL: parts of the history are read from it, everything else from the database itself, the primary.
//!
//! A replica shows the past, of one moment that only moves forward. Reading the history from it is as good as earlier reading from the primary, with the
//! log for what has come since; whoever reads makes sure that the log reaches back so far. The replica is looked at every two seconds, and not read
//! while it is away, too far behind, or something else than a replica of this database; nor for a producer that has had records erased, until it
//! surely has erased them too.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use motience_proto::model::ProducerId;
use motience_settings::env::Reader;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::{
    Config, Engine, Error, Pools, Settings, Store,
    config::{address, check_address},
    engine::postgres::{self, Connections},
};

/// How often the replica is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// Longest wait for the answer to a look.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Longer than the time between the end of an erasure and the next looks of all nodes, and than their clocks differ.
const SETTLED: Duration = Duration::from_secs(60);
/// Looks of which the place of the primary is remembered, until the replica has come there.
const SAMPLES: usize = 64;

/// Which replica, and how far it may be behind.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    url: SecretString,
    max_connections: u32,
    most_lag: Duration,
}

impl ReplicaConfig {
    /// Reads the settings; `None`: there is no replica.
    pub fn read(reader: &mut Reader<'_>, primary: &Config) -> Option<Self> {
        let Settings { read_url, read_lag, max_connections, .. } = reader.group();
        let url = read_url?.expose_secret().trim().to_owned();
        if !matches!(primary, Config::Postgres { .. }) {
            reader.wrong("DATABASE_READ_URL", "is the address of a replica of PostgreSQL: set DATABASE_URL or DB_HOST too");
        }
        check_address(reader, "DATABASE_READ_URL", &url);
        Some(Self { url: url.into(), max_connections, most_lag: read_lag })
    }

    /// Whether it can be reached, and is a replica of this database.
    pub async fn probe(&self, primary: &Config) -> Result<(), Error> {
        let state = postgres::replica_state(&self.url).await?;
        if !state.is_replica {
            return Err(Error::NoReplica);
        }
        let Config::Postgres { url, .. } = primary else { return Ok(()) };
        // That the primary is away is told by its own probe.
        match postgres::installation(url).await {
            Ok(own) if own != state.installation => Err(Error::OtherDatabase),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ReplicaConfig {
    /// Where it is, for people: without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        address(&self.url, f)
    }
}

/// The replica of a store.
#[derive(Debug)]
pub(crate) struct Replica {
    config: ReplicaConfig,
    /// Its connections, once it was reached.
    opened: OnceLock<Opened>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Opened {
    /// A store whose every call goes to the replica.
    store: Store,
    /// The primary's id.
    installation: String,
}

#[derive(Debug)]
struct State {
    /// Why it is not read; `None`: it is.
    fault: Option<&'static str>,
    since: Instant,
    /// Places of the primary's log to which the replica has not come yet, and when the primary was there.
    samples: VecDeque<(i64, Instant)>,
    /// When the primary was last known to be where the replica is now.
    shows: Instant,
    /// Producers of which the replica may still have records that were erased.
    erasing: HashSet<ProducerId>,
}

impl Store {
    /// This store with a replica, which is found in the background by [`watch_replica`](Self::watch_replica).
    pub fn with_replica(self, config: ReplicaConfig) -> Self {
        let now = Instant::now();
        let state = State { fault: Some(AWAY), since: now, samples: VecDeque::new(), shows: now, erasing: HashSet::new() };
        Self(self.0, self.1, Some(Arc::new(Replica { config, opened: OnceLock::new(), state: Mutex::new(state) })))
    }

    /// The replica, if it may be read now: a store whose every call goes to it, and which takes no writes.
    pub fn replica(&self) -> Option<&Store> {
        let replica = self.2.as_ref()?;
        let store = &replica.opened.get()?.store;
        replica.state.lock().fault.is_none().then_some(store)
    }

    /// The replica, if the history of this producer may be read from it now.
    pub fn replica_of(&self, producer: ProducerId) -> Option<&Store> {
        let found = self.replica()?;
        let is_erasing = self.2.as_ref()?.state.lock().erasing.contains(&producer);
        (!is_erasing).then_some(found)
    }

    /// The replica is not read until it has answered the next look.
    pub fn replica_failed(&self, error: &dyn fmt::Display) {
        if let Some(replica) = &self.2 {
            replica.note(Some(AWAY), Some(error));
        }
    }

    /// Why the replica is not read, and for how long it has been as it is; `None`: there is no replica.
    pub fn replica_fault(&self) -> Option<(Option<&'static str>, Duration)> {
        let state = self.2.as_ref()?.state.lock();
        Some((state.fault, state.since.elapsed()))
    }

    /// Looks at the replica again and again; without one, for ever.
    pub async fn watch_replica(self) {
        let Some(replica) = &self.2 else { return std::future::pending().await };
        loop {
            match timeout(LOOK_LIMIT, replica.look(&self)).await.unwrap_or(Err(Error::TimedOut)) {
                Ok(lag) => {
                    metrics::gauge!("motience_database_replica_lag_seconds").set(lag.as_secs_f64());
                    replica.note((lag > replica.config.most_lag).then_some(BEHIND), None);
                }
                Err(e @ Error::NoReplica) => replica.note(Some(NO_REPLICA), Some(&e)),
                Err(e @ Error::OtherDatabase) => replica.note(Some(OTHER_DATABASE), Some(&e)),
                Err(e) => replica.note(Some(AWAY), Some(&e)),
            }
            sleep(EVERY).await;
        }
    }
}

const AWAY: &str = "read replica";
const BEHIND: &str = "read replica behind";
const NO_REPLICA: &str = "read replica takes writes";
const OTHER_DATABASE: &str = "read replica of another database";

impl Replica {
    /// How far it is behind.
    async fn look(&self, primary: &Store) -> Result<Duration, Error> {
        let opened = match self.opened.get() {
            Some(opened) => opened,
            None => {
                let connections = Connections::open_replica(&self.config.url, self.config.max_connections).await?;
                let store = Store(Arc::new(Engine::Postgres(Pools::one(connections))), Arc::default(), None);
                let opened = Opened { store, installation: primary.installation().await? };
                self.opened.get_or_init(|| opened)
            }
        };
        // Before the replica is asked, which can then be at this place already.
        let place = primary.place().await?;
        let erasing = primary.erasing(self.config.most_lag + SETTLED).await?;
        let state = postgres::replica_state_of(opened.store.connections()?).await?;
        if !state.is_replica {
            return Err(Error::NoReplica);
        }
        if state.installation.as_ref() != Some(&opened.installation) {
            return Err(Error::OtherDatabase);
        }
        let mut known = self.state.lock();
        known.erasing = erasing;
        Ok(known.lag(place, state.place))
    }

    fn note(&self, fault: Option<&'static str>, error: Option<&dyn fmt::Display>) {
        metrics::gauge!("motience_database_replica_up").set(if fault.is_none() { 1.0 } else { 0.0 });
        let mut state = self.state.lock();
        if state.fault == fault {
            return;
        }
        (state.fault, state.since) = (fault, Instant::now());
        let (place, error) = (&self.config, error.map(ToString::to_string));
        match fault {
            None => info!(%place, "the history is read from the read replica"),
            Some(fault) => warn!(%place, fault, error, "the history is read from the database itself (DATABASE_READ_URL)"),
        }
    }
}

impl State {
    /// How far a replica at `replayed` is behind the primary, which is at `place` now.
    fn lag(&mut self, place: i64, replayed: i64) -> Duration {
        let now = Instant::now();
        if self.samples.len() < SAMPLES {
            self.samples.push_back((place, now));
        }
        while self.samples.front().is_some_and(|(place, _)| *place <= replayed) {
            self.shows = self.samples.pop_front().map_or(now, |(_, at)| at);
        }
        now - self.shows
    }
}

impl Store {
    fn connections(&self) -> Result<&Connections, Error> {
        match &*self.0 {
            Engine::Postgres(pools) => Ok(&pools.writer),
            Engine::Sqlite(_) => Err(Error::NoReplica),
        }
    }

    /// The place up to which the primary has written its log.
    async fn place(&self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar(PLACE).fetch_one(self.connections()?).await?)
    }

    /// Producers that have records erased, or had until less than `ago` ago.
    async fn erasing(&self, ago: Duration) -> Result<HashSet<ProducerId>, Error> {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        let found: Vec<i64> = sqlx::query_scalar(ERASING).bind(ago).fetch_all(self.connections()?).await?;
        Ok(found.into_iter().map(ProducerId).collect())
    }

    pub(crate) async fn close_replica(&self) {
        if let Some(connections) =
            self.2.as_ref().and_then(|replica| replica.opened.get()).and_then(|opened| opened.store.connections().ok())
        {
            connections.close().await;
        }
    }
}

const ERASING: &str = "SELECT DISTINCT producer_id FROM record_erasures \
     WHERE done_at IS NULL OR done_at > CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT) - $1";
const PLACE: &str = "SELECT CAST(pg_current_wal_flush_lsn() - '0/0'::pg_lsn AS BIGINT)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_behind_since_the_primary_was_where_it_is_now() {
        let begun = Instant::now() - Duration::from_secs(100);
        let mut state = State { fault: None, since: begun, samples: VecDeque::new(), shows: begun, erasing: HashSet::new() };
        assert!(state.lag(10, 10) < Duration::from_secs(50), "it is where the primary is");
        state.shows = begun;
        assert!(state.lag(20, 10) >= Duration::from_secs(100));
        for place in 21..1000 {
            assert!(state.lag(place, 10) >= Duration::from_secs(100));
        }
        assert!(state.samples.len() <= SAMPLES);
        assert!(state.lag(1000, 1000) < Duration::from_secs(50));
    }
}
