//! Devices with keys of their own, over real sockets: enrolled by the agent, out within a second, in quarantine on every egress.

use std::{process::Stdio, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use motience_certs::{
    Trust,
    device_ca::{DeviceCa, Requested, Subject},
    device_key::{DeviceKey, login_text},
};
use motience_device::{
    client::{Error, Event, Lane},
    login::{self, Algorithm, Auth, Credentials, Enrolment, Home, Identity},
};
use motience_proto::{
    model::{ProducerEpoch, ProducerId},
    wire::{CloseCode, Frame, Hello, Intent, Limits, Start, StreamKind, VERSION},
};
use motience_runtime::clock::Clock;
use serde_json::{Value, json};
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::{
    harness::{Account, LIMIT, Node, Shared, account, agent, command, http, server, subscribe},
    quic::{acked, ap, closed_with, connect, event, following, record_of},
};

/// Longest time until a device that was revoked is out, as promised; a busy machine may take its own time on top.
const OUT: Duration = Duration::from_secs(5);

async fn post(url: String, token: &str, body: Value) -> Value {
    let answer = http().post(url).bearer_auth(token).json(&body).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap()
}

async fn enrolment(node: &Node, producer: &Account, device: &str) -> String {
    let made = post(format!("{}/devices/enrolments", ap(node)), &producer.token, json!({"device_id": device})).await;
    made["token"].as_str().unwrap().to_owned()
}

pub(crate) async fn set(node: &Node, producer: &Account, device: &str, act: &str) {
    post(format!("{}/devices/{}/{device}/{act}", ap(node), producer.id), &producer.token, json!({})).await;
}

/// A device that has enrolled, and logs in by its key.
pub(crate) async fn enrolled(node: &Node, producer: &Account, device: &str, algorithm: Algorithm) -> Credentials {
    let auth = || Auth::new(ap(node), &Trust::Platform).unwrap();
    let token = enrolment(node, producer, device).await;
    let place = node.dir.path().join(device);
    let enrolment = || Enrolment { token: &token, named: None, algorithm, home: Home::default() };
    let identity = Identity::enrol(&auth(), &place, enrolment()).await.unwrap();
    // The answer of a call that seems to have failed is found out by the same call.
    let again = Identity::enrol(&auth(), &place, enrolment()).await.unwrap();
    assert_eq!(identity.certificate.credential, again.certificate.credential);
    Credentials::identity(auth(), Identity::read(&place).unwrap().unwrap())
}

pub(crate) async fn token(credentials: &Credentials) -> String {
    use secrecy::ExposeSecret as _;
    credentials.token().await.unwrap().expose_secret().to_owned()
}

fn record(device: &str, n: u64) -> String {
    format!(r#"{{"device_id":"{device}","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#)
}

#[tokio::test]
async fn a_device_publishes_by_its_key_over_quic_websocket_and_http_and_as_nobody_else() {
    let node = Node::embedded(&[("DEVICE_PASSWORDS", "deny")]).await;
    let producer = account(ap(&node), "producer", "p").await;
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let device = algorithm.as_str();
        let token = token(&enrolled(&node, &producer, device, algorithm).await).await;
        let mut session = connect(&node, &token, device, Intent::Produce, 1).await.unwrap();
        session.send(Lane::Independent, record_of(device, 1)).await.unwrap();
        acked(&mut session, 1..=1).await;
        session.finish().await;
        let refused = connect(&node, &token, "another", Intent::Produce, 1).await.unwrap_err();
        assert!(matches!(refused, Error::Closed { code: CloseCode::Forbidden, .. }), "{refused:?}");
        let (mut socket, _) = connect_async(format!("{}?token={token}", node.at.wss1.as_deref().unwrap())).await.unwrap();
        for (name, kind) in [(device, "ack"), ("another", "error")] {
            socket.send(Message::text(record(name, 2))).await.unwrap();
            let answer = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap().into_text().unwrap();
            assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["type"], kind, "{answer}");
        }
        post(format!("{}/data", node.at.dsm.as_deref().unwrap()), &token, json!({"data": {"n": 3}})).await;
    }
    // A certificate that is due is renewed by the next login, whoever began the connection.
    let (place, auth) = (node.dir.path().join("p256"), Auth::new(ap(&node), &Trust::Platform).unwrap());
    let file = place.with_extension("json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let before = kept["certificate"].clone();
    kept["renew_at"] = json!("2026-01-01T00:00:00Z");
    std::fs::write(&file, kept.to_string()).unwrap();
    token(&Credentials::identity(auth, Identity::read(&place).unwrap().unwrap())).await;
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(kept["certificate"] != before && kept["renew_at"] != "2026-01-01T00:00:00Z");
    // A password is none of it here.
    let refused = connect(&node, &producer.token, "p", Intent::Produce, 1).await.unwrap_err();
    assert!(matches!(&refused, Error::Closed { code: CloseCode::Forbidden, reason } if reason.contains("device_credential_required")));
    let refused = connect_async(format!("{}?token={}", node.at.wss1.as_deref().unwrap(), producer.token)).await.unwrap_err();
    assert!(refused.to_string().contains("403"), "{refused}");
}

#[tokio::test]
async fn a_revoked_device_is_out_on_every_node_within_a_second() {
    let shared = Shared::start().await;
    let (one, two) = (shared.node("one", "ap,sm,dsm,ingest").await, shared.node("two", "ap,sm,dsm,ingest").await);
    let producer = account(ap(&one), "producer", "p").await;
    let own = token(&enrolled(&one, &producer, "stolen", Algorithm::P256).await).await;
    // By its own key and by the account's password.
    let mut by_key = connect(&two, &own, "stolen", Intent::Produce, 1).await.unwrap();
    by_key.send(Lane::Independent, record_of("stolen", 1)).await.unwrap();
    acked(&mut by_key, 1..=1).await;
    let mut bystander = connect(&two, &producer.token, "honest", Intent::Produce, 1).await.unwrap();

    let began = Instant::now();
    set(&one, &producer, "stolen", "revoke").await;
    assert_eq!(timeout(OUT, closed_with(&mut by_key)).await.expect("it is out"), CloseCode::Forbidden);
    println!("out after {:?}", began.elapsed());
    for (node, token, code) in
        [(&one, &own, CloseCode::Unauthenticated), (&two, &own, CloseCode::Unauthenticated), (&two, &producer.token, CloseCode::Forbidden)]
    {
        let refused = connect(node, token, "stolen", Intent::Produce, 2).await.unwrap_err();
        assert!(matches!(refused, Error::Closed { code: found, .. } if found == code), "{refused:?}");
    }
    let answer = http().post(format!("{}/data", two.at.dsm.as_deref().unwrap())).bearer_auth(&producer.token);
    let answer = answer.header("content-type", "application/json").body(record("stolen", 2)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.json::<Value>().await.unwrap()["code"].clone()), (403, json!("device_revoked")));
    bystander.send(Lane::Independent, record_of("honest", 1)).await.unwrap();
    acked(&mut bystander, 1..=1).await;

    // A session by password for the device ends too, and the program of the operator does all of it as well.
    let run = async |arguments: &[&str]| {
        let mut command = command(server(), one.dir.path());
        command.arg("device").args(arguments).args(["--producer", "p"]).envs(shared.variables());
        crate::harness::output(command).await
    };
    let mut by_password = connect(&two, &producer.token, "odd", Intent::Produce, 1).await.unwrap();
    assert_eq!(run(&["revoke", "--device", "odd"]).await, "odd is revoked, on every node.\n");
    assert_eq!(timeout(OUT, closed_with(&mut by_password)).await.expect("it is out"), CloseCode::Forbidden);
    let listed = run(&["list"]).await;
    assert!(listed.contains("revoked\todd\tno key") && listed.contains("revoked\tstolen\tno key"), "{listed}");
    assert_eq!(run(&["label", "--device", "odd", "--label", "site=roof", "--label", "note="]).await, "odd has site=roof.\n");
    assert!(run(&["list"]).await.contains("\todd\tno key\t\tsite=roof"));
    let acts = http().get(format!("{}/acts?object=device:{}:odd", one.at.sm.as_deref().unwrap(), producer.id)).bearer_auth(&producer.token);
    let acts: Value = acts.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&acts[0]["act"], &acts[0]["actor"], &acts[0]["detail"]["labels"]["site"]),
        (&json!("device.label"), &Value::Null, &json!("roof"))
    );
    run(&["restore", "--device", "odd"]).await;
    let deadline = Instant::now() + OUT;
    while connect(&two, &producer.token, "odd", Intent::Produce, 2).await.is_err() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_identity_stays_until_another_is_certified() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let first = enrolled(&node, &producer, "d", Algorithm::Ed25519).await;
    let place = node.dir.path().join("d");
    let auth = || Auth::new(ap(&node), &Trust::Platform).unwrap();
    let anew = async |token: &str| {
        let enrolment = Enrolment { token, named: None, algorithm: Algorithm::P256, home: Home::default() };
        Identity::enrol_anew(&auth(), &place, enrolment).await
    };
    let kept = || Identity::read(&place).unwrap().unwrap();
    let before = kept().certificate.credential;
    assert!(matches!(anew("mte_spent").await, Err(login::Error::Refused { status: 401, .. })));
    assert_eq!(kept().certificate.credential, before);
    token(&Credentials::identity(auth(), kept())).await;
    // The key that was made then is the one that the good token enrols.
    let wanted = enrolment(&node, &producer, "d").await;
    let now = anew(&wanted).await.unwrap().certificate.credential;
    assert!(now != before && kept().certificate.credential == now);
    token(&Credentials::identity(auth(), kept())).await;
    first.forget().await;
    assert!(matches!(first.token().await, Err(login::Error::Refused { status: 401, .. })), "the key before has ended");

    // The answer of this enrolment is lost: the server knows the key, and the device does not know it.
    let wanted = enrolment(&node, &producer, "d").await;
    let key = DeviceKey::generate(Algorithm::P256).unwrap();
    std::fs::write(node.dir.path().join("d.new.key"), key.pem()).unwrap();
    let lost = post(format!("{}/devices/enrol", ap(&node)), "", json!({"token": wanted, "csr": key.request("d").unwrap()})).await;
    assert_eq!(kept().certificate.credential, now);
    let found = anew(&wanted).await.unwrap().certificate.credential;
    assert_eq!((json!(found), kept().certificate.credential), (lost["credential"].clone(), found.clone()));
    token(&Credentials::identity(auth(), kept())).await;
}

