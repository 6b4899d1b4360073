//! The cost of a selection for each record of about 150 bytes: asked for by a consumer, and as the scope of a grant; beside that of what it
//! replaces, a document built of the whole record.
//!
//! `cargo bench -p motience-loadtest --bench views`

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use motience_proto::model::{Cursor, LogEpoch, Offset, ProducerEpoch, ProducerId, RecordId, Seq};
use motience_relay::pipeline::{
    DeliveredRecord,
    sampler::{Limits, Sampler},
    scope::{Scope, Scopes},
    selection::Selector,
};
use motience_runtime::clock::Clock;
use serde_json::{Value, json};

/// Records that count.
const RECORDS: u64 = 200_000;
/// How often each case is measured.
const ROUNDS: usize = 5;
/// Devices that send them.
const DEVICES: u64 = 100;

/// A pump's reading, with its place in the log.
fn reading(random: &mut fastrand::Rng, n: u64) -> DeliveredRecord {
    let (device, second) = (n % DEVICES, n / DEVICES);
    let text = format!(
        r#"{{"producer_id":"7","device_id":"pump-{device:05}","timestamp":{},"data":{{"seq":{n},"pressure":{:.3},"flow":{:.2},"temperature":{:.1},"valve":"{}"}}}}"#,
        second * 1000,
        4.0 + random.f64(),
        120.0 + 10.0 * random.f64(),
        30.0 + 5.0 * random.f64(),
        if random.u8(0..20) == 0 { "closed" } else { "open" },
    );
    let offset = Offset(n + 1);
    DeliveredRecord {
        producer: ProducerId(7),
        cursor: Cursor { log_epoch: LogEpoch(1), offset },
        offset,
        record_id: RecordId { producer_epoch: ProducerEpoch(device), seq: Seq(n + 1) },
        received: None,
        message: Bytes::from(text),
    }
}

fn main() {
    let mut random = fastrand::Rng::with_seed(1);
    let records: Vec<DeliveredRecord> = (0..RECORDS).map(|n| reading(&mut random, n)).collect();
    println!("{:<34} {:>12} {:>12} {:>8} {:>12}", "", "ns a record", "as a scope", "ratio", "shown");
    for (name, conditions, fields, every) in [
        ("everything", &[][..], None, None),
        ("where, a twentieth", &["/data/valve=\"closed\""], None, None),
        ("where, twice, a half", &["/data/temperature>32.5", "/data/flow>0"], None, None),
        ("fields", &[], Some("/data/temperature,/data/flow"), None),
        ("every=10s", &[], None, Some("10s")),
        ("where, fields and every", &["/data/temperature>32.5"], Some("/data/temperature"), Some("10s")),
    ] {
        let agreement = json!({"where": conditions, "fields": fields, "every": every}).to_string();
        // In turns, and the quickest of each: what a noisy machine adds is no cost of theirs.
        let (mut asked, mut granted, mut shown) = (Duration::MAX, Duration::MAX, (0, 0));
        for _ in 0..ROUNDS {
            let selector = Selector::parse(conditions, fields, every).expect("the expressions are good");
            let mut sampler = Sampler::new(selector, Limits::default());
            let now = Instant::now();
            shown.0 = passed(&records, |record, out| sampler.push(&record, now, out));
            asked = asked.min(now.elapsed());

            let mut scopes = Scopes::new(Clock::system(), Limits::default());
            scopes.set(ProducerId(7), Some(Arc::new(Scope::parse(&agreement).expect("the agreement is good"))));
            let now = Instant::now();
            shown.1 = passed(&records, |record, out| scopes.push(record, now, out));
            granted = granted.min(now.elapsed());
        }
        assert_eq!(shown.0, shown.1, "{name}: a scope lets through what the same selection does");
        row(name, asked, Some(granted), shown.0);
    }
    let begun = Instant::now();
    let hot = |record: &&DeliveredRecord| {
        let built: Value = serde_json::from_slice(&record.message).expect("it is JSON");
        built.pointer("/data/temperature").and_then(Value::as_f64).is_some_and(|t| t > 32.5)
    };
    let shown = records.iter().filter(hot).count();
    row("a document of each, one condition", begun.elapsed(), None, shown);
}

/// How many records a stage lets through.
fn passed(records: &[DeliveredRecord], mut stage: impl FnMut(DeliveredRecord, &mut Vec<DeliveredRecord>)) -> usize {
    let (mut out, mut shown) = (Vec::new(), 0);
    for record in records {
        stage(record.clone(), &mut out);
        shown += black_box(&out).len();
        out.clear();
    }
    shown
}

fn row(name: &str, asked: Duration, granted: Option<Duration>, shown: usize) {
    let each = |took: Duration| took.as_nanos() as f64 / RECORDS as f64;
    let scope = granted.map_or_else(
        || format!("{:>12} {:>8}", "", ""),
        |granted| format!("{:>12.0} {:>8.2}", each(granted), granted.as_secs_f64() / asked.as_secs_f64()),
    );
    println!("{name:<34} {:>12.0} {scope} {shown:>12}", each(asked));
}
