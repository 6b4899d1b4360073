//! The edges of wss1 and wss2, and the pages' own paths.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::harness::{Account, LIMIT, Node, account, http, subscribe};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) async fn produce(node: &Node, producer: &Account) -> Socket {
    connect_async(format!("{}?token={}", node.at.wss1.as_deref().unwrap(), producer.token)).await.unwrap().0
}

pub(crate) async fn consume(node: &Node, consumer: &Account, query: &str) -> Socket {
    connect_async(format!("{}?token={}{query}", node.at.wss2.as_deref().unwrap(), consumer.token)).await.unwrap().0
}

async fn next(socket: &mut Socket) -> Message {
    timeout(LIMIT, socket.next()).await.expect("a message in time").unwrap().unwrap()
}

pub(crate) async fn next_json(socket: &mut Socket) -> Value {
    loop {
        match next(socket).await {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        if let Message::Close(frame) = next(socket).await {
            return frame.expect("a close says why").code.into();
        }
    }
}

pub(crate) fn record(n: usize, pad: usize) -> Message {
    Message::text(json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n, "pad": "x".repeat(pad)}}).to_string())
}

pub(crate) struct Pair {
    pub(crate) node: Node,
    pub(crate) producer: Account,
    pub(crate) consumer: Account,
}

pub(crate) async fn pair(variables: &[(&str, &str)]) -> Pair {
    let node = Node::embedded(variables).await;
    let ap = node.at.ap.clone().unwrap();
    let (producer, consumer) = (account(&ap, "producer", "p").await, account(&ap, "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    Pair { node, producer, consumer }
}

#[tokio::test]
async fn a_thousand_records_are_acknowledged_in_order_without_waiting_for_each() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let (mut ingress, mut egress) = (produce(&node, &producer).await, consume(&node, &consumer, "").await);
    for n in 0..1000 {
        ingress.feed(record(n, 10)).await.unwrap();
    }
    ingress.flush().await.unwrap();
    for n in 1..=1000 {
        assert_eq!(next_json(&mut ingress).await, json!({"type": "ack", "seq": n, "subscriberCount": 1}));
    }
    for n in 0..1000 {
        assert_eq!(next_json(&mut egress).await["data"]["n"], n);
    }
    let stats: Value =
        http().get(format!("{}stats", node.at.producer_page.as_deref().unwrap())).send().await.unwrap().json().await.unwrap();
    assert_eq!((&stats["connections"], &stats["records"]), (&json!(1), &json!(1000)));
}

#[tokio::test]
async fn too_large_is_1009_and_an_ended_token_4401() {
    let Pair { node, producer, consumer } = pair(&[("JWT_EXPIRES_IN", "3s")]).await;
    let mut egress = consume(&node, &consumer, "").await;
    let mut ingress = produce(&node, &producer).await;
    // Over the record's limit but not the frame's: an error, and the connection stays.
    ingress.send(record(0, 65 * 1024)).await.unwrap();
    assert_eq!(next_json(&mut ingress).await["code"], "too_large");
    ingress.send(Message::binary(b"\xff".to_vec())).await.unwrap();
    assert_eq!(next_json(&mut ingress).await["code"], "invalid_json");
    let mut huge = produce(&node, &producer).await;
    huge.send(record(0, 200 * 1024)).await.unwrap();
    assert_eq!(close_code(&mut huge).await, 1009);
    assert_eq!(close_code(&mut ingress).await, 4401);
    assert_eq!(close_code(&mut egress).await, 4401);
}

#[tokio::test]
async fn a_close_is_answered_and_what_is_no_websocket_is_told_so() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    for wss2 in [false, true] {
        let open = async || if wss2 { consume(&node, &consumer, "&v=2").await } else { produce(&node, &producer).await };
        let mut socket = open().await;
        socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "enough".into() })).await.unwrap();
        assert_eq!(close_code(&mut socket).await, 1000);
        // A text frame with a reserved bit, and one that is not UTF-8; both masked with zeros.
        for (frame, code) in [([0xC1, 0x81, 0, 0, 0, 0, b'x'], 1002), ([0x81, 0x81, 0, 0, 0, 0, 0xFF], 1007)] {
            let mut socket = open().await;
            let MaybeTlsStream::Plain(tcp) = socket.get_mut() else { panic!("a plain connection") };
            tcp.write_all(&frame).await.unwrap();
            assert_eq!(close_code(&mut socket).await, code);
        }
        let mut socket = open().await;
        socket.send(Message::binary(b"\xff".to_vec())).await.unwrap();
        assert_eq!(next_json(&mut socket).await["code"], "invalid_json");
    }
}

