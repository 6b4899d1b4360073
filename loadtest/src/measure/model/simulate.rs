//! `loadtest model-scale --simulate`: a part of the platform as discrete events, beside what the arithmetic says of the same size. The simulation has what arithmetic
//! leaves out: queues, and with them latency.

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    Options,
    constants::Constants,
    engine::{Loss, Outcome, Plan, simulate},
    number,
    processors::{Node, Thread},
    rates::Rates,
    size::Size,
};

/// Loads of the busiest server of Redis that a sweep simulates.
const LOADS: [f64; 7] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];
/// Seconds for which a device waits for an acknowledgement before it connects anew (`device/src/producer/silence.rs`), the ceilings of its
/// pauses (`device/src/backoff.rs`), and connections of a node that have yet to say who they are (MAX_UNAUTHENTICATED).
const NOTICE: f64 = 5.0;
const PAUSE: f64 = 0.5;
const LONGEST: f64 = 60.0;
const UNAUTHENTICATED: usize = 2048;
/// Seconds for which the return of a lost node's devices is simulated, at most.
const MOST: f64 = 120.0;

pub(super) fn run(options: &Options, constants: &Constants) -> Result<Value> {
    // The history writer reads beside all this, and is left out on both sides.
    let size = Size { history: false, ..options.scale.size(&Size::million()).smaller(options.smaller) };
    ensure!(size.nodes >= 1.0 && size.redis >= 1.0, "there is at least one node, and one Redis");
    if options.sweep {
        return Ok(sweep(options, &size, constants));
    }
    let loss = options.lose.then(|| Loss {
        notice: NOTICE,
        pause: PAUSE,
        longest: LONGEST,
        unauthenticated: UNAUTHENTICATED,
        // As full as at the whole size.
        connections: (options.machines.quic_connections / options.smaller) as usize,
        most: MOST,
    });
    ensure!(loss.is_none() || size.nodes >= 2.0, "a node is lost to another: give --nodes 2 or more");
    say!(
        "{} devices, {} producers, {} consumers, {} nodes, {} Redis",
        size.devices,
        size.producers,
        size.consumers,
        size.nodes,
        size.redis
    );
    let outcome = simulate(&plan(options, &size, constants, loss));
    let compared = compare(options, &size, constants, &outcome);
    if loss.is_some() {
        return Ok(json!({"size": size, "compared": compared, "lost": lost(&size, &outcome)}));
    }
    Ok(json!({"size": size, "compared": compared}))
}

fn plan<'p>(options: &Options, size: &'p Size, constants: &'p Constants, loss: Option<Loss>) -> Plan<'p> {
    let cores = (options.machines.node_cores as usize).max(1);
    Plan { size, constants, cores, seed: options.seed, seconds: options.seconds, loss }
}

/// Prints the outcome beside the arithmetic.
fn compare(options: &Options, size: &Size, c: &Constants, seen: &Outcome) -> Value {
    let rates = Rates::of(size, c);
    let middle = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let thread = Thread::of(&rates, c);
    let rows = [
        ("records/s", rates.records, seen.records),
        ("writes/s", rates.appends, seen.appends),
        ("published parts/s, all nodes", rates.parts * rates.reached, seen.published),
        ("deliveries/s", rates.deliveries * size.batch, seen.deliveries),
        ("Redis: thread, % busy", 100.0 * thread.sum() / size.redis, 100.0 * middle(&seen.redis)),
        ("node: processor, % busy", 100.0 * Node::of(size, &rates, c).sum() / options.machines.node_cores, 100.0 * middle(&seen.nodes)),
    ];
    say!("{:<32} {:>12} {:>12} {:>9}", "", "reckoned", "simulated", "differs");
    for (name, reckoned, simulated) in rows {
        say!("{name:<32} {:>12} {:>12} {:>7.1} %", number(reckoned), number(simulated), (simulated / reckoned - 1.0) * 100.0);
    }
    latency("acknowledged", &seen.acked);
    latency("delivered", &seen.delivered);
    let rows: Vec<Value> =
        rows.iter().map(|(name, reckoned, simulated)| json!({"what": name, "reckoned": reckoned, "simulated": simulated})).collect();
    json!({"rows": rows, "acknowledged_us": quantiles(&seen.acked), "delivered_us": quantiles(&seen.delivered)})
}

fn latency(what: &str, of: &Histogram<u64>) {
    let at = |quantile| of.value_at_quantile(quantile) as f64 / 1e3;
    say!("{what:<32} p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms", at(0.5), at(0.99), at(0.999));
}

fn quantiles(of: &Histogram<u64>) -> Value {
    let at = |quantile| of.value_at_quantile(quantile);
    json!({"p50": at(0.5), "p99": at(0.99), "p999": at(0.999)})
}

/// Prints how the devices of a lost node came back.
fn lost(size: &Size, seen: &Outcome) -> Value {
    let devices = (size.devices / size.nodes).round();
    let after = |share: f64| {
        let place = ((seen.back.len() as f64 * share).ceil() as usize).max(1);
        seen.back.get(place - 1).copied().unwrap_or_default()
    };
    let (half, most, all) = (after(0.5), after(0.99), after(1.0));
    say!(
        "a node is lost, with about {devices} devices: {} are back, half of them after {half:.1} s, 99 % after {most:.1} s, the last after {all:.1} s",
        seen.back.len()
    );
    say!("tries that were refused: {}", seen.refused);
    latency("acknowledged meanwhile", &seen.acked_after);
    json!({"back": seen.back.len(), "half": half, "most": most, "all": all, "refused": seen.refused, "acknowledged_us": quantiles(&seen.acked_after)})
}

