//! The connection that carries commands: made anew after it breaks, with the functions loaded and the epoch read.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value, aio::MultiplexedConnection};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::{ANSWER_LIMIT, CONNECT_LIMIT, functions, mend::mend, names::Names};
use crate::{log::Error, model::LogEpoch, mutation::Mutation};

/// Shortest time between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// One connection at a time, shared by all callers.
pub(super) struct Link {
    client: Client,
    names: Names,
    current: Mutex<Option<Session>>,
    /// Held while connecting, so that one caller does it for all; remembers the last failure.
    connecting: tokio::sync::Mutex<Option<Instant>>,
}

/// A connection and the life of the Redis server it leads to.
#[derive(Clone)]
pub(super) struct Session {
    connection: MultiplexedConnection,
    pub(super) epoch: LogEpoch,
    /// Tells sessions apart when one has to be given up.
    number: u64,
}

impl Link {
    pub(super) fn new(url: &SecretString, names: &Names) -> Result<Self, Error> {
        Ok(Self { client: client(url)?, names: names.clone(), current: Mutex::default(), connecting: tokio::sync::Mutex::default() })
    }

    /// The connection, made if there is none.
    pub(super) async fn session(&self) -> Result<Session, Error> {
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
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
                Ok(session)
            }
            Err(e) => {
                *last_failure = Some(Instant::now());
                Err(unavailable(&e))
            }
        }
    }

    /// Asks once. An answer that does not come gives the connection up for everyone.
    pub(super) async fn query(&self, call: &Cmd) -> Result<(LogEpoch, Value), Error> {
        let session = self.session().await?;
        let value = self.query_on(&session, call).await?;
        Ok((session.epoch, value))
    }

    /// Asks on this very connection.
    pub(super) async fn query_on(&self, session: &Session, call: &Cmd) -> Result<Value, Error> {
        let mut connection = session.connection.clone();
        match connection.send_packed_command(call).await {
            Ok(Value::ServerError(e)) => Err(self.failed(session, &e.into())),
            Ok(value) => Ok(value),
            Err(e) => Err(self.failed(session, &e)),
        }
    }

    fn current(&self) -> Option<Session> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed(&self, session: &Session, error: &RedisError) -> Error {
        let wrong_server = matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading)
        );
        // A flushed server has lost the functions; the next session loads them again.
        let no_function = error.to_string().contains("Function not found");
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || wrong_server || no_function {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.take_if(|c| c.number == session.number);
            return unavailable(error);
        }
        Error::Damaged(error.to_string())
    }

    async fn connect(&self) -> Result<Session, RedisError> {
        let (mut connection, epoch) = connect(&self.client, &self.names).await?;
        functions::load(&mut connection).await?;
        mend(&mut connection, &self.names.shared("mended"), &epoch.to_string()).await;
        Ok(Session { connection, epoch, number: fastrand::u64(..) })
    }
}

/// A connection, and the life of the server that it leads to.
pub(super) async fn connect(client: &Client, names: &Names) -> Result<(MultiplexedConnection, LogEpoch), RedisError> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_LIMIT)).set_response_timeout(Some(ANSWER_LIMIT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let info: String = redis::cmd("INFO").arg("server").arg("replication").query_async(&mut connection).await?;
    let epoch = match beside_data(&mut connection, names).await? {
        Some(epoch) => epoch,
        None => epoch_of(&info),
    };
    Ok((connection, epoch))
}

/// The client for `url`, speaking RESP3.
pub(super) fn client(url: &SecretString) -> Result<Client, Error> {
    let url = url.expose_secret();
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = if url.contains("protocol=") { url.to_owned() } else { format!("{url}{separator}protocol=resp3") };
    // The error would quote the URL, which may hold a password.
    Client::open(url).map_err(|_| Error::Unavailable("REDIS_URL is no Redis URL".to_owned()))
}

pub(super) fn unavailable(error: &RedisError) -> Error {
    Error::Unavailable(error.to_string())
}

/// Which server this is and since when it is the master, from its `run_id` (another after each restart) and its
/// `master_replid` (another after each promotion): so that a log which lost its tail is never taken for the one it was.
/// Below 2^52, since the functions add to it.
fn epoch_of(info: &str) -> LogEpoch {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let text = format!("{} {}", value("run_id:"), value("master_replid:"));
    // FNV-1a, 64 bits.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    LogEpoch((hash >> 12).max(1))
}

/// For [`Mutation::EpochBesideData`]: an epoch that is lost or kept with the data, so that a lost tail does not show.
async fn beside_data(connection: &mut MultiplexedConnection, names: &Names) -> Result<Option<LogEpoch>, RedisError> {
    if !Mutation::EpochBesideData.is_on() {
        return Ok(None);
    }
    let key = names.shared("epoch");
    redis::cmd("SETNX").arg(&key).arg(fastrand::u64(1..1 << 52)).exec_async(connection).await?;
    redis::cmd("GET").arg(&key).query_async(connection).await.map(|epoch| Some(LogEpoch(epoch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_changes_with_the_server_and_with_its_promotion() {
        let epoch = |run_id, replid| epoch_of(&format!("# Server\r\nrun_id:{run_id}\r\n# Replication\r\nmaster_replid:{replid}\r\n"));
        assert_eq!(epoch("a", "b"), epoch("a", "b"));
        assert_ne!(epoch("a", "b"), epoch("a", "c"));
        assert_ne!(epoch("a", "b"), epoch("c", "b"));
        assert!(epoch("a", "b").0 < 1 << 52);
    }

    #[test]
    fn a_bad_url_is_not_quoted() {
        let Err(e) = client(&SecretString::from("rediss://u:secret@[")) else { panic!("no URL") };
        assert!(!e.to_string().contains("secret"));
    }
}
