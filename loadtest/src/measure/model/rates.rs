//! How often each step is taken in a second, at a size: this follows from the size alone, and from bounds in the code.

use serde::Serialize;

use super::{
    constants::Constants,
    size::{Placement, Size},
};

/// Logs that a node compares with Redis in a second, at most (`shared/relay/src/checks.rs`).
pub(super) const CHECKS: f64 = 1000.0;
/// Seconds between two looks at what is to be reported (`shared/cluster/src/window.rs`).
pub(super) const LOOK: f64 = 2.0;
/// Devices that a node reports at a look, at most (`shared/cluster/src/devices`).
const DEVICE_REPORTS: f64 = 2000.0;
/// Seconds after which a silent device is reported again, and for which one that has sent is reported at every look.
const REPEAT: f64 = 30.0;
const NEWS: f64 = 12.0;
/// Seconds for which a producer that has sent is live (`shared/cluster/src/streams.rs`).
const LIVE: f64 = 60.0;
/// Seconds for which the history writer lets news gather (`server/src/data/writer.rs`), and bytes of one read (READ_BYTES).
const GATHER: f64 = 0.05;
const READ: f64 = 65536.0;

/// Steps in a second, of all nodes together unless it is said otherwise.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rates {
    pub(super) records: f64,
    /// Sendings of devices: each is one part of a write.
    pub(super) parts: f64,
    /// Writes to the log. Parts that come while another write of the producer is under way are written together.
    pub(super) appends: f64,
    /// Consumers that follow a producer.
    pub(super) followers: f64,
    /// Nodes that a published part reaches.
    pub(super) reached: f64,
    /// Producers that a node follows, without the history writer's.
    pub(super) followed: f64,
    /// Parts to consumers; each is of `batch` records.
    pub(super) deliveries: f64,
    pub(super) checks: f64,
    /// Reports of devices that are due, those that are written, and the writes: one for each log.
    pub(super) reports_due: f64,
    pub(super) reports: f64,
    pub(super) report_writes: f64,
    /// Producers that a node reports at each look.
    pub(super) streams: f64,
    /// Writes of such reports, each of all producers of a node.
    pub(super) stream_writes: f64,
    /// Rows that the history needs, and reads of its writer.
    pub(super) rows: f64,
    pub(super) reads: f64,
    /// Refresh tokens that are renewed.
    pub(super) renewals: f64,
}

/// How many of `places` have at least one of so many things, each of which is at any place.
pub(super) fn spread(places: f64, things: f64) -> f64 {
    places * (1.0 - (1.0 - 1.0 / places).powf(things))
}

/// Writes in a second of a queue to which parts come at this rate, at times of their own, where a write takes so long: the first that comes is
/// written at once, and those that come meanwhile are written together after it.
fn writes(rate: f64, took: f64) -> f64 {
    if rate > 0.0 { 1.0 / (took + (-rate * took).exp() / rate) } else { 0.0 }
}

impl Rates {
    pub(super) fn of(size: &Size, constants: &Constants) -> Self {
        let parts = size.devices / size.every;
        let records = parts * size.batch;
        let followers = size.consumers * size.follows / size.producers;
        let by_consumers = match size.placement {
            Placement::Random => spread(size.nodes, followers),
            Placement::ByProducer => followers.min(1.0),
        };
        let history = f64::from(u8::from(size.history));
        // The history writer's node follows every producer.
        let reached = by_consumers + history * (1.0 - by_consumers / size.nodes);
        let followed = size.producers * by_consumers / size.nodes;
        let each = spread(size.nodes, size.devices / size.producers);
        let queues = size.producers * each;
        let lone = constants.append.get() + reached * constants.publish.get();
        let appends = queues * writes(parts / queues, size.rtt + lone);

        let news = (NEWS / size.every).min(1.0);
        let due = news / LOOK + (1.0 - news) / REPEAT;
        let reports_due = size.devices * due;
        let reports = reports_due.min(size.nodes * DEVICE_REPORTS / LOOK);
        let at_a_look = reports * LOOK / size.nodes;
        let logs = size.producers * each / size.nodes;
        let report_writes = size.nodes / LOOK * spread(logs, at_a_look);
        // A producer is live on a node that has had a record of it lately.
        let streams = spread(size.nodes, size.devices / size.producers * (LIVE / size.every).min(1.0)) * size.producers / size.nodes;

        let rows = records * history;
        let fresh = size.producers * (1.0 - (-parts / size.producers * GATHER).exp()) / GATHER;
        Self {
            records,
            parts,
            appends,
            followers,
            reached,
            followed,
            deliveries: parts * followers,
            checks: (size.nodes - history) * followed.min(CHECKS) + history * size.producers.min(CHECKS),
            reports_due,
            reports,
            report_writes,
            streams,
            stream_writes: size.nodes / LOOK,
            rows,
            reads: history * fresh.min(1.0 / Self::read_takes(size, constants)),
            renewals: (size.devices + size.consumers) / size.token,
        }
    }

