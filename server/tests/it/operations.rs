//! Interfaces that an operator relies on: readiness, metrics, exit codes, shutdown.

use std::process::Stdio;

use futures_util::StreamExt as _;
use motience_testing::{Postgres, Redis};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::ChildStderr,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, Message, protocol::frame::coding::CloseCode},
};

use crate::harness::{LIMIT, Node, PASSWORD, account, command, gateway, http, output, server, subscribe};

#[tokio::test]
async fn sigterm_drains_and_exits_cleanly() {
    let mut node = Node::embedded(&[]).await;
    let consumer = account(node.at.ap.as_deref().unwrap(), "consumer", "c").await;
    let (mut socket, _) = connect_async(format!("{}?token={}", node.at.wss2.as_deref().unwrap(), consumer.token)).await.unwrap();
    let began = Instant::now();
    node.signal("TERM");
    let goodbye = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
    let Message::Close(Some(frame)) = goodbye else { panic!("a close frame, not {goodbye:?}") };
    assert_eq!(frame.code, CloseCode::Away);
    assert_eq!(node.ended().await, 0);
    assert!(began.elapsed().as_secs() < 10, "within the time that supervisors allow");
}

/// The answer of a readiness check.
async fn ready(node: &Node) -> (u16, serde_json::Value) {
    let answer = http().get(format!("{}/ready", node.at.operations.as_deref().unwrap())).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_drained_node_sends_its_sessions_away_and_goes_on_serving_requests() {
    let mut node = Node::embedded(&[]).await;
    let at = node.at.clone();
    let consumer = account(at.ap.as_deref().unwrap(), "consumer", "c").await;
    let producer = account(at.ap.as_deref().unwrap(), "producer", "p").await;
    subscribe(at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let url = format!("{}?token={}", at.wss2.as_deref().unwrap(), consumer.token);
    let (mut socket, _) = connect_async(&url).await.unwrap();
    let mut stream = http().get(format!("{}/stream?token={}", at.dsm.as_deref().unwrap(), consumer.token)).send().await.unwrap();
    let (status, told) = ready(&node).await;
    assert_eq!((status, &told["sessions"]), (200, &2.into()), "{told}");
    let works = |part: &str| told["parts"][part]["works"] == true && told["parts"][part]["seconds"].is_u64();
    assert!(works("database") && works("log") && works("trim") && told["parts"]["log"]["milliseconds"].is_f64(), "{told}");
    let drain = |arguments: &[&str]| {
        let mut drain = command(server(), node.dir.path());
        drain.arg("drain").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        drain
    };
    let run = timeout(LIMIT, drain(&["--address", "127.0.0.1:1"]).output()).await.unwrap().unwrap();
    assert!(!run.status.success() && String::from_utf8(run.stderr).unwrap().contains("not reachable"));
    let operations = at.operations.as_deref().unwrap().trim_start_matches("http://");
    let run = timeout(LIMIT, drain(&["--address", operations]).output());
    let reading = async {
        let goodbye = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
        let Message::Close(Some(frame)) = goodbye else { panic!("a close frame, not {goodbye:?}") };
        assert_eq!(frame.code, CloseCode::Away);
        // The answer to the close.
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        let mut text = String::new();
        while let Some(chunk) = stream.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
        assert!(text.contains("draining"), "{text}");
    };
    let (run, ()) = tokio::join!(run, reading);
    let run = run.unwrap().unwrap();
    assert!(run.status.success(), "{run:?}");
    let (status, told) = ready(&node).await;
    assert_eq!((status, &told["draining"], &told["sessions"]), (503, &true.into(), &0.into()), "{told}");
    // Requests are answered; a session is refused.
    assert_eq!(http().get(format!("{}/health", at.ap.as_deref().unwrap())).send().await.unwrap().status(), 200);
    account(at.ap.as_deref().unwrap(), "consumer", "later").await;
    let Err(tungstenite::Error::Http(refused)) = connect_async(&url).await else { panic!("the node takes nobody") };
    assert_eq!(refused.status(), 503);
    assert!(node.process.try_wait().unwrap().is_none());
    node.signal("TERM");
    assert_eq!(node.ended().await, 0);
}

/// Reads what a node writes to its log until a line has all of these words.
async fn line_with(lines: &mut Lines<BufReader<ChildStderr>>, words: &[&str]) -> String {
    loop {
        let line = timeout(LIMIT, lines.next_line()).await.expect("a line in time").unwrap().expect("the node runs");
        if words.iter().all(|word| line.contains(word)) {
            return line;
        }
    }
}

#[tokio::test]
async fn settings_are_read_again_on_sighup() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join(".env");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("RATE_LIMIT_LOGIN=1/h\nCORS_ORIGINS=https://a.example\nRUST_LOG=info\nMAX_RECORD_BYTES=64KiB\n");
    let ready = dir.path().join("ready.json");
    let mut command = command(server(), dir.path());
    command.env_remove("RUST_LOG").arg("--ready-file").arg(&ready).stderr(Stdio::piped());
    let (process, at) = Node::spawned(&mut command, &ready).await;
    let mut node = Node { at, process, dir };
    let mut lines = BufReader::new(node.process.stderr.take().unwrap()).lines();
    let (ap, operations) = (node.at.ap.clone().unwrap(), node.at.operations.clone().unwrap());
    let login = async || {
        let wrong = serde_json::json!({"username": "nobody", "password": "wrong"});
        http().post(format!("{ap}/login")).json(&wrong).send().await.unwrap().status().as_u16()
    };
    let allowed = async |origin: &str| {
        let asked = http().get(format!("{ap}/health")).header("origin", origin).send().await.unwrap();
        asked.headers().contains_key("access-control-allow-origin")
    };
    assert_eq!((login().await, login().await), (401, 429));
    assert!(allowed("https://a.example").await && !allowed("https://b.example").await);
    // A broken value keeps all old ones.
    write("RATE_LIMIT_LOGIN=often\nCORS_ORIGINS=https://b.example\nRUST_LOG=info\nMAX_RECORD_BYTES=64KiB\n");
    node.signal("HUP");
    line_with(&mut lines, &["WARN", "RATE_LIMIT_LOGIN", "the old ones stay in force"]).await;
    assert!(login().await == 429 && !allowed("https://b.example").await);
    write("RATE_LIMIT_LOGIN=1000/s\nCORS_ORIGINS=https://b.example\nRUST_LOG=info,motience_session=debug\nMAX_RECORD_BYTES=32KiB\n");
    node.signal("HUP");
    line_with(&mut lines, &["applied", "RATE_LIMIT_LOGIN", "CORS_ORIGINS", "RUST_LOG"]).await;
    line_with(&mut lines, &["WARN", "MAX_RECORD_BYTES", "need a restart"]).await;
    assert_eq!((login().await, login().await), (401, 401));
    assert!(allowed("https://b.example").await && !allowed("https://a.example").await);
    // The filter may be set by an operator, and by nobody else.
    let url = format!("{operations}/logs/filter");
    let consumer = account(&ap, "consumer", "c").await;
    for token in ["", &consumer.token] {
        let refused = http().get(&url).bearer_auth(token).send().await.unwrap().status().as_u16();
        assert!([401, 403].contains(&refused), "{refused}");
    }
    let token = operator(&node).await;
    let told: serde_json::Value = http().get(&url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
    assert_eq!(told["filter"], "info,motience_session=debug");
    let put = async |filter: &str| {
        let body = serde_json::json!({"filter": filter});
        http().put(&url).bearer_auth(&token).json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!((put("a=b=c").await, put("info,motience_http=debug").await), (422, 200));
    line_with(&mut lines, &["an operator has set the filter of logs", "motience_http=debug"]).await;
    node.signal("HUP");
    line_with(&mut lines, &["applied", "RUST_LOG"]).await;
    node.signal("TERM");
    assert_eq!(node.ended().await, 0);
}

/// The token of an operator, who is made by the command line.
async fn operator(node: &Node) -> String {
    let password = node.dir.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let mut make = command(server(), node.dir.path());
    make.args(["admin", "create", "--username", "root", "--password-file"]).arg(&password);
    output(make).await;
    let body = serde_json::json!({"username": "root", "password": PASSWORD});
    let answer = http().post(format!("{}/login", node.at.ap.as_deref().unwrap())).json(&body).send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn a_lame_duck_serves_everybody_and_is_not_ready() {
    let mut node = Node::embedded(&[("LAME_DUCK", "1h")]).await;
    let at = node.at.clone();
    let consumer = account(at.ap.as_deref().unwrap(), "consumer", "c").await;
    node.signal("TERM");
    let deadline = Instant::now() + LIMIT;
    while ready(&node).await.0 != 503 {
        assert!(Instant::now() < deadline, "it is ready");
    }
    let (mut socket, _) = connect_async(format!("{}?token={}", at.wss2.as_deref().unwrap(), consumer.token)).await.unwrap();
    account(at.ap.as_deref().unwrap(), "consumer", "late").await;
    // An operator who does not want to wait sends the signal again.
    node.signal("TERM");
    assert!(matches!(timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap(), Message::Close(_)));
    assert_eq!(node.ended().await, 0);
}

#[tokio::test]
async fn a_bad_setting_is_named_and_exits_78() {
    for (variable, value, says) in [
        ("AP_PORT", "http", "AP_PORT: 'http' must be a whole number"),
        ("JWT_EXPIRES_IN", "soon", "JWT_EXPIRES_IN: 'soon' must be a duration"),
        ("ROLES", "ap", "ROLES: "),
        ("TLS_KEY", "key.pem", "TLS_CERT: is missing"),
    ] {
        let dir = TempDir::new().unwrap();
        for arguments in [&["--check-config"][..], &[]] {
            let run =
                command(server(), dir.path()).args(arguments).env(variable, value).stdout(Stdio::null()).stderr(Stdio::piped()).output();
            let run = timeout(LIMIT, run).await.unwrap().unwrap();
            assert_eq!(run.status.code(), Some(78), "{variable}");
            let told = String::from_utf8(run.stderr).unwrap();
            assert!(told.starts_with(&format!("motience-server: {says}")), "{told}");
        }
    }
    let dir = TempDir::new().unwrap();
    let mut good = command(server(), dir.path());
    good.arg("--check-config");
    assert!(output(good).await.starts_with("The configuration is good"));
}

#[tokio::test]
async fn output_that_nobody_reads_ends_a_command_without_a_panic() {
    for arguments in [&["openapi", "dsm"][..], &["--check-config"], &["demo", "--any-ports"]] {
        let dir = TempDir::new().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        // `output` would read it all the same.
        let run = command(server(), dir.path()).args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
        let run = timeout(LIMIT, run).await.unwrap().unwrap();
        let told = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.code() == Some(0) && !told.contains("panicked"), "{arguments:?}: {:?} {told}", run.status);
    }
}

#[tokio::test]
async fn the_demo_says_what_to_open_and_prints_a_line_a_second() {
    let dir = TempDir::new().unwrap();
    let mut demo = command(server(), dir.path());
    demo.args(["demo", "--any-ports", "--seconds", "4"]);
    let said = output(demo).await;
    let opens: Vec<_> = said.lines().filter(|line| line.starts_with("Open http://localhost:")).collect();
    assert!(matches!(opens[..], [line] if line.ends_with("log in as demo-consumer with the password demo-pass-123.")), "{said}");
    let lines: Vec<_> = said.lines().filter(|line| line.contains(" records/s ")).collect();
    assert!((3..=4).contains(&lines.len()) && lines.iter().any(|line| line.contains("  cpu_percent ")), "{said}");
    assert!(!said.contains("producer_id"), "no record by itself: {said}");
}

#[tokio::test]
async fn an_operator_is_told_in_which_database_and_lists_show_where_nobody_is() {
    let dir = TempDir::new().unwrap();
    let admin = |arguments: &[&str]| {
        let mut admin = command(server(), dir.path());
        admin.arg("admin").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        admin.output()
    };
    let run = timeout(LIMIT, admin(&["list"])).await.unwrap().unwrap();
    let told = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success() && run.stdout.is_empty() && told.contains("motience.db"), "{told}");
    std::fs::write(dir.path().join("password"), "an-operator-1").unwrap();
    let file = dir.path().join("password");
    let run = timeout(LIMIT, admin(&["create", "--username", "root", "--password-file", file.to_str().unwrap()])).await.unwrap().unwrap();
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success() && said.contains("root") && said.contains("motience.db"), "{said}");
    // Settings of serving have no part in other commands.
    let run = timeout(LIMIT, admin(&["list", "--roles", "ap"])).await.unwrap().unwrap();
    assert_eq!(run.status.code(), Some(2));
}

#[tokio::test]
async fn health_readiness_and_metrics_answer_on_every_http_port() {
    let node = Node::embedded(&[]).await;
    let at = &node.at;
    for base in [&at.ap, &at.sm, &at.dsm, &at.operations, &at.producer_page] {
        let base = base.as_deref().unwrap().trim_end_matches('/');
        for path in ["health", "ready"] {
            let answer = http().get(format!("{base}/{path}")).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{base}/{path}");
        }
        let metrics = http().get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("motience_"), "{base}/metrics: {metrics}");
    }
    // Whoever opens the port itself is told what there is.
    let answer = http().get(at.operations.as_deref().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert!(problem["code"] == "not_found" && problem["detail"].as_str().unwrap().contains("/metrics"), "{problem}");
    let port = at.operations.as_deref().unwrap().rsplit(':').next().unwrap();
    // By an address, by that variable, and by the setting of the port.
    for (arguments, variables) in [
        (vec!["--address".to_owned(), format!("127.0.0.1:{port}")], vec![]),
        (vec![], vec![("HEALTHCHECK_ADDRESS", format!("127.0.0.1:{port}"))]),
        (vec![], vec![("OPERATIONS_PORT", port.to_owned()), ("BIND_ADDRESS", "0.0.0.0".to_owned())]),
    ] {
        for program in [server().to_owned(), gateway()] {
            let mut healthcheck = command(&program, node.dir.path());
            healthcheck.arg("healthcheck").args(&arguments).envs(variables.iter().cloned());
            assert_eq!(output(healthcheck).await, "ready\n");
        }
    }
}

#[tokio::test]
async fn ports_of_the_network_tell_only_whether_the_node_is_up() {
    for variables in [&[("METRICS_ON_SERVICE_PORTS", "false")][..], &[("BIND_ADDRESS", "0.0.0.0")], &[("BIND_ADDRESS", "::")]] {
        let node = Node::embedded(variables).await;
        let at = &node.at;
        let get = async |url: String| http().get(url.replace("[::1]", "localhost")).send().await.unwrap();
        for base in [&at.ap, &at.sm, &at.dsm, &at.producer_page, &at.consumer_page] {
            let base = base.as_deref().unwrap().trim_end_matches('/');
            for (path, members) in [("health", ["service", "status"]), ("ready", ["service", "status"])] {
                let told: serde_json::Value = get(format!("{base}/{path}")).await.json().await.unwrap();
                assert!(told.as_object().unwrap().keys().eq(&members), "{base}/{path}: {told}");
            }
            for path in ["metrics", "stats"] {
                assert_eq!(get(format!("{base}/{path}")).await.status(), 404, "{base}/{path}");
            }
        }
        let operations = at.operations.as_deref().unwrap();
        let ready: serde_json::Value = get(format!("{operations}/ready")).await.json().await.unwrap();
        assert_eq!(ready["durability"], "file");
        assert!(get(format!("{operations}/metrics")).await.text().await.unwrap().contains("motience_refusals_total"));
        for side in ["producer", "consumer"] {
            assert_eq!(get(format!("{operations}/stats/{side}")).await.status(), 200);
        }
    }
}

#[tokio::test]
async fn what_a_node_keeps_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::embedded(&[]).await;
    account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    let data = node.dir.path().join("data");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        files.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert!(path.ends_with("log.lock") || mode(&path) == expected, "{}: {:o}", path.display(), mode(&path));
    }
    for entry in std::fs::read_dir(data.join("log.segments")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    for expected in ["log.db", "log.db-wal", "log.segments", "motience.db", "motience.db-wal", "jwt-secret"] {
        assert!(files.iter().any(|file| file == expected), "{expected}: {files:?}");
    }
}

