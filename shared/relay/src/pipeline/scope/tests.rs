//! A scope lets nothing through that it would not let through alone, whatever is asked for with it; and an example of each of its members.

use std::collections::HashSet;

use motience_proto::model::{LogEpoch, Offset, ProducerEpoch, RecordId, Selection, Seq};
use proptest::prelude::*;
use serde_json::{Value, json};
use time::macros::datetime;

use super::*;
use crate::pipeline::{Limits, Options, Stages};

const PRODUCER: ProducerId = ProducerId(1);
const START: OffsetDateTime = datetime!(2025-01-29 11:35 UTC);

fn scope(agreement: &Value) -> Arc<Scope> {
    Arc::new(Scope::parse(&agreement.to_string()).unwrap())
}

/// Record `n` of a device, that came `n` seconds after the start.
fn record(n: u64, device: u8, a: i64, b: i64) -> DeliveredRecord {
    let message = format!(
        r#"{{"producer_id":"1","device_id":"d{device}","timestamp":{},"place":"secret","data":{{"a":{a},"b":{b},"c":{{"d":{a}}}}}}}"#,
        1_738_150_500_000 + n * 1000
    );
    DeliveredRecord {
        producer: PRODUCER,
        cursor: Cursor { log_epoch: LogEpoch(1), offset: Offset(n) },
        offset: Offset(n),
        record_id: RecordId { producer_epoch: ProducerEpoch(u64::from(device)), seq: Seq(n) },
        received: Some(START + Duration::from_secs(n)),
        message: message.into(),
    }
}

/// Records that have come out of the stages by the end of a log.
fn through(scope: Option<&Arc<Scope>>, request: &Selection, records: &[DeliveredRecord]) -> Vec<DeliveredRecord> {
    let options = Options { selector: Selector::of(request).unwrap(), ..Options::default() };
    let (clock, _) = Clock::manual(START + Duration::from_secs(1000));
    let mut stages = Stages::new(&options, Limits::default(), clock);
    stages.scope(PRODUCER, scope.cloned());
    stages.start(PRODUCER, Cursor { log_epoch: LogEpoch(1), offset: Offset(0) });
    let (mut out, now) = (Vec::new(), Instant::now());
    records.iter().for_each(|record| stages.push(record.clone(), now, &mut out));
    // A record that the scope lets go may be held once more, by what the consumer asked for.
    (1..=2).for_each(|turn| stages.expire(now + turn * Duration::from_secs(100_000), &mut out));
    let last = records.last().map(|record| record.cursor);
    assert_eq!(stages.low_watermark(PRODUCER), None, "nothing is held any more");
    if scope.is_some() {
        assert_eq!(stages.cursor(PRODUCER), last, "the cursor goes past what is left out");
    }
    out
}

fn json(record: &DeliveredRecord) -> Value {
    serde_json::from_slice(&record.message).unwrap()
}

/// Whether all of `part` is in `whole`, and equal there.
fn is_within(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|in_whole| is_within(value, in_whole)))
        }
        (part, whole) => part == whole,
    }
}

fn condition() -> impl Strategy<Value = String> {
    let pointer = prop::sample::select(vec!["/data/a", "/data/b", "/data/c/d", "/data/none"]);
    let sign = prop::sample::select(vec!["<", ">", "=", "!="]);
    (pointer, sign, -2i64..3).prop_map(|(pointer, sign, value)| format!("{pointer}{sign}{value}"))
}

fn fields() -> impl Strategy<Value = Option<String>> {
    let all = vec!["/data/a", "/data/b", "/data/c", "/data/c/d", "/data/none"];
    prop::option::of(prop::sample::subsequence(all, 1..4).prop_map(|fields| fields.join(",")))
}

fn every() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop::sample::select(vec!["2s".to_owned(), "5s".to_owned()]))
}

fn selection() -> impl Strategy<Value = Selection> {
    (prop::collection::vec(condition(), 0..3), fields(), every()).prop_map(|(conditions, fields, every)| Selection {
        conditions,
        fields,
        every,
    })
}

fn agreement() -> impl Strategy<Value = Agreement> {
    let devices = prop::option::of(prop::sample::subsequence(vec!["d0".to_owned(), "d1".to_owned(), "d2".to_owned()], 1..3));
    let since = prop::option::of(prop::sample::select(vec!["2025-01-29T11:35:10Z".to_owned(), "985s".to_owned()]));
    (selection(), devices, since).prop_map(|(Selection { conditions, fields, every }, devices, since)| Agreement {
        devices,
        conditions,
        fields,
        every,
        since,
        ..Agreement::default()
    })
}

fn records() -> impl Strategy<Value = Vec<DeliveredRecord>> {
    let drawn = prop::collection::vec((0u8..4, -2i64..3, -2i64..3), 1..40);
    drawn.prop_map(|drawn| (1..).zip(drawn).map(|(n, (device, a, b))| record(n, device, a, b)).collect())
}

