//! Every feature of the delivery pipeline on every egress, against real nodes. `TABLE` says which cells exist; what an egress does not
//! have is refused, or ignored, as documented.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use motience_device::client::{Error as NativeError, Event, Session};
use motience_proto::{
    model::{Cursor, GapCause, Offset, Order, ProducerId, Selection},
    wire::{CloseCode, Frame, Gap, Intent, Start, Subscribe},
};
use motience_testing::{Postgres, Redis};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error as WebSocketError, Message},
};

use crate::{
    gateway::{Pair, Socket, pair},
    harness::{Account, LIMIT, Node, account, http, server, subscribe},
    order::log,
    quic::{ap, connect},
    stream::Reader as Body,
    unread::{Raw, login, logout, unsubscribe},
    webtransport::{Client, Lines},
};

const SECRET: (&str, &str) = ("JWT_SECRET", "a secret of tests, long enough to pass");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Egress {
    V1,
    V2,
    Sse,
    Ndjson,
    Quic,
    WebTransport,
}
use Egress::{Ndjson, Quic, Sse, V1, V2, WebTransport};

pub(crate) const EGRESSES: [Egress; 6] = [V1, V2, Sse, Ndjson, Quic, WebTransport];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    /// A subscription that is made, and one that ends, while the connection lives.
    Rights,
    /// The database is away while subscriptions change: nothing is closed, and nothing is handed over before they are known.
    StoreAway,
    /// Offsets that retention removed are told, and that it did.
    Gap,
    /// Likewise those that were erased.
    Erased,
    /// A cursor of an earlier log epoch is answered by a reset.
    Reset,
    Filter,
    Projection,
    Sampling,
    DeviceOrder,
    NamedCursor,
    Drain,
    TokenEnd,
    TooManyConnections,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Works,
    /// Asking for it is refused by this code.
    Refused(&'static str),
    /// The feature does not show, and everything else goes on: the legacy contract has neither messages beside the records nor a start
    /// position.
    Silent,
}
use Cell::{Refused, Silent, Works};

/// Rows: features. Columns: v1, v2, SSE, NDJSON, QUIC, WebTransport.
const TABLE: [(Feature, [Cell; 6]); 13] = [
    (Feature::Rights, [Works, Works, Works, Works, Works, Works]),
    (Feature::StoreAway, [Works, Works, Works, Works, Works, Works]),
    (Feature::Gap, [Silent, Works, Works, Works, Works, Works]),
    (Feature::Erased, [Silent, Works, Works, Works, Works, Works]),
    (Feature::Reset, [Silent, Works, Works, Works, Works, Works]),
    // A v1 message has no cursor, so a v1 client that asks for what needs one is told to speak v2.
    (Feature::Filter, [Refused("v2_needed"), Works, Works, Works, Works, Works]),
    (Feature::Projection, [Refused("v2_needed"), Works, Works, Works, Works, Works]),
    (Feature::Sampling, [Refused("v2_needed"), Works, Works, Works, Works, Works]),
    (Feature::DeviceOrder, [Refused("invalid_field"), Works, Works, Works, Works, Works]),
    (Feature::NamedCursor, [Refused("invalid_field"), Works, Works, Works, Works, Works]),
    (Feature::Drain, [Works, Works, Works, Works, Works, Works]),
    (Feature::TokenEnd, [Works, Works, Works, Works, Works, Works]),
    (Feature::TooManyConnections, [Works, Works, Works, Works, Works, Works]),
];

/// The cells of a feature, one for each egress.
fn row(feature: Feature) -> impl Iterator<Item = (Egress, Cell)> {
    let rows: Vec<_> = TABLE.iter().filter(|(other, _)| *other == feature).collect();
    assert_eq!(rows.len(), 1, "{feature:?} has one row");
    EGRESSES.into_iter().zip(rows[0].1)
}

/// Request of a consumer.
#[derive(Clone, Default)]
pub(crate) struct Wishes {
    /// `earliest`, `@OFFSET` or a cursor; none: live.
    start: Option<String>,
    selection: Selection,
    order: bool,
    name: Option<&'static str>,
}

fn starting(start: &str) -> Wishes {
    Wishes { start: Some(start.to_owned()), ..Wishes::default() }
}

