//! The agent: in this process, and as the program.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use motience_agent::{
    self as agent, Config,
    config::{Kind, Sensor},
};
use motience_device::link::Redundancy;
use motience_proto::wire::{CloseCode, Frame};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::{
    LIMIT, eventually,
    peer::{Guest, Peer, Records},
    service::Service,
    soon,
};

fn config(peer: &Peer, service: &Service, dir: &Path) -> Config {
    let client = peer.config();
    let mut config = Config::new(client.device_id, "user", "password".into(), service.url.clone(), client.server);
    config.trust = client.trust;
    config.state_dir = Some(dir.join("state"));
    config.status_file = Some(dir.join("status.json"));
    // Each record once: on a busy machine acknowledgements come late, which looks like loss.
    config.link.redundancy = Redundancy::Off;
    config
}

/// The next record's readings; acknowledges it.
async fn reading(guest: &mut Guest, records: &mut Records) -> Value {
    let (_, record) = records.next().await;
    guest.ack(&record.seq.to_string()).await;
    let json: Value = serde_json::from_slice(&record.json).unwrap();
    assert_eq!(json["device_id"], "dev");
    json["data"].clone()
}

fn append(path: &Path, text: &str) {
    std::fs::File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn sensors_stream_until_shutdown() {
    let (peer, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    let mut config = config(&peer, &service, dir.path());
    let command = Kind::Command { command: ["echo", "{\"t\":1}"].map(String::from).into(), timeout: LIMIT };
    let interval = Duration::from_millis(50);
    config.sensors.push(Sensor { name: Some("room".into()), kind: command, interval, ..Sensor::system(interval) });
    let status = config.status_file.clone().unwrap();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(agent::run(config, shutdown.clone()));
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    let (mut system, mut room) = (0, 0);
    while system < 1 || room < 2 {
        let data = reading(&mut guest, &mut records).await;
        match data["sensor"].as_str() {
            Some("room") => room += 1,
            _ => {
                assert!(data["memory_total_bytes"].as_u64().unwrap() > 0);
                system += 1;
            }
        }
    }
    eventually("the status", || agent::status::read(&status).is_ok_and(|found| found.exit_code() == 0)).await;
    shutdown.cancel();
    // Records sent before the sensors stopped are still acknowledged.
    let answering = tokio::spawn(async move {
        while guest.connection.close_reason().is_none() {
            if let Ok((_, record)) = tokio::time::timeout(Duration::from_millis(50), records.next()).await {
                guest.ack(&record.seq.to_string()).await;
            }
        }
    });
    let stats = soon("the end", agent).await.unwrap().unwrap();
    assert_eq!(stats.outbox.records, 0);
    assert!(stats.outbox.acked >= 3);
    assert_eq!(agent::status::read(&status).unwrap().exit_code(), 3);
    answering.abort();
}

#[tokio::test]
async fn a_file_is_followed_across_rotation_truncation_and_restart() {
    let (peer, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("readings.jsonl");
    append(&path, "{\"n\":0}\n");
    let mut config = config(&peer, &service, dir.path());
    let kind = Kind::File { path: path.clone(), from_start: true };
    config.sensors = vec![Sensor { kind, ..Sensor::system(Duration::from_millis(10)) }];

    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(agent::run(config.clone(), shutdown.clone()));
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    assert_eq!(reading(&mut guest, &mut records).await["n"], 0);
    append(&path, "{\"n\":1}\nnonsense\n{\"n\":");
    assert_eq!(reading(&mut guest, &mut records).await["n"], 1);
    append(&path, "2}\n");
    assert_eq!(reading(&mut guest, &mut records).await["n"], 2);
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    append(&dir.path().join("old"), "{\"n\":3}\n");
    append(&path, "{\"n\":4,\"longer\":\"than what comes after\"}\n");
    assert_eq!(reading(&mut guest, &mut records).await["n"], 3);
    assert_eq!(reading(&mut guest, &mut records).await["n"], 4);
    std::fs::write(&path, "{\"n\":5}\n").unwrap();
    assert_eq!(reading(&mut guest, &mut records).await["n"], 5);
    shutdown.cancel();
    soon("the end", agent).await.unwrap().unwrap();

    append(&path, "{\"n\":6}\n");
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(agent::run(config, shutdown.clone()));
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    assert_eq!(reading(&mut guest, &mut records).await["n"], 6, "what was acknowledged is not read again");
    shutdown.cancel();
    soon("the end", agent).await.unwrap().unwrap();
}

/// An account that was revoked is restored; nobody is near to start the agent anew.
#[tokio::test]
async fn a_refusal_ends_nothing_and_is_asked_about_again() {
    let (peer, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    let mut config = config(&peer, &service, dir.path());
    config.refused = Duration::from_millis(20);
    config.sensors = vec![Sensor::system(Duration::from_millis(20))];
    let status = config.status_file.clone().unwrap();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(agent::run(config, shutdown.clone()));
    for code in [CloseCode::Forbidden, CloseCode::Protocol, CloseCode::TooLarge] {
        peer.guest().await.close(code);
    }
    let last = peer.guest().await;
    service.refuses.store(true, SeqCst);
    last.close(CloseCode::Unauthenticated);
    let asked = service.asked.load(SeqCst);
    eventually("it asks again and again", || service.asked.load(SeqCst) > asked + 3).await;
    eventually("a status that says why", || {
        std::fs::read_to_string(&status).is_ok_and(|text| text.contains("the login was refused (401): no"))
    })
    .await;
    assert!(!agent.is_finished());
    service.refuses.store(false, SeqCst);
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    assert!(reading(&mut guest, &mut records).await["memory_total_bytes"].as_u64().unwrap() > 0, "what was read meanwhile is there");
    shutdown.cancel();
    drop((guest, records));
    soon("the end", agent).await.unwrap().unwrap();
}

/// The program with the field's variables, reading standard input.
fn program(peer: &Peer, service: &Service, dir: &Path, arguments: &[&str]) -> Child {
    let client = peer.config();
    let motience_certs::Trust::Ca(ca) = client.trust else { panic!("a test without a CA") };
    let file = dir.join("agent.toml");
    // Each record once, so that a test can count them: on a busy machine a packet may count as lost, and the next would repeat its record.
    std::fs::write(&file, "username = \"user\"\n[[sensors]]\nkind = \"stdin\"\n[link]\nredundancy = \"off\"\n").unwrap();
    Command::new(env!("CARGO_BIN_EXE_motience-device"))
        .current_dir(dir)
        .env_clear()
        .envs([("DEVICE_ID", "dev"), ("PASSWORD", "password"), ("AUTH_URL", &service.url), ("RUST_LOG", "warn")])
        .env("SERVER_URL", format!("quic://localhost:{}", client.server.port))
        .env("STATE_DIRECTORY", dir)
        .env("RUNTIME_DIRECTORY", dir)
        .args([Path::new("--config"), &file, Path::new("--ca"), &ca])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The file of the one device that runs there.
fn status_file(dir: &Path) -> PathBuf {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    dir.join(names.into_iter().find(|name| name.starts_with("status-") && name.ends_with(".json")).unwrap_or_default())
}

/// The exit code, standard output and standard error.
async fn end(child: Child) -> (Option<i32>, String, String) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = soon("the program's end", output).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_program_reads_lines_shows_its_status_and_stops_on_sigterm() {
    let (peer, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    assert_eq!(end(program(&peer, &service, dir.path(), &["status"])).await.0, Some(3));
    let mut child = program(&peer, &service, dir.path(), &[]);
    let mut stdin = child.stdin.take().unwrap();
    let mut guest = peer.guest().await;
    assert_eq!((guest.hello.token.as_str(), guest.hello.device_id.as_str()), ("login-1", "dev"));
    guest.welcome("").await;
    let mut records = guest.records();
    stdin.write_all(b"{\"t\":1}\nnonsense\n{\"t\":2}\n").unwrap();
    assert_eq!(reading(&mut guest, &mut records).await["t"], 1);
    assert_eq!(reading(&mut guest, &mut records).await["t"], 2);
    eventually("a status that counts", || std::fs::read_to_string(status_file(dir.path())).is_ok_and(|text| text.contains("\"acked\":2")))
        .await;
    let (code, text, _) = end(program(&peer, &service, dir.path(), &["status"])).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("2 enqueued, 2 acknowledged, 0 refused, 0 dropped, 0 lost, 0 blocked"), "{text}");
    assert!(text.contains("oldest first") && text.contains("bytes on disk"), "{text}");
    assert!(text.contains("2 acknowledged") && text.contains("stdin: 2 records, 1 bad"), "{text}");
    let (_, json, _) = end(program(&peer, &service, dir.path(), &["status", "--json"])).await;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["state"], "connected");

    // Standard input is still open: the blocked read must not hold up the end.
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let (code, _, log) = end(child).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("login-1") && !log.contains("password"), "{log}");
    drop(stdin);
}

#[tokio::test]
async fn the_program_ends_when_its_input_has_ended_and_is_settled() {
    let (peer, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    let mut child = program(&peer, &service, dir.path(), &["run"]);
    child.stdin.take().unwrap().write_all(b"{\"t\":1}").unwrap();
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    assert_eq!(reading(&mut guest, &mut records).await["t"], 1);
    let (code, _, log) = end(child).await;
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test]
async fn exit_codes_say_whether_starting_again_helps() {
    let (peer, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    let (code, _, log) = end(program(&peer, &service, dir.path(), &["register"])).await;
    assert_eq!(code, Some(77), "{log}");
    let away = Service { url: "http://10.1.2.3:3001".into(), ..service.clone() };
    let (code, _, log) = end(program(&peer, &away, dir.path(), &[])).await;
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("AUTH_URL (auth_url) would send secrets to 10.1.2.3 without encryption"), "{log}");
    std::fs::write(dir.path().join(".env"), "DEVICE_ID=dev\nhunter2\n").unwrap();
    let (code, _, log) = end(program(&peer, &service, dir.path(), &[])).await;
    assert_eq!((code, log.trim()), (Some(78), "motience-device: .env:2: this is not NAME=value"));
    std::fs::remove_file(dir.path().join(".env")).unwrap();

    let (code, _, log) = end(program(&peer, &service, dir.path(), &["--server", "http://x"])).await;
    assert_eq!(code, Some(78), "{log}");
    assert!(log.starts_with("motience-device: SERVER_URL (server_url) cannot be used"), "{log}");
}

#[tokio::test]
async fn check_config_tries_the_sensors() {
    let (peer, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    let (code, text, log) = end(program(&peer, &service, dir.path(), &["--check-config"])).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(text.contains("sensor 1 (stdin)") && text.contains("the settings are good"), "{text}");
    let check = |sensor: &str| {
        let mut child = program(&peer, &service, dir.path(), &["--version"]);
        child.wait().unwrap();
        std::fs::write(dir.path().join("agent.toml"), format!("username = \"user\"\n{sensor}")).unwrap();
        let mut again = Command::new(env!("CARGO_BIN_EXE_motience-device"));
        again.current_dir(dir.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        again.envs([("DEVICE_ID", "dev"), ("PASSWORD", "password")]).args(["--config", "agent.toml", "check-config"]);
        let output = again.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let command = |script: &str| format!("[[sensors]]\nkind = \"command\"\nname = \"room\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    let (code, text, _) = check(&command("echo '{}'"));
    assert!(code == Some(0) && text.contains("sensor 1 (room): {") && text.contains(r#""device_id":"dev""#), "{text}");
    let (code, _, log) = check(&command("echo no bus >&2; exit 3"));
    assert!(code == Some(78) && log.contains("sensor 1 (room)") && log.contains("no bus"), "{log}");
    let (code, _, log) = check(&command("echo nonsense"));
    assert!(code == Some(78) && log.contains("sensor 1 (room)"), "{log}");
    let (code, _, log) = check("[[sensors]]\nkind = \"file\"\npath = \"/\"\n");
    assert!(code == Some(78) && log.contains("is no file"), "{log}");
    let (code, _, log) = check(&format!("ca = \"nowhere.pem\"\n{}", command("echo '{}'")));
    assert!(code == Some(78) && log.contains("CA (ca) cannot be used") && log.contains("nowhere.pem"), "{log}");
}

#[tokio::test]
async fn a_killed_program_sends_its_backlog_after_the_restart_once() {
    let (away, service, dir) = (Peer::start(), Service::start().await, tempfile::tempdir().unwrap());
    // This peer never answers: as good as no server.
    let mut child = program(&away, &service, dir.path(), &[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"t\":1}\n{\"t\":2}\n{\"t\":3}\n").unwrap();
    eventually("three records on disk", || {
        let status = std::fs::read(status_file(dir.path())).ok();
        let status: Option<Value> = status.and_then(|text| serde_json::from_slice(&text).ok());
        status.is_some_and(|status| status["outbox"]["records"] == 3 && status["outbox"]["unsaved"] == 0 && status["disk"]["bytes"] != 0)
    })
    .await;
    let (code, _, log) = end(program(&away, &service, dir.path(), &[])).await;
    assert_eq!(code, Some(74), "{log}");
    assert!(log.contains("in use by another process"), "{log}");
    child.kill().unwrap();
    end(child).await;

    let peer = Peer::start();
    let mut child = program(&peer, &service, dir.path(), &[]);
    let mut stdin = child.stdin.take().unwrap();
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    for t in 1..=3 {
        let (_, record) = records.next().await;
        let json: Value = serde_json::from_slice(&record.json).unwrap();
        assert_eq!((record.seq.0, &json["data"]["t"]), (t, &t.into()));
        guest.ack(&t.to_string()).await;
    }
    stdin.write_all(b"{\"t\":4}\n").unwrap();
    drop(stdin);
    let (_, record) = records.next().await;
    let Some(Frame::Skipped(skipped)) = guest.control().await else { panic!("nothing is said of the numbers between") };
    let told = skipped.ranges;
    assert!(told.contains(4) && told.max() < Some(record.seq.0), "numbers of the killed run are not used again: {told}");
    guest.ack(&format!("{told},{}", record.seq)).await;
    let (code, _, log) = end(child).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(records.is_quiet());
}
