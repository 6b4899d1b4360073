//! Starting, draining, stopping: every task of a process belongs to its [`Shutdown`].
//!
//! ```text
//! SIGTERM, SIGINT -> not ready -> (LAME_DUCK) -> sessions are asked to leave (DRAIN_SPREAD) -> soft token: listeners close -> hard token
//! SIGUSR1         -> not ready -> (LAME_DUCK) -> sessions are asked to leave (DRAIN_SPREAD)
//! ```
//!
//! A second SIGTERM ends the lame-duck time, one more aborts the process. SIGHUP asks for a reload.

mod draining;

use std::{
    future::Future,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

pub use draining::{Draining, Leave};

use motience_settings::env::settings;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{Instrument, debug_span, error, info, warn};

/// Exit code for a bad configuration (sysexits.h, EX_CONFIG).
pub const EX_CONFIG: u8 = 78;

/// How long the threads of a program may take to end when its work is done: within what a supervisor allows (see [`Drain`]).
const END_LIMIT: Duration = Duration::from_secs(1);

/// Carries out the whole program `work` on a runtime of its own. Tasks and threads that are left when it is done were waited for as long as they may be,
/// and hold the process up no more.
///
/// # Errors
/// The system gives no threads.
pub fn run<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Runtime::new()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(END_LIMIT);
    Ok(outcome)
}

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
        /// the rest is for writing what they sent. A supervisor has to allow LAME_DUCK and two seconds more before it kills the process.
        DRAIN_LIMIT = "8s" => limit: Duration, "1s"..="1h";
        /// How long a node that is to leave still serves everybody, and only says in /ready that it is not ready, so that balancers notice.
        LAME_DUCK = "0s" => lame_duck: Duration, "0s"..="1h";
        /// Time over which the sessions of a node that leaves are asked to go, so that they do not all come to another node at once. A node
        /// with few sessions takes less; after SIGTERM it is at most a quarter of DRAIN_LIMIT.
        DRAIN_SPREAD = "2s" => spread: Duration, "0s"..="1h";
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
#[derive(Clone, Debug)]
pub struct Shutdown {
    leaving: CancellationToken,
    draining: Draining,
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    reload: Arc<Notify>,
    lame_duck: Duration,
    spread: Duration,
    /// See [`Drain::limit`].
    limit: Duration,
    /// Cancelled when an operator does not want to wait for the end of the lame-duck time.
    hurry: CancellationToken,
    moments: Arc<Moments>,
}

/// When the parts of a drain began.
#[derive(Debug, Default)]
struct Moments {
    leaving: OnceLock<Instant>,
    asking: OnceLock<Instant>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// An owner without tasks, which is in no way slow to leave.
    pub fn new() -> Self {
        Self::with(Drain { limit: Duration::ZERO, lame_duck: Duration::ZERO, spread: Duration::ZERO })
    }

    /// An owner without tasks, whose signals begin a drain of these times.
    pub fn with(drain: Drain) -> Self {
        let soft = CancellationToken::new();
        Self {
            leaving: soft.child_token(),
            draining: Draining::under(&soft),
            hard: CancellationToken::new(),
            tasks: TaskTracker::new(),
            reload: Arc::default(),
            lame_duck: drain.lame_duck,
            spread: drain.spread,
            limit: drain.limit,
            hurry: soft.child_token(),
            moments: Arc::default(),
            soft,
        }
    }

    /// Whether the node is to leave, so that nobody should be sent to it.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// The node's sessions.
    pub fn draining(&self) -> &Draining {
        &self.draining
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

    /// Begins the drain and waits for all tasks, at most for `limit` since the sessions were asked to leave; then drops what is left. Whether
    /// all ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.soft.cancel();
        self.tasks.close();
        let limit = limit.saturating_sub(self.moments.asking.get().map_or(Duration::ZERO, Instant::elapsed));
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
        let (mut hangup, mut cordon) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
        let mut is_stopping = false;
        loop {
            tokio::select! {
                _ = terminate.recv() => self.stop(&mut is_stopping),
                _ = interrupt.recv() => self.stop(&mut is_stopping),
                _ = cordon.recv() => drop(tokio::spawn(self.clone().cordon())),
                _ = hangup.recv() => {
                    info!("reloading");
                    self.reload.notify_waiters();
                }
            }
        }
    }

    fn stop(&self, is_stopping: &mut bool) {
        if std::mem::replace(is_stopping, true) {
            if self.draining.begun().is_cancelled() {
                warn!("one more signal: aborting");
                std::process::exit(1);
            }
            return self.hurry.cancel();
        }
        info!("stopping");
        // Where there is no supervisor, nobody misses this.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let this = self.clone();
        tokio::spawn(async move {
            this.lame_duck().await;
            let _ = this.moments.asking.set(Instant::now());
            this.draining.ask(this.spread.min(this.limit / 4)).await;
            this.soft.cancel();
        });
    }

    /// Has everybody leave a node that goes on running, so that it can be stopped later without anybody noticing.
    async fn cordon(self) {
        info!(sessions = self.draining.sessions(), "draining: no new sessions from now on");
        self.lame_duck().await;
        self.draining.ask(self.spread).await;
    }

    /// Says that the node is not ready, and waits until balancers have noticed.
    async fn lame_duck(&self) {
        let since = *self.moments.leaving.get_or_init(Instant::now);
        self.leaving.cancel();
        metrics::gauge!("motience_draining").set(1.0);
        self.hurry.run_until_cancelled(sleep_until(since + self.lame_duck)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_end_holds_the_process_up_no_more() {
        let (started, began) = std::sync::mpsc::channel();
        let outcome = run(async move {
            let blocked = move || {
                started.send(()).unwrap();
                std::thread::park();
            };
            drop(tokio::task::spawn_blocking(blocked));
            began.recv().unwrap();
            7
        });
        assert_eq!(outcome.unwrap(), 7);
    }

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

    /// A drain of these times.
    fn drain(lame_duck: Duration, spread: Duration) -> Shutdown {
        Shutdown::with(Drain { limit: Duration::from_secs(8), lame_duck, spread })
    }

    #[tokio::test]
    async fn a_node_that_was_drained_serves_until_it_is_stopped() {
        let (short, hour) = (Duration::from_millis(50), Duration::from_secs(3600));
        let shutdown = drain(short, hour);
        let (session, began) = (shutdown.draining().enter(), Instant::now());
        let draining = tokio::spawn(shutdown.clone().cordon());
        session.asked().cancelled().await;
        assert!(shutdown.is_leaving() && began.elapsed() >= short);
        draining.await.unwrap();
        assert!(!shutdown.soft().is_cancelled(), "its listeners are open");
        shutdown.stop(&mut false);
        shutdown.soft().cancelled().await;
    }

    #[tokio::test]
    async fn a_second_signal_ends_the_lame_duck_time() {
        let shutdown = drain(Duration::from_secs(3600), Duration::ZERO);
        let (session, mut is_stopping) = (shutdown.draining().enter(), false);
        shutdown.stop(&mut is_stopping);
        while !shutdown.is_leaving() {
            tokio::task::yield_now().await;
        }
        assert!(!session.asked().is_cancelled() && !shutdown.soft().is_cancelled());
        shutdown.stop(&mut is_stopping);
        session.asked().cancelled().await;
        shutdown.soft().cancelled().await;
    }
}
