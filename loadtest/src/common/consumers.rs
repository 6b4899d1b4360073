//! Real consumers: clients of an egress that read as fast as they can.

use std::sync::{Arc, atomic::Ordering};

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    egress::{Connection, Egress, Incoming, Start, Target},
    payload::{TestClock, mark},
    seen::{Live, Seen},
};

/// A connected consumer.
pub(crate) struct Consumer(Connection);

impl Consumer {
    /// Every record that is logged from now on comes.
    pub(crate) async fn connect(egress: Egress, target: &Target) -> Result<Self> {
        Connection::open(egress, target, &Start::Live).await.map(Self)
    }

    /// Reads until `stop`, and then gives what it saw.
    pub(crate) fn read(mut self, clock: TestClock, live: Arc<Live>, stop: CancellationToken) -> JoinHandle<Seen> {
        tokio::spawn(async move {
            let mut seen = Seen::new();
            loop {
                let said = tokio::select! {
                    biased;
                    said = self.0.next() => said,
                    () = stop.cancelled() => break,
                };
                match said {
                    Ok(Incoming::Message(text)) => match mark(&text) {
                        Some(mark) => {
                            seen.record(mark, clock.now());
                            live.delivered.fetch_add(1, Ordering::Relaxed);
                        }
                        // Where the egress stands, without a record.
                        None if Incoming::is_position(&text) => {}
                        None => live.fail(format!("a consumer received something else: {}", text.chars().take(80).collect::<String>())),
                    },
                    Ok(Incoming::End(how)) => {
                        live.fail(format!("a consumer was cut: {how}"));
                        break;
                    }
                    Err(e) => {
                        live.fail(format!("a consumer cannot read what it received: {e:#}"));
                        break;
                    }
                }
            }
            seen
        })
    }
}