#[tokio::test]
async fn nodes_agree_on_nonces_that_were_used_and_on_the_number_of_subscribers() {
    let shared = Shared::start().await;
    let (one, two) = (shared.node("one", "ap,sm,dsm").await, shared.node("two", "ap,sm,dsm").await);
    let producer = account(ap(&one), "producer", "p").await;
    let key = DeviceKey::generate(Algorithm::Ed25519).unwrap();
    let enrol = json!({"token": enrolment(&one, &producer, "d").await, "csr": key.request("d").unwrap()});
    let credential = post(format!("{}/devices/enrol", ap(&one)), "", enrol).await["credential"].as_str().unwrap().to_owned();
    let nonce = post(format!("{}/devices/challenge", ap(&one)), "", Value::Null).await["nonce"].as_str().unwrap().to_owned();
    let signature = STANDARD.encode(key.sign(login_text(&nonce, &credential).as_bytes()).unwrap());
    let signed = json!({"credential": credential, "nonce": nonce, "signature": signature});
    let login =
        async |node: &Node| http().post(format!("{}/devices/token", ap(node))).json(&signed).send().await.unwrap().status().as_u16();
    assert_eq!((login(&two).await, login(&one).await, login(&two).await), (200, 401, 401));

    let consumer = account(ap(&one), "consumer", "c").await;
    let count = async |node: &Node| {
        let body = json!({"device_id": "d", "data": {"n": 1}});
        post(format!("{}/data", node.at.dsm.as_deref().unwrap()), &producer.token, body).await["subscriberCount"].clone()
    };
    for n in [1, 0, 1, 0] {
        // Both nodes believe another number.
        count(&one).await;
        count(&two).await;
        let sm = one.at.sm.as_deref().unwrap();
        if n == 1 {
            subscribe(sm, &consumer, &producer).await;
        } else {
            let url = format!("{sm}/unsubscribe?producer_id={}", producer.id);
            assert_eq!(http().delete(url).bearer_auth(&consumer.token).send().await.unwrap().status(), 200);
        }
        let both = async {
            while (count(&one).await, count(&two).await) != (json!(n), json!(n)) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(OUT, both).await.expect("both nodes know it in time");
    }
}

/// The next record's value that an egress shows.
async fn next(lines: &mut (impl futures_util::Stream<Item = String> + Unpin)) -> u64 {
    loop {
        let line = timeout(LIMIT, lines.next()).await.expect("a record in time").expect("the stream goes on");
        let value: Value = serde_json::from_str(line.strip_prefix("data:").unwrap_or(&line).trim()).unwrap_or_default();
        if let Some(n) = value["data"]["n"].as_u64() {
            return n;
        }
    }
}

#[tokio::test]
async fn a_device_in_quarantine_is_heard_on_no_egress() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let consumer = account(ap(&node), "consumer", "c").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let dsm = node.at.dsm.as_deref().unwrap();
    let send = async |device: &str, n: u64| {
        post(format!("{dsm}/data"), &producer.token, serde_json::from_str(&record(device, n)).unwrap()).await;
    };
    let stream = async |query: &str, accept: &str, token: &str| {
        let answer = http().get(format!("{dsm}/stream?{query}")).bearer_auth(token).header("accept", accept).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let chunks = futures_util::stream::unfold(answer, async |mut answer| {
            let chunk = answer.chunk().await.unwrap()?;
            let lines: Vec<String> = String::from_utf8(chunk.to_vec()).unwrap().lines().map(str::to_owned).collect();
            Some((futures_util::stream::iter(lines), answer))
        });
        Box::pin(chunks.flatten())
    };
    let (socket, _) = connect_async(format!("{}?token={}", node.at.wss2.as_deref().unwrap(), consumer.token)).await.unwrap();
    let mut socket = Box::pin(socket.filter_map(async |message| message.ok()?.into_text().ok().map(|text| text.to_string())));
    let mut sse = stream("", "text/event-stream", &consumer.token).await;
    let mut ordered = stream("order=device&fields=/data", "application/x-ndjson", &consumer.token).await;
    let mut own = stream(&format!("producers={}", producer.id), "application/x-ndjson", &producer.token).await;
    let mut session = connect(&node, &consumer.token, "reader", Intent::Consume, 1).await.unwrap();
    session.subscribe(ProducerId(producer.id), Start::Live, "").await.unwrap();
    following(&mut session, producer.id).await;
    set(&node, &producer, "d", "quarantine").await;
    send("d", 1).await;
    send("e", 2).await;
    assert_eq!((next(&mut socket).await, next(&mut sse).await, next(&mut ordered).await), (2, 2, 2));
    assert_eq!((next(&mut own).await, next(&mut own).await), (1, 2), "its producer sees it");
    let Event::Entries { entries, .. } = event(&mut session).await.unwrap() else { panic!("entries only") };
    let message: Value = serde_json::from_slice(&entries[0].message).unwrap();
    assert_eq!((message["data"]["n"].as_u64(), entries[0].offset.0), (Some(2), 2));
    set(&node, &producer, "d", "restore").await;
    send("d", 3).await;
    assert_eq!((next(&mut socket).await, next(&mut sse).await, next(&mut ordered).await), (3, 3, 3));
    let mut again = stream("from=earliest", "application/x-ndjson", &consumer.token).await;
    assert_eq!((next(&mut again).await, next(&mut again).await, next(&mut again).await), (1, 2, 3), "and what lay in the log");
}

