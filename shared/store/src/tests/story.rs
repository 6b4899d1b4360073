//! A story that every engine tells alike, from the first account to the last token.

use motience_auth::ExternalEnd;
use motience_proto::model::{ConsumerId, ProducerId, Role, Status, UserId, Visibility};
use time::{Duration, OffsetDateTime, macros::datetime};

use super::{Engines, acts::acts, audit::audit, consent::consent, user};
use crate::{AccountQuery, Change, Error, NewUser, Page, RefreshToken, Spend, Spending, Store, Wanted};

#[tokio::test(flavor = "multi_thread")]
async fn the_story_is_the_same_on_every_engine() {
    let engines = Engines::start().await;
    for (name, store) in &engines.stores {
        println!("{name}");
        story(store.clone()).await;
    }
}

async fn story(store: Store) {
    store.ping().await.unwrap();
    accounts(&store).await;
    ids_out_of_range(&store).await;
    subscriptions(&store).await;
    consent(&store).await;
    refresh_tokens(&store).await;
    renewed_sessions(&store).await;
    addresses(&store).await;
    names(&store).await;
    revocation(&store).await;
    closed_accounts(&store).await;
    external_accounts(&store).await;
    acts(&store).await;
    audit(&store).await;
    store.close().await;
    assert!(store.ping().await.unwrap_err().is_unavailable());
}

async fn accounts(store: &Store) {
    let new = NewUser {
        username: "producer1".into(),
        password_hash: "hash".into(),
        role: Role::Producer,
        device_id: Some("rpi_001".into()),
        strict_device: true,
    };
    let made = store.create_user(new.clone()).await.unwrap();
    assert_eq!((made.username.as_str(), made.role, made.device_id.as_deref()), ("producer1", Role::Producer, Some("rpi_001")));
    assert!(made.strict_device);
    assert!((now() - made.created_at).abs() < Duration::minutes(1), "created_at is UTC: {}", made.created_at);
    assert!(matches!(store.create_user(new).await, Err(Error::UsernameTaken)));
    assert_eq!(store.user(made.id).await.unwrap().as_ref(), Some(&made));

    let found = store.credentials("producer1").await.unwrap().unwrap();
    assert_eq!((&found.user, found.password_hash.as_str()), (&made, "hash"));
    assert!(store.credentials("Producer1").await.unwrap().is_none());
    store.set_password_hash(made.id, "better").await.unwrap();
    assert_eq!(store.credentials("producer1").await.unwrap().unwrap().password_hash, "better");

    for n in 2..=5 {
        assert!(!user(store, &format!("producer{n}"), Role::Producer).await.strict_device);
    }
    user(store, "root", Role::Admin).await;
    let page = |after, limit| store.users(Role::Producer, Page { after, limit });
    let first = page(0, 3).await.unwrap();
    let second = page(first[2].id.0, 3).await.unwrap();
    let names: Vec<_> = first.iter().chain(&second).map(|u| u.username.as_str()).collect();
    assert_eq!(names, ["producer1", "producer2", "producer3", "producer4", "producer5"]);
    assert!(page(second[1].id.0, 3).await.unwrap().is_empty());
    assert_eq!(store.users(Role::Admin, Page::default()).await.unwrap().len(), 1);

    for odd in ["zero\0byte", &"x".repeat(256), "", "it's; DROP TABLE users --", "имя"] {
        assert!(store.credentials(odd).await.unwrap().is_none());
    }
    let long =
        NewUser { username: "x".repeat(256), password_hash: "h".into(), role: Role::Consumer, device_id: None, strict_device: false };
    assert!(matches!(store.create_user(long.clone()).await, Err(Error::Unstorable("username"))));
    let zero = NewUser { username: "ok".into(), device_id: Some("\0".into()), ..long };
    assert!(matches!(store.create_user(zero).await, Err(Error::Unstorable("device_id"))));
    assert_eq!(user(store, &"é".repeat(255), Role::Consumer).await.username.chars().count(), 255);
}