#[tokio::test]
async fn a_check_of_the_settings_tells_everything_that_is_wrong() {
    let dir = TempDir::new().unwrap();
    let told = async |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = command(server(), dir.path());
        let run = command.args(arguments).envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
        let run = timeout(LIMIT, run).await.unwrap().unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    };
    // Nobody listens there.
    let away = [
        ("DATABASE_URL", "postgres://me:hunter2@127.0.0.1:9/motience"),
        ("REDIS_URL", "redis://:hunter2@127.0.0.1:9"),
        ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
    ];
    let (code, text) = told(&["--check-config"], &away).await;
    assert_eq!(code, Some(78), "{text}");
    for line in ["the database 127.0.0.1:9/motience (DATABASE_URL, DB_HOST) cannot be opened", "Redis at 127.0.0.1:9 (REDIS_URL)"] {
        assert_eq!(text.matches(line).count(), 1, "{text}");
    }
    assert_eq!(text.matches("Connection refused").count(), 2, "each cause once: {text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(told(&["--check-config", "--offline"], &away).await, (Some(0), String::new()));
    let wrong = [
        ("JWT_SECERT", "x"),
        ("RATE_LIMIT_LOGINS", "5/m"),
        ("AP_PORT", "http"),
        ("QUIC_CREDIT", "0"),
        ("REDIS_URL", "http://nowhere"),
        ("TLS_CERT", "nowhere.pem"),
        ("TLS_KEY", "nowhere.key"),
    ];
    let (code, text) = told(&["--check-config", "--offline"], &wrong).await;
    assert_eq!(code, Some(78), "{text}");
    for line in [
        "JWT_SECERT: is not a setting; did you mean JWT_SECRET?",
        "RATE_LIMIT_LOGINS: is not a setting",
        "AP_PORT: ",
        "QUIC_CREDIT: ",
        "REDIS_URL: ",
        "TLS_CERT, TLS_KEY: it cannot be loaded: cannot read",
    ] {
        assert_eq!(text.matches(&format!("motience-server: {line}")).count(), 1, "{line}: {text}");
    }
    assert_eq!(text.matches("No such file").count(), 1, "{text}");
    // Wrong settings hide neither an unreachable service nor each other, and what they would name is not tried.
    let (_, text) = told(&["--check-config"], &[&away[..], &[("AP_PORT", "http"), ("REDIS_PORT", "x")]].concat()).await;
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.contains("the database 127.0.0.1:9/motience") && text.contains("AP_PORT: ") && !text.contains("Connection refused (REDIS"),
        "{text}"
    );
    // Error of a start whose folder is a file.
    std::fs::write(dir.path().join("plain"), "x").unwrap();
    let plain = dir.path().join("plain/data");
    for arguments in [&[][..], &["--check-config"]] {
        let (code, text) = told(arguments, &[("DATA_DIR", plain.to_str().unwrap())]).await;
        assert!(code != Some(0) && text.contains(plain.to_str().unwrap()) && text.contains("DATA_DIR"), "{text}");
    }
}

