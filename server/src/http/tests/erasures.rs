//! Records that are erased: nobody reads them on any path, and what else there is stays.

use std::time::Duration;

use motience_proto::model::{Cursor, DeviceId, LogEpoch, Offset, ProducerEpoch, RecordId, Seq};
use motience_store::{HistoryBatch, HistoryRow, MAX_OPEN_ERASURES};
use serde_json::{json, value::RawValue};

use super::{stream::lines, *};

fn record(device: &str, n: i64) -> Value {
    json!({"device_id": device, "timestamp": "2026-01-01T00:00:00Z", "data": {"n": n}})
}

impl Platform {
    async fn erase(&self, token: &str, what: Value) -> Answer {
        self.dsm(Method::POST, "/erasures", Some(token), Sent::Json(what)).await
    }

    async fn numbers(&self, token: &str, producer: &User) -> Vec<i64> {
        let read = self.dsm(Method::GET, &format!("/history/{}", producer.id), Some(token), Sent::Nothing).await.json(200);
        read.as_array().unwrap().iter().map(|record| record["data"]["n"].as_i64().unwrap()).collect()
    }

    /// The erasure, once `is` holds of it.
    async fn erasure(&self, token: &str, id: &Value, is: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let listed = self.dsm(Method::GET, "/erasures", Some(token), Sent::Nothing).await.json(200);
                let one = listed.as_array().unwrap().iter().find(|one| one["id"] == *id).cloned().expect("it is listed");
                if is(&one) {
                    return one;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("it gets on")
    }
}

#[tokio::test]
async fn erased_records_are_read_on_no_path() {
    let platform = platform(&[]).await;
    let (producer, p) = platform.account(Role::Producer, "p").await;
    let (other, q) = platform.account(Role::Producer, "q").await;
    let (_, c) = platform.account(Role::Consumer, "c").await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let send = async |token: &str, records: Vec<Value>| {
        platform.dsm(Method::POST, "/data", Some(token), Sent::Json(json!(records))).await.json(200);
    };
    // Older ones, which only the history has.
    let row = |offset: u64, device: &str, n: i64| HistoryRow {
        place: Cursor { log_epoch: LogEpoch(9), offset: Offset(offset) },
        record_id: RecordId { producer_epoch: ProducerEpoch(5), seq: Seq(offset) },
        device: DeviceId::new(device).unwrap(),
        timestamp: datetime!(2025-12-01 00:00 UTC),
        received_at: datetime!(2025-12-01 00:00 UTC),
        data: RawValue::from_string(json!({"n": n}).to_string()).unwrap(),
        extra: None,
    };
    let rows = vec![row(1, "a", 101), row(2, "b", 102)];
    let batch = HistoryBatch { producer: producer.id.producer(), log: producer.log, expected: None, cursor: rows[1].place, rows };
    platform.services.backend.store.keep_history(&[batch]).await.unwrap();
    send(&p, vec![record("a", 1), record("b", 2), record("a", 3)]).await;
    send(&q, vec![record("a", 7)]).await;
    platform.time.advance(Duration::from_secs(600));
    send(&p, vec![record("a", 4), record("b", 5), record("b", 6)]).await;
    assert_eq!(platform.numbers(&p, &producer).await, [101, 102, 1, 2, 3, 4, 5, 6]);

    for (who, what, status) in [(&c, json!({"device_id": "a"}), 403), (&q, json!({"producer_id": producer.id, "device_id": "a"}), 403)] {
        platform.erase(who, what).await.problem(status, "wrong_role");
    }
    for (who, what) in [
        (&p, json!({})),
        (&p, json!({"device_id": ""})),
        (&p, json!({"from": "yesterday"})),
        (&p, json!({"first": 0})),
        (&admin, json!({"device_id": "a"})),
    ] {
        platform.erase(who, what).await.problem(422, "invalid_field");
    }
    let what = json!({"device_id": "a", "from": "2025-06-01T00:00:00Z", "to": "2026-01-01T00:05:00Z"});
    let begun = platform.erase(&p, what).await.json(202);
    let first = platform.erasure(&p, &begun["id"], |one| one["history_rows"] == 1).await;
    assert_eq!((&first["records"], &first["done_at"]), (&json!(2), &Value::Null));
    assert_eq!(platform.numbers(&p, &producer).await, [102, 2, 4, 5, 6]);
    assert_eq!(platform.numbers(&q, &other).await, [7]);
    let mut all = lines(&platform, "/stream?from=earliest", &p).await;
    let gap =
        |from: u64, to: u64| json!({"type": "gap", "producer_id": producer.id.to_string(), "from": from, "to": to, "cause": "erased"});
    assert_eq!(all.record().await, gap(1, 1));
    assert_eq!(all.record().await["data"]["n"], 2);
    assert_eq!(all.record().await, gap(3, 3));
    assert_eq!(all.record().await["data"]["n"], 4);

    // Offsets, by an operator; and what comes later stays.
    let begun_again = platform.erase(&admin, json!({"producer_id": producer.id, "first": 5, "last": 9})).await.json(202);
    platform.erasure(&admin, &begun_again["id"], |one| one["records"] == 2).await;
    send(&p, vec![record("a", 8)]).await;
    assert_eq!(platform.numbers(&p, &producer).await, [102, 2, 4, 8]);
    // The last round, once nothing is on its way any more.
    platform.time.advance(Duration::from_secs(61));
    platform.erase(&p, json!({"device_id": "nobody"})).await.json(202);
    let done = platform.erasure(&p, &begun["id"], |one| !one["done_at"].is_null()).await;
    assert_eq!((&done["records"], &done["history_rows"]), (&json!(2), &json!(1)));
    assert_eq!(platform.numbers(&p, &producer).await, [102, 2, 4, 8]);
    let acts = platform.sm(Method::GET, "/acts", Some(&p), Sent::Nothing).await.json(200);
    assert_eq!(acts.as_array().unwrap().iter().filter(|act| act["act"] == "records.erase").count(), 3);
}

#[tokio::test]
async fn a_producer_has_a_bounded_number_of_erasures_under_way() {
    let platform = platform(&[]).await;
    let (producer, p) = platform.account(Role::Producer, "p").await;
    let (_, q) = platform.account(Role::Producer, "q").await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let wish = || json!({"producer_id": producer.id, "device_id": "nobody"});
    let first = platform.erase(&p, wish()).await.json(202);
    for _ in 1..MAX_OPEN_ERASURES {
        platform.erase(&p, wish()).await.json(202);
    }
    for who in [&p, &admin] {
        let refused = platform.erase(who, wish()).await;
        assert_eq!(refused.headers["retry-after"], "60");
        refused.problem(429, "too_many_erasures");
    }
    platform.erase(&q, json!({"device_id": "nobody"})).await.json(202);
    // Once they are done there is room again; the eraser looks at all when one is asked for.
    platform.time.advance(Duration::from_secs(61));
    platform.erase(&q, json!({"device_id": "nobody"})).await.json(202);
    platform.erasure(&p, &first["id"], |one| !one["done_at"].is_null()).await;
    platform.erase(&p, wish()).await.json(202);
}
