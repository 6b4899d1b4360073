//! Consent: the states of a subscription, the grants that go with them, and who sees whom.

use motience_proto::model::{ConsumerId, ProducerId, Role, Status, Visibility};
use serde_json::json;
use time::{Duration, OffsetDateTime, macros::datetime};

use super::user;
use crate::{ActQuery, Change, Decision, Error, Page, Store, Terms, Wanted};

const START: OffsetDateTime = datetime!(2025-01-29 11:35 UTC);

/// A part of the story.
pub(super) async fn consent(store: &Store) {
    a_request_is_decided(store).await;
    an_invitation_is_accepted(store).await;
    what_was_decided_stays(store).await;
    who_sees_whom(store).await;
}

async fn pair(store: &Store, name: &str) -> (ConsumerId, ProducerId) {
    let producer = user(store, &format!("{name} producer"), Role::Producer).await.id.producer();
    (user(store, &format!("{name} consumer"), Role::Consumer).await.id.consumer(), producer)
}

fn terms(days: i64, scope: &str) -> Terms {
    Terms { expires_at: Some(START + Duration::days(days)), scope: Some(scope.to_owned()) }
}

async fn a_request_is_decided(store: &Store) {
    let (consumer, producer) = pair(store, "listed").await;
    let by = Some(producer.user());
    let ask = async |now| store.subscribe(consumer, producer, Visibility::Listed, now).await;
    let (asked, change) = ask(START).await.unwrap();
    assert_eq!((asked.status, asked.requested_at, change), (Status::Requested, Some(START), Change::Created));
    assert_eq!(ask(START + Duration::hours(1)).await.unwrap(), (asked.clone(), Change::Unchanged));
    assert_eq!((store.rights(consumer, START).await.unwrap(), store.follower_count(producer, START).await.unwrap()), (vec![], 0));
    let listed = async |wanted| store.subscribers_of(producer, wanted, Page::default(), START).await.unwrap();
    assert_eq!(listed(Wanted::Standing).await, std::slice::from_ref(&asked));
    assert!(listed(Wanted::Only(Status::Active)).await.is_empty());

    let scope = r#"{"type":"stream","fields":"/data/t"}"#;
    let (active, change) = store.decide(asked.id, Decision::Approve(terms(7, scope)), by, START).await.unwrap();
    assert_eq!((active.status, active.decided_by, change), (Status::Active, by, Change::Reactivated));
    let again = store.decide(asked.id, Decision::Approve(terms(7, scope)), by, START + Duration::hours(1)).await.unwrap();
    assert_eq!(again, (active.clone(), Change::Unchanged));
    let right = store.right(consumer, producer, START).await.unwrap().unwrap();
    assert_eq!((right.scope.as_deref(), right.expires_at, right.subscription), (Some(scope), active.expires_at, active.id));
    assert_eq!(store.rights(consumer, START).await.unwrap(), [right]);
    assert_eq!(listed(Wanted::Only(Status::Active)).await, std::slice::from_ref(&active));
    assert!(matches!(store.decide(asked.id, Decision::Deny, by, START).await, Err(Error::WrongState(Status::Active))));

    // The consumer leaves and comes back under the grant that stood.
    let left = store.unsubscribe(consumer, producer, START).await.unwrap().unwrap();
    assert_eq!((left.status, &left.scope), (Status::Inactive, &active.scope));
    assert!(store.right(consumer, producer, START).await.unwrap().is_none());
    assert_eq!(ask(START).await.unwrap(), (active.clone(), Change::Reactivated));

    // At its end it is over, by the clock alone; the consumer may ask again.
    let end = START + Duration::days(7);
    assert_eq!(store.follower_count(producer, end - Duration::milliseconds(1)).await.unwrap(), 1);
    assert_eq!((store.follower_count(producer, end).await.unwrap(), store.rights(consumer, end).await.unwrap()), (0, vec![]));
    assert_eq!(store.status(consumer, producer, end).await.unwrap(), Some(Status::Expired));
    let expired = store.subscribers_of(producer, Wanted::Only(Status::Expired), Page::default(), end).await.unwrap();
    assert_eq!((expired.len(), expired[0].status), (1, Status::Expired));
    for visibility in [Visibility::Open, Visibility::Listed] {
        let (asked, _) = store.subscribe(consumer, producer, visibility, end).await.unwrap();
        assert_eq!((asked.status, asked.scope), (Status::Requested, None), "an end is not passed by subscribing again");
        store.decide(asked.id, Decision::Approve(terms(7, scope)), None, end).await.unwrap();
    }
    let object = Some(format!("subscription:{}", active.id));
    let acts = store.acts(&ActQuery { object, limit: 100, ..ActQuery::default() }).await.unwrap();
    let deeds: Vec<_> = acts.iter().rev().map(|act| (act.act.as_str(), act.actor)).collect();
    let (asker, decider) = (Some(consumer.user()), by);
    assert_eq!(
        deeds[..4],
        [
            ("subscription.request", asker),
            ("subscription.approve", decider),
            ("subscription.unsubscribe", asker),
            ("subscription.subscribe", asker)
        ]
    );
    assert_eq!(acts[acts.len() - 2].detail["scope"], json!({"type": "stream", "fields": "/data/t"}));
    assert_eq!(acts[0].actor, None, "the operator's command line");
}

