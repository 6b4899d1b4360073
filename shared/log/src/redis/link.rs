//! The connection that carries commands: made anew after it breaks, with the functions loaded and the epoch read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use motience_mutation::Mutation;
use motience_proto::model::LogEpoch;
use motience_runtime::histogram;
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value, aio::MultiplexedConnection};
use tokio::{sync::Notify, time::Instant};
use tracing::warn;

use super::{
    ANSWER_LIMIT, CONNECT_LIMIT, functions,
    home::Home,
    layout,
    names::Names,
    place::{self, Place},
    rewrite_aof::rewrite_aof,
    sentinel::At,
    server::Server,
};
use crate::Error;

/// Shortest time between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// One connection at a time, shared by all callers.
pub(super) struct Link {
    place: Place,
    names: Names,
    home: Home,
    /// How the metrics call it.
    purpose: &'static str,
    current: Mutex<Option<Session>>,
    /// Held while connecting, so that one caller does it for all; remembers the last failure.
    connecting: tokio::sync::Mutex<Option<Instant>>,
    /// Whether Redis had no memory for the last thing that needed some.
    full: AtomicBool,
    /// Told each time that it has none.
    refused: Arc<Notify>,
}

/// A connection and the epoch of the Redis server it leads to.
#[derive(Clone)]
pub(super) struct Session {
    connection: MultiplexedConnection,
    /// Where it leads to, if the server may be elsewhere later.
    at: Option<At>,
    pub(super) log_epoch: LogEpoch,
    /// Tells sessions apart when one has to be given up.
    number: u64,
}

/// Why a call was not done.
pub(super) enum Miss {
    /// The slot is at another server.
    Moved(u16, At),
    /// The slot is on its way to another server, which has the keys of the call or will have them.
    Ask(At),
    /// Some keys of the call are on their way.
    Later,
    /// Another reason; whether the call was done may be unknown.
    Failed(Error),
}

impl From<Error> for Miss {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl Link {
    pub(super) fn new(place: Place, names: &Names, home: Home, purpose: &'static str, refused: Arc<Notify>) -> Self {
        let (current, connecting, full) = (Mutex::default(), tokio::sync::Mutex::default(), AtomicBool::new(false));
        Self { place, names: names.clone(), home, purpose, current, connecting, full, refused }
    }

    /// The connection, made if there is none. A node that runs waits for a Redis that it can use, whatever is wrong with this one.
    pub(super) async fn session(&self) -> Result<Session, Error> {
        self.open().await.map_err(|e| if let Error::Newer(why) = e { Error::Unavailable(why) } else { e })
    }

    /// The connection, made if there is none.
    pub(super) async fn open(&self) -> Result<Session, Error> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let mut last_failure = self.connecting.lock().await;
        if let Some(session) = self.current() {
            return Ok(session);
        }
        if let Some(failed) = *last_failure {
            tokio::time::sleep_until(failed + RETRY_AFTER).await;
        }
        match Box::pin(self.connect()).await {
            Ok(session) => {
                *last_failure = None;
                *self.current.lock() = Some(session.clone());
                Ok(session)
            }
            Err(e) => {
                *last_failure = Some(Instant::now());
                Err(e)
            }
        }
    }

    /// Runs a query whose answer is of a known type. An answer that does not come gives the connection up for everyone.
    pub(super) async fn ask<T: FromRedisValue>(&self, call: &Cmd) -> Result<T, Error> {
        let session = self.session().await?;
        let value = self.send(&session, call, false).await.map_err(|miss| match miss {
            Miss::Failed(e) => e,
            Miss::Moved(..) | Miss::Ask(_) | Miss::Later => self.place.away("the slot of a key is at another server"),
        })?;
        T::from_redis_value(value).map_err(|e| self.place.judge(&e.into()))
    }

    /// Asks on this very connection; `asking`: for a slot that is on its way to this server.
    pub(super) async fn send(&self, session: &Session, call: &Cmd, asking: bool) -> Result<Value, Miss> {
        let (mut connection, begun) = (session.connection.clone(), std::time::Instant::now());
        let answer = if asking {
            let mut both = redis::pipe();
            both.cmd("ASKING").add_command(call.clone());
            connection.send_packed_commands(&both, 1, 1).await.map(|mut values| values.pop().unwrap_or(Value::Nil))
        } else {
            connection.send_packed_command(call).await
        };
        histogram!("motience_redis_seconds", "wait" => "answer").since(begun);
        let error: RedisError = match answer {
            Ok(Value::ServerError(e)) => e.into(),
            Ok(value) => return Ok(value),
            Err(e) => e,
        };
        let at = |at: &str| {
            let (host, port) = at.rsplit_once(':')?;
            let host = if host.is_empty() { self.place.host() } else { host.to_owned() };
            Some((host, port.parse().ok()?))
        };
        Err(match (error.kind(), error.redirect_node().and_then(|(place, slot)| Some((at(place)?, slot)))) {
            (ErrorKind::Server(ServerErrorKind::Moved), Some((at, slot))) => Miss::Moved(slot, at),
            (ErrorKind::Server(ServerErrorKind::Ask), Some((at, _))) => Miss::Ask(at),
            (ErrorKind::Server(ServerErrorKind::TryAgain), _) => Miss::Later,
            _ => Miss::Failed(self.failed(session, &error)),
        })
    }

