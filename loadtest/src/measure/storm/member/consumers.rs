//! Idle consumers: WebSockets by `motience.v2` that come back by themselves, with the waits of the TypeScript client.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use motience_device::backoff::Backoff;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite;

use crate::{
    common::egress::{Connection, Egress, Incoming, Start, Target},
    measure::storm::crowd::{Count, Plan},
};

/// The waits of the TypeScript client (`clients/ts/src/backoff.ts`), and its least one.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };
const LEAST: Duration = Duration::from_millis(250);
/// How long a connection must have lived for the waits to start anew.
const SETTLED: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(super) struct Consumers {
    all: Vec<Arc<One>>,
    /// Connections that each had when it was last to be forgotten.
    known: Vec<u64>,
    failed: Arc<Mutex<BTreeMap<String, u64>>>,
    running: JoinSet<()>,
}

/// State of one consumer.
#[derive(Default)]
struct One {
    connections: AtomicU64,
    connected: AtomicBool,
}

impl Consumers {
    /// Connects them, some at a time.
    pub(super) fn start(&mut self, plan: &Plan) {
        let first = Arc::new(Semaphore::new(plan.at_once));
        for number in 0..plan.consumers {
            let (token, producer) = plan.followers[number % plan.followers.len()].clone();
            let target =
                Target { server: plan.addresses.wss2.clone(), ca: None, token, producers: vec![producer], source: Some(plan.source) };
            let one = Arc::new(One::default());
            self.all.push(Arc::clone(&one));
            let (first, failed) = (Arc::clone(&first), Arc::clone(&self.failed));
            self.running.spawn(async move {
                let turn = first.acquire().await.ok();
                stay(&target, &one, &failed, turn).await;
            });
        }
    }

    pub(super) fn forget(&mut self) {
        self.known = self.all.iter().map(|one| one.connections.load(Relaxed)).collect();
        self.failed.lock().clear();
    }

    /// Counts those that have connected since they were to be forgotten, and tries that failed since.
    pub(super) fn count(&self, count: &mut Count) {
        let known = self.known.iter().copied().chain(std::iter::repeat(0));
        let back = self.all.iter().zip(known).filter(|(one, known)| one.connected.load(Relaxed) && one.connections.load(Relaxed) > *known);
        count.consumers += back.count();
        for (why, times) in self.failed.lock().iter() {
            *count.failed.entry(format!("tries of consumers ({why})")).or_default() += times;
        }
    }
}

/// Stays connected. `turn`: the right to be one of those that connect at first.
async fn stay(target: &Target, one: &One, failed: &Mutex<BTreeMap<String, u64>>, mut turn: Option<SemaphorePermit<'_>>) {
    // The producers have sent nothing, so each time it begins at their beginning, and the node looks that up as it would any cursor.
    let (start, mut attempt) = (Start::After(BTreeMap::new()), 0);
    loop {
        let began = Instant::now();
        match Connection::open(Egress::Wss2, target, &start).await {
            Ok(mut connection) => {
                one.connections.fetch_add(1, Relaxed);
                one.connected.store(true, Relaxed);
                drop(turn.take());
                while let Ok(Incoming::Message(_)) = connection.next().await {}
                one.connected.store(false, Relaxed);
            }
            Err(error) => *failed.lock().entry(reason(&error)).or_default() += 1,
        }
        if began.elapsed() > SETTLED {
            attempt = 0;
        }
        sleep(LEAST + BACKOFF.ceiling(attempt).saturating_sub(LEAST).mul_f64(fastrand::f64())).await;
        attempt += 1;
    }
}

/// Why a try failed, in few kinds.
fn reason(error: &anyhow::Error) -> String {
    let io = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(tungstenite::Error::Io(error)) => Some(error.kind()),
        _ => cause.downcast_ref::<io::Error>().map(io::Error::kind),
    });
    match (error.downcast_ref(), io) {
        (Some(tungstenite::Error::Http(answer)), _) => format!("HTTP {}", answer.status().as_u16()),
        (_, Some(kind)) => kind.to_string(),
        (Some(error), None) => error.to_string(),
        (None, None) => error.to_string(),
    }
}