/// Says Hello without a token, and a record behind it; the code of the close, or `None` once the record is acknowledged.
async fn by_certificate(node: &Node, tls: &rustls::ClientConfig, device: &str) -> Result<(), Option<u64>> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls.clone()).unwrap();
    let mut endpoint = quinn::Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connecting = endpoint.connect(node.at.quic.as_deref().unwrap().parse().unwrap(), "localhost").unwrap();
    let connection = timeout(LIMIT, connecting).await.unwrap().map_err(|_| None)?;
    let closed = |error: quinn::ConnectionError| match error {
        quinn::ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(closed)?;
    let mut out = BytesMut::new();
    hello(device).encode(&mut out);
    let _ = send.write_all(&out).await;
    let mut answer = BytesMut::new();
    loop {
        match timeout(LIMIT, recv.read_chunk(4096, true)).await.unwrap() {
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk.bytes),
            _ => return Err(closed(connection.closed().await)),
        }
        if let Some(frame) = Frame::decode(&mut answer, Limits::control()).unwrap() {
            assert!(matches!(frame, Frame::Welcome(_)), "{frame:?}");
            break;
        }
    }
    let mut uplink = connection.open_uni().await.unwrap();
    let mut out = BytesMut::new();
    StreamKind::Ordered.encode(&mut out);
    Frame::Record(record_of(device, 1)).encode(&mut out);
    uplink.write_all(&out).await.unwrap();
    loop {
        match Frame::decode(&mut answer, Limits::control()).unwrap() {
            Some(Frame::Ack(_)) => return Ok(()),
            Some(other) => panic!("{other:?}"),
            None => answer.extend_from_slice(&timeout(LIMIT, recv.read_chunk(4096, true)).await.unwrap().unwrap().unwrap().bytes),
        }
    }
}

