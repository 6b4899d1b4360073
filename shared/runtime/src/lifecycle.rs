//! Starting, draining, stopping: every task of a process belongs to its [`Shutdown`].
//!
//! SIGTERM or SIGINT begins the drain (the soft token); a second one aborts the process. SIGHUP asks for a reload.

use std::{future::Future, sync::Arc, time::Duration};

use motience_settings::env::settings;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{Instrument, debug_span, error, info, warn};

/// Exit code for a bad configuration (sysexits.h, EX_CONFIG).
pub const EX_CONFIG: u8 = 78;

/// Tells a supervisor that the process serves (sd_notify, `READY=1`); nothing where there is none.
pub fn notify_ready() {
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(error = %e, "cannot tell systemd that the process is ready");
    }
}

settings! {
    /// Time of a node's drain. Its parts have shares of it, so that each ends before the part that waits for it.
    #[derive(Clone, Copy, Debug)]
    pub struct Drain {
        /// Longest time from SIGTERM until a node leaves, whatever is still open then. Connections and requests have five eighths of it, and
        /// the rest is for writing what they sent. A supervisor has to allow two seconds more than this before it kills the process.
        DRAIN_LIMIT = "8s" => limit: Duration, "1s"..="1h";
    }
}

impl Drain {
    /// Share of connections, and of requests over TCP.
    pub fn connections(self) -> Duration {
        self.limit * 5 / 8
    }

    /// Share of the requests of one HTTP/3 connection, which ends among the other connections.
    pub fn requests(self) -> Duration {
        self.limit / 2
    }

    /// Share of acknowledgements in flight, after which their connection still has to close.
    pub fn acknowledgements(self) -> Duration {
        self.limit * 3 / 8
    }
}

/// The owner of a process's tasks. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    reload: Arc<Notify>,
}

impl Shutdown {
    /// An owner without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the drain begins: take nothing new, finish what is there.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when the time for the drain is over: drop everything.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Begins the drain.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Runs a task of the process. The task should end soon after the soft token, and is dropped at the hard one.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let hard = self.hard.clone();
        let span = debug_span!("task", name);
        let task = async move {
            hard.run_until_cancelled(task).await;
        };
        self.tasks.spawn(task.instrument(span));
    }

    /// Holds the drain up for as long as it lives: for tasks that someone else spawns.
    pub fn guard(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    /// Begins the drain and waits for all tasks, at most for `limit`; then drops what is left. Whether all ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.soft.cancel();
        self.tasks.close();
        let ended = timeout(limit, self.tasks.wait()).await.is_ok();
        self.hard.cancel();
        ended
    }

    /// Returns at the next request to read files again.
    pub async fn reload(&self) {
        self.reload.notified().await;
    }

    /// Listens to the process's signals from now on.
    pub fn spawn_signals(&self) {
        let this = self.clone();
        // Not one of the tracked tasks: it has to outlive the drain, to see the second signal.
        tokio::spawn(async move {
            if let Err(e) = this.signals().await {
                error!(error = %e, "signals cannot be received");
            }
        });
    }

    async fn signals(&self) -> std::io::Result<()> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => self.stop(),
                _ = interrupt.recv() => self.stop(),
                _ = hangup.recv() => {
                    info!("reloading");
                    self.reload.notify_waiters();
                }
            }
        }
    }

    fn stop(&self) {
        if self.soft.is_cancelled() {
            warn!("a second signal: aborting");
            std::process::exit(1);
        }
        info!("stopping");
        // Where there is no supervisor, nobody misses this.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.soft.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_that_end_are_waited_for_and_others_are_dropped() {
        let good = Shutdown::new();
        let soft = good.soft().clone();
        good.spawn("good", async move { soft.cancelled().await });
        assert!(good.drain(Duration::from_secs(10)).await);

        let stubborn = Shutdown::new();
        stubborn.spawn("stubborn", std::future::pending());
        assert!(!stubborn.drain(Duration::from_millis(10)).await);
        assert!(stubborn.hard().is_cancelled());
    }
}