#[tokio::test]
async fn a_consumer_resumes_more_producers_than_a_query_holds() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut first = consume(&node, &consumer, "&v=2").await;
    let mut ingress = produce(&node, &producer).await;
    for n in 0..10 {
        ingress.send(record(n, 10)).await.unwrap();
        next_json(&mut ingress).await;
    }
    let mut cursors = Vec::new();
    for _ in 0..10 {
        cursors.push(next_json(&mut first).await["cursor"].as_str().unwrap().to_owned());
    }
    let mut later = consume(&node, &consumer, "&v=2&resume=later").await;
    ingress.send(record(10, 10)).await.unwrap();
    next_json(&mut ingress).await;
    later.send(Message::text("resume please")).await.unwrap();
    assert_eq!(next_json(&mut later).await["code"], "invalid_cursors");
    // Producers that it is not subscribed to are passed over, as in a query.
    for part in 0..5 {
        let others: serde_json::Map<_, _> =
            (0..400).map(|n| ((1_000_000 + part * 400 + n).to_string(), "7153046918624-456".into())).collect();
        later.send(Message::text(json!({"type": "resume", "cursors": others, "more": true}).to_string())).await.unwrap();
    }
    let last = json!({"type": "resume", "cursors": {producer.id.to_string(): cursors[3]}});
    later.send(Message::text(last.to_string())).await.unwrap();
    for n in 4..=10 {
        assert_eq!(next_json(&mut later).await["data"]["n"], n);
    }
    // Resumed once more while it runs.
    later.send(Message::text(last.to_string())).await.unwrap();
    for n in 4..=10 {
        assert_eq!(next_json(&mut later).await["data"]["n"], n);
    }
    // Without v2 there is no such query.
    let refused = connect_async(format!("{}?token={}&resume=later", node.at.wss2.as_deref().unwrap(), consumer.token)).await;
    assert!(matches!(refused, Err(Error::Http(answer)) if answer.status() == 422));
    // One that has not said yet where it begins is sent away like any other.
    let mut silent = consume(&node, &consumer, "&v=2&resume=later").await;
    node.signal("TERM");
    assert_eq!(close_code(&mut silent).await, u16::from(CloseCode::Away));
}

#[tokio::test]
async fn what_retention_removed_is_told_to_v2_and_nothing_else_is() {
    let Pair { node, producer, consumer } = pair(&[("LOG_RETENTION_BYTES", "20KiB"), ("RING_BYTES", "8KiB")]).await;
    let mut ingress = produce(&node, &producer).await;
    for n in 0..100 {
        ingress.send(record(n, 1000)).await.unwrap();
        next_json(&mut ingress).await;
    }
    let cursors = json!({producer.id.to_string(): 3}).to_string().replace('"', "%22");
    let mut egress = consume(&node, &consumer, &format!("&v=2&resume={cursors}")).await;
    let gap = next_json(&mut egress).await;
    assert_eq!((&gap["type"], &gap["producer_id"], &gap["from"]), (&json!("gap"), &json!(producer.id.to_string()), &json!(4)));
    for offset in gap["to"].as_u64().unwrap() + 1..=100 {
        assert_eq!(next_json(&mut egress).await["offset"], offset);
    }
    // Resumes by message, and with a cursor of someone else's producer.
    egress.send(Message::text(json!({"type": "resume", "cursors": {producer.id.to_string(): 99}}).to_string())).await.unwrap();
    assert_eq!(next_json(&mut egress).await["offset"], 100);
    egress.send(Message::text(json!({"type": "resume", "cursors": {"4711": 1}}).to_string())).await.unwrap();
    assert_eq!(next_json(&mut egress).await["code"], "not_subscribed");
    egress.send(Message::text("nonsense")).await.unwrap();
    assert_eq!(next_json(&mut egress).await["code"], "invalid_json");
}

