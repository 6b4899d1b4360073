//! Operators: made by the program while the server runs, they see nodes and devices, and end accounts.

use std::{path::Path, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use motience_device::client::Lane;
use motience_proto::wire::{CloseCode, Health, Intent};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    harness::{Account, LIMIT, Node, PASSWORD, Shared, account, command, http, server, subscribe},
    quic::{acked, closed_with, connect, record, record_of},
};

/// Runs `motience-server admin …` on a node's own settings: exit code, standard output, standard error.
async fn admin(dir: &Path, variables: &[(&str, &str)], arguments: &[&str], input: &str) -> (i32, String, String) {
    run(dir, variables, &[&["admin"], arguments].concat(), input).await
}

/// Runs the server's program on a node's own settings.
pub(crate) async fn run(dir: &Path, variables: &[(&str, &str)], arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command: Command = command(server(), dir);
    command.args(arguments).envs(variables.iter().copied());
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // One that does not read it may be gone by now.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = timeout(LIMIT, process.wait_with_output()).await.expect("it ends in time").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn call(method: Method, url: String, token: &str) -> (u16, Value) {
    let answer = http().request(method, url).bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn get(url: String, token: &str) -> Value {
    let (status, body) = call(Method::GET, url, token).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn login(ap: &str, name: &str) -> (u16, Value) {
    let answer = http().post(format!("{ap}/login")).json(&json!({"username": name, "password": PASSWORD})).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Asks until the answer is as wanted.
async fn until(url: String, token: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = get(url.clone(), token).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Makes the operator `root` and logs in as it.
pub(crate) async fn root(dir: &Path, variables: &[(&str, &str)], ap: &str) -> Account {
    let made = admin(dir, variables, &["create", "--username", "root"], &format!("{PASSWORD}\n")).await;
    assert_eq!((made.0, made.2.as_str()), (0, ""), "{made:?}");
    let (status, body) = login(ap, "root").await;
    assert_eq!((status, &body["role"]), (200, &json!("admin")));
    Account { id: body["user_id"].as_i64().unwrap(), username: "root".into(), token: body["access_token"].as_str().unwrap().into() }
}

#[tokio::test]
async fn operators_are_made_by_the_program_and_by_nothing_else() {
    let node = Node::embedded(&[]).await;
    let (dir, ap) = (node.dir.path(), node.at.ap.as_deref().unwrap());
    let root = root(dir, &[], ap).await;

    let (code, out, err) = admin(dir, &[], &["create", "--username", "root"], PASSWORD).await;
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("'root' is taken"), "{err}");
    for (name, password, says) in
        [("second", "short", "at least 6"), ("", PASSWORD, "1 to 255"), (" x", PASSWORD, "blanks"), ("y", "", "at least")]
    {
        let (code, _, err) = admin(dir, &[], &["create", "--username", name], password).await;
        assert!(code == 3 && err.contains(says), "{code} {err}");
    }
    // From a file, of which the first line counts.
    let file = dir.join("password");
    std::fs::write(&file, format!("{PASSWORD}\nand a note\n")).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(admin(dir, &[], &["create", "--username", "second", "--password-file", path], "").await.0, 0);
    assert_eq!(login(ap, "second").await.0, 200);
    let (code, _, err) = admin(dir, &[], &["create", "--username", "third", "--password-file", "nowhere"], "").await;
    assert!(code == 1 && err.contains("nowhere"), "{err}");
    // Others can see arguments, so a password is none.
    assert_eq!(admin(dir, &[], &["create", "--username", "third", "--password", PASSWORD], "").await.0, 2);

    let body = json!({"username": "self-made", "password": PASSWORD, "role": "admin"});
    assert_eq!(http().post(format!("{ap}/register")).json(&body).send().await.unwrap().status(), 422);
    account(ap, "producer", "p").await;
    let (_, list, _) = admin(dir, &[], &["list"], "").await;
    assert_eq!(list, "1\tadmin\troot\n2\tadmin\tsecond\n3\tproducer\tp\n");
    assert_eq!(admin(dir, &[], &["list", "--role", "admin", "--query", "SEC"], "").await.1, "2\tadmin\tsecond\n");

    // The running server refuses the login at once; live tokens end at its next look at the database.
    let (code, out, _) = admin(dir, &[], &["revoke", "--username", "p"], "").await;
    assert!(code == 0 && out.contains("30 seconds"), "{out}");
    assert_eq!(login(ap, "p").await.0, 403);
    assert!(admin(dir, &[], &["list", "--query", "p"], "").await.1.contains("\tp\trevoked 20"));
    assert_eq!(admin(dir, &[], &["restore", "--username", "p"], "").await.0, 0);
    assert_eq!(login(ap, "p").await.0, 200);
    for action in ["revoke", "restore"] {
        let (code, _, err) = admin(dir, &[], &[action, "--username", "nobody"], "").await;
        assert!(code == 3 && err.contains("no account called 'nobody'"), "{err}");
    }
    let listed = get(format!("{ap}/accounts?role=admin"), &root.token).await;
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn devices_are_seen_and_a_revoked_producer_is_cut_off_within_a_second() {
    let node = Node::embedded(&[("NODE_NAME", "only")]).await;
    let (ap, dsm) = (node.at.ap.as_deref().unwrap(), node.at.dsm.as_deref().unwrap());
    let root = root(node.dir.path(), &[], ap).await;
    let (producer, consumer) = (account(ap, "producer", "p").await, account(ap, "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;

    let mut device = connect(&node, &producer.token, "over-quic", Intent::Produce, 7).await.unwrap();
    for n in 1..=10 {
        device.send(Lane::Independent, record_of("over-quic", n)).await.unwrap();
    }
    acked(&mut device, 1..=10).await;
    device.report_health(Health { backlog: 4, loss_ppm: Some(20_000) });
    let (mut socket, _) = connect_async(format!("{}?token={}", node.at.wss1.as_deref().unwrap(), producer.token)).await.unwrap();
    for device in ["over-ws", "over-ws", "another"] {
        socket.send(Message::text(json!({"device_id": device, "timestamp": 1, "data": 1}).to_string())).await.unwrap();
        timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
    }
    let posted = http().post(format!("{dsm}/data")).bearer_auth(&producer.token).json(&json!({"device_id": "over-http", "data": 1}));
    assert_eq!(posted.send().await.unwrap().status(), 200);

    let devices = format!("{dsm}/devices/{}", producer.id);
    let all = until(devices.clone(), &consumer.token, |all| all[2]["backlog"] == 4 && all[2]["rtt_ms"].is_number()).await;
    let shown = |all: &Value| {
        let text = |d: &Value, field: &str| d[field].as_str().unwrap().to_owned();
        let one =
            |d: &Value| (text(d, "device_id"), text(d, "transport"), d["connected"].as_bool().unwrap(), d["records"].as_u64().unwrap());
        all.as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    let expected = |connected| {
        [
            ("another", "websocket", connected, 1),
            ("over-http", "http", false, 1),
            ("over-quic", "quic", connected, 10),
            ("over-ws", "websocket", connected, 2),
        ]
        .map(|(id, transport, connected, records)| (id.to_owned(), transport.to_owned(), connected, records))
    };
    assert_eq!(shown(&all), expected(true));
    assert_eq!((&all[2]["loss"], &all[2]["node"], &all[2]["address_changes"]), (&json!(0.02), &json!("only"), &json!(0)));
    let nodes = until(format!("{dsm}/nodes"), &root.token, |nodes| nodes[0]["records_in"] == 14).await;
    assert_eq!((&nodes[0]["connections"]["quic"], &nodes[0]["connections"]["producers"]), (&json!(1), &json!(1)));
    assert_eq!((&nodes[0]["records_in"], &nodes[0]["roles"]), (&json!(14), &json!(["ap", "sm", "dsm", "ingest", "wss"])));

    let (status, revoked) = call(Method::POST, format!("{ap}/accounts/{}/revoke", producer.id), &root.token).await;
    assert!(status == 200 && revoked["revoked_at"].is_string(), "{revoked}");
    let ended = async {
        assert_eq!(closed_with(&mut device).await, CloseCode::Unauthenticated);
        loop {
            match socket.next().await.expect("a close comes first").unwrap() {
                Message::Close(frame) => break assert_eq!(u16::from(frame.unwrap().code), 4401),
                _ => continue,
            }
        }
    };
    timeout(Duration::from_secs(1), ended).await.expect("within a second");
    let (status, refused) = login(ap, "p").await;
    assert_eq!((status, &refused["code"]), (403, &json!("account_revoked")));
    assert!(connect(&node, &producer.token, "over-quic", Intent::Produce, 7).await.is_err());
    assert_eq!(call(Method::GET, devices.clone(), &producer.token).await.0, 401);
    let all = until(devices, &root.token, |all| all.as_array().unwrap().iter().all(|d| d["connected"] == false)).await;
    assert_eq!(shown(&all), expected(false));
    let own = call(Method::POST, format!("{ap}/accounts/{}/revoke", root.id), &root.token).await;
    assert_eq!((own.0, &own.1["code"]), (409, &json!("own_account")));

    assert_eq!(call(Method::POST, format!("{ap}/accounts/{}/restore", producer.id), &root.token).await.0, 200);
    let (status, again) = login(ap, "p").await;
    assert_eq!(status, 200);
    let token = again["access_token"].as_str().unwrap();
    connect(&node, token, "over-quic", Intent::Produce, 7).await.unwrap().finish().await;
    assert!(connect(&node, &producer.token, "over-quic", Intent::Produce, 7).await.is_err(), "old tokens stay dead");
}

#[tokio::test]
async fn rates_are_seen_for_as_long_as_records_come() {
    let node = Node::embedded(&[]).await;
    let (ap, dsm) = (node.at.ap.as_deref().unwrap(), node.at.dsm.as_deref().unwrap());
    let root = root(node.dir.path(), &[], ap).await;
    let producer = account(ap, "producer", "p").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    let sending = async {
        for n in 1.. {
            device.send(Lane::Independent, record(n)).await.unwrap();
            acked(&mut device, n..=n).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let above_zero = |value: &Value| value.as_f64() > Some(0.0);
    // The first minute that is kept may be one that ended before the device came.
    let seen = async {
        until(format!("{dsm}/devices/{}", producer.id), &root.token, |all| above_zero(&all[0]["rate_per_second"])).await;
        until(format!("{dsm}/nodes"), &root.token, |nodes| above_zero(&nodes[0]["records_in_per_second"])).await;
        let busy = |minute: &Value| above_zero(&minute["connections"]) && above_zero(&minute["records_in_per_second"]);
        until(format!("{dsm}/platform"), &root.token, |told| told["minutes"].as_array().unwrap().iter().any(busy)).await;
    };
    tokio::select! {
        () = sending => unreachable!("records are sent until the rates are seen"),
        () = seen => {}
    }
}

#[tokio::test]
async fn a_cluster_is_seen_from_any_node_and_the_program_reaches_all_of_them() {
    let shared = Shared::start().await;
    let (one, mut two) = (shared.node("one", "ap,dsm,ingest").await, shared.node("two", "ap,dsm,ingest").await);
    let (ap, dsm) = (one.at.ap.as_deref().unwrap(), one.at.dsm.as_deref().unwrap());
    let root = root(one.dir.path(), &shared.variables(), ap).await;
    let producer = account(ap, "producer", "p").await;
    let mut device = connect(&two, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    device.send(Lane::Independent, record(1)).await.unwrap();
    acked(&mut device, 1..=1).await;

    let nodes =
        until(format!("{dsm}/nodes"), &root.token, |nodes| nodes[1]["connections"]["quic"] == 1 && nodes[1]["records_in"] == 1).await;
    let names: Vec<&str> = nodes.as_array().unwrap().iter().filter_map(|n| n["node"].as_str()).collect();
    assert_eq!((names, &nodes[0]["connections"]["quic"]), (vec!["one", "two"], &json!(0)));
    assert_eq!((&nodes[1]["roles"], &nodes[1]["durability"]), (&json!(["ap", "dsm", "ingest"]), &json!("redis")));
    let devices = format!("{dsm}/devices/{}", producer.id);
    until(devices.clone(), &root.token, |all| all[0]["connected"] == true && all[0]["node"] == "two" && all[0]["records"] == 1).await;

    let (code, out, err) = admin(one.dir.path(), &shared.variables(), &["revoke", "--username", "p"], "").await;
    assert!(code == 0 && out.contains("on every node"), "{out}{err}");
    let closed = timeout(Duration::from_secs(1), closed_with(&mut device)).await.expect("within a second");
    assert_eq!(closed, CloseCode::Unauthenticated);
    until(devices.clone(), &root.token, |all| all[0]["connected"] == false).await;

    // A node that died is not believed for long.
    assert_eq!(admin(one.dir.path(), &shared.variables(), &["restore", "--username", "p"], "").await.0, 0);
    let token = login(ap, "p").await.1["access_token"].as_str().unwrap().to_owned();
    let _device = connect(&two, &token, "d", Intent::Produce, 8).await.unwrap();
    until(devices.clone(), &root.token, |all| all[0]["connected"] == true).await;
    two.process.kill().await.unwrap();
    until(devices, &root.token, |all| all[0]["connected"] == false).await;
}

#[tokio::test]
async fn the_documents_are_printed_without_opening_anything() {
    let dir = tempfile::tempdir().unwrap();
    for (name, version) in [("ap", "openapi"), ("sm", "openapi"), ("dsm", "openapi"), ("asyncapi", "asyncapi")] {
        let mut command = command(server(), dir.path());
        command.args(["openapi", name]);
        let printed: Value = serde_json::from_str(&crate::harness::output(command).await).unwrap();
        assert!(printed[version].as_str().is_some_and(|v| v.starts_with('3')), "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_program_erases_no_more_at_once_than_a_producer_may() {
    let node = Node::embedded(&[]).await;
    let producer = account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    let erase = async || run(node.dir.path(), &[], &["erase", "--producer", "p", "--device", "d"], "").await;
    let (code, out, err) = erase().await;
    assert!(code == 0 && out.starts_with("Erasure 1 begins"), "{out}{err}");
    let url = format!("{}/erasures", node.at.dsm.as_deref().unwrap());
    for _ in 1..20 {
        assert_eq!(http().post(&url).bearer_auth(&producer.token).json(&json!({"device_id": "d"})).send().await.unwrap().status(), 202);
    }
    assert_eq!(http().post(&url).bearer_auth(&producer.token).json(&json!({"device_id": "d"})).send().await.unwrap().status(), 429);
    let (code, _, err) = erase().await;
    assert!(code == 3 && err.contains("at most 20 erasures"), "{err}");
}