async fn ids_out_of_range(store: &Store) {
    for id in [0, -1, i64::from(i32::MAX), i64::from(i32::MAX) + 1, i64::MAX, i64::MIN] {
        let (consumer, producer) = (ConsumerId(id), ProducerId(id));
        assert!(store.user(UserId(id)).await.unwrap().is_none());
        store.set_password_hash(UserId(id), "x").await.unwrap();
        assert!(store.unsubscribe(consumer, producer, now()).await.unwrap().is_none());
        assert!(store.follows(consumer, now()).await.unwrap().is_empty());
        assert!(store.subscribers_of(producer, Wanted::Standing, Page::default(), now()).await.unwrap().is_empty());
        assert!(store.subscriptions_of(consumer, Wanted::Standing, Page { after: id, limit: 1 }, now()).await.unwrap().is_empty());
        assert_eq!(store.follower_count(producer, now()).await.unwrap(), 0);
        assert!(store.right(consumer, producer, now()).await.unwrap().is_none());
        assert!(store.revoke_user(UserId(id), None, now()).await.unwrap().is_empty());
        assert!(store.account(UserId(id)).await.unwrap().is_none());
        assert!(store.close_account(UserId(id), now()).await.unwrap().is_none());
        assert!(store.reopen_account(UserId(id), now()).await.unwrap().is_none());
    }
    let far = i64::from(i32::MAX) + 1;
    assert!(matches!(
        store.subscribe(ConsumerId(1), ProducerId(far), Visibility::Open, now()).await,
        Err(Error::Unstorable("producer_id"))
    ));
}

async fn subscriptions(store: &Store) {
    let producer = user(store, "followed", Role::Producer).await.id.producer();
    let other = user(store, "other", Role::Producer).await.id.producer();
    let consumer = user(store, "follower", Role::Consumer).await.id.consumer();

    let (made, change) = store.subscribe(consumer, producer, Visibility::Open, now()).await.unwrap();
    assert_eq!((made.consumer_id, made.producer_id, made.status, change), (consumer, producer, Status::Active, Change::Created));
    assert!((now() - made.created_at).abs() < Duration::minutes(1));
    assert_eq!(store.subscribe(consumer, producer, Visibility::Open, now()).await.unwrap(), (made.clone(), Change::Unchanged));
    assert!(store.right(consumer, producer, now()).await.unwrap().is_some());
    assert_eq!(store.follower_count(producer, now()).await.unwrap(), 1);

    let ended = store.unsubscribe(consumer, producer, now()).await.unwrap().unwrap();
    assert_eq!((ended.id, ended.status), (made.id, Status::Inactive));
    assert!(store.unsubscribe(consumer, producer, now()).await.unwrap().is_none());
    assert!(store.subscriptions_of(consumer, Wanted::Standing, Page::default(), now()).await.unwrap().is_empty());
    assert!(store.subscribers_of(producer, Wanted::Standing, Page::default(), now()).await.unwrap().is_empty());
    assert!(store.follows(consumer, now()).await.unwrap().is_empty());
    assert!(store.right(consumer, producer, now()).await.unwrap().is_none());
    assert_eq!(store.follower_count(producer, now()).await.unwrap(), 0);

    assert_eq!(store.subscribe(consumer, producer, Visibility::Open, now()).await.unwrap(), (made.clone(), Change::Reactivated));
    let (second, _) = store.subscribe(consumer, other, Visibility::Open, now()).await.unwrap();
    assert_eq!(store.follows(consumer, now()).await.unwrap(), [producer, other]);
    let page = store.subscriptions_of(consumer, Wanted::Standing, Page { after: 0, limit: 1 }, now()).await.unwrap();
    assert_eq!(page, std::slice::from_ref(&made));
    let page = store.subscriptions_of(consumer, Wanted::Standing, Page { after: made.id, limit: 9 }, now()).await.unwrap();
    assert_eq!(page, [second]);
    assert_eq!(store.subscribers_of(producer, Wanted::Standing, Page::default(), now()).await.unwrap(), [made]);
}