#[tokio::test]
async fn who_asks_is_told_where_it_begins_and_misses_nothing_after_a_cut_before_the_first_record() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut ingress = produce(&node, &producer).await;
    let mut egress = consume(&node, &consumer, "&v=2&cursors=true").await;
    let told = next_json(&mut egress).await;
    assert_eq!(told["type"], "cursors");
    let cursor = told["cursors"][producer.id.to_string()].as_str().expect("it follows one producer").to_owned();
    drop(egress);
    ingress.send(record(1, 10)).await.unwrap();
    next_json(&mut ingress).await;
    let cursors = json!({producer.id.to_string(): cursor}).to_string().replace('"', "%22");
    let mut egress = consume(&node, &consumer, &format!("&v=2&cursors=true&resume={cursors}")).await;
    assert_eq!(next_json(&mut egress).await, told, "from where it was");
    assert_eq!(next_json(&mut egress).await["data"]["n"], 1);
    // A producer that joins is told of before its first record; one that was, only once.
    let other = account(node.at.ap.as_deref().unwrap(), "producer", "p2").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &other).await;
    let joined = next_json(&mut egress).await;
    assert_eq!(joined["cursors"].as_object().unwrap().keys().collect::<Vec<_>>(), [&other.id.to_string()]);
    let mut second = produce(&node, &other).await;
    second.send(record(2, 10)).await.unwrap();
    assert_eq!(next_json(&mut egress).await["data"]["n"], 2);
}

#[tokio::test]
async fn a_consumer_that_reads_nothing_delays_no_one_and_is_let_go() {
    let Pair { node, producer, consumer } = pair(&[("WSS_WRITE_LIMIT", "2s")]).await;
    let (mut stuck, mut egress) = (consume(&node, &consumer, "").await, consume(&node, &consumer, "").await);
    let mut ingress = produce(&node, &producer).await;
    // Far more than any socket holds.
    let total = 1500;
    let sending = async {
        for n in 0..total {
            ingress.send(record(n, 30_000)).await.unwrap();
            next_json(&mut ingress).await;
        }
    };
    let receiving = async {
        for n in 0..total {
            assert_eq!(next_json(&mut egress).await["data"]["n"], n);
        }
    };
    tokio::join!(sending, receiving);
    // The socket still holds messages, and then ends.
    let end = timeout(LIMIT, async { while let Some(Ok(Message::Text(_))) = stuck.next().await {} });
    end.await.expect("the stuck consumer is let go");
}

#[tokio::test]
async fn a_peer_that_is_silent_for_two_pings_is_closed() {
    let Pair { node, consumer, .. } = pair(&[("WSS_PING_INTERVAL", "300ms")]).await;
    let page = node.at.producer_page.clone().unwrap();
    // tungstenite answers pings only while it is read, which this one never is.
    let silent = consume(&node, &consumer, "").await;
    let mut alive = consume(&node, &consumer, "").await;
    let metrics = async || {
        let text = http().get(format!("{page}metrics")).send().await.unwrap().text().await.unwrap();
        text.lines().find(|l| l.starts_with("motience_websocket_connections{side=\"consumer\"}")).unwrap().ends_with(" 1")
    };
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !metrics().await {
        assert!(tokio::time::Instant::now() < deadline, "the silent peer is still there");
        // Reading is what answers pings.
        let _ = timeout(std::time::Duration::from_millis(50), alive.next()).await;
    }
    drop(silent);
    alive.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert_eq!(next_json(&mut alive).await["type"], "pong");
}

#[tokio::test]
async fn who_may_not_connect_is_refused_before_the_upgrade() {
    let Pair { node, producer, .. } = pair(&[("WSS_ORIGINS", "https://app.example"), ("MAX_CONNECTIONS_PER_ACCOUNT", "1")]).await;
    let url = format!("{}?token={}", node.at.wss1.as_deref().unwrap(), producer.token);
    let from = |origin: &'static str| {
        let mut request = url.clone().into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        connect_async(request)
    };
    let status = |outcome: Result<_, Error>| match outcome {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => 101,
    };
    assert_eq!(status(from("https://evil.example").await.map(drop)), 403);
    let held = from("https://app.example").await;
    assert!(held.is_ok());
    assert_eq!(status(from("https://app.example").await.map(drop)), 429, "one connection for each account");
    let plain = http().get(node.at.wss1.as_deref().unwrap().replace("ws://", "http://")).send().await.unwrap();
    assert_eq!(plain.status(), 426);
    assert_eq!(plain.headers()["upgrade"], "websocket");
    assert_eq!(plain.headers()["sec-websocket-version"], "13");
    let mut request = node.at.wss2.as_deref().unwrap().into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-version", "12".parse().unwrap());
    assert_eq!(status(connect_async(request).await.map(drop)), 426);
}

