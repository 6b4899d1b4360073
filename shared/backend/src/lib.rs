//! Everything a role needs, opened together: accounts, store, log and relay.
//!
//! In: settings; once open, signals of the log.
//! Out: batches to the hub, events to whoever they concern.
//! Next: `shared/relay/src/hub.rs`: `deliver`.
//!
//! Embedded: this process is the whole platform. Cluster: Redis joins any number of nodes over one PostgreSQL.

pub mod acts;
pub mod attempts;
mod backlogs;
mod command_line;
pub mod connections;
mod device_ca;
pub mod devices;
mod erasure;
mod external;
mod history_bounds;
mod kept_together;
mod keys;
mod lookups;
mod meter;
mod organisations;
mod plan_use;
pub mod pressure;
mod quotas;
mod readiness;
mod record_erasure;
pub mod retention;
mod retention_policy;
mod usage;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use motience_auth::{
    self as auth, Client, DeviceStates, ExternalEnd, Grant, Hasher, Revocations, Standing, Tokens, device_family, key_family,
};
use motience_cluster::{self as cluster, Event, Lease, Reports};
use motience_limits::{
    permits::{self, Permits},
    uploads::{self, Uploads},
};
use motience_log::{self as log, Log, Retention, Signal, Sink, embedded};
use motience_oidc::Issuers;
use motience_proto::model::{Account, LogKey, ProducerId, User, UserId};
use motience_relay::{Hub, Limits, Relay, SubscriptionCache};
use motience_runtime::{
    backoff::Backoff,
    causes,
    clock::{Clock, from_millis},
};
use motience_settings::env::{self, Env, Reader, Value, one_of, settings};
use motience_store::{self as store, Erased, Gone, Key, LogIds, NewUser, RecordErasure, Store};
use tokio::sync::Notify;
use tracing::{info, warn};

use acts::{account_object, erasure_detail};
pub use backlogs::{Backlogs, DurableBacklog, Worst};
pub use device_ca::{Authority, Error as AuthorityError};
use meter::Meter;
use pressure::Pressure;
use readiness::Readiness;
pub use readiness::{Part, Unready};

/// First pause before the backend is tried again at a node's start, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often revoked logins are read again, in case a message about one was lost.
const REVOCATIONS_EVERY: Duration = Duration::from_secs(30);
/// How far back a node looks for accounts whose tokens of other issuers were ended, for the connections that live by them: it may have been
/// without the database for so long.
const EXTERNAL_ENDS_OF: Duration = Duration::from_secs(24 * 3600);

/// How long a revocation is kept at the least: a key that is being looked up meanwhile must not be taken for good.
const KEYS_KEPT: Duration = Duration::from_secs(3600);

/// Messages about ended sessions of one account on their way at once: a fleet may have thousands.
const TOLD_AT_ONCE: usize = 32;

/// Where producers and consumers of this node meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In this process, which therefore has every role.
    Embedded,
    /// In Redis, with any number of other nodes.
    Cluster,
}

settings! {
    /// Settings of one node, as they are written.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The node's name in logs and reports. Random unless given.
        NODE_NAME => name: Option<NodeName>;
        /// Where a node without PostgreSQL or Redis keeps its files.
        DATA_DIR = "data" => data_dir: PathBuf;
        /// How long a node waits at its start for PostgreSQL and Redis. 0 means not at all.
        BACKEND_WAIT = "5m" => wait: Duration;
        /// Where an embedded node keeps its log: `file` (in DATA_DIR, written before anything is acknowledged) or `memory`.
        LOG_DURABILITY, example "file" => durability: Option<Durability>;
        /// How long records stay in the history (PERSIST); a producer may want less. For ever unless given.
        HISTORY_RETENTION, example "365d" => history_retention: Option<Duration>, > 0;
    }
}

/// A name without blanks.
#[derive(Clone, Debug)]
pub struct NodeName(String);

