//! Organisations: members act for accounts within their roles, plans hold for all accounts together, and what goes in and out is counted once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    gateway,
    harness::{Account, LIMIT, Node, Shared, account, http, subscribe},
    operators,
    quic::ap,
    quotas::logged,
};

async fn ask(method: Method, url: String, token: &str, body: Value) -> (u16, Value) {
    let request = http().request(method, url).bearer_auth(token);
    let request = if body.is_null() { request } else { request.json(&body) };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

struct Office {
    node: Node,
    owner: Account,
    id: String,
}

impl Office {
    async fn open(variables: &[(&str, &str)]) -> Self {
        Self::on(Node::embedded(variables).await).await
    }

    async fn on(node: Node) -> Self {
        let owner = account(ap(&node), "producer", "owner").await;
        let (status, made) = ask(Method::POST, format!("{}/organisations", ap(&node)), &owner.token, json!({"name": "acme"})).await;
        assert_eq!(status, 201, "{made}");
        Self { id: made["id"].as_str().unwrap().to_owned(), node, owner }
    }

    async fn ap(&self, method: Method, path: &str, who: &Account, body: Value) -> (u16, Value) {
        ask(method, format!("{}/organisations/{}{path}", ap(&self.node), self.id), &who.token, body).await
    }

    /// Has an account join by an invitation of the owner's.
    async fn joined(&self, name: &str, account_role: &str, role: &str) -> Account {
        let who = account(ap(&self.node), account_role, name).await;
        let (status, invited) = self.ap(Method::POST, "/invitations", &self.owner, json!({"role": role})).await;
        assert_eq!(status, 201, "{invited}");
        let join = json!({"invitation": invited["invitation"]});
        let url = format!("{}/organisations/join", ap(&self.node));
        let (status, joined) = ask(Method::POST, url.clone(), &who.token, join.clone()).await;
        assert_eq!((status, &joined["role"]), (200, &json!(role)), "{joined}");
        assert_eq!(ask(Method::POST, url, &self.owner.token, join).await.0, 403, "it is good once");
        who
    }

    async fn acts_for(&self, who: &Account, account: &Account) -> (u16, Value) {
        self.ap(Method::POST, &format!("/accounts/{}/token", account.id), who, Value::Null).await
    }
}

#[tokio::test]
async fn members_do_for_the_accounts_what_their_roles_allow_and_nothing_after_their_end() {
    let office = Office::open(&[("PRODUCER_VISIBILITY", "listed")]).await;
    let (sm, dsm) = (office.node.at.sm.clone().unwrap(), office.node.at.dsm.clone().unwrap());
    let (reader, manager) = (office.joined("reader", "consumer", "reader").await, office.joined("manager", "consumer", "manager").await);
    let owned = office.joined("owned", "producer", "account").await;
    let stranger = account(ap(&office.node), "consumer", "stranger").await;

    let (status, whole) = office.ap(Method::GET, "", &reader, Value::Null).await;
    let names = |list: &Value| list.as_array().unwrap().iter().map(|one| one["username"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!((status, names(&whole["members"]), names(&whole["accounts"])).1, ["owner", "reader", "manager"], "{whole}");
    assert_eq!(names(&whole["accounts"]), ["owner", "owned"]);
    assert_eq!(office.ap(Method::GET, "", &stranger, Value::Null).await.0, 404);
    for who in [&reader, &manager] {
        assert_eq!(office.ap(Method::POST, "/invitations", who, json!({"role": "owner"})).await.0, 403);
        assert_eq!(office.ap(Method::PUT, &format!("/members/{}", who.id), who, json!({"role": "owner"})).await.0, 403);
    }
    assert_eq!(office.acts_for(&stranger, &owned).await.0, 404);
    assert_eq!(office.acts_for(&reader, &stranger).await.0, 404, "not the organisation's");
    // A key of a member is no member.
    let key = json!({"name": "k", "scopes": ["consume"]});
    let (_, key) = ask(Method::POST, format!("{}/keys", ap(&office.node)), &reader.token, key).await;
    let by_key = Account { id: reader.id, username: String::new(), token: key["key"].as_str().unwrap().to_owned() };
    assert_eq!(office.acts_for(&by_key, &owned).await.0, 403);

    let (asked, _) = (
        ask(Method::POST, format!("{sm}/subscribe"), &stranger.token, json!({"producer_id": owned.id})).await,
        ask(Method::POST, format!("{dsm}/data"), &owned.token, json!({"device_id": "d", "timestamp": 1, "data": 1})).await,
    );
    let approve = format!("{sm}/subscriptions/{}/approve", asked.1["id"]);
    let mut tokens = Vec::new();
    for (who, manages) in [(&reader, false), (&manager, true)] {
        let (status, token) = office.acts_for(who, &owned).await;
        assert_eq!(status, 200, "{token}");
        let token = token["access_token"].as_str().unwrap().to_owned();
        for (method, url, body, expected) in [
            (Method::GET, format!("{dsm}/history/{}", owned.id), Value::Null, 200),
            (Method::GET, format!("{dsm}/devices/{}", owned.id), Value::Null, 200),
            (Method::GET, format!("{sm}/subscribers/{}", owned.id), Value::Null, 200),
            (Method::POST, format!("{dsm}/data"), json!({"device_id": "d", "timestamp": 1, "data": 1}), 403),
            (Method::POST, approve.clone(), Value::Null, if manages { 200 } else { 403 }),
            (Method::GET, format!("{dsm}/retention/{}", owned.id), Value::Null, 200),
            (Method::GET, format!("{dsm}/erasures"), Value::Null, 200),
            (Method::PUT, format!("{dsm}/retention/{}", owned.id), json!({"history_age_seconds": 86_400}), if manages { 200 } else { 403 }),
            (Method::PUT, format!("{dsm}/retention/{}", office.owner.id), json!({}), 403),
            (Method::POST, format!("{dsm}/erasures"), json!({"device_id": "gone"}), if manages { 202 } else { 403 }),
            (Method::POST, format!("{}/devices/enrolments", ap(&office.node)), json!({}), if manages { 201 } else { 403 }),
            (
                Method::POST,
                format!("{}/keys", ap(&office.node)),
                json!({"name": "k", "scopes": ["publish"]}),
                if manages { 201 } else { 403 },
            ),
            (Method::POST, format!("{}/account/password", ap(&office.node)), json!({"old_password": "x", "new_password": "yyyyyy"}), 403),
            (Method::GET, format!("{}/organisations", ap(&office.node)), Value::Null, 403),
        ] {
            let (status, answer) = ask(method.clone(), url.clone(), &token, body).await;
            assert!(status == expected, "{} {method} {url}: {status} {answer}", who.username);
        }
        tokens.push(token);
    }
    let sees = async |token: &str| ask(Method::GET, format!("{dsm}/history/{}", owned.id), token, Value::Null).await.0;
    // A role that is another ends the tokens of the one before, as the membership's end and the account's leave do.
    let role = format!("/members/{}", manager.id);
    assert_eq!(office.ap(Method::PUT, &role, &office.owner, json!({"role": "reader"})).await.0, 200);
    assert_eq!((sees(&tokens[0]).await, sees(&tokens[1]).await), (200, 401));
    assert_eq!(office.ap(Method::DELETE, &format!("/members/{}", reader.id), &reader, Value::Null).await.0, 200, "a member may leave");
    assert_eq!((sees(&tokens[0]).await, office.acts_for(&reader, &owned).await.0), (401, 404));
    let (_, token) = office.acts_for(&manager, &owned).await;
    assert_eq!(office.ap(Method::DELETE, &format!("/accounts/{}", owned.id), &owned, Value::Null).await.0, 200);
    assert_eq!(sees(token["access_token"].as_str().unwrap()).await, 401);
    // The last owner stays one.
    assert_eq!(office.ap(Method::DELETE, &format!("/members/{}", office.owner.id), &office.owner, Value::Null).await.0, 409);
    assert_eq!(office.ap(Method::PUT, &format!("/members/{}", office.owner.id), &office.owner, json!({"role": "reader"})).await.0, 409);
    let (_, acts) = ask(Method::GET, format!("{sm}/acts?object=organisation:{}", office.id), &office.owner.token, Value::Null).await;
    let acts: Vec<&str> = acts.as_array().unwrap().iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert!(["organisation.create", "organisation.invite", "organisation.role"].iter().all(|act| acts.contains(act)), "{acts:?}");
    assert_eq!(office.ap(Method::DELETE, "", &office.owner, Value::Null).await.0, 200);
    assert_eq!(office.ap(Method::GET, "", &office.owner, Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_plan_of_an_organisation_holds_for_its_accounts_together_and_counts_connections_and_follows() {
    let office = Office::open(&[]).await;
    let (dir, dsm, sm) = (office.node.dir.path(), office.node.at.dsm.clone().unwrap(), office.node.at.sm.clone().unwrap());
    let owned = office.joined("owned", "producer", "account").await;
    let consumer = office.joined("consumer", "consumer", "account").await;
    let neighbour = account(ap(&office.node), "producer", "neighbour").await;
    let limits = [
        &["plan", "set", "team", "--records-per-second", "10", "--connections", "1", "--follows", "1"][..],
        &["--bytes-per-second", "1000000", "--requests-per-second", "1000"],
    ]
    .concat();
    for arguments in [&limits[..], &["plan", "give", "team", "--organisation", "acme"]] {
        assert_eq!(operators::run(dir, &[], arguments, "").await.0, 0);
    }
    let flood: Vec<Value> = (0..50).map(|n| json!({"device_id": "d", "timestamp": 1, "data": n})).collect();
    let post = async |who: &Account| ask(Method::POST, format!("{dsm}/data"), &who.token, json!(flood)).await;
    let deadline = Instant::now() + LIMIT;
    while post(&office.owner).await.0 == 200 {
        assert!(Instant::now() < deadline, "the plan comes into force");
        sleep(Duration::from_millis(50)).await;
    }
    let (status, plan) = office.ap(Method::GET, "/plan", &office.owner, Value::Null).await;
    let limits =
        json!({"records_per_second": 10, "bytes_per_second": 1_000_000, "requests_per_second": 1000, "connections": 1, "follows": 1});
    assert_eq!(
        (status, &plan["plan"], &plan["limits"], &plan["used"]["devices"], &plan["used"]["follows"]),
        (200, &json!("team"), &limits, &json!(0.0), &json!(0.0)),
        "{plan}"
    );
    assert!(plan["used"]["records_per_second"].is_f64(), "{plan}");
    assert_eq!(
        (&plan["used"]["bytes_out_per_second"], &plan["used"]["connections"]),
        (&Value::Null, &json!(0.0)),
        "no limit, and none open"
    );
    assert_eq!(office.ap(Method::GET, "/plan", &neighbour, Value::Null).await.0, 404);
    assert_eq!(ask(Method::GET, format!("{}/plans", ap(&office.node)), &office.owner.token, Value::Null).await.0, 403);
    let (status, problem) = post(&owned).await;
    assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")), "one bucket for all accounts");
    assert!(problem["detail"].as_str().unwrap().starts_with("The plan of this organisation allows 10 records"), "{problem}");
    assert_eq!(post(&neighbour).await.0, 200);

    subscribe(&sm, &consumer, &owned).await;
    let second = ask(Method::POST, format!("{sm}/subscribe"), &consumer.token, json!({"producer_id": neighbour.id})).await;
    assert_eq!((second.0, &second.1["code"]), (409, &json!("too_many_follows")));
    let first = gateway::consume(&office.node, &consumer, "").await;
    let refused = tokio_tungstenite::connect_async(format!("{}?token={}", office.node.at.wss1.as_deref().unwrap(), owned.token)).await;
    assert!(refused.is_err(), "the organisation has one connection");
    let deadline = Instant::now() + LIMIT;
    loop {
        let (_, plan) = office.ap(Method::GET, "/plan", &office.owner, Value::Null).await;
        let used = |limit: &str| plan["used"][limit].as_f64().unwrap();
        if used("connections") == 1.0 && used("bytes_per_second") > 0.0 && used("requests_per_second") > 0.0 {
            break;
        }
        assert!(Instant::now() < deadline, "what is in use is told: {plan}");
        // Rates fade within ten seconds.
        post(&office.owner).await;
        sleep(Duration::from_millis(100)).await;
    }
    drop(first);
    let listed = operators::run(dir, &[], &["org", "show", "acme"], "").await;
    assert!(listed.0 == 0 && listed.1.contains("owner\t1\towner\n") && listed.1.contains("\towned\tproducer\n"), "{listed:?}");
}

#[tokio::test]
async fn each_node_tells_what_all_of_them_use_of_a_plan() {
    let shared = Shared::start().await;
    let office = Office::on(shared.node("a", "ap,sm,dsm").await).await;
    let other = shared.node("b", "ap,sm,dsm").await;
    for arguments in [&["plan", "set", "team", "--bytes-per-second", "1000000"][..], &["plan", "give", "team", "--organisation", "acme"]] {
        let done = operators::run(office.node.dir.path(), &shared.variables(), arguments, "").await;
        assert_eq!(done.0, 0, "{done:?}");
    }
    let used = async {
        loop {
            let (dsm, record) = (office.node.at.dsm.as_deref().unwrap(), json!({"device_id": "d", "timestamp": 1, "data": 1}));
            assert_eq!(ask(Method::POST, format!("{dsm}/data"), &office.owner.token, record).await.0, 200);
            let url = format!("{}/organisations/{}/plan", ap(&other), office.id);
            let (_, plan) = ask(Method::GET, url, &office.owner.token, Value::Null).await;
            if plan["used"]["bytes_per_second"].as_f64().is_some_and(|used| used > 0.0) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, used).await.expect("the other node tells what went in here");
}

#[tokio::test]
async fn usage_is_what_went_in_and_out_each_record_once_over_resumes_and_restarts() {
    let variables = [("COUNT_USAGE", "true")];
    let node = Node::embedded(&variables).await;
    let producer = account(ap(&node), "producer", "p").await;
    let consumer = account(ap(&node), "consumer", "c").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let record = |n: u64| json!({"device_id": format!("d{}", n % 2), "timestamp": 1, "data": {"n": n}});
    let send = async |node: &Node, numbers: std::ops::Range<u64>| {
        let key = format!("from-{}", numbers.start);
        let records: Vec<Value> = numbers.map(record).collect();
        let request = http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&producer.token);
        assert_eq!(request.header("idempotency-key", key).json(&records).send().await.unwrap().status(), 200);
    };
    let sums = async |node: &Node, who: &Account| {
        let url = format!("{}/usage?sum=true", node.at.dsm.as_deref().unwrap());
        let (status, found) = ask(Method::GET, url, &who.token, Value::Null).await;
        assert_eq!(status, 200, "{found}");
        found
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["direction"].as_str().unwrap().to_owned(), one["records"].as_u64().unwrap()))
            .collect::<Vec<_>>()
    };
    let until = async |node: &Node, who: &Account, wanted: &[(&str, u64)]| {
        let wanted: Vec<(String, u64)> = wanted.iter().map(|(direction, count)| ((*direction).to_owned(), *count)).collect();
        let deadline = Instant::now() + LIMIT;
        while sums(node, who).await != wanted {
            assert!(Instant::now() < deadline, "{:?} for {wanted:?}", sums(node, who).await);
            sleep(Duration::from_millis(50)).await;
        }
    };
    let read = async |node: &Node, count: u64| {
        assert_eq!(logged(node, &consumer, count as usize).await, (0..count).collect());
    };
    send(&node, 0..100).await;
    read(&node, 100).await;
    // Sent again under the same names, and read again: neither counts twice.
    send(&node, 0..100).await;
    read(&node, 100).await;
    until(&node, &producer, &[("in", 50), ("in", 50)]).await;
    until(&node, &consumer, &[("out", 100)]).await;
    // A crash: what was taken in and not counted yet is counted from the log.
    send(&node, 100..200).await;
    let node = node.crash(&variables).await;
    send(&node, 200..300).await;
    until(&node, &producer, &[("in", 150), ("in", 150)]).await;
    read(&node, 300).await;
    until(&node, &consumer, &[("out", 300)]).await;
    // An end in good order writes the last counts down.
    send(&node, 300..310).await;
    read(&node, 310).await;
    let node = node.restarted(&variables, async |_| {}).await;
    until(&node, &producer, &[("in", 155), ("in", 155)]).await;
    until(&node, &consumer, &[("out", 310)]).await;
    let url = format!("{}/usage?account={}", node.at.dsm.as_deref().unwrap(), producer.id);
    assert_eq!(ask(Method::GET, url, &consumer.token, Value::Null).await.0, 403);
}
