//! Consent: who must be asked, what a grant lets through, and how a change reaches a live stream.

use std::time::Duration;

use serde_json::json;

use super::{stream::lines, *};

/// A platform with a producer that must be asked, a consumer, and an operator.
struct Cast {
    platform: Platform,
    producer: User,
    consumer: User,
    /// Of producer, consumer, operator, another producer, another consumer.
    tokens: [String; 5],
}

async fn cast(visibility: &str) -> Cast {
    let platform = platform(&[("PRODUCER_VISIBILITY", visibility)]).await;
    let (producer, p) = platform.account(Role::Producer, "p").await;
    let (consumer, c) = platform.account(Role::Consumer, "c").await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let (_, q) = platform.account(Role::Producer, "q").await;
    let (_, d) = platform.account(Role::Consumer, "d").await;
    Cast { platform, producer, consumer, tokens: [p, c, admin, q, d] }
}

impl Cast {
    async fn sm(&self, method: Method, path: &str, who: usize, body: Value) -> Answer {
        let sent = if body.is_null() { Sent::Nothing } else { Sent::Json(body) };
        self.platform.sm(method, path, Some(&self.tokens[who]), sent).await
    }

    async fn ask(&self) -> Answer {
        self.sm(Method::POST, "/subscribe", CONSUMER, json!({"producer_id": self.producer.id})).await
    }

    async fn decide(&self, subscription: &Value, word: &str, body: Value) -> Answer {
        self.sm(Method::POST, &format!("/subscriptions/{}/{word}", subscription["id"]), PRODUCER, body).await
    }

    async fn records(&self, records: Value) {
        self.platform.dsm(Method::POST, "/data", Some(&self.tokens[PRODUCER]), Sent::Json(records)).await.json(200);
    }

    async fn read(&self, path: &str, who: usize) -> Answer {
        self.platform.dsm(Method::GET, path, Some(&self.tokens[who]), Sent::Nothing).await
    }
}

const PRODUCER: usize = 0;
const CONSUMER: usize = 1;
const ADMIN: usize = 2;
const OTHER_PRODUCER: usize = 3;
const OTHER_CONSUMER: usize = 4;

fn record(device: &str, t: i64) -> Value {
    json!({"device_id": device, "timestamp": "2026-01-01T00:00:00Z", "place": "attic", "data": {"t": t, "u": 1}})
}

#[tokio::test]
async fn a_part_of_the_streams_that_nobody_may_see_is_followed_by_the_next() {
    let cast = cast("open").await;
    for (who, device) in [(PRODUCER, "a"), (OTHER_PRODUCER, "b")] {
        cast.platform.dsm(Method::POST, "/data", Some(&cast.tokens[who]), Sent::Json(record(device, 1))).await.json(200);
    }
    assert_eq!(cast.platform.services.backend.reports.own_streams().len(), 2);
    let path = format!("/producers/{}/visibility", cast.producer.id);
    let private = Sent::Json(json!({"visibility": "private"}));
    cast.platform.ap(Method::PUT, &path, Some(&cast.tokens[PRODUCER]), private).await.json(200);
    let first = cast.read("/streams?limit=1", OTHER_CONSUMER).await;
    assert_eq!(first.headers[header::LINK], format!("<?limit=1&after={}>; rel=\"next\"", cast.producer.id));
    assert_eq!(first.json(200), json!([]));
    let rest = cast.read(&format!("/streams?limit=1&after={}", cast.producer.id), OTHER_CONSUMER).await;
    assert_eq!(rest.json(200)[0]["username"], "q");
}

