//! Devices as subjects: enrolment, certificates, tokens by key, states.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use motience_certs::{
    device_ca::DeviceCa,
    device_key::{Algorithm, DeviceKey, login_text},
};
use motience_store::ActQuery;
use serde_json::json;

use super::*;

const WEEK: u64 = 7 * 86_400;

impl Platform {
    async fn enrolment(&self, producer: &str, wanted: Value) -> String {
        let made = self.ap(Method::POST, "/devices/enrolments", Some(producer), Sent::Json(wanted)).await.json(201);
        made["token"].as_str().unwrap().to_owned()
    }

    async fn enrol(&self, token: &str, key: &DeviceKey, device: Option<&str>) -> Answer {
        let mut body = json!({"token": token, "csr": key.request("any").unwrap()});
        if let Some(device) = device {
            body["device_id"] = device.into();
        }
        self.ap(Method::POST, "/devices/enrol", None, Sent::Json(body)).await
    }

    async fn certify(&self, key: &DeviceKey, token: Option<&str>) -> Answer {
        self.ap(Method::POST, "/devices/renew", token, Sent::Json(json!({"csr": key.request("any").unwrap()}))).await
    }

    async fn nonce(&self) -> String {
        let challenge = self.ap(Method::POST, "/devices/challenge", None, Sent::Nothing).await.json(200);
        challenge["nonce"].as_str().unwrap().to_owned()
    }

    async fn signed(&self, credential: &Value, nonce: &str, key: &DeviceKey) -> Answer {
        let signature = STANDARD.encode(key.sign(login_text(nonce, credential.as_str().unwrap()).as_bytes()).unwrap());
        let body = json!({"credential": credential, "nonce": nonce, "signature": signature});
        self.ap(Method::POST, "/devices/token", None, Sent::Json(body)).await
    }

    async fn device_login(&self, credential: &Value, key: &DeviceKey) -> Answer {
        let nonce = self.nonce().await;
        self.signed(credential, &nonce, key).await
    }

    async fn send(&self, token: &str, device: &str, n: u64) -> Answer {
        let record = json!({"device_id": device, "timestamp": "2026-01-01T00:00:00Z", "data": {"n": n}});
        self.dsm(Method::POST, "/data", Some(token), Sent::Json(record)).await
    }

    async fn set(&self, token: &str, user: &User, device: &str, act: &str) -> Answer {
        self.ap(Method::POST, &format!("/devices/{}/{device}/{act}", user.id), Some(token), Sent::Nothing).await
    }

    /// The values of a history as this caller reads it.
    async fn values(&self, user: &User, token: &str) -> Vec<u64> {
        let history = self.dsm(Method::GET, &format!("/history/{}", user.id), Some(token), Sent::Nothing).await.json(200);
        history.as_array().unwrap().iter().map(|record| record["data"]["n"].as_u64().unwrap()).collect()
    }
}

