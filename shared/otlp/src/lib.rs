//! Sends traces to an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! In: spans of `motience_runtime::traces`, by a bounded queue.
//! Out: a request for each batch.
//!
//! A collector that is away costs the spans of its batches, which are counted, and nothing else: nobody waits for it.

mod encode;
mod post;

use std::time::Duration;

use motience_runtime::{
    telemetry::{Sampler, Traces},
    traces::{self, Span},
};
use tokio::{
    sync::mpsc::Receiver,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use post::Error;

use post::Collector;

/// Spans that wait for the next batch.
const QUEUE: usize = 8192;
/// Most spans of one batch.
const BATCH: usize = 512;
/// Longest time for which a batch is gathered.
const GATHER: Duration = Duration::from_secs(2);
/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the last batch of a process that ends.
const LAST_LIMIT: Duration = Duration::from_secs(2);
/// How often the log says that the collector is away.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The task that exports.
#[derive(Debug)]
pub struct Exporter {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Exporter {
    /// Begins traces, where the settings name a collector. `program` and `node` say whose they are.
    pub fn start(settings: &Traces, program: &'static str, node: &str) -> Result<Option<Self>, Error> {
        let Some(endpoint) = &settings.endpoint else { return Ok(None) };
        let collector = Collector::new(endpoint, settings.headers.as_ref())?;
        let Some(spans) = traces::start(settings.part, QUEUE) else { return Ok(None) };
        info!(endpoint, part = settings.part, "traces are exported");
        let stop = CancellationToken::new();
        let task = Task { collector, program, node: node.to_owned(), said: Sampler::new(SAY_EVERY) };
        let task = tokio::spawn(task.run(spans, stop.clone()));
        Ok(Some(Self { task, stop }))
    }

    /// Exports the spans that are left, within a short time.
    pub async fn finish(self) {
        self.stop.cancel();
        // An error says that the task has ended before.
        let _ = timeout(LAST_LIMIT, self.task).await;
    }
}

struct Task {
    collector: Collector,
    program: &'static str,
    node: String,
    said: Sampler,
}

impl Task {
    async fn run(self, mut spans: Receiver<Span>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let gathered = async {
                let until = sleep(GATHER);
                tokio::pin!(until);
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    tokio::select! {
                        () = &mut until, if !batch.is_empty() => break,
                        _ = spans.recv_many(&mut batch, room) => {}
                    }
                }
            };
            let is_last = stop.run_until_cancelled(gathered).await.is_none();
            while is_last
                && batch.len() < BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            self.export(std::mem::take(&mut batch)).await;
            if is_last && spans.is_empty() {
                return;
            }
        }
    }

    async fn export(&self, batch: Vec<Span>) {
        let number = batch.len() as u64;
        if number == 0 {
            return;
        }
        let body = encode::request(self.program, &self.node, batch);
        let outcome = timeout(ANSWER_LIMIT, self.collector.post(body)).await.unwrap_or(Err(Error::Slow));
        match outcome {
            Ok(()) => metrics::counter!("motience_trace_spans_total").increment(number),
            Err(e) => {
                metrics::counter!("motience_trace_spans_dropped_total", "reason" => "export").increment(number);
                if let Some(held) = self.said.pass("export") {
                    warn!(error = %e, more = held, "traces cannot be exported; their spans are dropped");
                }
            }
        }
    }
}