async fn refresh_tokens(store: &Store) {
    let owner = user(store, "owner", Role::Consumer).await.id;
    let start = datetime!(2025-01-29 11:35 UTC);
    let token =
        |id: &str, days| RefreshToken { id: id.into(), family: "family".into(), user: owner, expires_at: start + Duration::days(days) };
    for (id, days) in [("one", 7), ("two", 7), ("old", 1)] {
        store.add_refresh(&token(id, days), None).await.unwrap();
    }
    assert_eq!(spend(store, "one", start).await, Spend::Fresh(token("one", 7)));
    a_moment_of_leeway(store, &token("one", 7), start).await;
    let never = RefreshToken { family: "other".into(), ..token("never", 7) };
    assert_eq!(spend_token(store, &never, start).await, Spend::Unknown);
    assert_eq!(spend(store, "old", start + Duration::days(1)).await, Spend::Unknown);
    // A token that is handed out again is known already.
    store.add_refresh(&token("one", 9), None).await.unwrap();
    assert!(matches!(spend(store, "one", start + Duration::days(8)).await, Spend::Unknown), "it ends when it ended before");

    assert!(!store.is_family_revoked("family").await.unwrap());
    assert!(store.revoke_family("family", start).await.unwrap());
    assert!(!store.revoke_family("family", start + Duration::hours(1)).await.unwrap(), "it had ended before");
    assert!(store.is_family_revoked("family").await.unwrap());
    for id in ["one", "two"] {
        assert_eq!(spend(store, id, start).await, Spend::Unknown);
    }
    // Issued while the family was being revoked: as dead as the others.
    store.add_refresh(&token("late", 9), None).await.unwrap();
    assert_eq!(spend(store, "late", start).await, Spend::Unknown);
    assert_eq!(store.revoked_families(start).await.unwrap(), ["family"]);
    assert!(store.revoked_families(start + Duration::milliseconds(1)).await.unwrap().is_empty());

    assert_eq!(store.purge_refresh(start + Duration::days(2)).await.unwrap(), 2);
    assert_eq!(store.purge_refresh(start + Duration::days(8)).await.unwrap(), 1);
    assert_eq!(spend(store, "late", start + Duration::days(8)).await, Spend::Unknown);
    assert_eq!(store.purge_refresh(start + Duration::days(10)).await.unwrap(), 2, "the token and its family");
    assert!(store.revoked_families(start).await.unwrap().is_empty());
}

/// A session that is renewed again and again has few rows, and each of its spent tokens is known for spent.
async fn renewed_sessions(store: &Store) {
    let owner = user(store, "renewing", Role::Consumer).await.id;
    let start = datetime!(2025-01-29 11:35 UTC);
    let at = |n: i64| start + Duration::minutes(15 * n);
    let token =
        |n: i64| RefreshToken { id: format!("renewed-{n}"), family: "renewed".into(), user: owner, expires_at: at(n) + Duration::days(7) };
    store.add_refresh(&token(0), None).await.unwrap();
    let mut gone = 0;
    for n in 0..100 {
        assert_eq!(spend_token(store, &token(n), at(n)).await, Spend::Fresh(token(n)));
        store.add_refresh(&token(n + 1), None).await.unwrap();
        gone += store.purge_refresh(at(n)).await.unwrap();
    }
    assert_eq!(gone, 96, "one lives, and four were spent within the hour");
    for n in [0, 50, 98] {
        assert_eq!(spend_token(store, &token(n), at(100)).await, Spend::Reused(token(n)));
    }
    // A token that is newer than any that is known, as after a restore: not spent, but of no use either.
    assert_eq!(spend_token(store, &token(101), at(100)).await, Spend::Unknown);
    assert!(store.revoke_family("renewed", at(100)).await.unwrap());
    assert_eq!(spend_token(store, &token(0), at(100)).await, Spend::Unknown);
    assert_eq!(store.purge_refresh(at(100) + Duration::days(8)).await.unwrap(), 6, "five tokens and the family");
}

async fn spend(store: &Store, id: &str, now: OffsetDateTime) -> Spend {
    spend_as(store, id, "successor", "192.0.2.1", now).await
}

async fn spend_as(store: &Store, id: &str, successor: &str, client: &str, now: OffsetDateTime) -> Spend {
    let token = RefreshToken { id: id.into(), family: "none".into(), user: UserId(1), expires_at: now };
    let spending = Spending { successor, client, leeway: std::time::Duration::from_secs(30) };
    store.spend_refresh(&token, spending, now).await.unwrap()
}

async fn spend_token(store: &Store, token: &RefreshToken, now: OffsetDateTime) -> Spend {
    let spending = Spending { successor: "successor", client: "192.0.2.1", leeway: std::time::Duration::from_secs(30) };
    store.spend_refresh(token, spending, now).await.unwrap()
}