fn hello(device: &str) -> Frame {
    let (token, device_id) = (String::new(), device.to_owned());
    Frame::Hello(Hello { version: VERSION, intent: Intent::Produce, token, device_id, epoch: ProducerEpoch(1), features: 0 })
}

/// A client that shows this certificate.
fn showing(node: &Node, certificate: &str, key: &str, alpn: &[u8]) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let roots = motience_certs::pem::roots(node.at.ca.as_deref().unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let mut config = rustls::ClientConfig::builder_with_provider(motience_certs::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

#[tokio::test]
async fn a_device_is_known_by_its_certificate_alone() {
    let node = Node::embedded(&[("DEVICE_CERTIFICATES", "true")]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let other = account(ap(&node), "producer", "q").await;
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let device = algorithm.as_str();
        enrolled(&node, &producer, device, algorithm).await;
        let at = |ending: &str| std::fs::read_to_string(node.dir.path().join(format!("{device}.{ending}"))).unwrap();
        let identity: Value = serde_json::from_str(&at("json")).unwrap();
        let (certificate, key) = (identity["certificate"].as_str().unwrap().to_owned(), at("key"));
        let quic = showing(&node, &certificate, &key, motience_proto::wire::ALPN);
        // The second one resumes the first one's session.
        for _ in 0..2 {
            by_certificate(&node, &quic, device).await.unwrap();
        }
        assert_eq!(by_certificate(&node, &quic, "another").await, Err(Some(u64::from(CloseCode::Forbidden.number()))));

        let https = node.at.https.as_deref().unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(showing(&node, &certificate, &key, b"http/1.1")).build().unwrap();
        let send = async |name: &str| {
            let sent = client.post(format!("{https}/data")).header("content-type", "application/json").body(record(name, 2)).send().await;
            sent.unwrap().status().as_u16()
        };
        assert_eq!((send(device).await, send("another").await), (200, 403));
        let port: u16 = https.rsplit(':').next().unwrap().parse().unwrap();
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(showing(&node, &certificate, &key, b"http/1.1")));
        let tls = tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        let mut request = format!("wss://localhost:{port}/motience").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "motience.1".parse().unwrap());
        let (mut tunnel, _) = tokio_tungstenite::client_async(request, tls).await.unwrap();
        let mut out = BytesMut::new();
        hello(device).encode(&mut out);
        tunnel.send(Message::Binary(out.freeze())).await.unwrap();
        let mut welcome = BytesMut::from(&timeout(LIMIT, tunnel.next()).await.unwrap().unwrap().unwrap().into_data()[..]);
        assert!(matches!(Frame::decode(&mut welcome, Limits::control()).unwrap(), Some(Frame::Welcome(_))));

        set(&node, &producer, device, "revoke").await;
        assert_eq!(
            by_certificate(&node, &quic, device).await,
            Err(Some(u64::from(CloseCode::Unauthenticated.number()))),
            "a resumed session too"
        );
        assert_eq!(send(device).await, 401);
    }
    // Whoever signs for itself gets no further than the handshake, and who has none needs a token as ever.
    let key = DeviceKey::generate(Algorithm::P256).unwrap();
    let foreign = DeviceCa::generate(Clock::system().now()).unwrap();
    let subject = Subject {
        producer: producer.id,
        device: "p256",
        serial: "41",
        from: Clock::system().now(),
        until: Clock::system().now() + Duration::from_secs(60),
    };
    let forged = foreign.sign(&Requested::read(&key.request("x").unwrap()).unwrap(), &subject).unwrap();
    let forged = showing(&node, &forged, &key.pem(), motience_proto::wire::ALPN);
    assert_eq!(by_certificate(&node, &forged, "p256").await, Err(None));
    let mut session = connect(&node, &other.token, "q", Intent::Produce, 1).await.unwrap();
    session.send(Lane::Independent, record_of("q", 1)).await.unwrap();
    acked(&mut session, 1..=1).await;
}