/// An event of a consumer, in the same words on every egress.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Received {
    Record {
        of: i64,
        data: Value,
        cursor: String,
    },
    Gap {
        from: u64,
        to: u64,
        cause: Option<GapCause>,
    },
    Reset,
    /// A follow has ended with its subscription.
    Left(i64),
    Draining,
    TokenEnded,
    TooMany,
    /// Another end, or a refusal by this code.
    Ended(String),
}

/// A consumer on one of the egresses.
pub(crate) enum Reader {
    Socket(Socket),
    Events { body: Body, id: String },
    Lines(Body),
    Native(Box<Native>),
    Web(Box<Web>),
}

pub(crate) struct Native {
    session: Session,
    /// The cursor of each producer, and whether its offsets are no cursors.
    cursors: Vec<(i64, Cursor)>,
    staged: bool,
    received: VecDeque<Received>,
}

pub(crate) struct Web {
    client: Client,
    deliveries: Vec<Lines>,
    received: VecDeque<Received>,
}

impl Reader {
    /// Connects and, where an egress asks for each producer, follows these. Returns the event that ends the connection, where it does not
    /// begin.
    pub(crate) async fn open(
        egress: Egress,
        node: &Node,
        who: &Account,
        producers: &[&Account],
        wishes: &Wishes,
    ) -> Result<Self, Received> {
        match egress {
            V1 | V2 => Self::socket(egress, node, who, producers, wishes).await,
            Sse | Ndjson => Self::body(egress, node, who, producers, wishes).await,
            Quic => Self::native(node, who, producers, wishes).await,
            WebTransport => Self::web(node, who, producers, wishes).await,
        }
    }

    async fn socket(egress: Egress, node: &Node, who: &Account, producers: &[&Account], wishes: &Wishes) -> Result<Self, Received> {
        let mut url = reqwest::Url::parse(node.at.wss2.as_deref().unwrap()).unwrap();
        let mut query = parameters(wishes);
        query.push(("token", who.token.clone()));
        if egress == V2 {
            query.push(("v", "2".to_owned()));
        }
        if let Some(start) = &wishes.start {
            let each: serde_json::Map<String, Value> = producers.iter().map(|p| (p.id.to_string(), json!(start))).collect();
            query.push(("resume", Value::from(each).to_string()));
        }
        url.query_pairs_mut().extend_pairs(query);
        match connect_async(url.as_str()).await {
            Ok((socket, _)) => Ok(Self::Socket(socket)),
            Err(WebSocketError::Http(answer)) => Err(refusal(answer.status().as_u16(), answer.body().as_deref().unwrap_or_default())),
            Err(other) => panic!("{other}"),
        }
    }