async fn an_invitation_is_accepted(store: &Store) {
    let (consumer, producer) = pair(store, "private").await;
    let by = Some(producer.user());
    let ask = async || store.subscribe(consumer, producer, Visibility::Private, START).await;
    assert!(matches!(ask().await, Err(Error::NotInvited)));
    assert_eq!(store.status(consumer, producer, START).await.unwrap(), None, "nothing is left of it");
    let (invited, change) = store.invite(consumer, producer, Terms::default(), by, START).await.unwrap();
    assert_eq!((invited.status, change), (Status::Invited, Change::Created));
    assert!(store.rights(consumer, START).await.unwrap().is_empty(), "nobody receives what it did not ask for");
    assert_eq!(ask().await.unwrap().0.status, Status::Active);
    store.decide(invited.id, Decision::Revoke, by, START).await.unwrap();
    assert!(matches!(ask().await, Err(Error::NotInvited)));
    assert!(store.rights(consumer, START).await.unwrap().is_empty());
}

async fn what_was_decided_stays(store: &Store) {
    let (consumer, producer) = pair(store, "decided").await;
    let by = Some(producer.user());
    let ask = async |visibility| store.subscribe(consumer, producer, visibility, START).await;
    let (asked, _) = ask(Visibility::Listed).await.unwrap();
    let denied = store.decide(asked.id, Decision::Deny, by, START).await.unwrap();
    assert_eq!((denied.0.status, denied.1), (Status::Denied, Change::Reactivated));
    assert_eq!(store.decide(asked.id, Decision::Deny, by, START).await.unwrap().1, Change::Unchanged);
    for visibility in [Visibility::Listed, Visibility::Open] {
        assert!(matches!(ask(visibility).await, Err(Error::Refused(Status::Denied))));
    }
    store.decide(asked.id, Decision::Approve(Terms::default()), by, START).await.unwrap();
    assert_eq!(store.rights(consumer, START).await.unwrap().len(), 1);
    // A consumer of an open producer is shut out the same way.
    store.decide(asked.id, Decision::Revoke, by, START).await.unwrap();
    assert!(matches!(ask(Visibility::Open).await, Err(Error::Refused(Status::Revoked))));
    assert!(store.unsubscribe(consumer, producer, START).await.unwrap().is_none());
    assert!(matches!(store.decide(asked.id, Decision::Deny, by, START).await, Err(Error::WrongState(Status::Revoked))));
    assert!(matches!(store.decide(i64::MAX, Decision::Deny, by, START).await, Err(Error::NoSubscription)));
}

async fn who_sees_whom(store: &Store) {
    let (consumer, producer) = pair(store, "hidden").await;
    let stranger = user(store, "stranger", Role::Consumer).await.id;
    let sees = async |reader, default| {
        let page = Page { after: producer.0 - 1, limit: 1 };
        let found = store.visible_producers(reader, default, page, START).await.unwrap();
        found.first().is_some_and(|user| user.id == producer.user())
    };
    assert!(sees(stranger, Visibility::Open).await && sees(stranger, Visibility::Listed).await);
    assert!(!sees(stranger, Visibility::Private).await && sees(producer.user(), Visibility::Private).await);
    for visibility in [Visibility::Open, Visibility::Listed] {
        assert!(store.set_visibility(producer, Some(visibility)).await.unwrap());
        assert!(sees(stranger, Visibility::Private).await, "it has said so itself: {visibility:?}");
    }
    assert!(store.set_visibility(producer, Some(Visibility::Private)).await.unwrap());
    assert_eq!(store.user(producer.user()).await.unwrap().unwrap().visibility, Some(Visibility::Private));
    assert!(!sees(consumer.user(), Visibility::Open).await);
    store.invite(consumer, producer, Terms::default(), None, START).await.unwrap();
    assert!(sees(consumer.user(), Visibility::Open).await && !sees(stranger, Visibility::Open).await);
    assert!(sees(consumer.user(), Visibility::Private).await && !sees(stranger, Visibility::Private).await);
    assert!(store.set_visibility(producer, None).await.unwrap());
    assert!(sees(stranger, Visibility::Open).await);
    assert!(!store.set_visibility(ProducerId(consumer.0), Some(Visibility::Open)).await.unwrap(), "no producer");

    let known =
        async |reader| store.known_consumers(reader, Page::default()).await.unwrap().into_iter().map(|user| user.id).collect::<Vec<_>>();
    assert_eq!(known(producer.user()).await, [consumer.user()]);
    assert_eq!(known(stranger).await, [stranger]);
}