#[tokio::test]
async fn a_certificate_of_the_deployments_own_authority_registers_its_device() {
    let dir = tempfile::tempdir().unwrap();
    let now = || Clock::system().now();
    let own = DeviceCa::generate(now()).unwrap();
    let file = dir.path().join("issuers.pem");
    std::fs::write(&file, own.certificate()).unwrap();
    let settings = [
        ("DEVICE_CERTIFICATES", "true"),
        ("DEVICE_CA_ISSUERS", file.to_str().unwrap()),
        ("DEVICE_PASSWORDS", "deny"),
        ("MAX_REGISTERED_DEVICES_PER_ACCOUNT", "2"),
    ];
    let node = Node::embedded(&settings).await;
    let producer = account(ap(&node), "producer", "p").await;
    let issue = |producer: i64, device: &str, key: &DeviceKey| {
        let subject = Subject { producer, device, serial: "41", from: now(), until: now() + Duration::from_secs(3600) };
        own.sign(&Requested::read(&key.request("x").unwrap()).unwrap(), &subject).unwrap()
    };
    let key = || DeviceKey::generate(Algorithm::P256).unwrap();
    let come = async |producer: i64, device: &str, key: &DeviceKey| {
        let certificate = issue(producer, device, key);
        by_certificate(&node, &showing(&node, &certificate, &key.pem(), motience_proto::wire::ALPN), device).await
    };
    let (first, second) = (key(), key());
    for _ in 0..2 {
        come(producer.id, "pump 7", &first).await.unwrap();
    }
    let url = format!("{}/devices/{}/registered", ap(&node), producer.id);
    let registered: Value = http().get(&url).bearer_auth(&producer.token).send().await.unwrap().json().await.unwrap();
    assert_eq!((&registered[0]["device_id"], &registered[0]["credential"]["algorithm"]), (&json!("pump 7"), &json!("p256")));
    // The authority vouches for another key: the one before has ended, and does not come back.
    let unauthenticated = Err(Some(u64::from(CloseCode::Unauthenticated.number())));
    come(producer.id, "pump 7", &second).await.unwrap();
    assert_eq!(come(producer.id, "pump 7", &first).await, unauthenticated);
    // Revoked, it stays out, whatever certificate it brings.
    set(&node, &producer, "pump 7", "revoke").await;
    assert_eq!(come(producer.id, "pump 7", &second).await, unauthenticated);
    assert_eq!(come(producer.id, "pump 7", &key()).await, unauthenticated);
    // No device of nobody, and no more of them than there may be.
    assert_eq!(come(producer.id + 1000, "pump 8", &key()).await, unauthenticated);
    come(producer.id, "pump 8", &key()).await.unwrap();
    assert_eq!(come(producer.id, "pump 9", &key()).await, unauthenticated);
    let acts =
        http().get(format!("{}/acts?object=device:{}:pump%208", node.at.sm.as_deref().unwrap(), producer.id)).bearer_auth(&producer.token);
    let acts: Value = acts.send().await.unwrap().json().await.unwrap();
    assert_eq!(acts[0]["act"], "device.adopt", "{acts}");
    // One by enrolment goes on beside them: its authority is another.
    let made = http().post(format!("{}/devices/enrolments", ap(&node))).bearer_auth(&producer.token);
    let full = made.json(&json!({"device_id": "pump 8"})).send().await.unwrap();
    assert_eq!(full.status(), 201);
}