    /// Bytes a second of all nodes' reports about producers.
    pub(super) fn stream_bytes(&self, constants: &Constants) -> f64 {
        self.stream_writes * self.streams * constants.stream_bytes.get()
    }

    /// Bytes a second of all writes to the logs, and of questions for their bounds.
    pub(super) fn redis_in(&self, size: &Size, constants: &Constants) -> f64 {
        let messages = self.records * (size.bytes + constants.message_head.get());
        self.appends * constants.appended.get() + messages + self.checks * constants.asked_bytes.get()
    }

    /// Seconds of one read of the history writer, which reads one log after the other.
    fn read_takes(size: &Size, constants: &Constants) -> f64 {
        size.rtt + constants.read.get()
    }

    /// Rows that one history writer carries in a second, where there is much to read of each log.
    pub(super) fn history_capacity(size: &Size, constants: &Constants) -> f64 {
        let read = READ / (size.bytes + constants.message_head.get());
        1.0 / (1.0 / constants.history_rows.get() + Self::read_takes(size, constants) / read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= wanted.abs() * 1e-3, "{found} is not {wanted}");
    }

    #[test]
    fn consumers_that_come_to_any_node_are_on_nearly_all() {
        // 20 (1 - 0.95^100), 20 (1 - 0.95^10), and two coins.
        close(spread(20.0, 100.0), 19.8816);
        close(spread(20.0, 10.0), 8.0253);
        close(spread(2.0, 2.0), 1.5);
        close(spread(1.0, 5.0), 1.0);
    }

    #[test]
    fn writes_gather_what_comes_meanwhile() {
        // Rare: one each. Always busy: one after the other. One a second, a second each: 1 / (1 + 1/e).
        close(writes(0.5, 1e-6), 0.5);
        close(writes(1e6, 0.001), 1000.0);
        close(writes(1.0, 1.0), 0.7311);
        close(writes(0.0, 1.0), 0.0);
    }

    #[test]
    fn a_million_devices_by_hand() {
        let size = Size { history: false, ..Size::million() };
        let rates = Rates::of(&size, &Constants::default());
        close(rates.records, 100_000.0);
        close(rates.followers, 100.0);
        close(rates.reached, 19.8816);
        close(rates.followed, 9940.8);
        close(rates.deliveries, 1e7);
        // 20 nodes, a thousand each.
        close(rates.checks, 20_000.0);
        // Each at every look, but 1,000 a second of a node; 2,000 of them fall on 1,813 of the 9,941 logs of a node.
        close(rates.reports_due, 500_000.0);
        close(rates.reports, 20_000.0);
        close(rates.report_writes, 10.0 * 9940.8 * (1.0 - (1.0_f64 - 1.0 / 9940.8).powf(2000.0)));
        // Each of 20 nodes, each two seconds.
        close(rates.stream_writes, 10.0);
        close(rates.renewals, 1.1e6 / 3600.0);
        // Half a record a second and queue is a write of its own.
        assert!(rates.appends > 0.999 * rates.records && rates.appends < rates.records, "{}", rates.appends);
        close(rates.rows, 0.0);
    }

    #[test]
    fn a_producer_has_one_node_where_its_consumers_are_placed_by_it() {
        let size = Size { placement: Placement::ByProducer, history: false, ..Size::million() };
        close(Rates::of(&size, &Constants::default()).reached, 1.0);
        let kept = Size { history: true, ..size };
        close(Rates::of(&kept, &Constants::default()).reached, 1.95);
    }

    #[test]
    fn one_history_writer_is_bound_by_what_postgresql_takes() {
        let constants = Constants::default();
        let capacity = Rates::history_capacity(&Size::million(), &constants);
        let rows = constants.history_rows.get();
        assert!(capacity < rows && capacity > 0.9 * rows, "{capacity}");
    }
}
