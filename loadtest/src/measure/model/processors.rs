//! Processor time of Redis and of a node, by its causes.

use super::{constants::Constants, rates::Rates, size::Size};

/// Processor time of a server of Redis, in seconds of each second, for all servers together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread {
    pub(super) appends: f64,
    pub(super) publishing: f64,
    pub(super) bounds: f64,
    pub(super) reports: f64,
    pub(super) history: f64,
}

impl Thread {
    pub(super) fn of(rates: &Rates, c: &Constants) -> Self {
        let later = (rates.parts - rates.appends).max(0.0);
        Self {
            appends: rates.appends * c.append.get() + later * c.append_part.get() + (rates.records - rates.parts) * c.append_more.get(),
            publishing: rates.parts * rates.reached * c.publish.get(),
            bounds: rates.checks * c.bounds.get(),
            reports: rates.report_writes * c.report_write.get()
                + (rates.reports - rates.report_writes) * c.report_more.get()
                + rates.stream_writes * rates.streams * c.stream_write.get(),
            history: rates.reads * c.read.get() + rates.rows.min(c.history_rows.get()) * c.read_more.get(),
        }
    }

    /// All of it, which is spread over the servers.
    pub(super) fn sum(&self) -> f64 {
        self.appends + self.publishing + self.bounds + self.reports + self.history
    }
}

/// Processor time of one node, in seconds of each second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) ingest: f64,
    pub(super) receive: f64,
    pub(super) deliver: f64,
    pub(super) checks: f64,
}

impl Node {
    pub(super) fn of(size: &Size, rates: &Rates, c: &Constants) -> Self {
        let more = size.batch - 1.0;
        Self {
            ingest: rates.parts / size.nodes * (c.ingest.get() + more * c.ingest_more.get()),
            receive: rates.parts * rates.reached / size.nodes * c.receive.get(),
            deliver: rates.deliveries / size.nodes * (c.deliver.get() + more * c.deliver_more.get()),
            checks: rates.checks / size.nodes * c.check.get(),
        }
    }

    pub(super) fn sum(&self) -> f64 {
        self.ingest + self.receive + self.deliver + self.checks
    }
}