    /// Properties that the server reports.
    pub(super) async fn server(&self) -> Result<Server, Error> {
        let info: String = self.ask(&redis::cmd("INFO")).await?;
        Ok(Server::read(&info))
    }

    /// Whether Redis had no memory for the last thing that needed some.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Something that needs memory was done.
    pub(super) fn has_room(&self) {
        self.full.store(false, Ordering::Relaxed);
    }

    fn current(&self) -> Option<Session> {
        self.current.lock().clone().filter(|session| self.place.is_there(session.at.as_ref()))
    }

    fn failed(&self, session: &Session, error: &RedisError) -> Error {
        self.note(error);
        let wrong_server = matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading)
        );
        // A flushed server has lost the functions; the next session loads them again.
        let no_function = error.to_string().contains("Function not found");
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || wrong_server || no_function {
            self.leave(session);
            return self.place.unavailable(error);
        }
        self.place.judge(error)
    }

    /// Gives up a connection that was made when the server was in another epoch: one that was a replica for a moment ends none.
    pub(super) fn keep_to(&self, log_epoch: LogEpoch) {
        if !Mutation::EpochBesideData.is_on() {
            self.current.lock().take_if(|current| current.log_epoch != log_epoch);
        }
    }

    /// Gives the connection up for everyone.
    pub(super) fn leave(&self, session: &Session) {
        self.current.lock().take_if(|current| current.number == session.number);
    }

    fn note(&self, error: &RedisError) {
        if place::is_full(error) {
            self.full.store(true, Ordering::Relaxed);
            metrics::counter!("motience_redis_refusals_total", "reason" => "full").increment(1);
            self.refused.notify_one();
        }
    }

    async fn connect(&self) -> Result<Session, Error> {
        let Connected { mut connection, at, server } = self.place.connect(self.home.key(&self.names, "epoch")).await?;
        if self.home.has_layout() {
            let noted = layout::check(&mut connection, &self.names.shared("layout")).await.map_err(|e| self.place.unavailable(&e))?;
            if let Some(found) = noted {
                return Err(self.place.newer(found));
            }
        }
        match functions::load(&mut connection).await {
            // The script that makes room is no function.
            Err(e) if layout::is_passing(&e) => {
                self.note(&e);
                warn!(error = %self.place.unavailable(&e), "the functions of this version cannot be loaded yet");
            }
            result => result.map_err(|e| self.place.unavailable(&e))?,
        }
        if server.persists()
            && let Some(mark) = self.home.key(&self.names, "mended")
        {
            rewrite_aof(&mut connection, &mark, &server.log_epoch.to_string()).await;
        }
        metrics::counter!("motience_redis_connections_total", "use" => self.purpose).increment(1);
        Ok(Session { connection, at, log_epoch: server.log_epoch, number: fastrand::u64(..) })
    }
}

/// A connection to a server that can be worked with.
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    /// See [`Place::open`].
    at: Option<At>,
    /// Properties that the server reports.
    pub(super) server: Server,
}

impl Place {
    /// A connection to a server that can be worked with. `epoch`: for [`beside_data`].
    pub(super) async fn connect(&self, epoch: Option<String>) -> Result<Connected, Error> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_LIMIT)).set_response_timeout(Some(ANSWER_LIMIT));
        let opened = async {
            let (mut connection, at) = self.open(&config).await?;
            let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
            let mut server = Server::read(&info);
            if let Some(log_epoch) = beside_data(&mut connection, epoch).await? {
                server.log_epoch = log_epoch;
            }
            Ok(Connected { connection, at, server })
        };
        let connected = opened.await.map_err(|e: RedisError| self.unavailable(&e))?;
        match connected.server.refusal(self.strict) {
            Some(words) => Err(self.away(words)),
            None => Ok(connected),
        }
    }
}

/// For [`Mutation::EpochBesideData`]: an epoch that is lost or kept with the data, so that a lost tail does not show.
async fn beside_data(connection: &mut MultiplexedConnection, key: Option<String>) -> Result<Option<LogEpoch>, RedisError> {
    let Some(key) = key.filter(|_| Mutation::EpochBesideData.is_on()) else { return Ok(None) };
    redis::cmd("SETNX").arg(&key).arg(fastrand::u64(1..1 << 52)).exec_async(connection).await?;
    redis::cmd("GET").arg(&key).query_async(connection).await.map(|log_epoch| Some(LogEpoch(log_epoch)))
}
