//! The parts of a platform, and how much of each a size takes: processor time, memory, network, connections.

use serde::Serialize;

use super::{
    constants::Constants,
    processors::{Node, Thread},
    rates::Rates,
    size::{Machines, Size},
};

const GIB: f64 = 1_073_741_824.0;
/// Bytes in a second of a network of one Gbit/s.
const GBIT: f64 = 1e9 / 8.0;

/// One part: what is asked of one of its kind, and what that one can give.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    /// Name in JSON.
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) load: f64,
    pub(super) capacity: f64,
    pub(super) unit: &'static str,
    pub(super) share: f64,
    /// How many of them the size needs, where more of them help.
    pub(super) needs: Option<f64>,
    /// Parts of this one, each with its load.
    pub(super) within: Vec<(&'static str, f64)>,
    /// The remedy when it is full.
    pub(super) then: &'static str,
}

/// All parts, the fullest first.
pub(super) fn parts(size: &Size, machines: &Machines, c: &Constants) -> Vec<Part> {
    let rates = Rates::of(size, c);
    let full = machines.full / 100.0;
    let mut parts = vec![
        redis_thread(size, &rates, c, full),
        redis_memory(size, &rates, machines, c, full),
        redis_network(size, &rates, machines, c, full),
        redis_network_in(size, &rates, machines, c, full),
        node_processor(size, &rates, machines, c, full),
        node_memory(size, &rates, machines, c, full),
        node_network(size, &rates, machines, c, full),
        node_network_in(size, &rates, machines, c, full),
        quic(size, machines),
        websockets(size, machines),
        postgres(&rates, machines, c, full),
        history(size, &rates, c, full),
    ];
    parts.retain(|part| part.load > 0.0);
    parts.sort_by(|a, b| b.share.total_cmp(&a.share));
    parts
}

fn redis_thread(size: &Size, rates: &Rates, c: &Constants, full: f64) -> Part {
    let thread = Thread::of(rates, c);
    let servers = size.redis;
    let within = [
        ("appends", thread.appends / servers),
        ("publishing", thread.publishing / servers),
        ("comparisons of logs", thread.bounds / servers),
        ("reports of devices and producers", thread.reports / servers),
        ("reads of the history writer", thread.history / servers),
    ];
    let needs = Some((thread.sum() / full).ceil());
    let then = "more servers (Redis Cluster); devices that send several records at once; consumers placed by producer";
    Part { needs, within: within.into(), ..part("redis_thread", "Redis: thread of a server", thread.sum() / servers, 1.0, "threads", then) }
}

fn redis_memory(size: &Size, rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let message = size.bytes + c.message_head.get();
    // A log is cut by its age or by its bytes, whichever is reached first.
    let kept = (rates.records / size.producers * size.retention).min(size.retention_bytes / message);
    let each = if size.batch > 1.0 { message * c.log_batched.get() } else { message + c.log_record.get() };
    let logs = size.producers * kept * each;
    let devices = size.devices * (c.log_device.get() + c.log_report.get());
    let load = (logs + devices) / size.redis / GIB;
    let then = "more servers; a lower LOG_RETENTION_BYTES, or LOG_RETENTION: older records come from the history. A log with a cold part elsewhere is missing";
    let needs = Some((load * size.redis / (machines.redis_memory * full)).ceil());
    let within = vec![("logs", logs / size.redis / GIB), ("devices", devices / size.redis / GIB)];
    Part { needs, within, ..part("redis_memory", "Redis: memory of a server", load, machines.redis_memory, "GiB", then) }
}

fn redis_network(size: &Size, rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let message = size.bytes + c.message_head.get();
    let published = rates.parts * rates.reached * (size.batch * message + c.published.get()) / GBIT;
    let read = rates.rows.min(c.history_rows.get()) * (message + c.log_record.get()) / GBIT;
    // Its node looks for producers that are new, and reads the reports of all nodes.
    let streams = if size.history { rates.stream_bytes(c) / GBIT } else { 0.0 };
    let all = published + read + streams;
    let needs = Some((all / (machines.redis_network * full)).ceil());
    let within = vec![
        ("published records", published / size.redis),
        ("reads of the history writer", read / size.redis),
        ("reports of producers for it", streams / size.redis),
    ];
    let then = "consumers placed by producer, so that few nodes follow one; more servers";
    let load = all / size.redis;
    Part { needs, within, ..part("redis_network", "Redis: network out of a server", load, machines.redis_network, "Gbit/s", then) }
}

