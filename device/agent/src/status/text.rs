//! The status file in words, for people: a name and what is to be said of it on each line.

use std::fmt::Write as _;

use motience_device::{link::Report, outbox::Order, producer::Stats};

use super::Status;

/// All lines.
pub(super) fn of(status: &Status) -> String {
    let stats = &status.stats;
    let mut lines = Lines::default();
    lines.say("device", &status.device_id);
    lines.say("state", format!("{:?}", stats.state).to_lowercase());
    lines.say("server", &status.server);
    connection(&mut lines, stats);
    records(&mut lines, stats);
    trouble(&mut lines, stats);
    for sensor in &status.sensors {
        lines.say("sensor", format!("{}: {} records, {} bad", sensor.name, sensor.records, sensor.bad));
    }
    if let Some(error) = &stats.transport.last_error {
        lines.say("error", error);
    }
    lines.say("since", format!("{} (process {})", status.started_at, status.pid));
    lines.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn say(&mut self, name: &str, value: impl AsRef<str>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<10} {}", value.as_ref());
    }
}

fn connection(lines: &mut Lines, stats: &Stats) {
    let (transport, link) = (&stats.transport, &stats.link);
    if let (Some(node), Some(durability)) = (&transport.node, &transport.durability) {
        lines.say("node", format!("{node} (acknowledges: {durability})"));
    }
    if let Some(rtt) = link.rtt {
        let ms = rtt.as_secs_f64() * 1e3;
        lines.say("link", format!("{ms:.1} ms round trip, {} of {} packets lost", link.lost_packets, link.sent_packets));
    }
    if let Some(current) = transport.current {
        let (fallbacks, returns) = (transport.fallbacks, transport.returns);
        lines.say("transport", format!("{}, {fallbacks} times by the gateway, {returns} times back to QUIC", current.as_str()));
    }
    if let Some(report) = &link.report {
        lines.say("redundancy", redundancy(report));
    }
    if link.latest_sent + link.latest_dropped > 0 {
        lines.say("latest", format!("{} sent, {} dropped", link.latest_sent, link.latest_dropped));
    }
}

fn records(lines: &mut Lines, stats: &Stats) {
    let of = &stats.outbox;
    lines.say(
        "records",
        format!(
            "{} enqueued, {} acknowledged, {} refused, {} dropped, {} lost, {} blocked",
            of.enqueued, of.acked, of.refused, of.dropped, of.lost, of.blocked
        ),
    );
    lines.say("outbox", outbox(stats));
}

fn trouble(lines: &mut Lines, stats: &Stats) {
    let transport = &stats.transport;
    if let Some(error) = &stats.disk.error {
        lines.say("disk", error);
    }
    lines.say("reconnects", format!("{}, another port {} times", transport.reconnects, transport.rebinds));
    let copies = stats.outbox.copies_found;
    if copies > 0 {
        let why = "times the log had records of this outbox that it never sent: it was put back in time, or copied";
        lines.say("copied", format!("{copies} {why}"));
    }
    if transport.superseded > 0 {
        let rival =
            if transport.rivalry > 1 { "; another device uses this name: give each a device_id and an outbox of its own" } else { "" };
        lines.say("superseded", format!("{} times, {} in a row{rival}", transport.superseded, transport.rivalry));
    }
}

fn redundancy(link: &Report) -> String {
    let mut text = format!("{} a record ({:.1} % of packets lost", link.redundancy, link.loss * 100.0);
    if let Some(burst) = link.burst_ms {
        let _ = write!(text, ", in bursts of {burst:.0} ms");
    }
    let share = if link.first_bytes > 0 { link.redundant_bytes as f64 * 100.0 / link.first_bytes as f64 } else { 0.0 };
    let _ = write!(text, "), {} sent, {share:.0} % more bytes", link.redundant_sent);
    text
}

fn outbox(stats: &Stats) -> String {
    let mut text = format!("{} records, {} bytes", stats.outbox.records, stats.outbox.bytes);
    if let Some(age) = stats.outbox.oldest {
        let _ = write!(text, ", the oldest {:.1} s old", age.as_secs_f64());
    }
    if stats.outbox.unsaved > 0 {
        let _ = write!(text, ", {} not on disk yet", stats.outbox.unsaved);
    }
    if stats.outbox.abandoned > 0 {
        let _ = write!(text, ", {} numbers skipped", stats.outbox.abandoned);
    }
    let order = match stats.outbox.order {
        Order::OldestFirst => "oldest first",
        Order::LiveFirst => "live first",
    };
    let _ = write!(text, ", {order}");
    match stats.disk.bytes {
        Some(bytes) => {
            let _ = write!(text, ", {bytes} bytes on disk");
        }
        None => text.push_str(", in memory"),
    }
    text
}
