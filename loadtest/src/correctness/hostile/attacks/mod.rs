//! The attacks. Each goes on until it is cancelled, comes back after it was turned away, and is bounded in connections and in
//! pace, so that what it proves is the node's limits and not the strength of this machine.

mod connections;
mod devices;
mod readers;
mod requests;
mod sessions;

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{task::JoinSet, time::sleep};

use super::target::{Count, Target};

/// Pause after an attempt that ended, however it did.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an attacker holds on to what it has opened.
const HOLD: Duration = Duration::from_secs(20);

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One way to harm a node.
pub(super) struct Attack {
    /// Its name on the command line and in reports.
    pub(super) name: &'static str,
    pub(super) run: fn(Arc<Target>, Count) -> Running,
}

/// All of them; those that take the places of connections without a name are the last, so that the others have come in before.
pub(super) const ALL: &[Attack] = &[
    // Pings whose answers nobody reads, over WebSocket.
    Attack { name: "pongs", run: |target, count| Box::pin(sessions::pongs(target, count)) },
    // Pages of history that are asked for and never read.
    Attack { name: "answers", run: |target, count| Box::pin(readers::answers(target, count)) },
    // Follows that begin and end while the node may open no stream.
    Attack { name: "follows", run: |target, count| Box::pin(sessions::follows(target, count)) },
    // A log of small batches, asked for in datagrams from its beginning.
    Attack { name: "datagrams", run: |target, count| Box::pin(sessions::datagrams(target, count)) },
    // Devices without end, each with numbers full of holes.
    Attack { name: "devices", run: |target, count| Box::pin(devices::scattered(target, count)) },
    // Streams and sockets that are never read.
    Attack { name: "readers", run: |target, count| Box::pin(readers::unread(target, count)) },
    // Searches that find nothing.
    Attack { name: "searches", run: |target, count| Box::pin(requests::searches(target, count)) },
    // Requests to resume, again and again on one socket.
    Attack { name: "resumes", run: |target, count| Box::pin(sessions::resumes(target, count)) },
    // Bodies that do not end.
    Attack { name: "bodies", run: |target, count| Box::pin(requests::bodies(target, count)) },
    // Logouts of one login.
    Attack { name: "logouts", run: |target, count| Box::pin(requests::logouts(target, count)) },
    // Connections that ask for nothing, on every port.
    Attack { name: "connections", run: |target, count| Box::pin(connections::silent(target, count)) },
    // Connections of HTTP/2 that ask once and stay.
    Attack { name: "idle-http2", run: |target, count| Box::pin(connections::http2(target, count)) },
    // Sessions that never say who they are: tunnels, QUIC, WebTransport.
    Attack { name: "nameless", run: |target, count| Box::pin(sessions::nameless(target, count)) },
];

/// Makes `many` attempts at once, each again and again.
async fn crowd<F>(many: usize, attempt: impl Fn(usize) -> F + Clone + Send + 'static)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for n in 0..many {
        let attempt = attempt.clone();
        running.spawn(async move {
            loop {
                // To be turned away is what an attacker has to expect.
                let _ = attempt(n).await;
                sleep(PAUSE).await;
            }
        });
    }
    running.join_all().await;
}