/// The client that spent the token gets its successor again; nobody else does, and not for long.
async fn a_moment_of_leeway(store: &Store, spent: &RefreshToken, start: OffsetDateTime) {
    let repeated = Spend::Repeated { token: spent.clone(), successor: "successor".into(), at: start };
    for seconds in [0, 1, 30] {
        let again = spend_as(store, &spent.id, "another", "192.0.2.1", start + Duration::seconds(seconds)).await;
        assert_eq!(again, repeated, "after {seconds} s");
    }
    // The clocks of two nodes need not agree.
    assert_eq!(spend_as(store, &spent.id, "another", "192.0.2.1", start - Duration::seconds(2)).await, repeated);
    let reused = Spend::Reused(spent.clone());
    assert_eq!(spend_as(store, &spent.id, "another", "192.0.2.1", start + Duration::milliseconds(30_001)).await, reused);
    assert_eq!(spend_as(store, &spent.id, "another", "192.0.2.2", start + Duration::seconds(1)).await, reused);
}

async fn addresses(store: &Store) {
    let (owner, other) = (user(store, "traveller", Role::Consumer).await.id, user(store, "other traveller", Role::Consumer).await.id);
    let start = datetime!(2025-01-29 11:35 UTC);
    assert!(!store.is_known_address(owner, "192.0.2.1").await.unwrap());
    store.remember_address(owner, "192.0.2.1", start).await.unwrap();
    store.remember_address(owner, "192.0.2.1", start + Duration::hours(1)).await.unwrap();
    assert!(store.is_known_address(owner, "192.0.2.1").await.unwrap());
    assert!(!store.is_known_address(other, "192.0.2.1").await.unwrap());
    // Bounded: the longest unseen make room.
    for n in 0..1000 {
        store.remember_address(owner, &format!("2001:db8:{n:x}::"), start + Duration::minutes(n + 1)).await.unwrap();
    }
    assert!(!store.is_known_address(owner, "192.0.2.1").await.unwrap());
    assert!(store.is_known_address(owner, "2001:db8:0::").await.unwrap());
    store.purge_addresses(start + Duration::days(180) + Duration::minutes(5)).await.unwrap();
    assert!(!store.is_known_address(owner, "2001:db8:3::").await.unwrap());
    assert!(store.is_known_address(owner, "2001:db8:4::").await.unwrap());
}

/// A name counts in its canonical form, and one from before as it stands.
async fn names(store: &Store) {
    let old = user(store, "Ol\u{e9}_Root", Role::Producer).await;
    let new = user(store, "zo\u{e9}", Role::Producer).await;
    let id = async |name: &str| store.credentials_meant(name).await.unwrap().map(|found| found.user.id);
    assert_eq!(id("Ol\u{e9}_Root").await, Some(old.id));
    assert_eq!(id("ol\u{e9}_root").await, None, "from before: exactly, or not at all");
    for written in ["zo\u{e9}", "ZO\u{c9}", "zoe\u{301}", "\u{ff3a}oe\u{301}"] {
        assert_eq!(id(written).await, Some(new.id), "{written}");
    }
    let legacy = user(store, "Legacy", Role::Producer).await;
    let alike =
        NewUser { username: "legacy".into(), password_hash: "h".into(), role: Role::Consumer, device_id: None, strict_device: false };
    assert!(matches!(store.create_user(alike).await, Err(Error::UsernameTaken)));
    assert_eq!(id("Legacy").await, Some(legacy.id));
    for part in ["ZO\u{c9}", "oe\u{301}"] {
        let found = store.accounts(&AccountQuery { name: part.into(), ..AccountQuery::default() }).await.unwrap();
        assert_eq!(found.iter().map(|account| account.user.id).collect::<Vec<_>>(), [new.id], "{part}");
    }
}

async fn revocation(store: &Store) {
    let owner = user(store, "leaver", Role::Consumer).await.id;
    let start = datetime!(2025-01-29 11:35 UTC);
    for (id, family, days) in [("a1", "a", 7), ("a2", "a", 7), ("b1", "b", 7), ("c1", "c", -1)] {
        let expires_at = start + Duration::days(days);
        store.add_refresh(&RefreshToken { id: id.into(), family: family.into(), user: owner, expires_at }, None).await.unwrap();
    }
    let mut ended = store.revoke_user(owner, None, start).await.unwrap();
    ended.sort();
    assert_eq!(ended, ["a", "b"]);
    assert!(store.revoke_user(owner, None, start).await.unwrap().is_empty());
    assert_eq!(spend(store, "a1", start).await, Spend::Unknown);
}