/// The transcript of docs/guides/devices.md: three commands from a printed token to the first acknowledged record.
#[tokio::test]
async fn three_commands_from_a_printed_token_and_out_within_a_second() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let printed = enrolment(&node, &producer, "rpi_001").await;
    let home = tempfile::tempdir().unwrap();
    let device = |arguments: &[&str]| {
        let mut command = Command::new(agent());
        command.current_dir(home.path()).env_clear().env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path().join("run"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    };
    let (ca, quic) = (node.at.ca.as_ref().unwrap().to_str().unwrap(), node.at.quic.as_deref().unwrap());
    let enrolled = crate::harness::output(device(&["enrol", "--auth", ap(&node), "--server", quic, "--ca", ca, "--token", &printed])).await;
    assert_eq!(enrolled, format!("enrolled rpi_001 of producer {}\n", producer.id));
    let mut running = device(&["run"]).spawn().unwrap();
    let status = async || {
        let output = device(&["status", "--json"]).output().await.unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    let deadline = Instant::now() + LIMIT;
    loop {
        let (code, status) = status().await;
        if code == Some(0) && status["outbox"]["acked"].as_u64().or(status["acked"].as_u64()).is_some_and(|acked| acked > 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        sleep(Duration::from_millis(100)).await;
    }
    set(&node, &producer, "rpi_001", "revoke").await;
    let deadline = Instant::now() + OUT;
    while status().await.0 == Some(0) {
        assert!(Instant::now() < deadline, "it is still in");
        sleep(Duration::from_millis(50)).await;
    }
    running.kill().await.unwrap();
}