#[tokio::test]
async fn a_listed_producer_is_asked_and_decides() {
    let cast = cast("listed").await;
    let asked = cast.ask().await.json(202);
    assert_eq!((&asked["status"], &asked["requested_at"], asked.get("grant")), (&json!("requested"), &json!("2026-01-01T00:00:00Z"), None));
    assert_eq!(cast.ask().await.json(202), asked);
    let subscribers = format!("/subscribers/{}", cast.producer.id);
    for who in [PRODUCER, ADMIN] {
        assert_eq!(cast.sm(Method::GET, &subscribers, who, Value::Null).await.json(200), json!([asked]));
    }
    let only = async |status: &str| cast.sm(Method::GET, &format!("{subscribers}?status={status}"), PRODUCER, Value::Null).await;
    assert_eq!((only("active").await.json(200), only("requested").await.json(200)), (json!([]), json!([asked])));
    only("paused").await.problem(422, "invalid_field");
    let history = format!("/history/{}", cast.producer.id);
    cast.read(&history, CONSUMER).await.problem(403, "forbidden");
    cast.read(&format!("/stream?producers={}", cast.producer.id), CONSUMER).await.problem(403, "not_subscribed");

    // Only the producer and operators decide.
    let path = format!("/subscriptions/{}/approve", asked["id"]);
    for (who, status, code) in [(CONSUMER, 403, "wrong_role"), (OTHER_CONSUMER, 403, "wrong_role"), (OTHER_PRODUCER, 404, "not_found")] {
        cast.sm(Method::POST, &path, who, Value::Null).await.problem(status, code);
    }
    let active = cast.sm(Method::POST, &path, PRODUCER, Value::Null).await.json(200);
    assert_eq!((&active["status"], &active["decided_by"]), (&json!("active"), &json!(cast.producer.id)));
    let grant = json!({"grantor": {"id": cast.producer.id, "name": "p"}, "grantee": {"id": cast.consumer.id, "name": "c"},
        "effectiveAt": "2026-01-01T00:00:00Z", "agreements": []});
    assert_eq!(active["grant"], grant);
    let path = format!("/subscriptions/{}/grant", asked["id"]);
    for who in [PRODUCER, CONSUMER, ADMIN] {
        assert_eq!(cast.sm(Method::GET, &path, who, Value::Null).await.json(200), grant);
    }
    for who in [OTHER_PRODUCER, OTHER_CONSUMER] {
        cast.sm(Method::GET, &path, who, Value::Null).await.problem(404, "not_found");
    }
    assert_eq!(cast.ask().await.json(200), active);
    cast.read(&history, CONSUMER).await.json(200);

    cast.decide(&asked, "deny", Value::Null).await.problem(409, "wrong_state");
    assert_eq!(cast.decide(&asked, "revoke", Value::Null).await.json(200)["status"], "revoked");
    cast.ask().await.problem(403, "subscription_revoked");
    cast.read(&history, CONSUMER).await.problem(403, "forbidden");

    let acts = format!("/acts?object=subscription:{}", asked["id"]);
    for who in [PRODUCER, CONSUMER, ADMIN] {
        let acts = cast.sm(Method::GET, &acts, who, Value::Null).await.json(200);
        let deeds: Vec<_> = acts.as_array().unwrap().iter().map(|act| (act["act"].as_str().unwrap(), &act["actor"])).collect();
        let (p, c) = (json!(cast.producer.id), json!(cast.consumer.id));
        assert_eq!(deeds, [("subscription.revoke", &p), ("subscription.approve", &p), ("subscription.request", &c)]);
    }
    assert_eq!(cast.sm(Method::GET, &acts, OTHER_CONSUMER, Value::Null).await.json(200), json!([]));
    assert_eq!(cast.sm(Method::GET, "/acts?limit=1", ADMIN, Value::Null).await.json(200).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_private_producer_is_not_told_of() {
    let cast = cast("private").await;
    cast.records(json!([record("a", 1)])).await;
    let unknown = cast.sm(Method::POST, "/subscribe", CONSUMER, json!({"producer_id": 99_999})).await.problem(404, "not_found");
    assert_eq!(cast.ask().await.problem(404, "not_found"), unknown, "in the words for a producer that does not exist");
    let listed = async |who: usize| {
        let ap = cast.platform.ap(Method::GET, "/producers", Some(&cast.tokens[who]), Sent::Nothing).await.json(200);
        let streams = cast.read("/streams", who).await.json(200);
        [ap, streams].map(|list| list.as_array().unwrap().iter().any(|entry| entry["username"] == "p"))
    };
    assert_eq!((listed(CONSUMER).await, listed(OTHER_PRODUCER).await), ([false; 2], [false; 2]));
    assert_eq!((listed(PRODUCER).await, listed(ADMIN).await), ([true; 2], [true; 2]));

    let invite = async |body: Value, who| cast.sm(Method::POST, "/subscriptions/invite", who, body).await;
    invite(json!({"consumer": "nobody"}), PRODUCER).await.problem(404, "not_found");
    invite(json!({"consumer": "c"}), CONSUMER).await.problem(403, "forbidden");
    invite(json!({"consumer": "c"}), ADMIN).await.problem(422, "invalid_field");
    let invited = invite(json!({"consumer": "c"}), PRODUCER).await.json(201);
    assert_eq!(invited["status"], "invited");
    assert_eq!(
        invite(json!({"consumer_id": cast.consumer.id, "producer_id": cast.producer.id}), ADMIN).await.json(200)["id"],
        invited["id"]
    );
    assert!(listed(CONSUMER).await[0]);
    let mine = format!("/subscriptions/{}", cast.consumer.id);
    assert_eq!(cast.sm(Method::GET, &mine, CONSUMER, Value::Null).await.json(200)[0]["status"], "invited");
    assert_eq!(cast.ask().await.json(201)["status"], "active");
    assert_eq!(listed(CONSUMER).await, [true; 2]);

    // A producer says for itself who sees it.
    let seen = format!("/producers/{}/visibility", cast.producer.id);
    let ap = async |method, who: usize, body| cast.platform.ap(method, &seen, Some(&cast.tokens[who]), body).await;
    assert_eq!(ap(Method::GET, PRODUCER, Sent::Nothing).await.json(200), json!({"visibility": "private", "own": false}));
    ap(Method::PUT, OTHER_PRODUCER, Sent::Json(json!({"visibility": "open"}))).await.problem(403, "forbidden");
    ap(Method::PUT, PRODUCER, Sent::Json(json!({"visibility": "secret"}))).await.problem(422, "invalid_field");
    let open = ap(Method::PUT, PRODUCER, Sent::Json(json!({"visibility": "open"}))).await.json(200);
    assert_eq!(open, json!({"visibility": "open", "own": true}));
    let another = cast.sm(Method::POST, "/subscribe", OTHER_CONSUMER, json!({"producer_id": cast.producer.id})).await;
    assert_eq!(another.json(201)["status"], "active");

    // Whoever is no operator sees the consumers that it has to do with.
    let consumers = async |who: usize| {
        let list = cast.platform.ap(Method::GET, "/consumers", Some(&cast.tokens[who]), Sent::Nothing).await.json(200);
        list.as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((consumers(ADMIN).await, consumers(PRODUCER).await), (vec!["c".to_owned(), "d".into()], vec!["c".to_owned(), "d".into()]));
    assert_eq!((consumers(OTHER_PRODUCER).await, consumers(OTHER_CONSUMER).await), (vec![], vec!["d".to_owned()]));
}

#[tokio::test]
async fn a_grant_limits_history_devices_and_a_live_stream_and_changes_take_effect() {
    let cast = cast("listed").await;
    let asked = cast.ask().await.json(202);
    let agreement = json!({"type": "stream", "devices": ["a"], "where": ["/data/t>0"], "fields": "/data/t", "connections": 1});
    let terms = json!({"expiresAt": "2026-01-02T00:00:00Z", "agreements": [agreement]});
    let active = cast.decide(&asked, "approve", terms).await.json(200);
    assert_eq!((&active["grant"]["agreements"], &active["expires_at"]), (&json!([agreement]), &json!("2026-01-02T00:00:00Z")));

    let mut stream = lines(&cast.platform, "/stream?where=/data/u!=5", &cast.tokens[CONSUMER]).await;
    let mut live = lines(&cast.platform, "/stream", &cast.tokens[CONSUMER]).await;
    let crowded = cast.read(&format!("/stream?producers={}", cast.producer.id), CONSUMER).await;
    crowded.problem(429, "too_many_connections");
    drop(stream.line().await);
    // The connection that came first has the permit; the filter of another's hidden member finds nothing.
    cast.records(json!([record("b", 1), record("a", -1), record("a", 7)])).await;
    drop(stream);

    let history = format!("/history/{}", cast.producer.id);
    let kept = cast.read(&history, CONSUMER).await.json(200);
    assert_eq!(kept.as_array().unwrap().len(), 1);
    assert_eq!((&kept[0]["data"], &kept[0]["device_id"], kept[0].get("place")), (&json!({"t": 7}), &json!("a"), None));
    assert_eq!(cast.read(&history, PRODUCER).await.json(200).as_array().unwrap().len(), 3);
    let devices = cast.read(&format!("/devices/{}", cast.producer.id), CONSUMER).await.json(200);
    assert_eq!(devices.as_array().unwrap().iter().map(|device| device["device_id"].as_str().unwrap()).collect::<Vec<_>>(), ["a"]);

    // Another scope, on the live stream: without the limit of connections it has room.
    let wider = json!({"agreements": [{"type": "stream", "fields": "/data/u"}]});
    assert_eq!(cast.decide(&asked, "approve", wider).await.json(200)["grant"]["agreements"][0]["fields"], "/data/u");
    let told = loop {
        // A stream is read by pulling: it follows what it was given once somebody takes from it.
        cast.records(json!([record("b", 2)])).await;
        let Ok(line) = tokio::time::timeout(Duration::from_millis(300), live.record()).await else { continue };
        if line.get("data").is_some() {
            break line;
        }
        assert!(matches!(line["type"].as_str(), Some("subscription" | "error")), "{line}");
    };
    assert_eq!((&told["data"], told.get("place")), (&json!({"u": 1}), None));

    // The end that was set comes by the clock alone.
    let ending = json!({"expires_at": "2026-01-01T00:30:00Z"});
    cast.decide(&asked, "approve", ending).await.json(200);
    cast.platform.time.advance(Duration::from_secs(1800));
    let expired = json!({"type": "subscription", "producer_id": cast.producer.id.to_string(), "status": "expired"});
    loop {
        let line = tokio::time::timeout(Duration::from_secs(20), live.record()).await.expect("something in time");
        if line == expired {
            break;
        }
        assert_ne!(line["status"], "revoked", "{line}");
    }
    cast.read(&history, CONSUMER).await.problem(403, "forbidden");

    let sampled = json!({"agreements": [{"every": "10s"}]});
    cast.decide(&asked, "approve", sampled).await.json(200);
    cast.read(&history, CONSUMER).await.problem(403, "scope_sampled");
}

#[tokio::test]
async fn wrong_terms_are_refused_by_their_member() {
    let cast = cast("listed").await;
    let asked = cast.ask().await.json(202);
    for (terms, status, code, field) in [
        (json!({"expiresAt": "soon"}), 422, "invalid_field", "expiresAt"),
        (json!({"expiresAt": "2025-01-01T00:00:00Z"}), 422, "invalid_field", "expiresAt"),
        (json!({"agreements": [{}, {}]}), 422, "invalid_field", "agreements"),
        (json!({"agreements": [{"devices": []}]}), 422, "invalid_field", "devices"),
        (json!({"agreements": [{"since": "soon"}]}), 422, "invalid_field", "since"),
        (json!({"agreements": [{"where": ["/data/t>"]}]}), 400, "invalid_expression", "where"),
    ] {
        let problem = cast.decide(&asked, "approve", terms).await.problem(status, code);
        assert_eq!(problem["field"], field, "{problem}");
    }
    // A name that is misspelt must not give everything.
    for terms in [json!({"agreement": []}), json!({"agreements": [{"device": ["a"]}]})] {
        cast.decide(&asked, "approve", terms).await.problem(422, "invalid_field");
    }
    assert_eq!(cast.sm(Method::GET, &format!("/subscribers/{}", cast.producer.id), PRODUCER, Value::Null).await.json(200), json!([asked]));
}

#[tokio::test]
async fn a_stream_that_found_no_place_goes_on_when_one_is_free() {
    let cast = cast("listed").await;
    let asked = cast.ask().await.json(202);
    cast.decide(&asked, "approve", json!({"agreements": [{"type": "stream", "connections": 1}]})).await.json(200);
    let first = lines(&cast.platform, "/stream", &cast.tokens[CONSUMER]).await;
    let mut second = lines(&cast.platform, "/stream", &cast.tokens[CONSUMER]).await;
    let producer_id = cast.producer.id.to_string();
    drop(first);
    let told = tokio::time::timeout(Duration::from_secs(20), second.record()).await.expect("it is told in time");
    assert_eq!(told, json!({"type": "subscription", "producer_id": producer_id, "status": "active"}));
    cast.records(json!([record("a", 1)])).await;
    loop {
        let line = tokio::time::timeout(Duration::from_secs(20), second.record()).await.expect("a record in time");
        if line.get("data").is_some() {
            assert_eq!(line["data"]["t"], 1);
            break;
        }
    }
}

#[tokio::test]
async fn lists_show_a_key_no_private_producer_that_its_scopes_do_not_name() {
    let cast = cast("private").await;
    for who in [PRODUCER, OTHER_PRODUCER] {
        cast.sm(Method::POST, "/subscriptions/invite", who, json!({"consumer": "c"})).await.json(201);
        cast.platform.dsm(Method::POST, "/data", Some(&cast.tokens[who]), Sent::Json(record("a", 1))).await.json(200);
    }
    let others = cast.platform.ap(Method::GET, "/producers", Some(&cast.tokens[CONSUMER]), Sent::Nothing).await.json(200);
    let other = others.as_array().unwrap().iter().find(|user| user["username"] == "q").unwrap()["id"].clone();
    for producer in [json!(cast.producer.id), other.clone()] {
        cast.sm(Method::POST, "/subscribe", CONSUMER, json!({"producer_id": producer})).await.json(201);
        let body = Sent::Json(json!({"cursors": {producer.to_string(): "1-0"}}));
        let moved = cast.platform.dsm(Method::POST, "/cursors/app", Some(&cast.tokens[CONSUMER]), body).await;
        assert_eq!(moved.status, 204);
    }
    let (_, narrow) = cast.platform.key(&cast.tokens[CONSUMER], &[&format!("consume:{other}")]).await;
    let (_, wide) = cast.platform.key(&cast.tokens[CONSUMER], &["consume"]).await;
    let (mine, devices) = (format!("/subscriptions/{}", cast.consumer.id), format!("/devices/{}", cast.producer.id));
    let (producer_id, q) = (json!(cast.producer.id.to_string()), json!(other.to_string()));
    for (key, both) in [(&narrow, false), (&wide, true), (&cast.tokens[CONSUMER], true)] {
        let names = |list: Value, member: &str| list.as_array().unwrap().iter().map(|one| one[member].clone()).collect::<Vec<_>>();
        let of = |p: Value, q: Value| if both { vec![p, q] } else { vec![q] };
        let producers = cast.platform.ap(Method::GET, "/producers", Some(key), Sent::Nothing).await.json(200);
        assert_eq!(names(producers, "username"), of(json!("p"), json!("q")));
        let streams = cast.platform.dsm(Method::GET, "/streams", Some(key), Sent::Nothing).await.json(200);
        assert_eq!(names(streams, "username"), of(json!("p"), json!("q")));
        let subscriptions = cast.platform.sm(Method::GET, &mine, Some(key), Sent::Nothing).await.json(200);
        assert_eq!(names(subscriptions, "producer_id"), of(json!(cast.producer.id), other.clone()));
        let cursors = cast.platform.dsm(Method::GET, "/cursors", Some(key), Sent::Nothing).await.json(200);
        assert_eq!(names(cursors, "producerId"), of(producer_id.clone(), q.clone()));
        let devices = cast.platform.dsm(Method::GET, &devices, Some(key), Sent::Nothing).await;
        if both { drop(devices.json(200)) } else { drop(devices.problem(403, "scope_missing")) }
    }
    // A part of which nothing may be shown names the next.
    let part = cast.platform.ap(Method::GET, "/producers?limit=1", Some(&narrow), Sent::Nothing).await;
    assert_eq!(part.headers[header::LINK], format!("<?limit=1&after={}>; rel=\"next\"", cast.producer.id));
    assert_eq!(part.json(200), json!([]));
    cast.platform.dsm(Method::DELETE, "/cursors/app", Some(&narrow), Sent::Nothing).await.problem(403, "scope_missing");
    cast.platform.sm(Method::GET, "/acts", Some(&narrow), Sent::Nothing).await.problem(403, "login_required");

    // A producer's and an operator's keys likewise.
    let (_, reading) = cast.platform.key(&cast.tokens[PRODUCER], &[&format!("consume:{other}")]).await;
    let subscribers = format!("/subscribers/{}", cast.producer.id);
    cast.platform.sm(Method::GET, &subscribers, Some(&reading), Sent::Nothing).await.problem(403, "scope_missing");
    assert_eq!(cast.platform.ap(Method::GET, "/consumers", Some(&reading), Sent::Nothing).await.json(200), json!([]));
    let (_, operating) = cast.platform.key(&cast.tokens[ADMIN], &[&format!("consume:{other}")]).await;
    for (path, member) in [("/producers", "q"), ("/consumers", "")] {
        let list = cast.platform.ap(Method::GET, path, Some(&operating), Sent::Nothing).await.json(200);
        let names: Vec<&str> = list.as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect();
        assert_eq!(names, Vec::from_iter(Some(member).filter(|member| !member.is_empty())), "{path}");
    }
}

#[tokio::test]
async fn the_number_of_subscribers_follows_each_change_and_each_end() {
    let cast = cast("listed").await;
    let count = async || {
        let sent = Sent::Json(record("a", 1));
        cast.platform.dsm(Method::POST, "/data", Some(&cast.tokens[PRODUCER]), sent).await.json(200)["subscriberCount"].clone()
    };
    let asked = cast.ask().await.json(202);
    assert_eq!(count().await, 0);
    cast.decide(&asked, "approve", json!({"expiresAt": "2026-01-01T00:00:02Z"})).await.json(200);
    assert_eq!(count().await, 1);
    cast.platform.time.advance(Duration::from_secs(2));
    assert_eq!(count().await, 0, "the end comes by the clock alone");
    cast.decide(&asked, "approve", json!({})).await.json(200);
    assert_eq!(count().await, 1);
    cast.decide(&asked, "revoke", Value::Null).await.json(200);
    assert_eq!(count().await, 0);
}
