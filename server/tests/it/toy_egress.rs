//! The smallest egress, made by the recipe of CONTRIBUTING.md: records as lines of JSON over plain TCP. A client's first line has its token
//! and what it asks for. Rights, filters, named cursors, order and the token's end come with the pipeline.

use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};
use motience_auth as auth;
use motience_backend::{Backend, Config};
use motience_limits::permits::Share;
use motience_proto::model::{ProducerId, Role, Seq, Transport, Visibility};
use motience_relay::pipeline::{Event, Item, Reader, Request, Start};
use motience_runtime::clock::Clock;
use motience_session::{CloseReason, authenticate};
use motience_settings::env::Env;
use motience_store::{self as store, NewUser};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::harness::LIMIT;

/// A client's first line.
#[derive(Deserialize)]
struct Hello {
    token: String,
    #[serde(flatten)]
    request: Request,
}

/// Serves one client until it leaves, its token ends, or the node drains.
async fn serve(stream: TcpStream, backend: Arc<Backend>, drain: CancellationToken) -> Result<(), CloseReason> {
    let (from, mut to) = stream.into_split();
    let line = BufReader::new(from).lines().next_line().await.map_err(CloseReason::gone)?;
    let hello: Hello = serde_json::from_str(&line.unwrap_or_default()).map_err(|e| CloseReason::protocol(e.to_string()))?;
    let grant = authenticate(&backend, &hello.token).await?;
    let _permit = backend.permits.account(grant.user, Share::Connections, Transport::Http)?;
    let options = hello.request.read().map_err(|e| CloseReason::protocol(e.to_string()))?;
    let client = auth::Client { transport: Transport::Http, address: None, device: None };
    let (reader, standing) = (Reader::Subscriptions(grant.user.consumer()), Arc::new(backend.standing(grant, client)));
    let mut pipeline = backend.relay.pipeline(reader, &Start::default(), options, standing).await?;
    to.write_all(b"{\"type\":\"begun\"}\n").await.map_err(CloseReason::gone)?;
    let mut out = BytesMut::new();
    let end = loop {
        let event = tokio::select! {
            biased;
            () = drain.cancelled() => break CloseReason::Draining,
            event = pipeline.next() => event,
        };
        if event == Event::Ended {
            break CloseReason::TokenEnded;
        }
        while out.len() < 64 * 1024
            && let Some(item) = pipeline.take()
        {
            match item {
                Item::Record(record) => record.put_json(false, &mut out),
                Item::Notice(notice) => out.put_slice(notice.json().to_string().as_bytes()),
            }
            out.put_u8(b'\n');
        }
        to.write_all(&out.split()).await.map_err(CloseReason::gone)?;
    };
    pipeline.finish().await;
    Err(end)
}

struct Client(Lines<BufReader<TcpStream>>);

impl Client {
    async fn next(&mut self) -> Option<Value> {
        let line = timeout(LIMIT, self.0.next_line()).await.expect("a line in time").unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }
}

#[tokio::test]
async fn a_new_egress_has_rights_filters_and_ends_from_the_pipeline() {
    let mut config = Config::from_env(&Env::default()).unwrap();
    config.store = store::Config::SqliteMemory;
    config.volatile = true;
    let backend = Backend::open(config, Clock::system()).await.unwrap();
    let user = async |role, name: &str| {
        let new = NewUser { username: name.to_owned(), password_hash: "none".to_owned(), role, device_id: None, strict_device: false };
        backend.store.create_user(new).await.unwrap()
    };
    let (producer, other, consumer) =
        (user(Role::Producer, "producer").await, user(Role::Producer, "other").await, user(Role::Consumer, "consumer").await);
    backend.store.subscribe(consumer.id.consumer(), ProducerId(producer.id.0), Visibility::Open, backend.clock.now()).await.unwrap();
    let send = async |of: ProducerId, values: &[i64]| {
        let publisher = backend.relay.ephemeral_publisher(backend.relay.log_of(of).await.unwrap()).await.unwrap();
        let mut group = publisher.group();
        for (seq, n) in (1..).zip(values) {
            let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n}});
            group.push(Seq(seq), record.to_string().into()).unwrap();
        }
        let ticket = group.submit().await.unwrap();
        publisher.committed(ticket).await.unwrap();
    };

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drain = CancellationToken::new();
    let connect = async |token: &str, filter: &str| {
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let served = tokio::spawn(serve(accepted, Arc::clone(&backend), drain.clone()));
        stream.write_all(format!("{}\n", json!({"token": token, "where": [filter]})).as_bytes()).await.unwrap();
        (Client(BufReader::new(stream).lines()), served)
    };

    let (mut stranger, served) = connect("no token", "/data/n>0").await;
    assert_eq!(stranger.next().await, None);
    assert!(matches!(served.await.unwrap(), Err(CloseReason::Unauthenticated(_))));

    let token = backend.tokens.issue(&consumer, "family").unwrap().access_token;
    let (mut client, served) = connect(&token, "/data/n>1").await;
    assert_eq!(client.next().await.unwrap()["type"], "begun");
    send(ProducerId(other.id.0), &[9]).await;
    send(ProducerId(producer.id.0), &[1, 2, 3]).await;
    for (n, offset) in [(2, 2), (3, 3)] {
        let record = client.next().await.unwrap();
        assert_eq!((&record["producer_id"], &record["data"]["n"]), (&json!(producer.id.to_string()), &json!(n)), "{record}");
        assert_eq!((&record["offset"], record["record_id"].is_string()), (&json!(offset), true), "{record}");
    }

    let other_token = backend.tokens.issue(&consumer, "other family").unwrap().access_token;
    let (mut idle, ended) = connect(&other_token, "/data/n>1").await;
    assert_eq!(idle.next().await.unwrap()["type"], "begun");
    backend.revocations.revoke_family("other family");
    assert_eq!(idle.next().await, None, "nothing has to be delivered for a token's end to be noticed");
    assert!(matches!(ended.await.unwrap(), Err(CloseReason::TokenEnded)));

    drain.cancel();
    assert_eq!(client.next().await, None, "a node that drains lets its clients go");
    assert!(matches!(served.await.unwrap(), Err(CloseReason::Draining)));
}