    async fn body(egress: Egress, node: &Node, who: &Account, producers: &[&Account], wishes: &Wishes) -> Result<Self, Received> {
        let mut query = parameters(wishes);
        if let Some(start) = &wishes.start {
            let named = !matches!(start.as_str(), "earliest");
            let each = producers.iter().map(|p| format!("{}:{start}", p.id)).collect::<Vec<_>>().join(",");
            query.push(("from", if named { each } else { start.clone() }));
        }
        let accept = if egress == Sse { "text/event-stream" } else { "application/x-ndjson" };
        let url = reqwest::Url::parse_with_params(&format!("{}/stream", node.at.dsm.as_deref().unwrap()), query).unwrap();
        let answer = http().get(url).bearer_auth(&who.token).header("accept", accept).send().await.unwrap();
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer.status().as_u16(), &answer.bytes().await.unwrap()));
        }
        let body = Body::new(answer);
        Ok(if egress == Sse { Self::Events { body, id: String::new() } } else { Self::Lines(body) })
    }

    async fn native(node: &Node, who: &Account, producers: &[&Account], wishes: &Wishes) -> Result<Self, Received> {
        let session = connect(node, &who.token, "app", Intent::Consume, 0).await.map_err(|e| ended(&e))?;
        let staged = wishes.order || !wishes.selection.is_empty();
        let mut native = Native { session, cursors: Vec::new(), staged, received: VecDeque::new() };
        for producer in producers {
            native.follow(producer, wishes).await?;
        }
        Ok(Self::Native(Box::new(native)))
    }

    async fn web(node: &Node, who: &Account, producers: &[&Account], wishes: &Wishes) -> Result<Self, Received> {
        let mut client = Client::hello(node, &who.token).await;
        if client.lines.line().await.is_none() {
            return Err(closed_web(&client).await);
        }
        let mut web = Web { client, deliveries: Vec::new(), received: VecDeque::new() };
        for producer in producers {
            web.follow(producer, wishes).await?;
        }
        Ok(Self::Web(Box::new(web)))
    }

    /// Follows another producer, on the egresses where it must be said.
    async fn follow(&mut self, producer: &Account) -> Result<(), Received> {
        match self {
            Self::Native(native) => native.follow(producer, &Wishes::default()).await,
            Self::Web(web) => web.follow(producer, &Wishes::default()).await,
            Self::Socket(_) | Self::Events { .. } | Self::Lines(_) => Ok(()),
        }
    }

    /// The next record, notice or end.
    pub(crate) async fn next(&mut self) -> Received {
        timeout(LIMIT, self.receive()).await.expect("something in time")
    }

    async fn receive(&mut self) -> Received {
        loop {
            let json = match self {
                Self::Socket(socket) => match socket.next().await {
                    Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
                    Some(Ok(Message::Close(frame))) => {
                        return match frame.map(|frame| u16::from(frame.code)) {
                            Some(1001) => Received::Draining,
                            Some(4401) => Received::TokenEnded,
                            other => Received::Ended(format!("{other:?}")),
                        };
                    }
                    Some(Ok(_)) => continue,
                    other => return Received::Ended(format!("{other:?}")),
                },
                Self::Events { body, id } => match body.event(id).await {
                    Some(told) => told.data,
                    None => return Received::Ended("the body".into()),
                },
                Self::Lines(body) => match body.json().await {
                    Some(json) => json,
                    None => return Received::Ended("the body".into()),
                },
                Self::Native(native) => return native.next().await,
                Self::Web(web) => return web.next().await,
            };
            if let Some(received) = received(&json) {
                return received;
            }
        }
    }

    /// The next record's data; anything else is a fault.
    async fn record(&mut self) -> (Value, String) {
        match self.next().await {
            Received::Record { data, cursor, .. } => (data, cursor),
            other => panic!("{other:?}"),
        }
    }

    async fn number(&mut self) -> u64 {
        self.record().await.0["n"].as_u64().unwrap()
    }

    /// Confirms by whatever way this egress has.
    async fn confirm(&mut self, node: &Node, who: &Account, producer: &Account, cursor: &str) {
        let message = json!({"type": "confirm", "cursors": {producer.id.to_string(): cursor}});
        match self {
            Self::Socket(socket) => socket.send(Message::text(message.to_string())).await.unwrap(),
            Self::Events { .. } | Self::Lines(_) => {
                let url = format!("{}/cursors/app", node.at.dsm.as_deref().unwrap());
                let answer = http().post(url).bearer_auth(&who.token).json(&json!({"cursors": message["cursors"]})).send().await.unwrap();
                assert_eq!(answer.status(), 204);
            }
            Self::Native(native) => native.session.confirm(ProducerId(producer.id), cursor.parse().unwrap()).await.unwrap(),
            Self::Web(web) => web.client.say(&message).await,
        }
    }
}