fn redis_network_in(size: &Size, rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let appends = rates.redis_in(size, c) / GBIT;
    let reports = rates.reports * c.device_bytes.get() / GBIT;
    let streams = rates.stream_bytes(c) / GBIT;
    let all = appends + reports + streams;
    let needs = Some((all / (machines.redis_network * full)).ceil());
    let within = vec![
        ("appends and questions", appends / size.redis),
        ("reports of devices", reports / size.redis),
        ("reports of producers", streams / size.redis),
    ];
    let load = all / size.redis;
    Part {
        needs,
        within,
        ..part("redis_network_in", "Redis: network into a server", load, machines.redis_network, "Gbit/s", "more servers")
    }
}

fn node_processor(size: &Size, rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let node = Node::of(size, rates, c);
    let within = vec![
        ("records that come in", node.ingest),
        ("published records", node.receive),
        ("deliveries", node.deliver),
        ("comparisons of logs", node.checks),
    ];
    // More nodes take less of what comes in and goes out each, but a record reaches more of them.
    let enough = |nodes: &f64| {
        let size = Size { nodes: *nodes, ..size.clone() };
        Node::of(&size, &Rates::of(&size, c), c).sum() <= machines.node_cores * full
    };
    let needs = (1..=2000).map(f64::from).find(enough);
    let then = "more nodes; consumers placed by producer";
    Part { needs, within, ..part("node_processor", "node: processor", node.sum(), machines.node_cores, "cores", then) }
}

fn node_memory(size: &Size, rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let devices = size.devices / size.nodes * c.device.get();
    let consumers = size.consumers / size.nodes * c.consumer.get();
    let rings = rates.followed * c.ring.get();
    let load = (devices + consumers + rings + c.node.get()) / GIB;
    let within = vec![("devices", devices / GIB), ("consumers", consumers / GIB), ("rings of followed producers", rings / GIB)];
    let needs = Some((load * size.nodes / (machines.node_memory * full)).ceil());
    let then = "more nodes; a smaller RING_BYTES; consumers placed by producer";
    Part { needs, within, ..part("node_memory", "node: memory", load, machines.node_memory, "GiB", then) }
}

fn node_network(size: &Size, rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let message = size.batch * (size.bytes + c.message_head.get());
    let consumers = rates.deliveries / size.nodes * (message + c.downlink.get()) / GBIT;
    let redis = (rates.redis_in(size, c) + rates.stream_bytes(c)) / size.nodes / GBIT;
    let load = consumers + redis;
    let within = vec![("to consumers", consumers), ("to Redis", redis)];
    let needs = Some((load * size.nodes / (machines.node_network * full)).ceil());
    Part { needs, within, ..part("node_network", "node: network out", load, machines.node_network, "Gbit/s", "more nodes") }
}

fn node_network_in(size: &Size, rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let devices = rates.parts / size.nodes * (size.batch * size.bytes + c.uplink.get()) / GBIT;
    let message = size.batch * (size.bytes + c.message_head.get());
    let published = rates.parts * rates.reached / size.nodes * (message + c.published.get()) / GBIT;
    let load = devices + published;
    let within = vec![("from devices", devices), ("published records", published)];
    let needs = Some((load * size.nodes / (machines.node_network * full)).ceil());
    let then = "consumers placed by producer; more nodes";
    Part { needs, within, ..part("node_network_in", "node: network in", load, machines.node_network, "Gbit/s", then) }
}

fn quic(size: &Size, machines: &Machines) -> Part {
    let each = size.devices / (size.nodes - 1.0).max(1.0);
    let needs = Some((size.devices / machines.quic_connections).ceil() + 1.0);
    let then = "a higher QUIC_MAX_CONNECTIONS, where the node has the memory; more nodes";
    Part {
        needs,
        ..part("quic_connections", "node: QUIC connections while a node is away", each, machines.quic_connections, "connections", then)
    }
}

fn websockets(size: &Size, machines: &Machines) -> Part {
    let each = size.consumers / (size.nodes - 1.0).max(1.0);
    let needs = Some((size.consumers / machines.websockets).ceil() + 1.0);
    let then = "a higher WSS_MAX_CONNECTIONS; more nodes";
    Part { needs, ..part("websockets", "node: WebSockets while a node is away", each, machines.websockets, "connections", then) }
}

fn postgres(rates: &Rates, machines: &Machines, c: &Constants, full: f64) -> Part {
    let load = rates.renewals * c.renewal.get();
    let needs = Some((load / (machines.postgres_cores * full)).ceil());
    let then = "a higher JWT_EXPIRES_IN";
    Part { needs, ..part("postgres", "PostgreSQL: renewed tokens", load, machines.postgres_cores, "cores", then) }
}