#[tokio::test]
async fn a_device_enrols_logs_in_by_its_key_and_renews_its_certificate() {
    let platform = platform(&[]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let (name, key) = (algorithm.as_str(), DeviceKey::generate(algorithm).unwrap());
        let token = platform.enrolment(&producer, json!({"device_id": name, "labels": {"site": "roof"}})).await;
        let certified = platform.enrol(&token, &key, None).await.json(201);
        assert_eq!(
            (&certified["producer_id"], &certified["device_id"], &certified["algorithm"]),
            (&json!(user.id.0), &json!(name), &json!(name))
        );
        assert!(certified["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!((&certified["not_after"], &certified["renew_at"]), (&json!("2026-01-08T00:00:00Z"), &json!("2026-01-05T16:00:00Z")));
        platform.enrol(&token, &DeviceKey::generate(algorithm).unwrap(), None).await.problem(401, "invalid_enrolment");

        let token = platform.device_login(&certified["credential"], &key).await.json(200);
        assert_eq!((&token["user_id"], &token["device_id"], &token["role"]), (&json!(user.id.0), &json!(name), &json!("producer")));
        let token = token["access_token"].as_str().unwrap();
        platform.send(token, name, 1).await.json(200);
        platform.send(token, "another", 1).await.problem(403, "wrong_device");
        // Such a token manages nothing, and is no way to the account.
        platform.ap(Method::POST, "/devices/enrolments", Some(token), Sent::Json(json!({}))).await.problem(403, "scope_missing");
        platform.set(token, &user, name, "restore").await.problem(403, "scope_missing");

        let renewed = platform.certify(&key, None).await.json(200);
        assert_eq!(renewed["credential"], certified["credential"]);
        assert_ne!(renewed["certificate"], certified["certificate"]);
        platform.certify(&DeviceKey::generate(algorithm).unwrap(), None).await.problem(401, "unknown_credential");
    }
    let listed = platform.ap(Method::GET, &format!("/devices/{}/registered?limit=1", user.id), Some(&producer), Sent::Nothing).await;
    assert!(listed.headers[header::LINK].to_str().unwrap().contains("after=ed25519"));
    let device = &listed.json(200)[0];
    assert_eq!(
        (&device["device_id"], &device["state"], &device["labels"]),
        (&json!("ed25519"), &json!("active"), &json!({"site": "roof"}))
    );
    assert_eq!((&device["credential"]["algorithm"], device["credential"]["last_login_at"].is_null()), (&json!("ed25519"), false));
    let (_, other) = platform.account(Role::Producer, "other").await;
    platform.ap(Method::GET, &format!("/devices/{}/registered", user.id), Some(&other), Sent::Nothing).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_device_comes_back_by_its_key_long_after_its_certificate_ended() {
    let platform = platform(&[]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    let key = DeviceKey::generate(Algorithm::Ed25519).unwrap();
    let token = platform.enrolment(&producer, json!({"device_id": "buoy"})).await;
    platform.enrol(&token, &key, None).await.json(201);
    platform.time.advance(Duration::from_secs(52 * WEEK));
    let renewed = platform.certify(&key, None).await.json(200);
    assert_eq!(renewed["not_after"], "2027-01-07T00:00:00Z");
    platform.device_login(&renewed["credential"], &key).await.json(200);
    // But not where it was stolen meanwhile.
    let (_, root) = platform.account(Role::Admin, "root").await;
    platform.set(&root, &user, "buoy", "revoke").await.json(200);
    platform.certify(&key, None).await.problem(403, "device_revoked");
    platform.device_login(&renewed["credential"], &key).await.problem(403, "device_revoked");
}

#[tokio::test]
async fn nothing_proves_a_device_but_a_fresh_signature_by_its_key() {
    let platform = platform(&[]).await;
    let (_, producer) = platform.account(Role::Producer, "p").await;
    let (key, thief) = (DeviceKey::generate(Algorithm::P256).unwrap(), DeviceKey::generate(Algorithm::P256).unwrap());
    let token = platform.enrolment(&producer, json!({"device_id": "d"})).await;
    let credential = platform.enrol(&token, &key, None).await.json(201)["credential"].clone();
    platform.device_login(&credential, &thief).await.problem(401, "invalid_proof");
    platform.device_login(&json!("nobody"), &key).await.problem(401, "unknown_credential");
    platform.signed(&credential, "made up", &key).await.problem(401, "invalid_proof");
    let nonce = platform.nonce().await;
    platform.time.advance(Duration::from_secs(60));
    platform.signed(&credential, &nonce, &key).await.problem(401, "invalid_proof");
    // Good once, and not used up by whoever cannot sign it.
    let nonce = platform.nonce().await;
    platform.signed(&credential, &nonce, &thief).await.problem(401, "invalid_proof");
    platform.signed(&credential, &nonce, &key).await.json(200);
    platform.signed(&credential, &nonce, &key).await.problem(401, "invalid_proof");
    let body = json!({"token": token, "csr": "-----BEGIN CERTIFICATE REQUEST-----"});
    platform.ap(Method::POST, "/devices/enrol", None, Sent::Json(body)).await.problem(401, "invalid_proof");
}

#[tokio::test]
async fn an_enrolment_token_is_good_as_often_and_as_long_as_it_says() {
    let platform = platform(&[]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    let key = || DeviceKey::generate(Algorithm::Ed25519).unwrap();
    let token = platform.enrolment(&producer, json!({"uses": 2, "expires_in": 60})).await;
    platform.enrol(&token, &key(), None).await.problem(422, "invalid_field");
    let first = key();
    platform.enrol(&token, &first, Some("a")).await.json(201);
    // No name is taken over by a token that does not name it, and no key is two devices'.
    platform.enrol(&token, &key(), Some("a")).await.problem(409, "device_exists");
    platform.enrol(&token, &first, Some("b")).await.problem(409, "key_known");
    platform.enrol(&token, &key(), Some("b")).await.json(201);
    platform.enrol(&token, &key(), Some("c")).await.problem(401, "invalid_enrolment");

    let token = platform.enrolment(&producer, json!({"uses": 2, "expires_in": 60})).await;
    platform.time.advance(Duration::from_secs(60));
    platform.enrol(&token, &key(), Some("c")).await.problem(401, "invalid_enrolment");

    let made = platform.ap(Method::POST, "/devices/enrolments", Some(&producer), Sent::Json(json!({}))).await;
    assert_eq!(made.headers[header::CACHE_CONTROL], "no-store");
    let made = made.json(201);
    assert!(made["qr"].as_str().unwrap().starts_with("<svg"));
    let listed = platform.ap(Method::GET, "/devices/enrolments", Some(&producer), Sent::Nothing).await.json(200);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"], listed[0].get("token")), (1, &made["id"], None));
    let (_, other) = platform.account(Role::Producer, "other").await;
    let path = format!("/devices/enrolments/{}", made["id"].as_str().unwrap());
    platform.ap(Method::DELETE, &path, Some(&other), Sent::Nothing).await.problem(404, "not_found");
    platform.ap(Method::DELETE, &path, Some(&producer), Sent::Nothing).await.json(200);
    platform.enrol(made["token"].as_str().unwrap(), &key(), Some("c")).await.problem(401, "invalid_enrolment");

    let (_, root) = platform.account(Role::Admin, "root").await;
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    for (who, wanted, status, code) in [
        (&root, json!({}), 422, "invalid_field"),
        (&root, json!({"producer_id": 999}), 404, "not_found"),
        (&consumer, json!({}), 403, "forbidden"),
        (&other, json!({"producer_id": user.id.0}), 403, "forbidden"),
        (&producer, json!({"uses": 0}), 422, "invalid_field"),
        (&producer, json!({"expires_in": 1}), 422, "invalid_field"),
        (&producer, json!({"uses": 2, "device_id": "d"}), 422, "invalid_field"),
        (&producer, json!({"device_id": "a\nb"}), 422, "invalid_field"),
        (&producer, json!({"labels": {"": "x"}}), 422, "invalid_field"),
    ] {
        platform.ap(Method::POST, "/devices/enrolments", Some(who), Sent::Json(wanted)).await.problem(status, code);
    }
    platform.enrolment(&root, json!({"producer_id": user.id.0})).await;
}

#[tokio::test]
async fn a_lost_disk_and_a_new_key_end_the_one_before() {
    let platform = platform(&[]).await;
    let (_, producer) = platform.account(Role::Producer, "p").await;
    let key = || DeviceKey::generate(Algorithm::Ed25519).unwrap();
    let (lost, found, rotated) = (key(), key(), key());
    let token = platform.enrolment(&producer, json!({"device_id": "d"})).await;
    let first = platform.enrol(&token, &lost, None).await.json(201)["credential"].clone();
    let login = async |credential: &Value, key: &DeviceKey| {
        platform.device_login(credential, key).await.json(200)["access_token"].as_str().unwrap().to_owned()
    };
    let old = login(&first, &lost).await;
    platform.send(&old, "d", 1).await.json(200);

    let token = platform.enrolment(&producer, json!({"device_id": "d"})).await;
    let second = platform.enrol(&token, &found, None).await.json(201)["credential"].clone();
    platform.send(&old, "d", 2).await.problem(401, "token_revoked");
    platform.device_login(&first, &lost).await.problem(401, "unknown_credential");
    platform.certify(&lost, None).await.problem(401, "unknown_credential");

    // Rotation: whoever speaks for the device by its present key gives it another.
    let present = login(&second, &found).await;
    platform.certify(&lost, Some(&present)).await.problem(401, "unknown_credential");
    platform.certify(&rotated, Some(&producer)).await.problem(401, "unknown_credential");
    let third = platform.certify(&rotated, Some(&present)).await.json(200)["credential"].clone();
    platform.send(&present, "d", 3).await.problem(401, "token_revoked");
    let token = login(&third, &rotated).await;
    platform.send(&token, "d", 4).await.json(200);
}

#[tokio::test]
async fn a_revoked_device_is_refused_whoever_speaks_for_it() {
    let platform = platform(&[]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    let key = DeviceKey::generate(Algorithm::Ed25519).unwrap();
    let token = platform.enrolment(&producer, json!({"device_id": "d"})).await;
    let credential = platform.enrol(&token, &key, None).await.json(201)["credential"].clone();
    let own = platform.device_login(&credential, &key).await.json(200)["access_token"].as_str().unwrap().to_owned();
    platform.send(&own, "d", 1).await.json(200);
    let grant = platform.services.backend.authenticate(&own).await.unwrap();
    let ended = platform.services.backend.ended(&grant);

    for _ in 0..2 {
        let device = platform.set(&producer, &user, "d", "revoke").await.json(200);
        assert_eq!((&device["state"], &device["credential"]), (&json!("revoked"), &Value::Null));
    }
    tokio::time::timeout(Duration::from_secs(1), ended).await.expect("its connections end");
    platform.send(&own, "d", 2).await.problem(401, "token_revoked");
    platform.device_login(&credential, &key).await.problem(403, "device_revoked");
    platform.send(&producer, "d", 2).await.problem(403, "device_revoked");
    platform.send(&producer, "e", 2).await.json(200);
    let lines = "{\"device_id\":\"d\",\"timestamp\":1,\"data\":{\"n\":3}}\n{\"device_id\":\"e\",\"timestamp\":1,\"data\":{\"n\":3}}\n";
    let uploaded = platform.dsm(Method::POST, "/data", Some(&producer), Sent::Text("application/x-ndjson", lines)).await.json(200);
    assert_eq!((&uploaded["accepted"], &uploaded["errors"][0]["code"]), (&json!(1), &json!("device_revoked")));
    let token = platform.enrolment(&producer, json!({"device_id": "d"})).await;
    platform.enrol(&token, &DeviceKey::generate(Algorithm::Ed25519).unwrap(), None).await.problem(403, "device_revoked");
    assert_eq!(platform.set(&producer, &user, "d", "quarantine").await.json(200)["state"], "revoked", "it stays so");

    // Restored, it enrols anew: its key was in other hands.
    platform.set(&producer, &user, "d", "restore").await.json(200);
    platform.device_login(&credential, &key).await.problem(401, "unknown_credential");
    platform.send(&producer, "d", 4).await.json(200);
    platform.enrol(&token, &DeviceKey::generate(Algorithm::Ed25519).unwrap(), None).await.json(201);
    assert_eq!(platform.values(&user, &producer).await, [1, 2, 3, 4]);
    let query = ActQuery { object: Some(format!("device:{}:d", user.id)), limit: 100, ..ActQuery::default() };
    let acts = platform.services.backend.store.acts(&query).await.unwrap();
    let acts: Vec<_> = acts.iter().rev().map(|act| (act.act.as_str(), act.actor == Some(user.id))).collect();
    let own = [("device.revoke", true), ("device.revoke", true), ("device.quarantine", true), ("device.restore", true)];
    assert_eq!(acts, [&[("device.enrol", false)], &own[..], &[("device.enrol", false)]].concat());

    let (_, other) = platform.account(Role::Producer, "other").await;
    platform.set(&other, &user, "d", "revoke").await.problem(403, "forbidden");
    platform.set(&producer, &user, "nobody", "restore").await.problem(404, "not_found");
    let (_, root) = platform.account(Role::Admin, "root").await;
    platform.ap(Method::POST, "/devices/999/d/revoke", Some(&root), Sent::Nothing).await.problem(404, "not_found");
}

#[tokio::test]
async fn records_of_a_device_in_quarantine_are_kept_from_consumers_until_it_is_restored() {
    let platform = platform(&[]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    let wish = Sent::Json(json!({"producer_id": user.id.0}));
    platform.sm(Method::POST, "/subscribe", Some(&consumer), wish).await.json(201);
    platform.send(&producer, "d", 1).await.json(200);
    let device = platform.set(&producer, &user, "d", "quarantine").await.json(200);
    assert_eq!((&device["state"], &device["withheld"], &device["credential"]), (&json!("quarantined"), &json!(true), &Value::Null));
    platform.send(&producer, "d", 2).await.json(200);
    platform.send(&producer, "e", 3).await.json(200);
    assert_eq!(platform.values(&user, &consumer).await, [3]);
    assert_eq!(platform.values(&user, &producer).await, [1, 2, 3]);
    // Found to be stolen, it is not heard of by that.
    assert_eq!(platform.set(&producer, &user, "d", "revoke").await.json(200)["withheld"], true);
    assert_eq!(platform.values(&user, &consumer).await, [3]);
    platform.set(&producer, &user, "d", "restore").await.json(200);
    assert_eq!(platform.values(&user, &consumer).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_record_that_is_withheld_is_no_hole_in_the_order_of_its_sender() {
    // Longer than the test may wait for a record.
    let platform = platform(&[("ORDER_WAIT", "10m")]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    let wish = Sent::Json(json!({"producer_id": user.id.0}));
    platform.sm(Method::POST, "/subscribe", Some(&consumer), wish).await.json(201);
    platform.set(&producer, &user, "d", "quarantine").await.json(200);
    let record = |device: &str, n: u64| json!({"device_id": device, "timestamp": n, "data": {"n": n}});
    let all = json!([record("e", 1), record("d", 2), record("e", 3)]);
    platform.dsm(Method::POST, "/data", Some(&producer), Sent::Json(all)).await.json(200);
    let mut stream = super::stream::lines(&platform, "/stream?from=earliest&order=device", &consumer).await;
    for expected in [1, 3] {
        assert_eq!(stream.record().await["data"]["n"], expected);
    }
}

#[tokio::test]
async fn passwords_publish_nothing_where_that_is_denied() {
    let platform = platform(&[("DEVICE_PASSWORDS", "deny")]).await;
    let (_, producer) = platform.account(Role::Producer, "p").await;
    platform.send(&producer, "d", 1).await.problem(403, "device_credential_required");
    let key = DeviceKey::generate(Algorithm::Ed25519).unwrap();
    let token = platform.enrolment(&producer, json!({"device_id": "d"})).await;
    let credential = platform.enrol(&token, &key, None).await.json(201)["credential"].clone();
    let own = platform.device_login(&credential, &key).await.json(200)["access_token"].as_str().unwrap().to_owned();
    platform.send(&own, "d", 1).await.json(200);
}

#[tokio::test]
async fn nodes_of_one_secret_share_an_authority_and_another_secret_makes_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = || store::Config::SqliteFile { path: dir.path().join("motience.db") };
    let secret = ("JWT_SECRET", "a secret of thirty-two bytes, at least");
    let ca = async |settings: &[(&str, &str)]| {
        let platform = platform_on(settings, store()).await;
        let (certificate, trusted) = {
            let authority = &platform.services.backend.authority;
            (authority.signs.certificate().to_owned(), authority.trusted.len())
        };
        platform.services.backend.close().await;
        (certificate, trusted)
    };
    let (first, again) = (ca(&[secret]).await, ca(&[secret]).await);
    assert_eq!(first, again);
    let other = ca(&[("JWT_SECRET", "another secret of thirty-two bytes or more")]).await;
    assert_ne!(other.0, first.0);
    assert_eq!((first.1, other.1), (1, 2), "certificates of the one before stay good");

    // Of the operator's own.
    let own = DeviceCa::generate(datetime!(2026-01-01 00:00 UTC)).unwrap();
    let (certificate, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
    std::fs::write(&certificate, own.certificate()).unwrap();
    std::fs::write(&key, own.key_pem()).unwrap();
    let settings = [secret, ("DEVICE_CA_CERT", certificate.to_str().unwrap()), ("DEVICE_CA_KEY", key.to_str().unwrap())];
    assert_eq!(ca(&settings).await, (own.certificate().to_owned(), 1));
}

#[tokio::test]
async fn labels_change_without_another_enrolment() {
    let platform = platform(&[]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    let (_, other) = platform.account(Role::Producer, "q").await;
    let key = DeviceKey::generate(Algorithm::Ed25519).unwrap();
    let token = platform.enrolment(&producer, json!({"device_id": "d", "labels": {"site": "roof"}})).await;
    let credential = platform.enrol(&token, &key, None).await.json(201)["credential"].clone();
    let put = async |token: &str, device: &str, body: Value| {
        platform.ap(Method::PUT, &format!("/devices/{}/{device}/labels", user.id), Some(token), Sent::Json(body)).await
    };
    let labels = json!({"site": "cellar", "floor": "-1"});
    for _ in 0..2 {
        assert_eq!(put(&producer, "d", json!({"labels": labels})).await.json(200)["labels"], labels);
    }
    let (_, managing) = platform.key(&producer, &["manage_devices"]).await;
    assert_eq!(put(&managing, "d", json!({"labels": {}})).await.json(200)["labels"], json!({}));
    put(&producer, "invented", json!({"labels": {}})).await.problem(404, "not_found");
    put(&other, "d", json!({"labels": {}})).await.problem(403, "forbidden");
    put(&producer, "d", json!({"labels": {"": "x"}})).await.problem(422, "invalid_field");
    put(&producer, "d", json!({"labels": {"a": 1}})).await.problem(422, "invalid_field");
    platform.device_login(&credential, &key).await.json(200);
    let deeds = platform.deeds(&producer).await;
    assert_eq!(deeds.iter().filter(|deed| *deed == "device.label").count(), 2, "only what changed: {deeds:?}");
}

#[tokio::test]
async fn invented_devices_do_not_fill_the_database() {
    let platform = platform(&[("MAX_REGISTERED_DEVICES_PER_ACCOUNT", "2")]).await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    for device in ["a", "b"] {
        platform.set(&producer, &user, device, "quarantine").await.json(200);
    }
    for act in ["revoke", "quarantine"] {
        let problem = platform.set(&producer, &user, "c", act).await.problem(409, "too_many_devices");
        assert!(problem["detail"].as_str().unwrap().contains("as many devices as it may"), "{problem}");
    }
    let token = platform.enrolment(&producer, json!({"uses": 2})).await;
    let key = || DeviceKey::generate(Algorithm::Ed25519).unwrap();
    platform.enrol(&token, &key(), Some("c")).await.problem(409, "too_many_devices");
    // Those that there are go on, and others' accounts have room of their own.
    platform.set(&producer, &user, "a", "revoke").await.json(200);
    let (other, token) = platform.account(Role::Producer, "q").await;
    platform.set(&token, &other, "c", "revoke").await.json(200);
}