impl Native {
    async fn follow(&mut self, producer: &Account, wishes: &Wishes) -> Result<(), Received> {
        let from = match wishes.start.as_deref() {
            None => Start::Live,
            Some("earliest") => Start::Earliest,
            Some(at) => match at.strip_prefix('@') {
                Some(offset) => Start::After(format!("0-{offset}").parse().unwrap()),
                None => Start::After(at.parse().unwrap()),
            },
        };
        let order = if wishes.order { Order::Device } else { Order::Log };
        let (producer, name) = (ProducerId(producer.id), wishes.name.unwrap_or_default());
        if let Start::After(cursor) = from {
            self.cursors.push((producer.0, cursor));
        }
        self.session.subscribe_with(producer, from, name, &wishes.selection, order).await.unwrap();
        // Followed and the first cursor come in any order.
        let (mut followed, mut began) = (false, false);
        while !(followed && began) {
            match timeout(LIMIT, self.session.next()).await.expect("an answer in time") {
                Ok(Event::Followed { refusal, .. }) if refusal.is_empty() => followed = true,
                Ok(Event::Followed { refusal, .. }) => return Err(Received::Ended(refusal)),
                Ok(event) => {
                    began |= matches!(event, Event::Cursor(_));
                    self.take(event);
                }
                Err(e) => return Err(ended(&e)),
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.received.pop_front() {
                return received;
            }
            match self.session.next().await {
                Ok(event) => self.take(event),
                Err(e) => return ended(&e),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Followed { producer, refusal } if !refusal.is_empty() => self.received.push_back(Received::Left(producer.0)),
            Event::Cursor(said) => match self.cursors.iter_mut().find(|(id, _)| *id == said.producer.0) {
                Some((_, cursor)) => {
                    if cursor.log_epoch.0 != 0 && cursor.log_epoch != said.cursor.log_epoch {
                        self.received.push_back(Received::Reset);
                    }
                    *cursor = said.cursor;
                }
                None => self.cursors.push((said.producer.0, said.cursor)),
            },
            Event::Entries { producer, entries } => {
                let (_, cursor) = self.cursors.iter_mut().find(|(id, _)| *id == producer.0).expect("a cursor comes first");
                for entry in entries {
                    if !self.staged {
                        cursor.offset = entry.offset;
                    }
                    let message: Value = serde_json::from_slice(&entry.message).unwrap();
                    let data = message["data"].clone();
                    self.received.push_back(Received::Record { of: producer.0, data, cursor: cursor.to_string() });
                }
            }
            Event::Gap(Gap { from, to, cause, .. }) => self.received.push_back(Received::Gap { from: from.0, to: to.0, cause }),
            Event::Drain => self.received.push_back(Received::Draining),
            _ => {}
        }
    }
}

impl Web {
    async fn follow(&mut self, producer: &Account, wishes: &Wishes) -> Result<(), Received> {
        let mut message = serde_json::to_value(&wishes.selection).unwrap();
        message["type"] = json!("subscribe");
        message["producer_id"] = json!(producer.id.to_string());
        if let Some(start) = &wishes.start {
            message["from"] = json!(start);
        }
        if wishes.order {
            message["order"] = json!("device");
        }
        if let Some(name) = wishes.name {
            message["durable"] = json!(name);
        }
        let answer = self.client.ask(&message).await;
        if answer["type"] != "subscribed" {
            return Err(Received::Ended(answer["code"].as_str().unwrap().to_owned()));
        }
        let recv = timeout(LIMIT, self.client.session.accept_uni()).await.expect("a stream in time").unwrap();
        let mut delivery = Lines::new(recv);
        assert_eq!(delivery.line().await.unwrap()["type"], "cursor");
        self.deliveries.push(delivery);
        Ok(())
    }

    async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.received.pop_front() {
                return received;
            }
            let deliveries = self.deliveries.iter_mut().map(|delivery| Box::pin(delivery.line()));
            let deliveries = async {
                if deliveries.len() == 0 { std::future::pending().await } else { futures_util::future::select_all(deliveries).await }
            };
            // Which delivery spoke, and what it or the control stream said.
            let (delivery, line) = tokio::select! {
                line = self.client.lines.line() => (None, line),
                (line, which, _) = deliveries => (Some(which), line),
            };
            match (delivery, line) {
                (None, None) => return closed_web(&self.client).await,
                (Some(over), None) => drop(self.deliveries.remove(over)),
                (None, Some(line)) if line["type"] == "ended" => {
                    self.received.push_back(Received::Left(line["producer_id"].as_str().unwrap().parse().unwrap()));
                }
                (_, Some(line)) => self.received.extend(received(&line)),
            }
        }
    }
}

fn parameters(wishes: &Wishes) -> Vec<(&'static str, String)> {
    let Selection { conditions, fields, every } = wishes.selection.clone();
    let mut query: Vec<_> = conditions.into_iter().map(|condition| ("where", condition)).collect();
    query.extend(fields.map(|fields| ("fields", fields)));
    query.extend(every.map(|every| ("every", every)));
    query.extend(wishes.order.then(|| ("order", "device".to_owned())));
    query.extend(wishes.name.map(|name| ("durable", name.to_owned())));
    query
}

fn refusal(status: u16, body: &[u8]) -> Received {
    match status {
        429 => Received::TooMany,
        _ => Received::Ended(serde_json::from_slice::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned()),
    }
}

fn ended(error: &NativeError) -> Received {
    match error {
        NativeError::Closed { code: CloseCode::Unauthenticated, .. } => Received::TokenEnded,
        NativeError::Closed { code: CloseCode::RateLimited, .. } => Received::TooMany,
        other => Received::Ended(other.to_string()),
    }
}

