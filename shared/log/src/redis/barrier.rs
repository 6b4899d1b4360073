//! Waiting for replicas: one task asks for all who wait, one question at a time.
//!
//! WAIT speaks of the writes of its own connection, and blocks it. So it has a connection of its own, on which a small
//! write goes before it: replication is one stream, so whoever has that write has all that was appended earlier. Live
//! delivery, on other connections, waits for nothing.
//!
//! Each server of a cluster has a barrier of its own.
//!
//! The answer counts only for the epoch of the server that took the append: one that was restarted may have lost it, and
//! would say yes to whatever comes first.

use std::time::Duration;

use motience_proto::model::LogEpoch;
use motience_runtime::histogram;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{home::Home, names::Names, place::Place};
use crate::Error;

/// Who may wait for an answer at once; beyond it, one waits to wait.
const QUEUE: usize = 4096;
/// Longest wait for the replicas.
const REPLICA_LIMIT: Duration = Duration::from_secs(2);

struct Waiter {
    /// Epoch of the server that took the append.
    log_epoch: LogEpoch,
    answer: oneshot::Sender<Result<Passed, Error>>,
}

/// The outcome of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// Enough replicas have what was written.
    Yes,
    /// The server is in another epoch than the one that took the append, or was asked on a connection of another.
    OtherEpoch,
}

/// Handle of the task that waits for replicas.
pub(super) struct Barrier {
    waiters: mpsc::Sender<Waiter>,
    task: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

impl Barrier {
    pub(super) fn start(place: &Place, names: &Names, home: Home, replicas: u32) -> Self {
        let (waiters, waiting) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let task = Task { place: place.clone(), names: names.clone(), home, replicas, waiting, connection: None };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(task.run()).await;
        });
        Self { waiters, task: Mutex::new(Some(task)), stop }
    }

    /// Returns once everything written before the call, to the server of this epoch, is on enough replicas.
    pub(super) async fn pass(&self, log_epoch: LogEpoch) -> Result<Passed, Error> {
        let gone = || Error::Unavailable("the log is closed".to_owned());
        let (answer, answered) = oneshot::channel();
        self.waiters.send(Waiter { log_epoch, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Task {
    place: Place,
    names: Names,
    home: Home,
    replicas: u32,
    waiting: mpsc::Receiver<Waiter>,
    connection: Option<(MultiplexedConnection, LogEpoch)>,
}

impl Task {
    async fn run(mut self) {
        let mut waiters = Vec::new();
        while self.waiting.recv_many(&mut waiters, QUEUE).await > 0 {
            let outcome = self.ask().await;
            if let Err(e) = &outcome {
                warn!(error = %e, "appended, but not on enough replicas");
            }
            for waiter in waiters.drain(..) {
                let outcome = outcome.clone().map(|log_epoch| {
                    if log_epoch == waiter.log_epoch {
                        return Passed::Yes;
                    }
                    // One of them asks a server that is the master no more.
                    self.connection = None;
                    Passed::OtherEpoch
                });
                // Nobody may wait any more.
                let _ = waiter.answer.send(outcome);
            }
        }
    }

    async fn ask(&mut self) -> Result<LogEpoch, Error> {
        let (mut connection, log_epoch) = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let made = self.place.connect(self.home.key(&self.names, "epoch")).await?;
                metrics::counter!("motience_redis_connections_total", "use" => "replicas").increment(1);
                (made.connection, made.server.log_epoch)
            }
        };
        let limit = super::millis(REPLICA_LIMIT);
        let mut pipeline = redis::pipe();
        let Some(key) = self.home.key(&self.names, "barrier") else {
            return Err(self.place.away("the server holds no slots of its cluster yet"));
        };
        pipeline.cmd("INCR").arg(key).ignore().cmd("WAIT").arg(self.replicas).arg(limit);
        let begun = std::time::Instant::now();
        let (there,): (u32,) = pipeline.query_async(&mut connection).await.map_err(|e| self.place.unavailable(&e))?;
        histogram!("motience_redis_seconds", "wait" => "replicas").since(begun);
        self.connection = Some((connection, log_epoch));
        if there < self.replicas {
            return Err(Error::Unavailable(format!("{there} of {} replicas have it", self.replicas)));
        }
        Ok(log_epoch)
    }
}