fn history(size: &Size, rates: &Rates, c: &Constants, full: f64) -> Part {
    let capacity = Rates::history_capacity(size, c);
    let needs = Some((rates.rows / (capacity * full)).ceil());
    let then =
        "no history of all (PERSIST=false), or devices that send less often: there is one writer for all nodes, and more are missing";
    Part { needs, ..part("history", "history: its one writer", rates.rows, capacity, "rows/s", then) }
}

fn part(id: &'static str, name: &'static str, load: f64, capacity: f64, unit: &'static str, then: &'static str) -> Part {
    Part { id, name, load, capacity, unit, share: load / capacity, needs: None, within: Vec::new(), then }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::model::size::Placement;

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= wanted.abs() * 1e-3, "{found} is not {wanted}");
    }

    fn of<'p>(parts: &'p [Part], id: &str) -> &'p Part {
        parts.iter().find(|part| part.id == id).expect("a part of this name")
    }

    /// A million devices with constants that are easy to reckon with.
    fn model(change: impl Fn(&mut Size)) -> Vec<Part> {
        let mut size = Size { history: false, ..Size::million() };
        change(&mut size);
        let mut c = Constants::default();
        for (constant, value) in [
            (&mut c.append, 40.0),
            (&mut c.publish, 2.0),
            (&mut c.bounds, 10.0),
            (&mut c.report_write, 5.0),
            (&mut c.report_more, 1.0),
            (&mut c.stream_write, 0.02),
            (&mut c.ingest, 200.0),
            (&mut c.receive, 10.0),
            (&mut c.deliver, 5.0),
            (&mut c.check, 30.0),
            (&mut c.log_record, 60.0),
            (&mut c.message_head, 25.0),
        ] {
            constant.value = value;
        }
        parts(&size, &Machines::default(), &c)
    }

    #[test]
    fn the_thread_of_redis_by_hand() {
        let parts = model(|_| {});
        let thread = of(&parts, "redis_thread");
        let [appends, publishing, bounds, reports, _] = thread.within[..] else { panic!("{:?}", thread.within) };
        // 100,000 writes of 40 us; 100,000 records to 19.88 nodes; 20,000 comparisons.
        assert!((appends.1 - 4.0).abs() < 0.01, "{appends:?}");
        close(publishing.1, 3.97632);
        close(bounds.1, 0.2);
        // 18,122 writes of 5 us, and 1,878 more reports; ten writes of 9,941 producers.
        assert!((reports.1 - 0.0945).abs() < 0.0005, "{reports:?}");
        close(thread.share, appends.1 + publishing.1 + bounds.1 + reports.1);
        // 8.27 of 0.70.
        assert_eq!(thread.needs, Some(12.0));
    }

    #[test]
    fn servers_of_redis_share_all() {
        let (one, eight) = (model(|_| {}), model(|size| size.redis = 8.0));
        let (one, eight) = (of(&one, "redis_thread"), of(&eight, "redis_thread"));
        close(eight.load, one.load / 8.0);
        assert_eq!(one.needs, eight.needs);
    }

    #[test]
    fn memory_is_bounded_by_bytes_or_by_age() {
        // 64 MiB of messages of 175 bytes, each with 60 beside it; 950 bytes a device.
        let records = 67_108_864.0 / 175.0;
        let all = (1e4 * records * 235.0 + 1e6 * 950.0) / GIB;
        close(of(&model(|_| {}), "redis_memory").load, all);
        // An hour of ten records a second.
        let hour = (1e4 * 36_000.0 * 235.0 + 1e6 * 950.0) / GIB;
        close(of(&model(|size| size.retention = 3600.0), "redis_memory").load, hour);
    }

    #[test]
    fn a_node_by_hand() {
        let parts = model(|_| {});
        // 5,000 records in, 99,408 published, 500,000 out, and 1,000 comparisons.
        let cores = 5000.0 * 200e-6 + 99_408.0 * 10e-6 + 500_000.0 * 5e-6 + 1000.0 * 30e-6;
        close(of(&parts, "node_processor").load, cores);
        close(of(&parts, "quic_connections").load, 1e6 / 19.0);
        assert!(of(&parts, "quic_connections").share > 1.0);
    }

    #[test]
    fn placed_consumers_take_the_load_of_publishing_away() {
        let (random, placed) = (model(|_| {}), model(|size| size.placement = Placement::ByProducer));
        let publishing = |parts: &[Part]| of(parts, "redis_thread").within[1].1;
        close(publishing(&placed), publishing(&random) / 19.8816);
        assert!(of(&placed, "redis_network").load < of(&random, "redis_network").load / 2.0);
    }

    #[test]
    fn what_is_fullest_comes_first() {
        let parts = model(|_| {});
        assert!(parts.is_sorted_by(|a, b| a.share >= b.share));
        assert_eq!(parts.first().map(|part| part.id), Some("redis_memory"));
    }
}