#[tokio::test]
async fn the_pages_and_what_they_ask_for_are_served() {
    let node = Node::embedded(&[]).await;
    let page = node.at.producer_page.as_deref().unwrap();
    let answer = http().get(page).send().await.unwrap();
    assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'self'"));
    let html = answer.text().await.unwrap();
    let script =
        html.split('"').find(|part| part.ends_with(".js")).expect("the page has a script").trim_start_matches(['.', '/']).to_owned();
    let asset = http().get(format!("{page}{script}")).send().await.unwrap();
    assert_eq!(asset.status(), 200);
    assert!(asset.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let tag = asset.headers()["etag"].clone();
    assert_eq!(http().get(format!("{page}{script}")).header("if-none-match", tag).send().await.unwrap().status(), 304);
    let config: Value = http().get(format!("{page}config.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!(config["role"], "producer");
    assert!(node.at.ap.as_deref().unwrap().ends_with(&format!(":{}", config["ap_port"])));
}

#[tokio::test]
async fn the_console_is_served_on_its_port_and_on_dsm() {
    let node = Node::embedded(&[]).await;
    let (page, dsm) = (node.at.consumer_page.as_deref().unwrap(), node.at.dsm.as_deref().unwrap());
    for (at, script) in [(page.to_owned(), "console"), (format!("{page}tester"), "consumer"), (format!("{dsm}/console/"), "console")] {
        let answer = http().get(&at).send().await.unwrap();
        assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'self'"));
        let html = answer.text().await.unwrap();
        let link = html.split('"').find(|part| part.contains(&format!("/{script}-")) && part.ends_with(".js")).expect("a script");
        assert!(link.starts_with("./"), "{link} is found wherever the page is");
        let asset = http().get(reqwest::Url::parse(&at).unwrap().join(link).unwrap()).send().await.unwrap();
        assert!(asset.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    }
    // reqwest follows the redirect.
    assert_eq!(http().get(format!("{dsm}/console")).send().await.unwrap().url().path(), "/console/");
    let config: Value = http().get(format!("{dsm}/console/config.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!(config["role"], "console");
    assert!(node.at.wss2.as_deref().unwrap().contains(&format!(":{}/", config["ws_port"])));
    assert_eq!(config["tester_url"], format!("{page}tester"));
}

#[tokio::test]
async fn control_is_answered_and_never_stored() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let (mut ingress, mut egress) = (produce(&node, &producer).await, consume(&node, &consumer, "").await);
    let mut stored = 0;
    for (sent, answer) in [
        (r#"{"type":"ping"}"#, json!({"type": "pong"})),
        (r#"{"type":"ping","id":1}"#, json!({"type": "pong", "id": 1})),
        (r#"{"id":"a","type":"ping","t":5}"#, json!({"type": "pong", "id": "a"})),
        (r#"{"type":"data","id":17,"payload":{"t":1}}"#, json!({"type": "ack", "seq": 1, "id": "17", "subscriberCount": 1})),
        // A record id that was sent before: acknowledged, and not written.
        (r#"{"type":"data","id":"17","payload":{"t":2}}"#, json!({"type": "ack", "seq": 2, "id": "17", "subscriberCount": 1})),
        (r#"{"device_id":"d","timestamp":5,"t":3}"#, json!({"type": "ack", "seq": 3, "subscriberCount": 1})),
    ] {
        // As text, and as the bytes that clients of the first platform send.
        ingress.send(Message::binary(sent.as_bytes().to_vec())).await.unwrap();
        assert_eq!(next_json(&mut ingress).await, answer, "{sent}");
        stored += u64::from(answer["type"] == "ack");
    }
    for (sent, code) in [
        (r#"{"type":"ping","id":true}"#, "invalid_id"),
        (r#"{"type":"data","id":{},"payload":{"t":1}}"#, "invalid_id"),
        (r#"{"type":"data","payload":{"t":1},"battery":3}"#, "unknown_field"),
        (r#"{"type":"dance","t":1}"#, "unknown_type"),
    ] {
        ingress.send(Message::text(sent)).await.unwrap();
        assert_eq!(next_json(&mut ingress).await["code"], code, "{sent}");
    }
    assert_eq!((stored, next_json(&mut egress).await["data"].clone()), (3, json!({"t": 1})));
    let flat = next_json(&mut egress).await;
    let id = producer.id.to_string();
    assert_eq!(flat, json!({"producer_id": id, "device_id": "d", "timestamp": 5, "data": {"t": 3}}));
    // Whatever else a device says of a record comes out as it went in.
    let whole = r#"{"device_id":"d","timestamp":5,"data":{"t":4},"location":{"lat": 1e1},"battery":81.50,"id":7}"#;
    ingress.send(Message::text(whole)).await.unwrap();
    let Message::Text(text) = next(&mut egress).await else { panic!("a record") };
    assert_eq!(*text, *format!(r#"{{"producer_id":"{id}",{}"#, &whole[1..]));
    // The consumer's control may be bytes too.
    let mut placed = consume(&node, &consumer, &format!("&v=2&received_at=true&resume=%7B%22{id}%22%3A%22@2%22%7D")).await;
    let told = next_json(&mut placed).await;
    assert_eq!((&told["location"], &told["battery"], &told["id"]), (&json!({"lat": 10.0}), &json!(81.5), &json!(7)), "{told}");
    assert!(told["received_at"].as_str().unwrap().ends_with('Z') && told["record_id"].is_string(), "{told}");
    placed.send(Message::binary(br#"{"type":"ping","id":"b"}"#.to_vec())).await.unwrap();
    assert_eq!(next_json(&mut placed).await, json!({"type": "pong", "id": "b"}));
}

#[tokio::test]
async fn an_unknown_subprotocol_is_answered_with_the_first_that_was_offered() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let (wss1, wss2) = (node.at.wss1.as_deref().unwrap(), node.at.wss2.as_deref().unwrap());
    for (at, token) in [(wss1, &producer.token), (wss2, &consumer.token)] {
        for (offered, answered) in
            [("motience", Some("motience")), ("json, motience", Some("json")), ("json, motience.v2", Some("motience.v2")), ("", None)]
        {
            let mut request = format!("{at}?token={token}").into_client_request().unwrap();
            if !offered.is_empty() {
                request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
            }
            let (_, response) = connect_async(request).await.unwrap();
            let protocol = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
            assert_eq!(protocol, answered, "{offered}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_resumes_is_ended() {
    let Pair { node, producer, consumer } = pair(&[("RATE_LIMIT_CONTROL", "20/h")]).await;
    let mut egress = consume(&node, &consumer, "&v=2").await;
    let cursors = json!({"4711": 1, "4712": 1, producer.id.to_string(): "live"});
    // Each cursor counts, so the twenty are spent with the fifth.
    for _ in 0..5 {
        egress.send(Message::text(json!({"type": "resume", "cursors": cursors}).to_string())).await.unwrap();
        assert_eq!(next_json(&mut egress).await["code"], "not_subscribed");
    }
    egress.send(Message::text(json!({"type": "resume", "cursors": cursors}).to_string())).await.unwrap();
    assert_eq!(close_code(&mut egress).await, 1008);
    // Confirmations are not limited.
    let mut egress = consume(&node, &consumer, "&v=2&durable=app").await;
    for _ in 0..100 {
        egress.send(Message::text(json!({"type": "confirm", "cursors": {producer.id.to_string(): "7-1"}}).to_string())).await.unwrap();
    }
    egress.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert_eq!(next_json(&mut egress).await["type"], "pong");
}

#[tokio::test]
async fn sockets_are_opened_however_their_path_is_written() {
    let Pair { node, producer, consumer } = pair(&[("WSS_ORIGINS", "HTTPS://App.Example/")]).await;
    let opened = async |base: &str, path: &str, token: &str| {
        let base = base.rsplit_once('/').unwrap().0;
        let mut request = format!("{base}{path}?token={token}").into_client_request().unwrap();
        request.headers_mut().insert("origin", "https://app.example".parse().unwrap());
        connect_async(request).await.unwrap();
    };
    for path in ["/producer", "/producer/", "/Producer", "//producer"] {
        opened(node.at.wss1.as_deref().unwrap(), path, &producer.token).await;
    }
    for path in ["/consumer/", "/CONSUMER//"] {
        opened(node.at.wss2.as_deref().unwrap(), path, &consumer.token).await;
    }
}
