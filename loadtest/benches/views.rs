//! The cost of a selection for each record of about 150 bytes, beside that of what it replaces: a document built of the whole record.
//!
//! `cargo bench -p motience-loadtest --bench views`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use motience_proto::model::{Cursor, LogEpoch, Offset, ProducerEpoch, ProducerId, RecordId, Seq};
use motience_relay::pipeline::{
    DeliveredRecord,
    sampler::{Limits, Sampler},
    selection::Selector,
};
use serde_json::Value;

/// Records that count.
const RECORDS: u64 = 200_000;
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
    println!("{:<34} {:>12} {:>12}", "", "ns a record", "shown");
    for (name, conditions, fields, every) in [
        ("everything", &[][..], None, None),
        ("where, a twentieth", &["/data/valve=\"closed\""], None, None),
        ("where, twice, a half", &["/data/temperature>32.5", "/data/flow>0"], None, None),
        ("fields", &[], Some("/data/temperature,/data/flow"), None),
        ("every=10s", &[], None, Some("10s")),
        ("where, fields and every", &["/data/temperature>32.5"], Some("/data/temperature"), Some("10s")),
    ] {
        let selector = Selector::parse(conditions, fields, every).expect("the expressions are good");
        let mut sampler = Sampler::new(selector, Limits::default());
        let (mut out, mut shown, now) = (Vec::new(), 0, Instant::now());
        for record in &records {
            sampler.push(record, now, &mut out);
            shown += black_box(&out).len();
            out.clear();
        }
        row(name, now.elapsed(), shown);
    }
    let begun = Instant::now();
    let hot = |record: &&DeliveredRecord| {
        let built: Value = serde_json::from_slice(&record.message).expect("it is JSON");
        built.pointer("/data/temperature").and_then(Value::as_f64).is_some_and(|t| t > 32.5)
    };
    let shown = records.iter().filter(hot).count();
    row("a document of each, one condition", begun.elapsed(), shown);
}

fn row(name: &str, took: Duration, shown: usize) {
    println!("{name:<34} {:>12.0} {shown:>12}", took.as_nanos() as f64 / RECORDS as f64);
}