proptest! {
    #[test]
    fn nothing_is_let_through_that_the_scope_alone_would_not(agreement in agreement(), request in selection(), records in records()) {
        let scope = scope(&serde_json::to_value(&agreement).unwrap());
        let alone = through(Some(&scope), &Selection::default(), &records);
        let both = through(Some(&scope), &request, &records);
        for record in &both {
            let same = alone.iter().find(|other| other.record_id == record.record_id);
            prop_assert!(same.is_some_and(|same| is_within(&json(record), &json(same))), "{:?}", record);
        }
        // Nor does the consumer learn by its own conditions of what is hidden: they hold of the record as the scope shows it.
        let again = through(None, &request, &alone);
        let ids = |records: &[DeliveredRecord]| records.iter().map(|record| (record.record_id, record.message.clone())).collect::<HashSet<_>>();
        prop_assert_eq!(ids(&both), ids(&again));
    }

    #[test]
    fn the_scope_is_its_members_all_together(agreement in agreement(), records in records()) {
        let scope = scope(&serde_json::to_value(&agreement).unwrap());
        for shown in through(Some(&scope), &Selection::default(), &records) {
            let whole = records.iter().find(|record| record.record_id == shown.record_id).unwrap();
            let (shown, whole_json) = (json(&shown), json(whole));
            prop_assert!(is_within(&shown, &whole_json));
            prop_assert!(scope.reaches(whole.received, START + Duration::from_secs(1000)));
            if let Some(devices) = &agreement.devices {
                prop_assert!(devices.iter().any(|device| *device == whole_json["device_id"]));
            }
            if agreement.fields.is_some() {
                prop_assert!(shown.get("place").is_none(), "nothing beside device, time and data");
            }
            let plain = Selection { fields: None, every: None, ..agreement.selection() };
            prop_assert!(Selector::of(&plain).unwrap().apply(&whole.message).is_some());
        }
    }
}

#[test]
fn a_condition_of_the_consumer_does_not_see_what_is_hidden() {
    let hidden = scope(&json!({"type": "stream", "fields": "/data/a"}));
    let ask = |condition: &str| {
        let request = Selection { conditions: vec![condition.to_owned()], ..Selection::default() };
        through(Some(&hidden), &request, &[record(1, 0, 1, 7)]).len()
    };
    assert_eq!((ask("/data/b=7"), ask("/data/b!=7"), ask("/data/a=1")), (0, 0, 1));
    let shown = through(Some(&hidden), &Selection::default(), &[record(1, 0, 1, 7)]);
    let expected = json!({"producer_id": "1", "device_id": "d0", "timestamp": 1_738_150_501_000_u64, "data": {"a": 1}});
    assert_eq!(json(&shown[0]), expected);
}

#[test]
fn a_producer_without_a_scope_passes_as_it_is() {
    let mut stages = Stages::new(&Options::default(), Limits::default(), Clock::system());
    assert!(stages.is_empty() && stages.lets_pass(PRODUCER));
    stages.scope(ProducerId(2), Some(scope(&json!({"type": "stream", "devices": ["d1"]}))));
    assert!(!stages.is_empty() && stages.lets_pass(PRODUCER) && !stages.lets_pass(ProducerId(2)));
    stages.scope(ProducerId(2), None);
    assert!(stages.is_empty());
}

#[test]
fn how_far_back_is_a_time_or_a_length() {
    let (time, length) = (scope(&json!({"since": "2025-01-29T11:35:00Z"})), scope(&json!({"since": "7d"})));
    let now = START + Duration::from_secs(30 * 86_400);
    assert_eq!(time.floor(now), Some(START));
    assert_eq!(length.floor(now), Some(now - Duration::from_secs(7 * 86_400)));
    assert_eq!(time.bounded(StartPosition::Earliest, now), StartPosition::Time(START));
    assert_eq!(time.bounded(StartPosition::Live, now), StartPosition::Live);
    assert!(time.reaches(Some(START), now) && !time.reaches(Some(START - Duration::from_secs(1)), now) && !time.reaches(None, now));
    let agreed = Scope::text(Agreement { since: Some("now".into()), ..Agreement::default() }, START).unwrap().unwrap();
    assert_eq!(Scope::parse(&agreed).unwrap().floor(now), Some(START));
    assert_eq!(Scope::text(Agreement::default(), START), Ok(None), "an agreement without limits is none");
}

#[test]
fn a_wrong_agreement_names_its_member() {
    for (agreement, field) in [
        (json!({"type": "stream", "device": ["d1"]}), "agreements"),
        (json!({"type": "other"}), "agreements"),
        (json!({"devices": []}), "devices"),
        (json!({"devices": ["\u{1}"]}), "devices"),
        (json!({"where": ["/data/a>"]}), "where"),
        (json!({"fields": "data"}), "fields"),
        (json!({"every": "1 day"}), "every"),
        (json!({"since": "59s"}), "since"),
        (json!({"since": "soon"}), "since"),
        (json!({"connections": 0}), "connections"),
    ] {
        assert_eq!(Scope::parse(&agreement.to_string()).unwrap_err().field(), field, "{agreement}");
    }
}
