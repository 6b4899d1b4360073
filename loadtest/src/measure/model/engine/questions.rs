//! Questions of nodes to Redis beside the records: they compare logs, and write reports, some at once.

use super::{Event, World, nanos};
use crate::measure::model::rates::{CHECKS, LOOK};

/// Questions of a node that are under way at once (`shared/relay/src/checks.rs`, `shared/cluster/src/reports.rs`).
const AT_ONCE: u32 = 64;

#[derive(Clone, Copy)]
pub(super) enum Question {
    Bounds,
    Reports,
    Streams,
}

impl World<'_> {
    /// A node compares the logs that it follows, or as many as it may.
    pub(super) fn compare(&mut self, node: usize) {
        self.after(1.0, Event::Compare(node));
        let logs = self.rates.followed.min(CHECKS) as u32;
        self.ask(node, Question::Bounds, logs);
    }

    /// A node writes what it has to report of devices, and in one write what it has to report of producers.
    pub(super) fn report(&mut self, node: usize) {
        self.after(LOOK, Event::Report(node));
        let writes = self.rates.report_writes * LOOK / self.plan.size.nodes;
        self.ask(node, Question::Reports, writes.round() as u32);
        self.ask(node, Question::Streams, 1);
    }

    /// Asks so many questions, some at once.
    fn ask(&mut self, node: usize, question: Question, how_many: u32) {
        for first in 0..AT_ONCE.min(how_many) {
            let left = (how_many - first).div_ceil(AT_ONCE);
            self.at(self.now + self.half_trip(), Event::Asked(node, question, left));
        }
    }

    pub(super) fn asked(&mut self, node: usize, question: Question, left: u32) {
        let (c, rates) = (self.plan.constants, &self.rates);
        let (takes, here) = match question {
            Question::Bounds => (c.bounds.get(), c.check.get()),
            Question::Reports => (c.report_write.get() + (rates.reports / rates.report_writes - 1.0) * c.report_more.get(), 0.0),
            Question::Streams => (rates.streams * c.stream_write.get(), 0.0),
        };
        let server = self.rng.usize(..self.redis.len());
        let end = self.redis[server].serve(self.now, nanos(takes));
        if here > 0.0 {
            self.node(node, here);
        }
        if left > 1 {
            self.at(end + 2 * self.half_trip(), Event::Asked(node, question, left - 1));
        }
    }
}