impl Value for NodeName {
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > 64 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("must have at most 64 characters and no blanks".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where an embedded node keeps its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In a file.
    File,
    /// In memory only.
    Memory,
}

impl Value for Durability {
    fn parse(text: &str) -> Result<Self, String> {
        one_of(text, &[("file", Self::File), ("memory", Self::Memory)])
    }
}

/// Settings of the backend.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database.
    pub store: store::Config,
    /// A replica of it, from which the history is read.
    pub replica: Option<store::ReplicaConfig>,
    /// The Redis that holds the log; `None`: the log lives in this process.
    pub redis: Option<log::redis::Config>,
    /// Replicas of Redis that must have a record before it is acknowledged.
    pub replicas: u32,
    /// Whether an embedded log is kept in memory only, and not in a file.
    pub volatile: bool,
    /// Tokens and passwords.
    pub auth: auth::Config,
    /// Other issuers, whose access tokens are taken.
    pub oidc: motience_oidc::Config,
    /// Devices that have keys of their own.
    pub devices: devices::Config,
    /// How much of the log is kept.
    pub retention: Retention,
    /// How long records stay in the history; `None`: for ever.
    pub history_retention: Option<Duration>,
    /// How much producers may choose to keep.
    pub choice: retention::Choice,
    /// Limits of the relay.
    pub limits: Limits,
    /// How many connections there may be.
    pub permits: permits::Limits,
    /// How much memory what comes in may take.
    pub uploads: uploads::Limits,
    /// The node's name in logs and reports.
    pub node: String,
    /// Where an embedded node keeps its files.
    pub data_dir: PathBuf,
    /// How long a node waits at its start for PostgreSQL and Redis; zero: not at all.
    pub wait: Duration,
}

impl Config {
    /// Reads the settings of the backend and of its parts.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        env.read(Self::read)
    }

    /// Reads the settings of the backend and of its parts, and checks how they fit together.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let Settings { name, data_dir, wait, durability, history_retention } = reader.group();
        let replicas = reader.group::<log::redis::Settings>().replicas;
        let store = store::Config::read(reader, &data_dir);
        let config = Self {
            replica: store::ReplicaConfig::read(reader, &store),
            store,
            redis: log::redis::Config::read(reader),
            replicas,
            volatile: durability == Some(Durability::Memory),
            auth: auth::Config::read(reader),
            oidc: motience_oidc::Config::read_settings(reader),
            devices: devices::Config::read(reader),
            retention: reader.group(),
            limits: reader.group(),
            permits: reader.group(),
            uploads: reader.group(),
            history_retention,
            choice: reader.group(),
            node: name.map_or_else(|| format!("node-{:08x}", fastrand::u32(..)), |name| name.0),
            data_dir,
            wait,
        };
        if config.redis.is_some() {
            config.check_cluster(reader, durability);
        } else if replicas > 0 {
            reader.wrong("REDIS_REPLICAS", "needs the log in Redis: set REDIS_URL or REDIS_HOST");
        }
        config
    }

    /// Refuses what nodes that meet in Redis cannot work with.
    fn check_cluster(&self, reader: &mut Reader<'_>, durability: Option<Durability>) {
        if !matches!(self.store, store::Config::Postgres { .. }) {
            let problem = "REDIS_URL or REDIS_HOST joins several nodes, and they need one PostgreSQL: set DATABASE_URL or DB_HOST too";
            reader.wrong("DATABASE_URL", problem);
        }
        if self.auth.generated {
            reader.wrong("JWT_SECRET", "is missing: nodes that share Redis must share the secret that signs their tokens");
        }
        if durability.is_some() {
            reader.wrong("LOG_DURABILITY", "is of embedded nodes; Redis persists as it is configured");
        }
    }

    /// The database and its setting, for people.
    pub fn store_place(&self) -> String {
        let setting = match &self.store {
            store::Config::SqliteFile { path } if *path == self.data_dir.join("motience.db") => "DATA_DIR",
            store::Config::Postgres { .. } => "DATABASE_URL, DB_HOST",
            _ => "DATABASE_URL",
        };
        format!("{} ({setting})", self.store)
    }

    /// Whether anything is kept in the data folder.
    fn keeps_files(&self) -> bool {
        self.redis.is_none() && (matches!(self.store, store::Config::SqliteFile { .. }) || !self.volatile)
    }

    /// Tries the database and Redis, and changes nothing in them. Returns a sentence for each that does not work; one whose settings are among
    /// `errors` is not tried.
    pub async fn probe(&self, errors: &[env::Error]) -> Vec<String> {
        let good = |names: &[&str]| !errors.iter().any(|error| error.is_about(names));
        let mut wrong = Vec::new();
        if good(&["DATABASE_URL", "DB_", "DATA_DIR"])
            && let Err(source) = Store::probe(&self.store).await
        {
            wrong.push(causes(&Error::Store { place: self.store_place(), source }));
        }
        if let Some(replica) = &self.replica
            && good(&["DATABASE_", "DB_"])
            && let Err(source) = replica.probe(&self.store).await
        {
            wrong.push(causes(&Error::Store { place: format!("{replica} (DATABASE_READ_URL)"), source }));
        }
        if let Some(redis) = &self.redis
            && good(&["REDIS_"])
            && let Err(e) = log::redis::probe(redis).await
        {
            wrong.push(causes(&e));
        }
        if let Err(e) = Tokens::new(&self.auth, Clock::system()) {
            wrong.push(causes(&e));
        }
        if let Err(e) = Issuers::new(&self.oidc, &Clock::system()) {
            wrong.push(causes(&e));
        }
        if let Some((certificate, key)) = &self.devices.ca
            && let Err(e) = Authority::load(certificate, key)
        {
            wrong.push(causes(&e));
        }
        if let Some(path) = &self.devices.issuers
            && let Err(e) = device_ca::read_issuers(path)
        {
            wrong.push(causes(&e));
        }
        wrong
    }

    /// Where producers and consumers will meet.
    pub fn kind(&self) -> Kind {
        if self.redis.is_some() { Kind::Cluster } else { Kind::Embedded }
    }
}

