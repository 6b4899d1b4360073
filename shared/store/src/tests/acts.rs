//! Acts: recorded, and read by whom they concern.

use motience_proto::model::UserId;
use serde_json::{Value, json};
use time::{Duration, macros::datetime};

use crate::{ActQuery, Error, NewAct, Store};

/// A part of the story.
pub(super) async fn acts(store: &Store) {
    let start = datetime!(2025-01-29 11:35 UTC);
    let act = |n: i64, actor: Option<i64>, act, object: &str, concerns: [Option<i64>; 2]| NewAct {
        at: start + Duration::seconds(n),
        actor: actor.map(UserId),
        act,
        object: object.to_owned(),
        concerns: concerns.map(|id| id.map(UserId)),
        detail: if n == 1 { json!({"n": n}) } else { Value::Null },
    };
    let (owner, other, third) = (900_001, 900_002, 900_003);
    for new in [
        act(1, Some(owner), "subscription.approve", "subscription:900", [Some(owner), Some(other)]),
        act(2, None, "subscription.revoke", "subscription:900", [Some(owner), Some(other)]),
        act(3, Some(third), "key.create", "key:abc", [Some(third), None]),
        act(4, Some(other), "key.create", "key:def", [None, None]),
    ] {
        store.record_act(&new).await.unwrap();
    }
    let deeds = async |query: ActQuery| {
        let acts = store.acts(&ActQuery { limit: query.limit.max(1), ..query }).await.unwrap();
        acts.into_iter().map(|act| (act.act, act.object)).collect::<Vec<_>>()
    };
    let owned = |act: &str, object: &str| (act.to_owned(), object.to_owned());
    let (approved, revoked) = (owned("subscription.approve", "subscription:900"), owned("subscription.revoke", "subscription:900"));
    let of = |account: i64| ActQuery { reader: Some(UserId(account)), limit: 10, ..ActQuery::default() };
    assert_eq!(deeds(of(owner)).await, [revoked.clone(), approved.clone()]);
    assert_eq!(deeds(of(other)).await, [owned("key.create", "key:def"), revoked.clone(), approved.clone()]);
    assert_eq!(deeds(ActQuery { limit: 2, ..of(other) }).await.len(), 2);
    assert_eq!(deeds(ActQuery { actor: Some(UserId(owner)), ..of(other) }).await, std::slice::from_ref(&approved));
    let about = |account: Option<i64>| ActQuery {
        object: Some("subscription:900".to_owned()),
        reader: account.map(UserId),
        limit: 10,
        ..ActQuery::default()
    };
    assert_eq!(deeds(about(None)).await, [revoked, approved]);
    assert!(deeds(about(Some(third))).await.is_empty(), "none of its business");

    let found = store.acts(&about(None)).await.unwrap();
    assert_eq!((found[1].actor, found[1].at, &found[1].detail), (Some(UserId(owner)), start + Duration::seconds(1), &json!({"n": 1})));
    assert_eq!((found[0].actor, &found[0].detail), (None, &Value::Null));
    let before = ActQuery { before: Some(found[0].id), ..about(None) };
    assert_eq!(store.acts(&before).await.unwrap(), found[1..]);
    let newest = store.acts(&ActQuery { limit: 1, ..ActQuery::default() }).await.unwrap();
    assert_eq!(newest[0].object, "key:def");
    for object in ["\0".to_owned(), "x".repeat(321)] {
        let wrong = store.record_act(&act(5, None, "x", &object, [None, None])).await;
        assert!(matches!(wrong, Err(Error::Unstorable("object"))));
    }
}
