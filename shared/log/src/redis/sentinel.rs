//! Sentinel: the servers that watch a Redis and its replicas, promote a replica when it is needed, and tell where the master is.
//!
//! They are asked before each connection, and once a second: a master that was cut off from them may still be reached by this node, and
//! what is written there is lost. Of several answers the one of the newest promotion (`config-epoch`) is believed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info};

/// How often they are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for one of them.
const SENTINEL_LIMIT: Duration = Duration::from_secs(1);

/// Host and port of a server.
pub(super) type At = (String, u16);

/// The Sentinels of one master.
#[derive(Debug)]
pub(super) struct Sentinels {
    sentinels: Vec<Arc<Sentinel>>,
    /// How they call the master.
    name: Arc<str>,
    /// Where it is, as far as is known.
    present: watch::Sender<Option<At>>,
}

/// One of them, and the connection to it.
#[derive(Debug)]
struct Sentinel {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Sentinels {
    pub(super) fn new(clients: Vec<Client>, name: String) -> Self {
        let sentinels = clients.into_iter().map(|client| Arc::new(Sentinel { client, connection: Mutex::default() })).collect();
        Self { sentinels, name: name.into(), present: watch::Sender::new(None) }
    }

    /// Where the master was when they were last asked.
    pub(super) fn present(&self) -> Option<At> {
        self.present.borrow().clone()
    }

    /// Returns when the master is no longer there.
    pub(super) async fn left(&self, at: Option<&At>) {
        // Cannot fail: `self` holds the sender.
        let _ = self.present.subscribe().wait_for(|present| present.as_ref() != at).await;
    }

    /// Asks them from time to time, as long as it runs; `server` is how messages name the master.
    pub(super) async fn look(&self, server: &str) {
        loop {
            sleep(ASK_EVERY).await;
            match self.master().await {
                Ok(_) => {}
                Err(error) => debug!(%error, server, "the Sentinels do not say where the master is; asking again"),
            }
        }
    }

    /// Asks all of them where the master is, and waits for most.
    pub(super) async fn master(&self) -> Result<At, RedisError> {
        let mut asked = JoinSet::new();
        for sentinel in &self.sentinels {
            let (sentinel, name) = (Arc::clone(sentinel), Arc::clone(&self.name));
            asked.spawn(async move { timeout(SENTINEL_LIMIT, sentinel.master(&name)).await });
        }
        let (mut answers, mut newest, mut failure) = (0, None::<(u64, At)>, None);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(Ok(told))) => {
                    answers += 1;
                    newest = newest.max(Some(told));
                }
                Ok(Ok(Err(e))) => failure = Some(e),
                Ok(Err(_)) | Err(_) => {}
            }
            if answers * 2 > self.sentinels.len() {
                break;
            }
        }
        let none = || RedisError::from((ErrorKind::Io, "no Sentinel answers in time"));
        let (_, at) = newest.ok_or_else(|| failure.unwrap_or_else(none))?;
        let changed = self.present.send_if_modified(|present| {
            let changed = present.as_ref() != Some(&at);
            *present = Some(at.clone());
            changed
        });
        if changed {
            info!(master = &self.name[..], host = at.0, port = at.1, "the Sentinels name the master");
        }
        Ok(at)
    }
}

impl Sentinel {
    /// Where it takes the master to be, behind the number of the promotion that made it the master.
    async fn master(&self, name: &str) -> Result<(u64, At), RedisError> {
        let mut held = self.connection.lock().await;
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => {
                let config =
                    AsyncConnectionConfig::new().set_connection_timeout(Some(SENTINEL_LIMIT)).set_response_timeout(Some(SENTINEL_LIMIT));
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        let told: HashMap<String, String> = redis::cmd("SENTINEL").arg("MASTER").arg(name).query_async(&mut connection).await?;
        *held = Some(connection);
        let number = |field: &str| told.get(field).and_then(|text| text.parse::<u64>().ok());
        let (Some(host), Some(port)) = (told.get("ip"), number("port").and_then(|port| u16::try_from(port).ok())) else {
            return Err((ErrorKind::UnexpectedReturnType, "a Sentinel does not say where the master is").into());
        };
        Ok((number("config-epoch").unwrap_or(0), (host.clone(), port)))
    }
}