/// Why the backend could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("the database {place} cannot be opened")]
    Store {
        /// Which, and by which setting.
        place: String,
        /// Why.
        source: store::Error,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The log's file.
    #[error("the log's file cannot be opened (DATA_DIR)")]
    File(#[from] embedded::OpenError),
    /// The file with the node's own secret.
    #[error(transparent)]
    Secret(#[from] auth::SecretFileError),
    /// The keys that sign tokens.
    #[error(transparent)]
    SigningKey(#[from] auth::SigningKeyError),
    /// Other issuers.
    #[error(transparent)]
    Issuers(#[from] motience_oidc::Error),
    /// The authority that signs the devices' certificates.
    #[error("there is no authority for devices")]
    DeviceCa(#[from] device_ca::Error),
}

impl Error {
    /// Whether it may pass without anybody's doing, as when a database starts later than its nodes.
    fn may_pass(&self) -> bool {
        match self {
            Self::Store { source, .. } => source.is_unavailable(),
            Self::Log(source) => matches!(source, log::Error::Unavailable(_)),
            Self::DeviceCa(device_ca::Error::Store(source)) => source.is_unavailable(),
            Self::File(_) | Self::Secret(_) | Self::SigningKey(_) | Self::Issuers(_) | Self::DeviceCa(_) => false,
        }
    }
}

/// The opened backend of one node.
pub struct Backend {
    /// Accounts, subscriptions, history.
    pub store: Store,
    /// Issues and checks tokens.
    pub tokens: Tokens,
    /// Hashes and checks passwords.
    pub hasher: Hasher,
    /// Logins that have ended before their tokens.
    pub revocations: Revocations,
    /// Devices whose records are refused or withheld.
    pub devices: DeviceStates,
    /// Signs the certificates of devices.
    pub authority: Authority,
    /// Joins producers and consumers.
    pub relay: Relay,
    /// Durable consumers compared with their logs.
    pub backlogs: Backlogs,
    /// Nodes, live producers and devices, counted here and as other nodes report them.
    pub reports: Reports,
    /// Who may hold a connection, whatever it comes by.
    pub permits: Permits,
    /// Memory for what comes in, whatever it comes by.
    pub uploads: Uploads,
    /// The time of day.
    pub clock: Clock,
    /// Settings of accounts.
    pub auth: auth::Config,
    /// Where producers and consumers meet.
    pub kind: Kind,
    /// The node's name.
    pub node: String,
    /// How retention presses on logs.
    pub pressure: Pressure,
    readiness: tokio::sync::Mutex<Readiness>,
    certificate_life: Duration,
    device_certificates: bool,
    device_passwords: devices::Passwords,
    most_devices: u32,
    logs: LogIds,
    keys: keys::Keys,
    /// Attempts that were refused, for the audit log.
    pub attempts: attempts::Attempts,
    auditor: tokio::task::JoinHandle<()>,
    /// Told when records are to be erased.
    asked: Arc<Notify>,
    record_eraser: tokio::task::JoinHandle<()>,
    retention_policy: retention::Policy,
    trimmer: tokio::task::JoinHandle<()>,
    external: external::External,
    /// Told when an account has ended.
    ended: Arc<Notify>,
    eraser: tokio::task::JoinHandle<()>,
    refresher: tokio::task::JoinHandle<()>,
    issuer_keys: tokio::task::JoinHandle<()>,
    /// Measure the backlogs, and the rest, look at the database's replica, fill the buckets of quotas, tell how much of them is used, and write
    /// usage down.
    meters: [tokio::task::JoinHandle<()>; 7],
    /// The live connections of this node, and questions about those of others.
    directory: connections::Directory,
    answering: tokio::task::JoinHandle<()>,
    /// Follows the acts of the command line, where there is no cluster bus.
    command_line: Option<tokio::task::JoinHandle<()>>,
}

impl Backend {
    /// The lease of a duty that one node has at a time; not held yet.
    pub fn lease(&self, name: &'static str) -> Lease {
        lease(name, self.kind, &self.node, &self.store, &self.clock)
    }

    /// Opens the backend like [`Backend::open`], and tries again for as long as `config.wait` while PostgreSQL or Redis is away.
    pub async fn open_when_there(config: Config, clock: Clock) -> Result<Arc<Self>, Error> {
        let waits = config.redis.is_some() || matches!(config.store, store::Config::Postgres { .. });
        let deadline = tokio::time::Instant::now() + if waits { config.wait } else { Duration::ZERO };
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let pause = backoff.pause();
            match Self::open(config.clone(), clock.clone()).await {
                Err(e) if e.may_pass() && tokio::time::Instant::now() + pause < deadline => {
                    warn!(error = causes(&e), "waiting for it");
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Opens the database, applies its migrations, connects the log.
    pub async fn open(mut config: Config, clock: Clock) -> Result<Arc<Self>, Error> {
        let failed = |source| Error::Store { place: config.store_place(), source };
        let store = Store::open(&config.store).await.map_err(failed)?;
        let store = match config.replica.clone() {
            Some(replica) => store.with_replica(replica),
            None => store,
        };
        let keep = config.auth.refresh_ttl.max(config.auth.access_ttl).max(KEYS_KEPT);
        let revocations = Revocations::new(clock.clone(), keep);
        load_revocations(&store, &revocations, &config.auth, &clock).await.map_err(failed)?;
        let devices = DeviceStates::default();
        load_devices(&store, &devices).await.map_err(failed)?;
        let permits = Permits::new(config.permits);
        if config.kind() == Kind::Cluster {
            permits.quotas().share();
        }
        quotas::load(&store, permits.quotas()).await.map_err(failed)?;
        let hub = Arc::new(Hub::new(config.limits.ring, config.limits.read));
        let subscription_cache = Arc::new(SubscriptionCache::new());
        let reports = Reports::new(&config.node, config.limits.devices, clock.clone());
        let restored = Arc::new(Notify::new());
        let (directory, questions) = connections::Directory::new(&config.node);
        let sink = sink(&hub, &subscription_cache, &reports, (&revocations, &devices, &directory), &clock, &restored);
        let kind = config.kind();
        let log = match &config.redis {
            None if config.volatile => Log::Embedded(embedded::Log::in_memory(config.retention, clock.clone(), sink)),
            None => Log::Embedded(embedded::Log::in_file(&config.data_dir, config.retention, clock.clone(), sink)?),
            Some(redis) => {
                let (secret, keep) = (&config.auth.secret, config.retention);
                let installation = store.installation().await.map_err(failed)?;
                let log = log::redis::Log::connect(redis, &installation, secret, config.replicas, keep, clock.clone(), sink).await?;
                Log::Redis(log.watched())
            }
        };
        // The log is open, so no other process uses the folder now.
        if config.auth.generated && config.keeps_files() {
            let path = config.auth.keep_secret(&config.data_dir)?;
            info!(path = %path.display(), "JWT_SECRET is not set: tokens are signed with this node's own secret");
        } else if config.auth.generated {
            warn!("JWT_SECRET is not set: a random secret is used, and every token ends with this process");
        }
        let authority = match &config.devices.ca {
            Some((certificate, key)) => Authority::load(certificate, key)?,
            None => Authority::of_installation(&store, &config.auth, clock.now()).await?,
        };
        let authority = match &config.devices.issuers {
            Some(path) => authority.with_issuers(path)?,
            None => authority,
        };
        note_accounts(&log, &store).await;
        info!(?kind, durability = log.durability(), node = config.node, "backend is open");
        let logs = LogIds::new(store.clone());
        let command_line = (kind == Kind::Embedded && !matches!(config.store, store::Config::SqliteMemory))
            .then(|| tokio::spawn(command_line::follow(store.clone(), Arc::clone(&subscription_cache), Arc::clone(&restored))));
        let relay = Relay::new(
            log,
            (store.clone(), logs.clone()),
            hub,
            subscription_cache,
            reports.clone(),
            clock.clone(),
            (config.limits, permits.clone(), devices.clone()),
        );
        let answering = tokio::spawn(directory.clone().answer(questions, relay.log().clone()));
        let keys = keys::Keys::new(store.clone(), clock.clone());
        let attempts = attempts::Attempts::new(store.clone(), clock.clone());
        let auditor = tokio::spawn(attempts.clone().run());
        let tokens = Tokens::new(&config.auth, clock.clone())?;
        let issuers = Issuers::new(&config.oidc, &clock)?;
        let issuer_keys = tokio::spawn(issuers.clone().keep_keys());
        let ended = Arc::new(Notify::new());
        let eraser = erasure::Eraser {
            ended: Arc::clone(&ended),
            reports: reports.clone(),
            store: store.clone(),
            log: relay.log().clone(),
            revocations: revocations.clone(),
            clock: clock.clone(),
            node: config.node.clone(),
        };
        let eraser = tokio::spawn(eraser.run());
        let asked = Arc::new(Notify::new());
        let record_eraser = record_erasure::RecordEraser {
            store: store.clone(),
            log: relay.log().clone(),
            clock: clock.clone(),
            node: config.node.clone(),
            asked: Arc::clone(&asked),
        };
        let record_eraser = tokio::spawn(record_eraser.run());
        let failed = |source| Error::Store { place: config.store_place(), source };
        let policy = retention::Policy {
            choice: config.choice,
            log: config.retention,
            history: config.history_retention,
            quotas: permits.quotas().clone(),
            together: kept_together::Together::default(),
            turn: Arc::default(),
        };
        kept_together::trim(relay.log(), retention::load(&store, &policy, relay.log()).await.map_err(failed)?).await;
        let trimmer = retention::Trimmer { store: store.clone(), clock: clock.clone(), policy: policy.clone() };
        let lease = |name| lease(name, kind, &config.node, &store, &clock);
        let trimmer = tokio::spawn(trimmer.run(lease(retention::LEASE)));
        let refresher = Refresher {
            store: store.clone(),
            reports: reports.clone(),
            log: relay.log().clone(),
            logs: logs.clone(),
            keys: keys.clone(),
            tokens: tokens.clone(),
            revocations: revocations.clone(),
            devices: devices.clone(),
            policy: policy.clone(),
            auth: config.auth.clone(),
            clock: clock.clone(),
            restored,
        };
        let refresher = tokio::spawn(refresher.run());
        let backlogs = Backlogs::new(store.clone(), logs.clone(), relay.log().clone(), clock.clone());
        let pressure = Pressure::new(logs.clone(), relay.log().clone(), reports.clone());
        let hasher = Hasher::new(config.auth.hashing);
        let folder = config.keeps_files().then(|| config.data_dir.clone());
        let meter = Meter { store: store.clone(), relay: relay.clone(), hasher: hasher.clone(), reports: reports.clone(), folder };
        let filling = quotas::fill(permits.quotas().clone(), relay.log().clone(), reports.clone());
        let meters = [
            tokio::spawn(backlogs.clone().run(lease(backlogs::LEASE))),
            tokio::spawn(pressure.clone().run()),
            tokio::spawn(meter.run()),
            tokio::spawn(store.clone().watch_replica()),
            tokio::spawn(filling),
            tokio::spawn(plan_use::run(reports.clone(), permits.clone(), relay.log().clone())),
            tokio::spawn(usage::run(relay.clone(), store.clone())),
        ];
        Ok(Arc::new(Self {
            store,
            tokens,
            hasher,
            revocations,
            devices,
            authority,
            relay,
            backlogs,
            reports,
            permits,
            uploads: Uploads::new(config.uploads),
            clock,
            auth: config.auth,
            kind,
            node: config.node,
            readiness: tokio::sync::Mutex::default(),
            certificate_life: config.devices.certificate_life,
            device_certificates: config.devices.certificates,
            device_passwords: config.devices.passwords,
            most_devices: config.devices.most,
            logs,
            keys,
            attempts,
            auditor,
            asked,
            record_eraser,
            retention_policy: policy,
            pressure,
            trimmer,
            external: external::External::new(issuers),
            ended,
            eraser,
            refresher,
            issuer_keys,
            meters,
            directory,
            answering,
            command_line,
        }))
    }

    /// Who holds this access token or key, if it is good now: it must be of the very account that has its number now, which after a restore
    /// of the database may be another one than it was issued to.
    pub async fn authenticate(&self, token: &str) -> Result<Grant, auth::Error> {
        let grant = match self.keys.grant(token).await? {
            Some(grant) => grant,
            None => match self.external_grant(token).await? {
                Some(grant) => grant,
                None => self.tokens.access(token)?,
            },
        };
        if self.revocations.is_revoked(&grant) || self.is_of_revoked_device(&grant) || !self.logs.is_present(grant.user, grant.log).await {
            return Err(auth::Error::Revoked);
        }
        Ok(grant)
    }

    fn is_of_revoked_device(&self, grant: &Grant) -> bool {
        grant.own_device().is_some_and(|device| self.devices.is_revoked(grant.user.producer(), device))
    }

    /// Makes an account, with a number that no account had before, even where the database has been restored from a backup since.
    pub async fn create_account(&self, new: NewUser) -> Result<User, store::Error> {
        let log = self.relay.log();
        // Where the log is away the account's own log id keeps it apart from others.
        let given = log.highest_account().await.unwrap_or_else(|e| {
            warn!(error = %e, "the log does not say which numbers of accounts were given out");
            UserId(0)
        });
        let made = self.store.create_user_above(given, new).await?;
        if let Err(e) = log.note_account(made.user.id).await {
            warn!(error = %e, user = %made.user.id, "the log could not note that this number was given out");
        }
        end_accounts(self.logs.learn(made.user.id, made.user.log).await, &self.revocations, &self.reports);
        if made.restored {
            warn!(given = %given, "the database was restored from a backup; numbers given out since are passed over, and their tokens end");
            self.broadcast(Event::Restored).await;
        }
        Ok(made.user)
    }

    /// Other issuers, whose access tokens are taken.
    pub fn issuers(&self) -> &Issuers {
        self.external.issuers()
    }

    /// The standing of a connection with this grant, which may be renewed. Operators see it for as long as it lives.
    pub fn standing(&self, grant: Grant, client: Client) -> Standing {
        Standing::new(grant, client, self.directory.live(), self.revocations.clone(), self.clock.clone())
    }

    /// Returns when the grant expires or is revoked: a connection that lives by it ends then.
    pub fn ended(&self, grant: &Grant) -> impl Future<Output = ()> + Send + use<> {
        let left = (grant.expires_at - self.clock.now()).try_into().unwrap_or(Duration::ZERO);
        let (revocations, grant) = (self.revocations.clone(), grant.clone());
        async move {
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = revocations.revoked(&grant) => {}
            }
        }
    }

    /// Whether every part works that has to. See [`Backend::parts`].
    pub async fn ready(&self) -> Result<(), Unready> {
        readiness::verdict(&self.parts().await)
    }

    /// The parts that have to work before the node is ready. Anybody may ask: however many do at once, they are asked once, or twice for those who
    /// came after it had begun.
    pub async fn parts(&self) -> Vec<Part> {
        let came = Instant::now();
        let mut readiness = self.readiness.lock().await;
        if let Some((began, answer)) = &readiness.last
            && *began >= came
        {
            return answer.clone();
        }
        let began = Instant::now();
        metrics::counter!("motience_readiness_checks_total").increment(1);
        let answer = readiness.ask(&self.store, &self.relay).await;
        readiness.last = Some((began, answer.clone()));
        answer
    }

    /// Tells every node of a change that the store already holds. A failure is logged, not returned: the change
    /// stands, and every node finds it on its next look.
    pub async fn broadcast(&self, event: Event) {
        if let Err(e) = cluster::broadcast(self.relay.log(), &event).await {
            warn!(error = %e, "cannot notify the other nodes of a change");
        }
    }

    /// Ends a key of this account, or of whatever account, and its live connections on every node; `None` where there is none.
    pub async fn revoke_key(&self, id: &str, user: Option<UserId>) -> Result<Option<Key>, store::Error> {
        let key = self.store.revoke_key(id, user).await?;
        if let Some(key) = &key {
            self.end_family(key_family(&key.id)).await;
        }
        Ok(key)
    }

    /// Tells every node that a family has ended, which the store already knows. This one knows it even where the log is away.
    pub async fn end_family(&self, family: String) {
        self.revocations.revoke_family(&family);
        self.broadcast(Event::FamilyRevoked { family }).await;
    }

    /// Ends the sessions of an account but that of `keep`, here and on every node, and says how many there were; and its tokens of other issuers.
    /// Its keys stay.
    pub async fn end_sessions(&self, user: UserId, keep: Option<&Grant>) -> Result<usize, store::Error> {
        self.end_external(user, keep.filter(|keep| keep.is_external()).map(|keep| keep.issued_at)).await?;
        let families = self.store.revoke_user(user, keep.map(|keep| keep.family.as_str()), self.clock.now()).await?;
        let ended = families.len();
        stream::iter(families).for_each_concurrent(TOLD_AT_ONCE, |family| self.end_family(family)).await;
        Ok(ended)
    }

    /// Ends an account for ever: at once its logins, its keys and its live connections, and in the background everything that is held about it.
    /// `false`: there is none.
    pub async fn end_account(&self, user: UserId) -> Result<bool, store::Error> {
        if !self.store.begin_erasure(user, self.clock.now()).await? {
            return Ok(false);
        }
        self.close_account(user).await?;
        self.ended.notify_one();
        Ok(true)
    }

    /// Begins to erase records of a producer, and records the act; `None`: there is no such account.
    pub async fn erase_records(&self, producer: ProducerId, erased: &Erased, by: UserId) -> Result<Option<RecordErasure>, store::Error> {
        let begun = self.store.begin_record_erasure(producer, erased, Some(by), self.clock.now()).await?;
        if let Some(begun) = &begun {
            self.record("records.erase", Some(by), account_object(producer.user()), producer.user(), erasure_detail(begun)).await;
            self.asked.notify_one();
        }
        Ok(begun)
    }

    /// Closes an account, here and on every node: its logins end, and with them its live connections. `None`: there is none.
    pub async fn close_account(&self, user: UserId) -> Result<Option<Account>, store::Error> {
        let Some((account, families)) = self.store.close_account(user, self.clock.now()).await? else { return Ok(None) };
        for event in Event::account_closed(&account, &families) {
            self.broadcast(event).await;
        }
        Ok(Some(account))
    }

    /// Writes out what waits and closes log and database.
    pub async fn close(&self) {
        self.refresher.abort();
        self.meters.iter().for_each(tokio::task::JoinHandle::abort);
        self.command_line.iter().for_each(tokio::task::JoinHandle::abort);
        self.eraser.abort();
        self.auditor.abort();
        self.record_eraser.abort();
        self.trimmer.abort();
        if let Err(e) = self.attempts.record().await {
            warn!(error = causes(&e), "refused attempts are missing in the audit log");
        }
        self.issuer_keys.abort();
        self.answering.abort();
        usage::write(&self.relay, &self.store).await;
        self.relay.close().await;
        self.store.close().await;
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("kind", &self.kind).field("node", &self.node).finish_non_exhaustive()
    }
}

fn sink(
    hub: &Arc<Hub>,
    subscription_cache: &Arc<SubscriptionCache>,
    reports: &Reports,
    (revocations, devices, directory): (&Revocations, &DeviceStates, &connections::Directory),
    clock: &Clock,
    restored: &Arc<Notify>,
) -> Sink {
    let restored = Arc::clone(restored);
    let (hub, subscription_cache, reports, revocations) =
        (Arc::clone(hub), Arc::clone(subscription_cache), reports.clone(), revocations.clone());
    let (devices, directory, clock) = (devices.clone(), directory.clone(), clock.clone());
    Arc::new(move |signal| match signal {
        Signal::Batch(batch) => hub.deliver(&batch),
        Signal::Message(message) => {
            let event = match cluster::read(&message) {
                Ok(event) => event,
                // Unreadable is as good as lost.
                Err(e) => {
                    warn!(error = %e, "taking it for lost");
                    hub.mark_stale();
                    restored.notify_one();
                    return subscription_cache.mark_stale();
                }
            };
            // A clock that is ahead, or whoever sets one, must not reach into the time to come.
            let event = event.until((clock.now().unix_timestamp_nanos() / 1_000_000) as i64);
            match &event {
                Event::FamilyRevoked { family } => revocations.revoke_family(family),
                Event::UserRevoked { user, at_ms, families } => {
                    families.iter().for_each(|family| revocations.revoke_family(family));
                    revocations.revoke_user(*user, at_ms.map_or_else(|| clock.now(), from_millis));
                }
                Event::ExternalEnded { user, at_ms, kept_ms } => {
                    revocations.end_external(*user, ExternalEnd { at: from_millis(*at_ms), kept: kept_ms.map(from_millis) });
                }
                Event::DeviceChanged { producer, device, state, withheld } => devices.set(*producer, device, *state, *withheld),
                Event::Restored | Event::QuotasChanged => restored.notify_one(),
                Event::Erased { producer } => hub.forget(*producer),
                _ => {}
            }
            subscription_cache.apply(&event);
            reports.apply(&event);
            directory.apply(&event);
        }
        Signal::Interrupted => {
            hub.mark_stale();
            subscription_cache.mark_stale();
            // A device may have been revoked meanwhile.
            restored.notify_one();
        }
    })
}

/// The lease called `name`. An embedded node needs none, because no other node could hold it.
fn lease(name: &'static str, kind: Kind, node: &str, store: &Store, clock: &Clock) -> Lease {
    match kind {
        Kind::Embedded => Lease::uncontended(name, clock.clone()),
        Kind::Cluster => Lease::new(name, node, store.clone(), clock.clone()),
    }
}

async fn load_devices(store: &Store, devices: &DeviceStates) -> Result<(), store::Error> {
    loop {
        let seen = devices.changes();
        let all = store.restricted_devices().await?;
        if devices.replace(seen, all.iter().map(|one| (one.producer, one.device.as_str(), one.state, one.withheld))) {
            return Ok(());
        }
    }
}

async fn load_revocations(store: &Store, revocations: &Revocations, auth: &auth::Config, clock: &Clock) -> Result<(), store::Error> {
    // Whatever ended earlier has no access token alive, and gets none.
    let since = clock.now() - auth.access_ttl;
    for family in store.revoked_families(since).await? {
        revocations.revoke_family(&family);
    }
    for id in store.ended_credentials(since).await? {
        revocations.revoke_family(&device_family(&id));
    }
    for (user, moment) in store.closed_accounts(since).await? {
        revocations.revoke_user(user, moment);
    }
    for (user, end) in store.ended_externals(clock.now() - EXTERNAL_ENDS_OF).await? {
        revocations.end_external(user, end);
    }
    Ok(())
}

/// Tells the log the ids that were given out so far, so that it knows them even if the database is restored from a backup. A log that
/// cannot be written to now learns them at the next start or with the next account.
async fn note_accounts(log: &Log, store: &Store) {
    let noted = async {
        let newest = store.newest_user().await.map_err(|e| e.to_string())?;
        let highest = log.highest_account().await.map_err(|e| e.to_string())?;
        if highest < newest { log.note_account(newest).await.map_err(|e| e.to_string()) } else { Ok(()) }
    };
    if let Err(e) = noted.await {
        warn!(error = e, "the log could not note which numbers of accounts were given out");
    }
}

fn end_accounts(gone: impl IntoIterator<Item = Gone>, revocations: &Revocations, reports: &Reports) {
    for Gone { user, log } in gone {
        info!(%user, "an account is no more, or its number is another's: its tokens end");
        revocations.end_account(user, log);
        reports.devices.forget(LogKey { producer: user.producer(), log });
    }
}

/// Reads from the store again what this node knows of it.
struct Refresher {
    store: Store,
    reports: Reports,
    log: Log,
    logs: LogIds,
    keys: keys::Keys,
    tokens: Tokens,
    revocations: Revocations,
    devices: DeviceStates,
    policy: retention::Policy,
    auth: auth::Config,
    clock: Clock,
    /// Told when the accounts were restored from a backup.
    restored: Arc<Notify>,
}

impl Refresher {
    async fn run(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(REVOCATIONS_EVERY) => {}
                () = self.restored.notified() => {}
            }
            match self.logs.refresh().await {
                Ok(gone) => end_accounts(gone, &self.revocations, &self.reports),
                Err(e) => warn!(error = %e, "accounts cannot be looked up again; trying again"),
            }
            if let Err(e) = load_revocations(&self.store, &self.revocations, &self.auth, &self.clock).await {
                warn!(error = %e, "revoked logins cannot be read; trying again");
            }
            if let Err(e) = load_devices(&self.store, &self.devices).await {
                warn!(error = %e, "restricted devices cannot be read; trying again");
            }
            if let Err(e) = self.tokens.read_keys() {
                warn!(error = %e, "the keys that sign tokens cannot be read again; those read before go on");
            }
            retention::reload(&self.store, &self.policy, &self.log).await;
            if let Err(e) = self.keys.refresh(&self.revocations).await {
                warn!(error = %e, "keys cannot be looked up again; trying again");
            }
            let now = self.clock.now();
            let purges = [
                ("spent enrolment tokens", self.store.purge_enrolments(now).await.map(drop)),
                ("expired refresh tokens", history_bounds::in_pieces(|| self.store.purge_refresh(now)).await.map(drop)),
                ("old tokens for a new password", self.store.purge_resets(now).await.map(drop)),
                ("old invitations", self.store.purge_invitations(now).await.map(drop)),
                ("old addresses of logins", self.store.purge_addresses(now).await.map(drop)),
            ];
            for (spent, outcome) in purges {
                if let Err(e) = outcome {
                    warn!(error = %e, "{spent} cannot be removed; trying again");
                }
            }
        }
    }
}
