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
    ANSWER_LIMIT, CONNECT_LIMIT, functions, layout,
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

impl Link {
    pub(super) fn new(place: Place, names: &Names) -> Self {
        let (current, connecting, full, refused) =
            (Mutex::default(), tokio::sync::Mutex::default(), AtomicBool::new(false), Arc::default());
        Self { place, names: names.clone(), current, connecting, full, refused }
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
        match self.connect().await {
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

    /// Asks once. An answer that does not come gives the connection up for everyone.
    pub(super) async fn query(&self, call: &Cmd) -> Result<(LogEpoch, Value), Error> {
        let session = self.session().await?;
        let value = self.query_on(&session, call).await?;
        Ok((session.log_epoch, value))
    }

    /// Runs a query whose answer is of a known type.
    pub(super) async fn ask<T: FromRedisValue>(&self, call: &Cmd) -> Result<T, Error> {
        let (_, value) = self.query(call).await?;
        T::from_redis_value(value).map_err(|e| self.place.judge(&e.into()))
    }

    /// Asks on this very connection.
    pub(super) async fn query_on(&self, session: &Session, call: &Cmd) -> Result<Value, Error> {
        let (mut connection, begun) = (session.connection.clone(), std::time::Instant::now());
        let answer = connection.send_packed_command(call).await;
        histogram!("motience_redis_seconds", "wait" => "answer").since(begun);
        match answer {
            Ok(Value::ServerError(e)) => Err(self.failed(session, &e.into())),
            Ok(value) => Ok(value),
            Err(e) => Err(self.failed(session, &e)),
        }
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

    /// Told each time that Redis refuses something for want of memory.
    pub(super) fn refused(&self) -> Arc<Notify> {
        Arc::clone(&self.refused)
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
            let mut current = self.current.lock();
            current.take_if(|c| c.number == session.number);
            return self.place.unavailable(error);
        }
        self.place.judge(error)
    }

    fn note(&self, error: &RedisError) {
        if place::is_full(error) {
            self.full.store(true, Ordering::Relaxed);
            metrics::counter!("motience_redis_refusals_total", "reason" => "full").increment(1);
            self.refused.notify_one();
        }
    }

    async fn connect(&self) -> Result<Session, Error> {
        let Connected { mut connection, at, server } = self.place.connect(&self.names).await?;
        let noted = layout::check(&mut connection, &self.names.shared("layout")).await.map_err(|e| self.place.unavailable(&e))?;
        if let Some(found) = noted {
            return Err(self.place.newer(found));
        }
        match functions::load(&mut connection).await {
            // The script that makes room is no function.
            Err(e) if layout::is_passing(&e) => {
                self.note(&e);
                warn!(error = %self.place.unavailable(&e), "the functions of this version cannot be loaded yet");
            }
            result => result.map_err(|e| self.place.unavailable(&e))?,
        }
        if server.persists() {
            rewrite_aof(&mut connection, &self.names.shared("mended"), &server.log_epoch.to_string()).await;
        }
        metrics::counter!("motience_redis_connections_total", "use" => "commands").increment(1);
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
    /// A connection to a server that can be worked with.
    pub(super) async fn connect(&self, names: &Names) -> Result<Connected, Error> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_LIMIT)).set_response_timeout(Some(ANSWER_LIMIT));
        let opened = async {
            let (mut connection, at) = self.open(&config).await?;
            let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
            let mut server = Server::read(&info);
            if let Some(log_epoch) = beside_data(&mut connection, names).await? {
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
async fn beside_data(connection: &mut MultiplexedConnection, names: &Names) -> Result<Option<LogEpoch>, RedisError> {
    if !Mutation::EpochBesideData.is_on() {
        return Ok(None);
    }
    let key = names.shared("epoch");
    redis::cmd("SETNX").arg(&key).arg(fastrand::u64(1..1 << 52)).exec_async(connection).await?;
    redis::cmd("GET").arg(&key).query_async(connection).await.map(|log_epoch| Some(LogEpoch(log_epoch)))
}