/// Simulates several loads of Redis: the pause of devices is changed, and all else stays.
fn sweep(options: &Options, size: &Size, c: &Constants) -> Value {
    say!("{:>9} {:>9} {:>10} | {:>9} {:>9} | {:>9} {:>9}", "Redis is", "it was", "records/s", "ack p50", "p99 ms", "deliv p50", "p99 ms");
    let mut rows = Vec::new();
    for load in LOADS {
        let Some(every) = pause_for(size, c, load) else { continue };
        let size = Size { every, ..size.clone() };
        let seen = simulate(&plan(options, &size, c, None));
        let busiest = seen.redis.iter().copied().fold(0.0, f64::max);
        let ms = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1e3;
        let [ack, late_ack, delivered, late] = [(&seen.acked, 0.5), (&seen.acked, 0.99), (&seen.delivered, 0.5), (&seen.delivered, 0.99)]
            .map(|(of, quantile)| ms(of, quantile));
        say!(
            "{:>7.0} % {:>7.1} % {:>10.0} | {ack:>9.2} {late_ack:>9.2} | {delivered:>9.2} {late:>9.2}",
            load * 100.0,
            busiest * 100.0,
            seen.records
        );
        rows.push(json!({"load": load, "busy": busiest, "records": seen.records, "acknowledged_us": quantiles(&seen.acked), "delivered_us": quantiles(&seen.delivered)}));
    }
    json!({"size": size, "sweep": rows})
}

/// The pause of devices between two records by which the busiest server of Redis has this load; none where it has more without any.
fn pause_for(size: &Size, c: &Constants, load: f64) -> Option<f64> {
    let busy = |every: f64| {
        let size = Size { every, ..size.clone() };
        Thread::of(&Rates::of(&size, c), c).sum() / size.redis
    };
    let (mut short, mut long) = (1e-3, 1e5);
    if busy(long) > load {
        return None;
    }
    for _ in 0..60 {
        let middle = f64::sqrt(short * long);
        if busy(middle) > load { short = middle } else { long = middle }
    }
    Some(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Size {
        Size { producers: 200.0, consumers: 2000.0, devices: 20_000.0, history: false, nodes: 8.0, ..Size::million() }
    }

    fn seen(size: &Size, seconds: f64, loss: Option<Loss>) -> Outcome {
        simulate(&Plan { size, constants: &Constants::default(), cores: 8, seed: 3, seconds, loss })
    }

    #[test]
    fn the_simulation_is_as_busy_as_was_reckoned() {
        let (size, c) = (small(), Constants::default());
        let (rates, seen) = (Rates::of(&size, &c), seen(&size, 10.0, None));
        let node = Node::of(&size, &rates, &c).sum() / 8.0;
        let nodes = seen.nodes.iter().sum::<f64>() / seen.nodes.len() as f64;
        let thread = Thread::of(&rates, &c).sum();
        for (found, wanted) in [
            (seen.records, rates.records),
            (seen.appends, rates.appends),
            (seen.published, rates.parts * rates.reached),
            (seen.deliveries, rates.deliveries),
            (seen.redis[0], thread),
            (nodes, node),
        ] {
            assert!((found / wanted - 1.0).abs() < 0.03, "{found} is not {wanted}");
        }
    }

    #[test]
    fn equal_seeds_have_equal_outcomes() {
        let of = || {
            let seen = seen(&small(), 1.0, None);
            (seen.acked.value_at_quantile(0.99), seen.records.to_bits(), seen.redis[0].to_bits())
        };
        assert_eq!(of(), of());
    }

    #[test]
    fn latency_grows_before_redis_is_full() {
        let c = Constants::default();
        let at = |load: f64| {
            let every = pause_for(&small(), &c, load).expect("less than this without records");
            seen(&Size { every, ..small() }, 2.0, None)
        };
        let (half, nearly) = (at(0.5), at(0.95));
        assert!(nearly.redis[0] < 1.0, "{}", nearly.redis[0]);
        assert!(nearly.acked.value_at_quantile(0.99) > 2 * half.acked.value_at_quantile(0.99));
    }

    #[test]
    fn devices_of_a_lost_node_come_back_where_there_is_room() {
        let loss = |connections| Loss {
            notice: NOTICE,
            pause: PAUSE,
            longest: LONGEST,
            unauthenticated: UNAUTHENTICATED,
            connections,
            most: 20.0,
        };
        let back = seen(&small(), 1.0, Some(loss(50_000)));
        assert!((2300..2700).contains(&back.back.len()), "{}", back.back.len());
        // Each within a pause, its patience, and what the handshakes take.
        assert!(back.back.last().is_some_and(|last| *last < 18.0), "{:?}", back.back.last());
        assert_eq!(back.refused, 0);
        let full = seen(&small(), 1.0, Some(loss(2600)));
        assert!(full.refused > 0 && full.back.len() < back.back.len(), "{} of {}", full.back.len(), back.back.len());
    }
}
