//! Size and cost of a record of about 150 bytes on the wire: as it is, in the compact form of motience/1,
//! and by zstd with a dictionary trained on records like it.
//!
//! `cargo bench -p motience-loadtest --bench forms`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use motience_proto::{
    model::Seq,
    wire::{
        Frame, Record,
        compact::{Decoder, Encoder},
    },
};
use zstd::bulk::{Compressor, Decompressor};

/// Records that the dictionary is trained on, and that the encoder has seen, before anything counts.
const KNOWN: u64 = 2000;
/// Records that count.
const COUNTED: u64 = 20_000;
/// Bytes of the dictionary.
const DICTIONARY: usize = 16 * 1024;
/// zstd's own default.
const LEVEL: i32 = 3;
const MAX_RECORD: usize = 64 * 1024;

/// A pump's reading, as `loadtest lossy` sends it: every value changes as a sensor's does.
fn reading(random: &mut fastrand::Rng, n: u64) -> Bytes {
    let (seconds, millis) = (n / 10, n % 10 * 100);
    let text = format!(
        r#"{{"device_id":"pump-00001-01","timestamp":"2026-11-23T12:{:02}:{:02}.{millis:03}Z","data":{{"seq":{n},"pressure":{:.3},"flow":{:.2},"temperature":{:.1},"valve":"{}"}}}}"#,
        seconds / 60 % 60,
        seconds % 60,
        4.0 + random.f64(),
        120.0 + 10.0 * random.f64(),
        30.0 + 5.0 * random.f64(),
        if random.u8(0..20) == 0 { "closed" } else { "open" },
    );
    text.into()
}

struct Row {
    form: &'static str,
    bytes: usize,
    there: Duration,
    back: Duration,
}

fn main() {
    let mut random = fastrand::Rng::with_seed(1);
    let known: Vec<Bytes> = (1..=KNOWN).map(|n| reading(&mut random, n)).collect();
    let counted: Vec<Bytes> = (KNOWN + 1..=KNOWN + COUNTED).map(|n| reading(&mut random, n)).collect();
    println!("{:<28} {:>12} {:>12} {:>12}", "", "bytes", "there, ns", "back, ns");
    for row in [plain(&counted), compact(&known, &counted), zstandard(&known, &counted)] {
        let each = |time: Duration| time.as_nanos() as f64 / COUNTED as f64;
        let bytes = row.bytes as f64 / COUNTED as f64;
        println!("{:<28} {bytes:>12.1} {:>12.0} {:>12.0}", row.form, each(row.there), each(row.back));
    }
}

fn plain(records: &[Bytes]) -> Row {
    Row { form: "JSON", bytes: records.iter().map(Bytes::len).sum(), there: Duration::ZERO, back: Duration::ZERO }
}

fn compact(known: &[Bytes], records: &[Bytes]) -> Row {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut row = Row { form: "compact (whole frames)", bytes: 0, there: Duration::ZERO, back: Duration::ZERO };
    let mut frames = Vec::with_capacity(records.len());
    for (n, json) in (1..).zip(known.iter().chain(records)) {
        let began = Instant::now();
        let (record, template) = encoder.encode(Record { seq: Seq(n), json: json.clone() });
        let took = began.elapsed();
        let frame = Frame::from(record);
        if let Some(template) = template {
            encoder.accepted(decoder.add(template).expect("the encoder knows the limits"));
        }
        if n > known.len() as u64 {
            let mut wire = BytesMut::new();
            frame.encode(&mut wire);
            row.bytes += wire.len();
            row.there += took;
            frames.push(frame);
        }
    }
    let began = Instant::now();
    for (frame, json) in frames.iter().zip(records) {
        match frame {
            Frame::Compact(compact) => assert_eq!(black_box(decoder.expand(compact, MAX_RECORD)).as_ref(), Ok(json)),
            other => assert!(matches!(other, Frame::Record(record) if record.json == json)),
        }
    }
    row.back = began.elapsed();
    row
}

fn zstandard(known: &[Bytes], records: &[Bytes]) -> Row {
    let dictionary = zstd::dict::from_samples(known, DICTIONARY).expect("there are enough samples");
    let mut compressor = Compressor::with_dictionary(LEVEL, &dictionary).expect("a dictionary of its own");
    // Nothing that both sides know anyway.
    compressor.include_contentsize(false).and_then(|()| compressor.include_checksum(false)).expect("known parameters");
    compressor.include_dictid(false).expect("a known parameter");
    let mut decompressor = Decompressor::with_dictionary(&dictionary).expect("a dictionary of its own");
    let began = Instant::now();
    let packed: Vec<Vec<u8>> = records.iter().map(|json| compressor.compress(json).expect("it fits")).collect();
    let there = began.elapsed();
    let began = Instant::now();
    for (packed, json) in packed.iter().zip(records) {
        let json_again = black_box(decompressor.decompress(packed, MAX_RECORD)).expect("it was packed by zstd");
        assert_eq!(json_again, json.as_ref());
    }
    Row { form: "zstd, trained dictionary", bytes: packed.iter().map(Vec::len).sum(), there, back: began.elapsed() }
}
