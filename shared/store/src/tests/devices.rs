//! Devices, their keys and enrolment tokens, on every engine.

use motience_proto::model::{DeviceId, DeviceState, Role};
use time::{Duration, macros::datetime};

use super::{Engines, user};
use crate::{Enrolment, EnrolmentToken, Error, Labels, NewCredential, Store, StoredDeviceCa};

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_the_same_on_every_engine() {
    let engines = Engines::start().await;
    for (name, store) in &engines.stores {
        println!("{name}");
        devices(store).await;
        authorities(store).await;
    }
}

fn key(id: &str) -> NewCredential {
    NewCredential {
        id: id.into(),
        algorithm: "ed25519",
        public_key: "AAAA".into(),
        fingerprint: format!("fingerprint of {id}"),
        serial: "41".into(),
        not_after: datetime!(2026-01-08 00:00 UTC),
    }
}

async fn devices(store: &Store) {
    let now = datetime!(2026-01-01 00:00 UTC);
    let producer = user(store, "enroller", Role::Producer).await.id.producer();
    let name = |device: &str| DeviceId::new(device).unwrap();
    let labels: Labels = [("site".to_owned(), "Dach \"1\"".to_owned())].into();
    let token = |hash: &str, device: Option<&str>, uses_left: i64| EnrolmentToken {
        id: format!("id of {hash}"),
        producer,
        device: device.map(str::to_owned),
        labels: labels.clone(),
        uses_left,
        expires_at: now + Duration::days(1),
        created_at: now,
    };
    let many = token("many", None, 2);
    store.add_enrolment("many", &many).await.unwrap();
    assert_eq!(store.enrolments(producer, now).await.unwrap(), [many]);
    let enrol =
        async |hash: &str, device: Option<&str>, id: &str| store.enrol(hash, device.map(name).as_ref(), &key(id), 9, now).await.unwrap();
    let enrolled = |device: &str, ended: &[&str]| Enrolment::Enrolled {
        producer,
        device: name(device),
        ended: ended.iter().map(|&id| id.to_owned()).collect(),
    };
    assert_eq!(enrol("none", Some("a"), "k1").await, Enrolment::Invalid);
    assert_eq!(enrol("many", None, "k1").await, Enrolment::Nameless);
    assert_eq!(enrol("many", Some("a"), "k1").await, enrolled("a", &[]));
    assert_eq!(enrol("many", Some("a"), "k2").await, Enrolment::Exists);
    assert_eq!(enrol("many", Some("b"), "k1").await, Enrolment::KeyKnown);
    assert_eq!(enrol("many", Some("b"), "k2").await, enrolled("b", &[]), "what failed used nothing up");
    assert_eq!(enrol("many", Some("c"), "k3").await, Enrolment::Invalid);
    assert!(store.enrolments(producer, now).await.unwrap().is_empty());

    store.add_enrolment("again", &token("again", Some("a"), 1)).await.unwrap();
    assert_eq!(enrol("again", Some("ignored"), "k4").await, enrolled("a", &["k1"]));
    assert_eq!(store.ended_credentials(now).await.unwrap(), ["k1"]);
    assert!(store.ended_credentials(now + Duration::SECOND).await.unwrap().is_empty());
    let device = store.device(producer, "a").await.unwrap().unwrap();
    assert_eq!((device.state, device.withheld, &device.labels), (DeviceState::Active, false, &labels));
    assert_eq!(device.credential.as_ref().map(|credential| credential.id.as_str()), Some("k4"));
    assert_eq!(store.device_of_credential("k4").await.unwrap().as_ref(), Some(&device));
    assert_eq!(store.device_of_key("fingerprint of k4").await.unwrap(), Some(device));
    let old = store.device_of_credential("k1").await.unwrap().unwrap().credential.unwrap();
    assert_eq!(old.revoked_at, Some(now));
    assert!(!store.renew_credential("k1", "42", now).await.unwrap());
    assert!(store.renew_credential("k4", "42", now + Duration::days(9)).await.unwrap());
    store.note_device_login("k4", now + Duration::HOUR).await.unwrap();
    let present = store.device(producer, "a").await.unwrap().unwrap().credential.unwrap();
    assert_eq!((present.not_after, present.last_login_at), (now + Duration::days(9), Some(now + Duration::HOUR)));
    assert_eq!(store.rotate_credential("k1", producer, "a", &key("k5"), now).await.unwrap(), None);
    assert_eq!(store.rotate_credential("k4", producer, "a", &key("k2"), now).await.unwrap(), None);
    assert_eq!(store.rotate_credential("k4", producer, "a", &key("k5"), now).await.unwrap(), Some(vec!["k4".to_owned()]));

    let names = async |after: &str, limit| {
        store.devices(producer, after, limit).await.unwrap().into_iter().map(|device| device.device).collect::<Vec<_>>()
    };
    assert_eq!((names("", 1).await, names("a", 9).await, names("\0", 9).await), (vec!["a".into()], vec!["b".into()], Vec::new()));
    states(store, producer, now).await;
    limit(store, producer, now).await;
}

