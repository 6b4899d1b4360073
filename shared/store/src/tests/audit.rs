//! The audit log: a chain in which every change of a line is found.

use motience_auth::secret_hash;
use motience_proto::model::UserId;
use motience_runtime::origin::Origin;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use time::macros::datetime;

use crate::{ActQuery, Attempts, AuditHead, AuditLine, Chain, Engine, NewAct, Outcome, Store};

/// A part of the story.
pub(super) async fn audit(store: &Store) {
    let act = |object: &str, account: i64| NewAct {
        at: datetime!(2026-01-29 11:35:00.123 UTC),
        actor: Some(UserId(account)),
        act: "key.create",
        object: object.to_owned(),
        concerns: [Some(UserId(account)), None],
        detail: json!({"b": 1.5, "a": "ä\n"}),
    };
    let before = store.verify_audit(&[]).await.unwrap();
    assert_eq!((before.bad, before.unchained), (None, 0));
    let start = before.good.head.chain;

    // Many at once make one order.
    let at_once = (0..20).map(|n| {
        let (store, act) = (store.clone(), act(&format!("key:{n}"), 910_001));
        tokio::spawn(Origin::new([192, 0, 2, 7].into()).serve(async move { store.record_act(&act).await.unwrap() }))
    });
    for one in at_once.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let attempts = Attempts {
        act: NewAct { actor: None, concerns: [None, None], ..act("account:910001", 0) },
        word: "POST /login".to_owned(),
        outcome: Outcome::Refused,
        address: Some([192, 0, 2, 9].into()),
    };
    store.record_attempts(&attempts).await.unwrap();
    let good = store.verify_audit(&[]).await.unwrap();
    assert_eq!((good.bad, good.good.head.chain), (None, start + 21));
    let head = good.good.head;
    let query = ActQuery { address: Some("192.0.2.9".to_owned()), outcome: Some(Outcome::Refused), limit: 10, ..ActQuery::default() };
    let found = store.acts(&query).await.unwrap();
    assert_eq!((found.len(), found[0].act.as_str(), &found[0].chain), (1, "POST /login", &Some((head.chain, head.hash.clone()))));
    let of = |act: &str| ActQuery { act: Some(act.to_owned()), reader: Some(UserId(910_001)), limit: 100, ..ActQuery::default() };
    assert_eq!((store.acts(&of("key")).await.unwrap().len(), store.acts(&of("ke")).await.unwrap().len()), (20, 0));

    // An export says all that the chain covers, and is followed without the database.
    let lines = store.audit_lines(start).await.unwrap();
    let last = lines.last().unwrap();
    assert_eq!(AuditLine::from_json(&last.to_json()).unwrap(), *last);
    let shown: Value = serde_json::from_str(&last.to_json()).unwrap();
    let detail = r#"{"a":"ä\n","b":1.5}"#;
    let by_hand = json!([
        head.chain,
        shown["id"],
        1_769_686_500_123_i64,
        null,
        "POST /login",
        "account:910001",
        null,
        null,
        detail,
        "refused",
        shown["seal"]
    ]);
    assert_eq!(head.hash, secret_hash(&format!("{}\n{by_hand}", lines[19].hash)));

    // Rows of an older program get their places later.
    execute(store, "INSERT INTO acts (at, act, object) VALUES (5, 'old', 'old')").await;
    assert_eq!(store.verify_audit(&[]).await.unwrap().unchained, 1);
    store.chain_acts().await.unwrap();
    let good = store.verify_audit(std::slice::from_ref(&head)).await.unwrap();
    assert_eq!((good.bad, good.unchained, good.good.head.chain), (None, 0, start + 22));

    // Each kind of change, the line that is named, and how it is undone.
    let (five, six, last) = (start + 5, start + 6, start + 22);
    let of_line = |line: i64| format!("(SELECT id FROM acts WHERE chain = {line})");
    for (change, undo, bad) in [
        (
            format!("UPDATE acts SET object = object || 'x' WHERE chain = {five}"),
            format!("UPDATE acts SET object = SUBSTR(object, 1, LENGTH(object) - 1) WHERE chain = {five}"),
            five,
        ),
        (
            format!("UPDATE acts SET outcome = 'failed' WHERE chain = {five}"),
            format!("UPDATE acts SET outcome = NULL WHERE chain = {five}"),
            five,
        ),
        (
            format!("UPDATE act_origins SET address = '::1' WHERE act_id = {}", of_line(six)),
            format!("UPDATE act_origins SET address = '192.0.2.7' WHERE act_id = {}", of_line(six)),
            six,
        ),
        (format!("UPDATE acts SET chain = NULL WHERE chain = {five}"), format!("UPDATE acts SET chain = {five} WHERE chain IS NULL"), five),
        (format!("UPDATE acts SET chain = NULL WHERE chain = {last}"), format!("UPDATE acts SET chain = {last} WHERE chain IS NULL"), last),
        (format!("UPDATE audit_head SET chain = {five}"), format!("UPDATE audit_head SET chain = {last}"), five),
        (
            "UPDATE audit_head SET hash = 'x'".to_owned(),
            format!("UPDATE audit_head SET hash = (SELECT hash FROM acts WHERE chain = {last})"),
            last,
        ),
    ] {
        execute(store, &change).await;
        let verdict = store.verify_audit(&[]).await.unwrap();
        assert_eq!(verdict.bad.map(|bad| bad.chain), Some(bad), "{change}");
        execute(store, &undo).await;
        assert_eq!(store.verify_audit(&[]).await.unwrap().bad, None, "{undo}");
    }

    // With an account go the addresses of its acts; the chain holds, and nobody finds them by trying.
    let held = store.verify_audit(&[]).await.unwrap().good;
    store.erase_rows(UserId(910_001)).await.unwrap();
    let erased = store.verify_audit(&[]).await.unwrap();
    assert_eq!((erased.bad, erased.good), (None, Chain { erased: held.erased + 20, ..held.clone() }));
    assert!(store.audit_lines(start).await.unwrap()[..20].iter().all(|line| !line.to_json().contains("192.0.2.7")));

    // Whoever shortens the head too is found by a head that was told.
    execute(store, &format!("DELETE FROM acts WHERE chain = {last}")).await;
    let second = store.audit_lines(last - 2).await.unwrap().remove(0);
    execute(store, &format!("UPDATE audit_head SET chain = {}, hash = '{}'", second.chain, second.hash)).await;
    assert_eq!(store.verify_audit(&[]).await.unwrap().bad, None);
    let told = AuditHead { chain: last, hash: held.head.hash };
    assert_eq!(store.verify_audit(std::slice::from_ref(&told)).await.unwrap().bad.map(|bad| bad.chain), Some(last));
    store.record_act(&act("key:again", 910_002)).await.unwrap();
    assert_eq!(store.verify_audit(&[told]).await.unwrap().bad.map(|bad| bad.chain), Some(last), "another one is in its place");
}

/// Does whatever somebody does who has the database.
async fn execute(store: &Store, statement: &str) {
    match &*store.0 {
        Engine::Sqlite(pools) => sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&pools.writer).await.map(drop),
        Engine::Postgres(pools) => sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&pools.writer).await.map(drop),
    }
    .unwrap();
}