async fn closed_web(client: &Client) -> Received {
    match client.closed().await {
        (1001, _) => Received::Draining,
        (4401, _) => Received::TokenEnded,
        (4429, _) => Received::TooMany,
        (code, reason) => Received::Ended(format!("{code} {reason}")),
    }
}

/// A message of the egresses that speak JSON.
fn received(json: &Value) -> Option<Received> {
    match json["type"].as_str() {
        None => Some(Received::Record {
            of: json["producer_id"].as_str().unwrap().parse().unwrap(),
            data: json["data"].clone(),
            cursor: json["cursor"].as_str().unwrap_or_default().to_owned(),
        }),
        Some("gap") => Some(Received::Gap {
            from: json["from"].as_u64().unwrap(),
            to: json["to"].as_u64().unwrap(),
            cause: GapCause::named(json["cause"].as_str().unwrap()),
        }),
        Some("reset") => Some(Received::Reset),
        Some("end") => Some(match json["why"].as_str().unwrap() {
            "draining" => Received::Draining,
            "token_ended" => Received::TokenEnded,
            other => Received::Ended(other.to_owned()),
        }),
        Some(_) => None,
    }
}

/// Posts a record of device `d` at this second of its clock.
async fn post(node: &Node, producer: &Account, data: Value, second: u64) {
    let record = json!({"device_id": "d", "timestamp": 1_738_150_500_000 + 1000 * second, "data": data});
    let url = format!("{}/data", node.at.dsm.as_deref().unwrap());
    assert_eq!(http().post(url).bearer_auth(&producer.token).json(&record).send().await.unwrap().status(), 200);
}

/// Opens a reader with each cell's wishes; those that are refused must be, by their code.
async fn open_row(feature: Feature, node: &Node, who: &Account, producer: &Account, wishes: &Wishes) -> Vec<(Egress, Reader)> {
    let mut readers = Vec::new();
    for (egress, cell) in row(feature) {
        match (cell, Reader::open(egress, node, who, &[producer], wishes).await) {
            (Works, Ok(reader)) => readers.push((egress, reader)),
            (Refused(code), Err(Received::Ended(told))) => assert_eq!(told, code, "{egress:?}"),
            (cell, outcome) => panic!("{feature:?} on {egress:?} is {cell:?}, and was {:?}", outcome.err()),
        }
    }
    readers
}

#[test]
fn the_table_has_every_cell() {
    for (feature, _) in TABLE {
        assert_eq!(row(feature).count(), EGRESSES.len());
    }
}

#[tokio::test]
async fn rights_are_given_and_revoked_while_a_connection_lives() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let other = account(ap(&node), "producer", "q").await;
    for (egress, cell) in row(Feature::Rights) {
        assert_eq!(cell, Works);
        let mut reader = Reader::open(egress, &node, &consumer, &[&producer], &Wishes::default()).await.expect("it opens");
        if matches!(egress, Quic | WebTransport) {
            assert_eq!(reader.follow(&other).await, Err(Received::Ended("not_subscribed".into())), "{egress:?}");
        }
        subscribe(node.at.sm.as_deref().unwrap(), &consumer, &other).await;
        reader.follow(&other).await.unwrap();
        // The subscription takes effect within a second, on a live connection; the first record after that comes.
        let (mut n, mut told) = (0, None);
        while told.is_none() {
            n += 1;
            post(&node, &other, json!({"n": n}), n).await;
            told = timeout(Duration::from_millis(500), reader.receive()).await.ok();
        }
        assert!(matches!(&told, Some(Received::Record { of, .. }) if *of == other.id), "{egress:?}: {told:?}");
        unsubscribe(&node, &consumer, &other).await;
        post(&node, &other, json!({"n": "late"}), 0).await;
        post(&node, &producer, json!({"n": 100}), 0).await;
        loop {
            match reader.next().await {
                Received::Record { of, data, .. } if of == producer.id => break assert_eq!(data["n"], 100),
                Received::Record { data, .. } => assert_ne!(data["n"], "late", "{egress:?}: nothing that came after the end"),
                Received::Left(who) => assert_eq!(who, other.id),
                unexpected => panic!("{egress:?}: {unexpected:?}"),
            }
        }
    }
}

