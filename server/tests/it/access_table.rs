//! Who may do what: every subject on every path and transport, against a real node. `TABLE` is the page's table too: `docs/access.md` is
//! compared with it. A new kind of subject is a variant of `Subject`, a row of `TABLE`, and an arm of `Cast::account`.

use std::time::Duration;

use motience_device::login::Algorithm;
use reqwest::Method;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{connect_async, tungstenite};

use crate::{
    devices::{enrolled, set, token},
    egress_features::{Egress, Reader, Received, Wishes},
    harness::{Account, LIMIT, Node, PASSWORD, account, command, http, output, server},
    identity::{ALL, Provider, whose},
    quic::ap,
    stream::Reader as Body,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Nobody,
    Stranger,
    Requested,
    Invited,
    Active,
    Scoped,
    Expired,
    Denied,
    Revoked,
    Producer,
    OtherProducer,
    Operator,
    ReadingKey,
    NarrowKey,
    SendingKey,
    Device,
    QuarantinedDevice,
    RevokedDevice,
    OrganisationReader,
    OrganisationManager,
    ForeignConsumer,
    ForeignProducer,
    ForeignStranger,
}

/// Columns: what is tried, and how the page calls it.
const COLUMNS: [&str; 16] = [
    "sees it, `listed`",
    "sees it, `private`",
    "`/streams`, `private`",
    "`/history`",
    "`/devices`",
    "approves",
    "SSE",
    "NDJSON",
    "wss2 v1",
    "wss2 v2",
    "QUIC",
    "WebTransport",
    "`POST /data`",
    "hears of its subscribers",
    "labels a device",
    "sets retention",
];

