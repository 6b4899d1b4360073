//! Nodes of two versions on one platform: those of an earlier revision are replaced one by one by those of the tree (`scripts/test mixed`).

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use futures_util::StreamExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    harness::{Account, LIMIT, PASSWORD, account, command, http, subscribe},
    unread::{Login, login, logout},
    upgrade::{Member, Rolling, SECRET, Version, roll},
};

/// Longest time for an event to reach another node: well below the half minute after which each node reads the database by itself.
const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// The folder with the programs of the earlier version.
fn before() -> Version {
    let folder = PathBuf::from(env::var_os("MIXED_BEFORE").expect("MIXED_BEFORE names the folder with the earlier programs"));
    Version { server: folder.join("motience-server"), gateway: folder.join("motience-gateway") }
}

#[tokio::test]
#[ignore = "needs the programs of an earlier version: scripts/test mixed"]
async fn nodes_of_two_versions_work_together() {
    let old = before();
    roll(&old, &Version::present(), async |rolling: Rolling<'_>| {
        let operator = operator(&old, &rolling).await;
        reports_are_read(&rolling, &operator).await;
        events_are_read(&rolling).await;
    })
    .await;
}

/// An operator, made by the earlier program.
async fn operator(old: &Version, rolling: &Rolling<'_>) -> String {
    let dir = TempDir::new().unwrap();
    let mut create = command(&old.server, dir.path());
    create.args(["admin", "create", "--username", "root"]).envs([("DATABASE_URL", rolling.database_url), SECRET]);
    let mut process = create.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).await.unwrap();
    // 3: made before.
    assert!(matches!(process.wait().await.unwrap().code(), Some(0 | 3)));
    let root = Account { id: 0, username: "root".to_owned(), token: String::new() };
    login(rolling.members[0].node(), &root).await.account.token
}

/// Each server knows all nodes, and the devices of the other.
async fn reports_are_read(rolling: &Rolling<'_>, operator: &str) {
    for server in &rolling.members[..2] {
        let dsm = server.node().at.dsm.as_deref().unwrap();
        until(format!("{dsm}/nodes"), operator, |nodes| nodes.as_array().unwrap().len() >= 4).await;
        for producer in rolling.producers {
            until(format!("{dsm}/devices/{}", producer.id), operator, |devices| devices[0]["connected"] == true).await;
        }
    }
}

async fn until(url: String, token: &str, wanted: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer: Value = http().get(&url).bearer_auth(token).send().await.unwrap().json().await.unwrap();
        if wanted(&answer) {
            return;
        }
        assert!(Instant::now() < deadline, "{url}: {answer}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A logout at each server ends the connection at each gateway, to which the records of each server come.
async fn events_are_read(rolling: &Rolling<'_>) {
    let (servers, gateways) = rolling.members.split_at(2);
    for server in servers {
        for gateway in gateways {
            is_ended(server, gateway, rolling.producers).await;
        }
    }
}

async fn is_ended(server: &Member, gateway: &Member, producers: &[Account; 2]) {
    let (node, name) = (server.node(), format!("c{:08x}", fastrand::u32(..)));
    let consumer = account(node.at.ap.as_deref().unwrap(), "consumer", &name).await;
    let login: Login = login(node, &consumer).await;
    for producer in producers {
        subscribe(node.at.sm.as_deref().unwrap(), &consumer, producer).await;
    }
    let at = format!("{}?token={}", gateway.node().at.wss2.as_deref().unwrap(), login.account.token);
    let (mut socket, _) = timeout(LIMIT, connect_async(at)).await.unwrap().unwrap();
    let mut missing: Vec<String> = producers.iter().map(|producer| producer.id.to_string()).collect();
    while !missing.is_empty() {
        let message = timeout(LIMIT, socket.next()).await.expect("records come").unwrap().unwrap();
        let Message::Text(text) = message else { continue };
        let record: Value = serde_json::from_str(&text).unwrap();
        missing.retain(|id| record["producer_id"] != id[..]);
    }
    logout(node, &login).await;
    let ended = async { while socket.next().await.is_some_and(|message| message.is_ok_and(|message| !message.is_close())) {} };
    timeout(EVENT_LIMIT, ended).await.expect("the connection ends by the event");
}
