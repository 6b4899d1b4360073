//! `loadtest model-scale --against`: real nodes at a small size, and what they take beside what the model says of this size.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Options,
    bench::{Bench, Places},
    constants::Constants,
    number,
    processors::{Node, Thread},
    rates::Rates,
    size::Size,
};

/// A size that two processors carry beside its clients.
fn base() -> Size {
    Size { devices: 200.0, every: 0.2, producers: 100.0, consumers: 100.0, follows: 10.0, nodes: 2.0, history: false, ..Size::million() }
}

pub(super) async fn run(options: &Options, constants: &Constants) -> Result<Value> {
    // Two processors for nodes, clients and Redis leave it with little to do.
    let c = &constants.lone();
    motience_certs::install_provider();
    let size = options.scale.size(&base());
    let bench = Bench::start(options, &size).await?;
    // The cost of nodes and Redis without anything to do is no part of the model.
    let idle = bench.idle(options.seconds).await?;
    let rates = Rates::of(&size, c);
    let flowed = bench.flow(&Places::random(&size, options.seed), size.producers as usize, Some(rates.parts), options.seconds).await?;
    bench.stop().await?;

    let seconds = flowed.used.seconds;
    let node = |used: &[f64], seconds: f64| used.iter().sum::<f64>() / used.len() as f64 / seconds;
    let message = size.bytes + c.message_head.get();
    let rows = [
        ("records/s", rates.records, flowed.records / seconds),
        ("deliveries/s", rates.deliveries, flowed.delivered / seconds),
        ("Redis: functions/s", rates.appends + rates.checks, (flowed.used.calls - idle.calls * seconds / idle.seconds) / seconds),
        ("Redis: processor, %", 100.0 * Thread::of(&rates, c).sum(), 100.0 * (flowed.used.redis / seconds - idle.redis / idle.seconds)),
        (
            "node: processor, %",
            100.0 * Node::of(&size, &rates, c).sum(),
            100.0 * (node(&flowed.used.nodes, seconds) - node(&idle.nodes, idle.seconds)),
        ),
        ("Redis: kB/s in", rates.redis_in(&size, c) / 1e3, (flowed.used.bytes_in / seconds - idle.bytes_in / idle.seconds) / 1e3),
        (
            "Redis: kB/s out",
            rates.parts * rates.reached * (message + c.published.get()) / 1e3,
            (flowed.used.bytes_out / seconds - idle.bytes_out / idle.seconds) / 1e3,
        ),
        ("Redis: functions/s of idle nodes", 0.0, idle.calls / idle.seconds),
        ("Redis: bytes a record", message + c.log_record.get(), flowed.used.memory / flowed.records),
    ];
    say!(
        "{} devices, {} producers, {} consumers that follow {} each, {} nodes, {seconds:.1} s",
        size.devices,
        size.producers,
        size.consumers,
        size.follows,
        size.nodes
    );
    say!("{:<32} {:>12} {:>12} {:>9}", "", "model", "measured", "ratio");
    for (name, model, measured) in rows {
        let ratio = if model > 0.0 { format!("{:.2}", measured / model) } else { "-".to_owned() };
        say!("{name:<32} {:>12} {:>12} {ratio:>9}", number(model), number(measured));
    }
    let rows: Vec<Value> = rows.iter().map(|(name, model, measured)| json!({"what": name, "model": model, "measured": measured})).collect();
    Ok(json!({"size": size, "seconds": seconds, "rows": rows}))
}