/// Rows: subjects, and what each gets. `all`: records as they are. `scope`: within the grant. `–`: the connection stands, and nothing comes.
/// Numbers are HTTP statuses; `no`: refused by the protocol's own means, or not in the list.
const TABLE: [(Subject, &str, [&str; 16]); 23] = [
    (
        Subject::Nobody,
        "nobody",
        ["401", "401", "401", "401", "401", "401", "401", "401", "401", "401", "no", "no", "401", "401", "401", "401"],
    ),
    (
        Subject::Stranger,
        "consumer",
        ["yes", "no", "no", "403", "403", "403", "403", "403", "–", "–", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::Requested,
        "consumer, requested",
        ["yes", "no", "no", "403", "403", "403", "403", "403", "–", "–", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::Invited,
        "consumer, invited",
        ["yes", "yes", "no", "403", "403", "403", "403", "403", "–", "–", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::Active,
        "consumer, active",
        ["yes", "yes", "yes", "all", "all", "403", "all", "all", "all", "all", "all", "all", "403", "403", "403", "403"],
    ),
    (
        Subject::Scoped,
        "consumer, active within a scope",
        ["yes", "yes", "yes", "scope", "scope", "403", "scope", "scope", "scope", "scope", "scope", "scope", "403", "403", "403", "403"],
    ),
    (
        Subject::Expired,
        "consumer, expired",
        ["yes", "no", "no", "403", "403", "403", "403", "403", "–", "–", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::Denied,
        "consumer, denied",
        ["yes", "no", "no", "403", "403", "403", "403", "403", "–", "–", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::Revoked,
        "consumer, revoked",
        ["yes", "no", "no", "403", "403", "403", "403", "403", "–", "–", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::Producer,
        "the producer",
        ["yes", "yes", "yes", "all", "all", "200", "all", "all", "403", "403", "no", "no", "200", "yes", "200", "200"],
    ),
    (
        Subject::OtherProducer,
        "another producer",
        ["yes", "no", "no", "403", "403", "404", "403", "403", "403", "403", "no", "no", "200", "yes", "403", "403"],
    ),
    (
        Subject::Operator,
        "operator",
        ["yes", "yes", "yes", "all", "all", "200", "all", "all", "403", "403", "no", "no", "403", "403", "200", "200"],
    ),
    (
        Subject::ReadingKey,
        "API key of an active consumer, `consume`",
        ["yes", "yes", "yes", "all", "all", "403", "all", "all", "all", "all", "all", "all", "403", "403", "403", "403"],
    ),
    (
        Subject::NarrowKey,
        "API key of an active consumer, `consume:ANOTHER`",
        ["yes", "no", "no", "403", "403", "403", "403", "403", "–", "–", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::SendingKey,
        "API key of the producer, `publish`",
        ["403", "403", "403", "403", "403", "403", "403", "403", "403", "403", "no", "no", "200", "403", "403", "403"],
    ),
    (
        Subject::Device,
        "device of the producer, by its own key",
        ["403", "403", "403", "403", "403", "403", "403", "403", "403", "403", "no", "no", "200", "403", "403", "403"],
    ),
    (
        Subject::QuarantinedDevice,
        "device in quarantine",
        ["403", "403", "403", "403", "403", "403", "403", "403", "403", "403", "no", "no", "200", "403", "403", "403"],
    ),
    (
        Subject::RevokedDevice,
        "device, revoked",
        ["401", "401", "401", "401", "401", "401", "401", "401", "401", "401", "no", "no", "401", "401", "401", "401"],
    ),
    (
        Subject::OrganisationReader,
        "`reader` of the producer's organisation, acting for it",
        ["yes", "yes", "yes", "all", "all", "403", "all", "all", "403", "403", "no", "no", "403", "403", "403", "403"],
    ),
    (
        Subject::OrganisationManager,
        "`manager` of the producer's organisation, acting for it",
        ["yes", "yes", "yes", "all", "all", "200", "all", "all", "403", "403", "no", "no", "403", "403", "200", "200"],
    ),
    (
        Subject::ForeignConsumer,
        "consumer by a token of another issuer, active",
        ["yes", "yes", "yes", "all", "all", "403", "all", "all", "all", "all", "all", "all", "403", "403", "403", "403"],
    ),
    (
        Subject::ForeignProducer,
        "another producer, by a token of another issuer",
        ["yes", "no", "no", "403", "403", "404", "403", "403", "403", "403", "no", "no", "200", "yes", "403", "403"],
    ),
    (
        Subject::ForeignStranger,
        "token of another issuer that gives no role here",
        ["403", "403", "403", "403", "403", "403", "403", "403", "403", "403", "no", "no", "403", "403", "403", "403"],
    ),
];

const PAGE: &str = include_str!("../../../docs/access.md");

/// The table as the page has it.
fn written() -> String {
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let mut head = vec!["who"];
    head.extend(COLUMNS);
    let mut text = line(&head) + &line(&vec!["---"; head.len()]);
    for (_, name, cells) in &TABLE {
        let mut row = vec![*name];
        row.extend(cells);
        text += &line(&row);
    }
    text
}

#[test]
fn the_page_has_this_table() {
    let table = written();
    assert!(PAGE.contains(&table), "docs/access.md should have this table:\n\n{table}");
}

/// A node with a producer, somebody of each kind, and a record that a scope lets through beside one that it does not.
struct Cast {
    node: Node,
    provider: Provider,
    producer: Account,
    /// An open producer whose record says that nothing more is to come.
    beacon: Account,
    accounts: Vec<(Subject, Account)>,
    /// The subscription that operators and producers approve.
    subscription: i64,
}

impl Cast {
    async fn new() -> Self {
        let provider = Provider::start("ES256").await;
        let (visibility, connections) = (("PRODUCER_VISIBILITY", "listed"), ("MAX_CONNECTIONS_PER_ACCOUNT", "200"));
        let node = Node::embedded(&[visibility, connections, ("OIDC_ISSUERS", provider.file().to_str().unwrap())]).await;
        let (producer, beacon) = (account(ap(&node), "producer", "p").await, account(ap(&node), "producer", "beacon").await);
        let mut cast = Self { node, provider, producer, beacon, accounts: Vec::new(), subscription: 0 };
        let (owner, beacon) = (cast.producer.clone(), cast.beacon.clone());
        cast.see(&beacon, "open").await;
        for (subject, ..) in TABLE {
            let account = cast.account(subject).await;
            if matches!(subject, Subject::Stranger | Subject::Requested | Subject::Invited | Subject::Active | Subject::Scoped)
                || matches!(subject, Subject::Expired | Subject::Denied | Subject::Revoked | Subject::ReadingKey | Subject::NarrowKey)
                || subject == Subject::ForeignConsumer
            {
                cast.sm(&account, "/subscribe", json!({"producer_id": beacon.id})).await;
            }
            let account = match subject {
                Subject::ReadingKey => cast.key(&account, "consume").await,
                Subject::NarrowKey => cast.key(&account, &format!("consume:{}", beacon.id)).await,
                _ => account,
            };
            cast.accounts.push((subject, account));
        }
        let mine = async || {
            let url = format!("{}/subscribers/{}?status=expired", cast.sm_url(), owner.id);
            let found: Value = http().get(url).bearer_auth(&owner.token).send().await.unwrap().json().await.unwrap();
            found.as_array().unwrap().len()
        };
        let come = async {
            while mine().await == 0 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LIMIT, come).await.expect("the end comes in time");
        cast
    }

    fn sm_url(&self) -> &str {
        self.node.at.sm.as_deref().unwrap()
    }

    async fn sm(&self, who: &Account, path: &str, body: Value) -> Value {
        let answer = http().post(format!("{}{path}", self.sm_url())).bearer_auth(&who.token).json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn see(&self, producer: &Account, visibility: &str) {
        let url = format!("{}/producers/{}/visibility", ap(&self.node), producer.id);
        let answer = http().put(url).bearer_auth(&producer.token).json(&json!({"visibility": visibility})).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Somebody of this kind.
    async fn account(&mut self, subject: Subject) -> Account {
        let name = format!("{subject:?}").to_lowercase();
        let decide = async |cast: &Self, asked: &Value, word: &str, body: Value| {
            cast.sm(&cast.producer, &format!("/subscriptions/{}/{word}", asked["id"]), body).await;
        };
        match subject {
            Subject::Nobody => return Account { id: 0, username: name, token: "x.y.z".to_owned() },
            Subject::Producer => return self.producer.clone(),
            Subject::OtherProducer => return account(ap(&self.node), "producer", &name).await,
            Subject::Operator => return operator(&self.node, &name).await,
            Subject::SendingKey => return self.key(&self.producer, "publish").await,
            Subject::OrganisationReader => return self.member(&name, "reader").await,
            Subject::OrganisationManager => return self.member(&name, "manager").await,
            Subject::Device | Subject::QuarantinedDevice | Subject::RevokedDevice => return self.device(subject, &name).await,
            Subject::ForeignProducer => return whose(&self.node, self.provider.token("sender", ALL).await).await,
            Subject::ForeignStranger => {
                return Account { id: 0, username: name, token: self.provider.token("nobody", ALL).await };
            }
            _ => {}
        }
        let who = match subject {
            Subject::ForeignConsumer => whose(&self.node, self.provider.token("reader", ALL).await).await,
            _ => account(ap(&self.node), "consumer", &name).await,
        };
        if subject == Subject::Stranger {
            return who;
        }
        if subject == Subject::Invited {
            self.sm(&self.producer, "/subscriptions/invite", json!({"consumer": name})).await;
            return who;
        }
        let asked = self.sm(&who, "/subscribe", json!({"producer_id": self.producer.id})).await;
        match subject {
            Subject::ReadingKey | Subject::NarrowKey | Subject::ForeignConsumer => decide(self, &asked, "approve", json!({})).await,
            Subject::Active => {
                decide(self, &asked, "approve", json!({})).await;
                self.subscription = asked["id"].as_i64().unwrap();
            }
            Subject::Scoped => {
                let agreement = json!({"type": "stream", "devices": ["a"], "fields": "/data/n"});
                decide(self, &asked, "approve", json!({"agreements": [agreement]})).await;
            }
            Subject::Expired => {
                let end = (now() + Duration::from_secs(1)).format(&Rfc3339).unwrap();
                decide(self, &asked, "approve", json!({"expiresAt": end})).await;
            }
            Subject::Denied => decide(self, &asked, "deny", Value::Null).await,
            Subject::Revoked => {
                decide(self, &asked, "approve", json!({})).await;
                decide(self, &asked, "revoke", Value::Null).await;
            }
            _ => {}
        }
        who
    }

    /// A key of this account, which it is from now on.
    async fn key(&self, owner: &Account, scope: &str) -> Account {
        let body = json!({"name": scope, "scopes": [scope]});
        let answer = http().post(format!("{}/keys", ap(&self.node))).bearer_auth(&owner.token).json(&body).send().await.unwrap();
        let made: Value = answer.json().await.unwrap();
        Account { token: made["key"].as_str().unwrap().to_owned(), ..owner.clone() }
    }

    /// A device of the producer, by the token that its own key has got.
    async fn device(&self, subject: Subject, name: &str) -> Account {
        let credentials = enrolled(&self.node, &self.producer, name, Algorithm::Ed25519).await;
        let token = token(&credentials).await;
        match subject {
            Subject::QuarantinedDevice => set(&self.node, &self.producer, name, "quarantine").await,
            Subject::RevokedDevice => set(&self.node, &self.producer, name, "revoke").await,
            _ => {}
        }
        Account { id: self.producer.id, username: name.to_owned(), token }
    }

    /// A member of the producer's organisation, by the token with which it acts for the producer.
    async fn member(&self, name: &str, role: &str) -> Account {
        let ask = async |path: String, token: &str, body: Value| {
            let answer = http().post(format!("{}{path}", ap(&self.node))).bearer_auth(token).json(&body).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert!(status.is_success(), "{path}: {status} {text}");
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let organisations = http().get(format!("{}/organisations", ap(&self.node))).bearer_auth(&self.producer.token).send().await.unwrap();
        let organisations: Value = organisations.json().await.unwrap();
        let id = match organisations[0]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => ask("/organisations".to_owned(), &self.producer.token, json!({"name": "all"})).await["id"].as_str().unwrap().to_owned(),
        };
        let who = account(ap(&self.node), "consumer", name).await;
        let invited = ask(format!("/organisations/{id}/invitations"), &self.producer.token, json!({"role": role})).await;
        ask("/organisations/join".to_owned(), &who.token, json!({"invitation": invited["invitation"]})).await;
        let acting = ask(format!("/organisations/{id}/accounts/{}/token", self.producer.id), &who.token, json!({})).await;
        Account { token: acting["access_token"].as_str().unwrap().to_owned(), ..self.producer.clone() }
    }

    /// Sends a record that a scope lets through with one of its members, one that it does not, and the beacon's.
    async fn post(&self) {
        let record = |device: &str, n: u64| json!({"device_id": device, "timestamp": 1_738_150_500_000_u64 + n, "data": {"n": n, "m": 2}});
        for (producer, body) in [(&self.producer, json!([record("a", 1), record("b", 2)])), (&self.beacon, json!([record("z", 3)]))] {
            let url = format!("{}/data", self.node.at.dsm.as_deref().unwrap());
            assert_eq!(http().post(url).bearer_auth(&producer.token).json(&body).send().await.unwrap().status(), 200);
        }
    }

    async fn call(&self, method: Method, url: String, who: &Account) -> (u16, Value) {
        let answer = http().request(method, url).bearer_auth(&who.token).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Whether a list names the producer.
    async fn listed(&self, url: String, member: &str, who: &Account) -> String {
        let (status, list) = self.call(Method::GET, url, who).await;
        let is_there = |list: &Value| list.as_array().unwrap().iter().any(|entry| entry[member] == self.producer.username.as_str());
        if status == 200 { if is_there(&list) { "yes" } else { "no" }.to_owned() } else { status.to_string() }
    }

    async fn cell(&self, column: usize, who: &Account, expected: &str) -> String {
        let (dsm, id) = (self.node.at.dsm.as_deref().unwrap(), self.producer.id);
        match column {
            0 | 1 => {
                self.see(&self.producer, if column == 0 { "listed" } else { "private" }).await;
                self.listed(format!("{}/producers", ap(&self.node)), "username", who).await
            }
            2 => {
                self.see(&self.producer, "private").await;
                self.listed(format!("{dsm}/streams"), "username", who).await
            }
            3 => match self.call(Method::GET, format!("{dsm}/history/{id}"), who).await {
                (200, list) => extent(&list.as_array().unwrap()[..].iter().map(|record| record["data"].clone()).collect::<Vec<_>>()),
                (status, _) => status.to_string(),
            },
            4 => match self.call(Method::GET, format!("{dsm}/devices/{id}"), who).await {
                (200, list) => {
                    match list.as_array().unwrap().iter().map(|device| device["device_id"].as_str().unwrap()).collect::<Vec<_>>()[..] {
                        ["a", "b"] => "all".to_owned(),
                        ["a"] => "scope".to_owned(),
                        ref other => format!("{other:?}"),
                    }
                }
                (status, _) => status.to_string(),
            },
            5 => {
                let url = format!("{}/subscriptions/{}/approve", self.sm_url(), self.subscription);
                self.call(Method::POST, url, who).await.0.to_string()
            }
            6 | 7 => self.body(column == 6, who).await,
            8..=11 => self.egress([Egress::V1, Egress::V2, Egress::Quic, Egress::WebTransport][column - 8], who, expected).await,
            12 => {
                let url = format!("{dsm}/data");
                let record = json!({"timestamp": 1_738_150_500_000_u64, "data": {"n": 1, "m": 2}});
                http().post(url).bearer_auth(&who.token).json(&record).send().await.unwrap().status().as_u16().to_string()
            }
            13 => {
                let url = format!("{}?token={}&events=subscriptions", self.node.at.wss1.as_deref().unwrap(), who.token);
                match connect_async(url).await {
                    Ok(_) => "yes".to_owned(),
                    Err(tungstenite::Error::Http(answer)) => answer.status().as_u16().to_string(),
                    Err(other) => panic!("{other}"),
                }
            }
            14 => {
                let url = format!("{}/devices/{id}/device/labels", ap(&self.node));
                let answer = http().put(url).bearer_auth(&who.token).json(&json!({"labels": {"site": "roof"}})).send().await.unwrap();
                answer.status().as_u16().to_string()
            }
            15 => {
                let answer = http().put(format!("{dsm}/retention/{id}")).bearer_auth(&who.token).json(&json!({})).send().await.unwrap();
                answer.status().as_u16().to_string()
            }
            _ => unreachable!("there are sixteen columns"),
        }
    }

    /// `GET /stream` of this producer, from the beginning of its log.
    async fn body(&self, events: bool, who: &Account) -> String {
        let url = format!("{}/stream?from=earliest&producers={}", self.node.at.dsm.as_deref().unwrap(), self.producer.id);
        let accept = if events { "text/event-stream" } else { "application/x-ndjson" };
        let answer = http().get(url).bearer_auth(&who.token).header("accept", accept).send().await.unwrap();
        if answer.status() != 200 {
            return answer.status().as_u16().to_string();
        }
        let (mut body, mut id) = (Body::new(answer), String::new());
        let mut next = async || loop {
            let told = if events { body.event(&mut id).await.map(|event| event.data) } else { body.json().await };
            let told = told.expect("it goes on");
            if told.get("data").is_some() {
                break told["data"].clone();
            }
        };
        extent(&[timeout(LIMIT, next()).await.expect("a record in time")])
    }

    /// A live connection, up to the beacon.
    async fn egress(&self, egress: Egress, who: &Account, expected: &str) -> String {
        let mut reader = match Reader::open(egress, &self.node, who, &[&self.producer, &self.beacon], &Wishes::default()).await {
            Ok(reader) => reader,
            Err(Received::TokenEnded) => return "no".to_owned(),
            Err(Received::Ended(code)) => {
                return match code.as_str() {
                    "wrong_role" | "no_role" => "403",
                    "invalid_token" | "token_revoked" => "401",
                    _ => "no",
                }
                .to_owned();
            }
            Err(other) => panic!("{egress:?}: {other:?}"),
        };
        self.post().await;
        let (mut found, mut over) = (Vec::new(), false);
        // Where something is expected it is waited for; where nothing is, until the beacon has come, which was sent last.
        while !over || (found.is_empty() && expected != "–") {
            match reader.next().await {
                Received::Record { of, data, .. } if of == self.producer.id => found.push(data),
                Received::Record { .. } => over = true,
                other => panic!("{egress:?}: {other:?}"),
            }
        }
        if found.is_empty() { "–".to_owned() } else { extent(&found[..1]) }
    }
}

/// How much of the records was shown: the first one, which a scope lets through, says it; and no scope shows the second.
fn extent(found: &[Value]) -> String {
    let within = |data: &&Value| **data == json!({"n": 1});
    match found.first() {
        Some(_) if found.iter().all(|data| within(&data)) => "scope".to_owned(),
        Some(first) if *first == json!({"n": 1, "m": 2}) => "all".to_owned(),
        other => format!("{other:?}"),
    }
}

fn now() -> OffsetDateTime {
    motience_runtime::clock::Clock::system().now()
}

/// An operator, made by the program.
async fn operator(node: &Node, name: &str) -> Account {
    let file = node.dir.path().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let mut create = command(server(), node.dir.path());
    create.args(["admin", "create", "--username", name, "--password-file"]).arg(&file);
    output(create).await;
    let body = json!({"username": name, "password": PASSWORD});
    let login: Value = http().post(format!("{}/login", ap(node))).json(&body).send().await.unwrap().json().await.unwrap();
    Account { id: login["user_id"].as_i64().unwrap(), username: name.to_owned(), token: login["access_token"].as_str().unwrap().to_owned() }
}

#[tokio::test]
async fn every_subject_gets_what_the_table_says() {
    let cast = Cast::new().await;
    cast.post().await;
    let mut wrong = Vec::new();
    for column in 0..COLUMNS.len() {
        for ((_, name, expected), (_, who)) in TABLE.iter().zip(&cast.accounts) {
            let found = cast.cell(column, who, expected[column]).await;
            if found != expected[column] {
                wrong.push(format!("{name}, {}: {found}, not {}", COLUMNS[column], expected[column]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