/// A producer with three devices, where three is the limit.
async fn limit(store: &Store, producer: motience_proto::model::ProducerId, now: time::OffsetDateTime) {
    let name = |device: &str| DeviceId::new(device).unwrap();
    let set = async |device: &str, most| store.set_device_state(producer, &name(device), DeviceState::Revoked, most, now).await;
    assert!(matches!(set("invented", 3).await, Err(Error::TooManyDevices)));
    assert!(set("stranger", 3).await.unwrap().is_some(), "it is one of them");
    let token = EnrolmentToken {
        id: "last".into(),
        producer,
        device: None,
        labels: Labels::new(),
        uses_left: 2,
        expires_at: now + Duration::days(1),
        created_at: now,
    };
    store.add_enrolment("last", &token).await.unwrap();
    assert_eq!(store.enrol("last", Some(&name("d")), &key("k6"), 3, now).await.unwrap(), Enrolment::TooMany);
    let enrolled = store.enrol("last", Some(&name("d")), &key("k6"), 4, now).await.unwrap();
    assert!(matches!(enrolled, Enrolment::Enrolled { .. }), "{enrolled:?}");

    let labels: Labels = [("floor".to_owned(), "3".to_owned())].into();
    let label = async |device: &str| store.label_device(producer, &name(device), &labels).await.unwrap();
    assert!(label("invented").await.is_none());
    let (device, changed) = label("a").await.unwrap();
    assert_eq!((device.labels, changed), (labels.clone(), true));
    assert!(!label("a").await.unwrap().1, "they stood so");
}

async fn states(store: &Store, producer: motience_proto::model::ProducerId, now: time::OffsetDateTime) {
    let set = async |device: &str, state| {
        let changed = store.set_device_state(producer, &DeviceId::new(device).unwrap(), state, 9, now).await.unwrap();
        changed.map(|(device, ended)| (device.state, device.withheld, ended))
    };
    let (active, quarantined, revoked) = (DeviceState::Active, DeviceState::Quarantined, DeviceState::Revoked);
    assert_eq!(set("stranger", active).await, None);
    assert_eq!(set("stranger", quarantined).await, Some((quarantined, true, vec![])));
    assert_eq!(set("a", quarantined).await, Some((quarantined, true, vec![])));
    assert_eq!(set("a", revoked).await, Some((revoked, true, vec!["k5".to_owned()])));
    assert_eq!(set("a", revoked).await, Some((revoked, true, vec![])));
    assert_eq!(set("a", quarantined).await, Some((revoked, true, vec![])));
    let mut restricted = store.restricted_devices().await.unwrap();
    restricted.sort_by(|a, b| a.device.cmp(&b.device));
    let found: Vec<_> = restricted.iter().map(|one| (one.producer, one.device.as_str(), one.state, one.withheld)).collect();
    assert_eq!(found, [(producer, "a", revoked, true), (producer, "stranger", quarantined, true)]);
    assert_eq!(set("a", active).await, Some((active, false, vec![])));
    assert_eq!(store.device(producer, "a").await.unwrap().unwrap().credential, None);
    assert_eq!(set("stranger", active).await, Some((active, false, vec![])));
}

async fn authorities(store: &Store) {
    let now = datetime!(2026-01-01 00:00 UTC);
    let ca = |certificate: &str| StoredDeviceCa { secret: "s".into(), certificate: certificate.into(), sealed_key: "k".into() };
    store.keep_device_ca(&ca("first"), now).await.unwrap();
    store.keep_device_ca(&ca("second"), now).await.unwrap();
    let all: Vec<String> = store.device_cas().await.unwrap().into_iter().map(|ca| ca.certificate).collect();
    assert_eq!(all, ["first"]);
}