/// A way to a TCP port that can be cut and given back.
struct Cuttable {
    port: u16,
    open: watch::Sender<bool>,
}

impl Cuttable {
    async fn before(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, open) = (listener.local_addr().unwrap().port(), watch::Sender::new(true));
        let watched = open.subscribe();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut watched = watched.clone();
                tokio::spawn(async move {
                    if !*watched.borrow() {
                        return;
                    }
                    let Ok(mut to) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    tokio::select! {
                        _ = watched.wait_for(|open| !open) => {}
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                    }
                });
            }
        });
        Self { port, open }
    }
}

#[tokio::test]
async fn a_database_that_is_away_while_subscriptions_change_closes_nothing() {
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    let (redis_url, database_url) = (redis.url().to_owned(), postgres.url().clone());
    let way = Cuttable::before(postgres.port()).await;
    let cut_url = database_url.replace(&format!(":{}", postgres.port()), &format!(":{}", way.port));
    let variables = |database: &'static str| [("REDIS_URL", &*redis_url.clone().leak()), ("DATABASE_URL", database), SECRET];
    let other = Node::start(server(), &[], &variables(database_url.clone().leak())).await;
    let node = Node::start(server(), &[], &variables(cut_url.leak())).await;
    let (producer, lost) = (account(ap(&other), "producer", "p").await, account(ap(&other), "producer", "q").await);
    let consumer = account(ap(&other), "consumer", "c").await;
    for producer in [&producer, &lost] {
        subscribe(other.at.sm.as_deref().unwrap(), &consumer, producer).await;
    }
    let mut readers = Vec::new();
    for (egress, cell) in row(Feature::StoreAway) {
        assert_eq!(cell, Works);
        let reader = Reader::open(egress, &node, &consumer, &[&producer, &lost], &Wishes::default()).await;
        readers.push((egress, reader.expect("it opens")));
    }
    way.open.send_replace(false);
    unsubscribe(&other, &consumer, &lost).await;
    // Word of the change has come once a record that was published after it is not handed over.
    let mut n = 0;
    for (egress, reader) in &mut readers {
        loop {
            n += 1;
            post(&other, &producer, json!({"n": n}), n).await;
            match timeout(Duration::from_secs(1), reader.receive()).await {
                Err(_) => break,
                Ok(Received::Record { .. }) => {}
                Ok(unexpected) => panic!("{egress:?}: {unexpected:?}"),
            }
        }
    }
    post(&other, &lost, json!({"n": "late"}), 0).await;
    way.open.send_replace(true);
    post(&other, &producer, json!({"n": "last"}), 0).await;
    for (egress, reader) in &mut readers {
        loop {
            match reader.next().await {
                Received::Record { of, data, .. } => {
                    assert_eq!(of, producer.id, "{egress:?}: nothing that came after the end");
                    if data["n"] == "last" {
                        break;
                    }
                }
                Received::Left(who) => assert_eq!(who, lost.id),
                unexpected => panic!("{egress:?}: {unexpected:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_retention_removed_is_told() {
    let Pair { node, producer, consumer } = pair(&[("LOG_RETENTION_BYTES", "20KiB"), ("RING_BYTES", "8KiB")]).await;
    for n in 1..=60 {
        post(&node, &producer, json!({"n": n, "pad": "x".repeat(1000)}), n).await;
    }
    for (egress, cell) in row(Feature::Gap) {
        let start = if cell == Silent { Wishes::default() } else { starting("@3") };
        let mut reader = Reader::open(egress, &node, &consumer, &[&producer], &start).await.expect("it opens");
        if cell == Silent {
            post(&node, &producer, json!({"n": 61}), 61).await;
            assert_eq!(reader.number().await, 61);
            continue;
        }
        let Received::Gap { from: 4, to, cause: Some(GapCause::Retention) } = reader.next().await else {
            panic!("{egress:?}: a gap comes first")
        };
        for n in to + 1..=61 {
            assert_eq!(reader.number().await, n, "{egress:?}");
        }
    }
}

/// Records 1 to 5, of which the third is erased.
async fn erased() -> Pair {
    let pair = pair(&[]).await;
    for n in 1..=5 {
        post(&pair.node, &pair.producer, json!({"n": n}), n).await;
    }
    let url = format!("{}/erasures", pair.node.at.dsm.as_deref().unwrap());
    let ask = http().post(&url).bearer_auth(&pair.producer.token).json(&json!({"first": 3, "last": 3}));
    assert_eq!(ask.send().await.unwrap().status(), StatusCode::ACCEPTED);
    let gone = async {
        loop {
            let answer = http().get(&url).bearer_auth(&pair.producer.token).send().await.unwrap();
            if answer.json::<Value>().await.unwrap()[0]["records"] == 1 {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("it is erased in time");
    pair
}

#[tokio::test]
async fn what_was_erased_is_told() {
    let Pair { node, producer, consumer } = erased().await;
    for (egress, cell) in row(Feature::Erased) {
        let start = if cell == Silent { Wishes::default() } else { starting("earliest") };
        let mut reader = Reader::open(egress, &node, &consumer, &[&producer], &start).await.expect("it opens");
        if cell == Silent {
            post(&node, &producer, json!({"n": 6}), 6).await;
            assert_eq!(reader.number().await, 6);
            continue;
        }
        assert_eq!([reader.number().await, reader.number().await], [1, 2], "{egress:?}");
        assert_eq!(reader.next().await, Received::Gap { from: 3, to: 3, cause: Some(GapCause::Erased) }, "{egress:?}");
        assert_eq!([reader.number().await, reader.number().await], [4, 5], "{egress:?}");
    }
}

#[tokio::test]
async fn a_native_consumer_that_knows_no_causes_gets_gaps_without() {
    let Pair { node, producer, consumer } = erased().await;
    let mut raw = Raw::enter(&node, &consumer.token, Intent::Consume, (1 << 20, 16)).await;
    let (id, cursor_name, selection) = (ProducerId(producer.id), String::new(), String::new());
    raw.say(&[Frame::Subscribe(Subscribe { producer: id, start: Start::Earliest, cursor_name, selection, order: Order::Log })]).await;
    let frames = raw.delivered(4).await;
    assert_eq!(frames[3], Frame::Gap(Gap { producer: id, from: Offset(3), to: Offset(3), cause: None }), "{frames:?}");
}

#[tokio::test]
async fn another_log_epoch_is_told() {
    let variables = [SECRET];
    let Pair { node, producer, consumer } = pair(&variables).await;
    for n in 1..=3 {
        post(&node, &producer, json!({"n": n}), n).await;
    }
    let mut before = Reader::open(V2, &node, &consumer, &[&producer], &starting("earliest")).await.expect("it opens");
    let (_, _) = before.record().await;
    let (_, cursor) = before.record().await;
    let node = node.restarted(&variables, async |_| {}).await;
    for (egress, cell) in row(Feature::Reset) {
        let start = if cell == Silent { Wishes::default() } else { starting(&cursor) };
        let mut reader = Reader::open(egress, &node, &consumer, &[&producer], &start).await.expect("it opens");
        if cell == Silent {
            post(&node, &producer, json!({"n": 4}), 4).await;
            assert_eq!(reader.number().await, 4);
            continue;
        }
        assert_eq!(reader.next().await, Received::Reset, "{egress:?}");
        for n in [3, 4] {
            assert_eq!(reader.number().await, n, "{egress:?}");
        }
    }
}

#[tokio::test]
async fn records_are_filtered() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    for n in 1..=4 {
        post(&node, &producer, json!({"n": n}), n).await;
    }
    let selection = Selection { conditions: vec!["/data/n>2".into()], ..Selection::default() };
    let wishes = Wishes { selection, ..starting("earliest") };
    for (egress, mut reader) in open_row(Feature::Filter, &node, &consumer, &producer, &wishes).await {
        assert_eq!([reader.number().await, reader.number().await], [3, 4], "{egress:?}");
    }
}

#[tokio::test]
async fn data_are_projected() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    post(&node, &producer, json!({"n": 1, "m": 2}), 1).await;
    let wishes = Wishes { selection: Selection { fields: Some("/data/n".into()), ..Selection::default() }, ..starting("earliest") };
    for (egress, mut reader) in open_row(Feature::Projection, &node, &consumer, &producer, &wishes).await {
        assert_eq!(reader.record().await.0, json!({"n": 1}), "{egress:?}");
    }
}

#[tokio::test]
async fn devices_are_sampled() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    for (n, second) in [(1, 1), (2, 4), (3, 9), (4, 12), (5, 25)] {
        post(&node, &producer, json!({"n": n}), second).await;
    }
    let wishes = Wishes { selection: Selection { every: Some("10s".into()), ..Selection::default() }, ..starting("earliest") };
    for (egress, mut reader) in open_row(Feature::Sampling, &node, &consumer, &producer, &wishes).await {
        assert_eq!([reader.number().await, reader.number().await], [3, 4], "{egress:?}: the last of each window that is over");
    }
}

#[tokio::test]
async fn devices_are_put_in_order() {
    let Pair { node, producer, consumer } = pair(&[("ORDER_WAIT", "1m")]).await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    log(&mut device, [1, 3, 4, 2, 5]).await;
    let wishes = Wishes { order: true, ..starting("earliest") };
    for (egress, mut reader) in open_row(Feature::DeviceOrder, &node, &consumer, &producer, &wishes).await {
        for n in 1..=5 {
            assert_eq!(reader.number().await, n, "{egress:?}");
        }
    }
}

#[tokio::test]
async fn a_named_cursor_is_gone_on_from() {
    let Pair { node, producer, .. } = pair(&[]).await;
    for n in 1..=3 {
        post(&node, &producer, json!({"n": n}), n).await;
    }
    let wishes = Wishes { name: Some("app"), ..starting("earliest") };
    for (egress, cell) in row(Feature::NamedCursor) {
        // An account of its own for each, since a cursor is an account's.
        let consumer = account(ap(&node), "consumer", &format!("c-{egress:?}")).await;
        subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
        let mut reader = match (cell, Reader::open(egress, &node, &consumer, &[&producer], &wishes).await) {
            (Works, Ok(reader)) => reader,
            (Refused(code), Err(Received::Ended(told))) => {
                assert_eq!(told, code);
                continue;
            }
            (cell, outcome) => panic!("{egress:?} is {cell:?}, and was {:?}", outcome.err()),
        };
        assert_eq!(reader.number().await, 1);
        let (data, cursor) = reader.record().await;
        assert_eq!(data["n"], 2);
        reader.confirm(&node, &consumer, &producer, &cursor).await;
        let deadline = Instant::now() + LIMIT;
        loop {
            let url = format!("{}/cursors", node.at.dsm.as_deref().unwrap());
            let kept: Value = http().get(url).bearer_auth(&consumer.token).send().await.unwrap().json().await.unwrap();
            if kept[0]["cursor"] == cursor.as_str() {
                break;
            }
            assert!(Instant::now() < deadline, "{egress:?}: {cursor} is not kept: {kept}");
            sleep(Duration::from_millis(20)).await;
        }
        drop(reader);
        let mut again = Reader::open(egress, &node, &consumer, &[&producer], &wishes).await.expect("it opens");
        assert_eq!(again.number().await, 3, "{egress:?}");
    }
}

#[tokio::test]
async fn a_node_that_drains_says_so() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut readers = open_row(Feature::Drain, &node, &consumer, &producer, &Wishes::default()).await;
    assert_eq!(readers.len(), EGRESSES.len());
    node.signal("TERM");
    for (egress, reader) in &mut readers {
        assert_eq!(reader.next().await, Received::Draining, "{egress:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_token_ends_its_connections() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let login = login(&node, &consumer).await;
    let mut readers = open_row(Feature::TokenEnd, &node, &login.account, &producer, &Wishes::default()).await;
    assert_eq!(readers.len(), EGRESSES.len());
    logout(&node, &login).await;
    post(&node, &producer, json!({"n": "late"}), 0).await;
    for (egress, reader) in &mut readers {
        assert_eq!(reader.next().await, Received::TokenEnded, "{egress:?}");
    }
}

#[tokio::test]
async fn an_account_has_so_many_connections_on_all_of_them() {
    let Pair { node, producer, consumer } = pair(&[("MAX_CONNECTIONS_PER_ACCOUNT", "1")]).await;
    let _held = Reader::open(V2, &node, &consumer, &[&producer], &Wishes::default()).await.expect("it opens");
    for (egress, cell) in row(Feature::TooManyConnections) {
        assert_eq!(cell, Works);
        let refused = Reader::open(egress, &node, &consumer, &[&producer], &Wishes::default()).await;
        assert_eq!(refused.err(), Some(Received::TooMany), "{egress:?}");
    }
}