/// Tokens of other issuers are ended up to a moment, which never goes back.
async fn external_accounts(store: &Store) {
    let (owner, other) = (user(store, "ada@corp", Role::Consumer).await, user(store, "bob", Role::Consumer).await);
    let start = datetime!(2025-01-29 11:35 UTC);
    let [second, third] = [1, 2].map(|n| start + Duration::seconds(n));
    assert!(store.add_external_identity("https://id.example", "ada", owner.id, start).await.unwrap());
    let found = async || store.external_account("https://id.example", "ada").await.unwrap().unwrap();
    assert_eq!((found().await.account.user.id, found().await.end), (owner.id, None));
    assert_eq!(store.end_external(other.id, None, start).await.unwrap(), None, "no other issuer knows it");
    let end = ExternalEnd { at: second, kept: Some(start) };
    assert_eq!(store.end_external(owner.id, Some(start), second).await.unwrap(), Some(end));
    assert_eq!(found().await.end, Some(end));
    assert_eq!(store.end_external(owner.id, None, start).await.unwrap(), None);
    assert_eq!(store.ended_externals(second).await.unwrap(), [(owner.id, end)]);
    let end = ExternalEnd { at: third, kept: None };
    assert_eq!(store.end_external(owner.id, None, third).await.unwrap(), Some(end));
    assert_eq!(store.ended_externals(second).await.unwrap(), [(owner.id, end)]);
    assert!(store.ended_externals(third + Duration::seconds(1)).await.unwrap().is_empty());
    assert_eq!(store.external_account("https://id.example", "bob").await.unwrap(), None);
}

async fn closed_accounts(store: &Store) {
    let owner = user(store, "Closed_One", Role::Producer).await.id;
    user(store, "closed%two", Role::Consumer).await;
    let start = datetime!(2025-01-29 11:35 UTC);
    let token =
        |id: &str, family: &str| RefreshToken { id: id.into(), family: family.into(), user: owner, expires_at: start + Duration::days(7) };
    store.add_refresh(&token("closed-1", "closed-a"), None).await.unwrap();
    let (account, families) = store.close_account(owner, start).await.unwrap().unwrap();
    assert_eq!((account.revoked_at, families), (Some(start), vec!["closed-a".to_owned()]));
    // The first moment stays, and what came since is ended too.
    store.add_refresh(&token("closed-2", "closed-b"), None).await.unwrap();
    let (account, families) = store.close_account(owner, start + Duration::hours(1)).await.unwrap().unwrap();
    assert_eq!((account.revoked_at, families), (Some(start), vec!["closed-b".to_owned()]));
    assert_eq!(store.closed_accounts(start).await.unwrap(), [(owner, start)]);
    assert!(store.closed_accounts(start + Duration::milliseconds(1)).await.unwrap().is_empty());
    assert_eq!(store.credentials("Closed_One").await.unwrap().unwrap().revoked_at, Some(start));
    assert!(!store.users(Role::Producer, Page::default()).await.unwrap().iter().any(|u| u.id == owner));

    let found = async |role, name: &str| {
        let query = AccountQuery { role, name: name.to_owned(), page: Page::default() };
        store.accounts(&query).await.unwrap().into_iter().map(|a| a.user.username).collect::<Vec<_>>()
    };
    assert_eq!(found(None, "CLOSED").await, ["Closed_One", "closed%two"]);
    assert_eq!(found(Some(Role::Consumer), "closed").await, ["closed%two"]);
    for (part, name) in [("d_o", "Closed_One"), ("d%t", "closed%two")] {
        assert_eq!(found(None, part).await, [name], "no part of a name is a pattern");
    }
    assert!(found(None, "d!").await.is_empty() && found(None, "\0").await.is_empty());
    let first = store.accounts(&AccountQuery { page: Page { after: 0, limit: 2 }, ..AccountQuery::default() }).await.unwrap();
    let all = store.accounts(&AccountQuery::default()).await.unwrap();
    assert_eq!(first, all[..2]);

    let opened = store.reopen_account(owner, start + Duration::hours(2)).await.unwrap().unwrap();
    assert_eq!(opened.revoked_at, None);
    assert_eq!(store.reopen_account(owner, start).await.unwrap(), Some(opened));
    assert_eq!(spend(store, "closed-1", start).await, Spend::Unknown);
    store.add_refresh(&token("open-1", "open"), None).await.unwrap();
    assert!(matches!(spend(store, "open-1", start).await, Spend::Fresh(_)));
}

fn now() -> OffsetDateTime {
    motience_runtime::clock::Clock::system().now()
}