#[tokio::test]
async fn a_node_waits_for_its_database_and_for_redis() {
    let (mut postgres, mut redis) = (Postgres::start().await, Redis::start().await);
    let (database, log) = (postgres.url(), redis.url());
    postgres.stop().await;
    redis.stop().await;
    let dir = TempDir::new().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ready = dir.path().join("ready.json");
    let operations = format!("http://127.0.0.1:{port}");
    let mut command = command(server(), dir.path());
    command.args(["--roles", "ap,sm,dsm,ingest", "--ready-file"]).arg(&ready).env("OPERATIONS_PORT", port.to_string());
    command.envs([("DATABASE_URL", &*database), ("REDIS_URL", &*log), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")]);
    let mut process = command.spawn().unwrap();
    let status = async |path: &str| http().get(format!("{operations}/{path}")).send().await.ok().map(|answer| answer.status().as_u16());
    let until = async |path: &str, wanted: u16| {
        let deadline = Instant::now() + LIMIT;
        while status(path).await != Some(wanted) {
            assert!(Instant::now() < deadline, "{path} does not answer {wanted}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    until("health", 200).await;
    assert_eq!(status("ready").await, Some(503));
    // One of the two is not enough.
    postgres.start_again().await;
    assert_eq!((status("health").await, status("ready").await), (Some(200), Some(503)));
    // The database's answer is reported in its own words, and once.
    let mut check = self::command(server(), dir.path());
    check.arg("--check-config").env("DATABASE_URL", postgres.url_of("nowhere")).stdout(Stdio::null()).stderr(Stdio::piped());
    let run = timeout(LIMIT, check.output()).await.unwrap().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.code() == Some(78) && text.matches("does not exist").count() == 1 && !text.contains("at line"), "{text}");
    assert!(!ready.exists() && process.try_wait().unwrap().is_none());
    redis.start_again().await;
    until("ready", 200).await;
    // Whoever waits for nothing ends at once; a signal ends who waits.
    process.kill().await.unwrap();
    redis.stop().await;
    command.env("BACKEND_WAIT", "0s").stderr(Stdio::piped());
    let run = timeout(LIMIT, command.spawn().unwrap().wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{text}");
    assert!(text.contains("(REDIS_URL)") && text.matches("Connection refused").count() == 1, "{text}");
    command.env("BACKEND_WAIT", "1h").stderr(Stdio::null());
    let mut waiting = command.spawn().unwrap();
    until("ready", 503).await;
    let pid = waiting.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(timeout(LIMIT, waiting.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn the_openapi_documents_and_their_pages_are_served() {
    let node = Node::embedded(&[]).await;
    for (base, path) in [(&node.at.ap, "/register"), (&node.at.sm, "/subscribe"), (&node.at.dsm, "/data")] {
        let base = base.as_deref().unwrap();
        let page = http().get(format!("{base}/api-docs")).send().await.unwrap();
        assert_eq!(page.status(), 200);
        for (header, part) in [("content-security-policy", "frame-ancestors 'none'"), ("referrer-policy", "no-referrer")] {
            assert!(page.headers()[header].to_str().unwrap().contains(part), "{base}: {header}");
        }
        assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("'self'"), "its scripts may run");
        assert!(page.text().await.unwrap().contains("swagger-ui"));
        let answer = http().get(format!("{base}/nothing")).send().await.unwrap();
        assert_eq!(answer.headers()["content-security-policy"], "default-src 'none'; frame-ancestors 'none'");
        let document: serde_json::Value = http().get(format!("{base}/api-docs/openapi.json")).send().await.unwrap().json().await.unwrap();
        assert!(document["paths"][path].is_object(), "{base} documents {path}");
    }
}

/// The settings of the README's first lines: `.env.example` as it is, on free ports.
fn as_documented(dir: &std::path::Path) -> tokio::process::Command {
    let mut command = command(server(), dir);
    command.env_remove("BIND_ADDRESS").env_remove("DATA_DIR").env_remove("CERTS_DIR");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.example"), dir.join(".env")).unwrap();
    command
}

#[tokio::test]
async fn a_platform_that_someone_tries_out_is_for_this_machine_and_has_a_secret_of_its_own() {
    let dir = TempDir::new().unwrap();
    let start = || async {
        let ready = dir.path().join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let mut command = as_documented(dir.path());
        Node::spawned(command.arg("--ready-file").arg(&ready), &ready).await
    };
    let (mut process, at) = start().await;
    let ap = at.ap.clone().unwrap();
    let port: u16 = ap.rsplit(':').next().unwrap().parse().unwrap();
    assert!(ap.starts_with("http://localhost:"), "{ap}");
    let token = account(&ap, "producer", "p").await.token;
    // Both addresses of `localhost`, where the machine has both; none of its others.
    for (host, reached) in [("127.0.0.1", true), ("[::1]", std::net::TcpListener::bind("[::1]:0").is_ok())] {
        let answer = http().get(format!("http://{host}:{port}/health")).send().await;
        assert_eq!(answer.is_ok(), reached, "{host}");
    }
    let everywhere = std::net::TcpListener::bind(("127.0.0.2", port));
    assert!(everywhere.is_ok(), "it listens on one address of this machine: {everywhere:?}");
    let secret = dir.path().join("data/jwt-secret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&secret).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let made = std::fs::read_to_string(&secret).unwrap();
    assert!(made.len() >= 32 && !made.contains("your-secret"));
    // Logins outlive a restart.
    process.kill().await.unwrap();
    let (_process, at) = start().await;
    let verified = http().get(format!("{}/verify", at.ap.unwrap())).bearer_auth(&token).send().await.unwrap();
    assert_eq!(verified.status(), 200);
}

#[tokio::test]
async fn what_is_not_safe_on_a_network_does_not_start() {
    let secret = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    for (variables, says) in [
        (&[("BIND_ADDRESS", "0.0.0.0"), ("JWT_SECRET", "your-secret-key-here")][..], "JWT_SECRET: "),
        (&[("NODE_ENV", "PRODUCTION"), ("JWT_SECRET", "your-secret-key-here")], "JWT_SECRET: "),
        (&[("NODE_ENV", "prod"), ("BIND_ADDRESS", "::"), secret, ("TLS_CERT", "c"), ("TLS_KEY", "k")], "INSECURE_PLAINTEXT: "),
        (&[("MOTIENCE_ENV", "live"), secret], "TLS_CERT: "),
        (&[("MOTIENCE_ENV", "produktion"), secret], "MOTIENCE_ENV: 'produktion'"),
    ] {
        let dir = TempDir::new().unwrap();
        let mut command = command(server(), dir.path());
        let run = command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
        let run = timeout(LIMIT, run).await.unwrap().unwrap();
        let told = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(78), "{variables:?}: {told}");
        assert!(told.contains(&format!("motience-server: {says}")), "{variables:?}: {told}");
    }
}

#[tokio::test]
async fn an_operator_is_heard_when_connections_have_taken_the_descriptors() {
    let dir = TempDir::new().unwrap();
    let ready = dir.path().join("ready.json");
    let mut few = command(std::path::Path::new("sh"), dir.path());
    few.args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""]).arg(server()).arg("--ready-file").arg(&ready);
    let (_process, at) = Node::spawned(&mut few, &ready).await;
    let address = |url: &Option<String>| format!("127.0.0.1:{}", url.as_deref().unwrap().rsplit(':').next().unwrap());
    let (ap, dsm) = (address(&at.ap), address(&at.dsm));
    let mut open = Vec::new();
    for n in 0..160 {
        open.push(tokio::net::TcpStream::connect(if n % 2 == 0 { &ap } else { &dsm }).await.unwrap());
    }
    let operations = at.operations.unwrap();
    let text = async |path: &str| http().get(format!("{operations}/{path}")).send().await.unwrap().text().await.unwrap();
    let deadline = Instant::now() + LIMIT;
    let refused = "motience_connections_refused_total{reason=\"descriptors\"} ";
    while !text("metrics").await.lines().any(|line| line.strip_prefix(refused).is_some_and(|number| number != "0")) {
        assert!(Instant::now() < deadline, "connections beyond the reserve are refused");
    }
    assert!(text("ready").await.contains("durability"));
    drop(open);
    let answers = async || http().get(format!("http://{ap}/health")).send().await.is_ok_and(|answer| answer.status() == 200);
    while !answers().await {
        assert!(Instant::now() < deadline, "room comes back with the connections");
    }
}
