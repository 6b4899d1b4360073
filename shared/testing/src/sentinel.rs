//! Private Sentinels, which watch a private Redis.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Redis,
    process::{Process, find, free_port},
    redis::answers,
};

/// How the Sentinels call the master.
const MASTER: &str = "main";
/// Longest wait for the Sentinels to agree. One that the machine has held up for two seconds does nothing for thirty (TILT).
const LIMIT: Duration = Duration::from_secs(90);

/// Sentinels on free ports of the loopback. Most of them must agree that the master is away.
#[derive(Debug)]
pub struct Sentinels {
    ports: Vec<u16>,
    _processes: Vec<Process>,
    _folder: TempDir,
}

impl Sentinels {
    /// So many Sentinels for this master, once all know each other and its replicas.
    pub async fn start(number: usize, master: &Redis, replicas: usize) -> Self {
        let sentinels = Self::with(number, master.port(), &[]).await;
        let (others, replicas) = (number - 1, replicas);
        sentinels
            .until("the Sentinels know each other and the replicas", |told| {
                field(told, "num-other-sentinels") == Some(&*others.to_string())
                    && field(told, "num-slaves") == Some(&*replicas.to_string())
            })
            .await;
        sentinels
    }

    /// Sentinels with more lines in their files, which are not waited for. `{port}` is the port of each.
    pub async fn with(number: usize, master: u16, lines: &[&str]) -> Self {
        let folder = TempDir::with_prefix("motience-sentinels-").expect("a temporary folder can be made");
        let (mut ports, mut processes) = (Vec::new(), Vec::new());
        while ports.len() < number {
            let port = free_port();
            let file = folder.path().join(format!("{port}.conf"));
            let plain = !lines.iter().any(|line| line.contains("tls-port"));
            let mut text = if plain { format!("port {port}\n") } else { "port 0\n".to_owned() };
            let _ = write!(text, "bind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {master} {}\n", number / 2 + 1);
            let _ = write!(text, "sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n");
            for line in lines {
                let _ = writeln!(text, "{}", line.replace("{port}", &port.to_string()));
            }
            std::fs::write(&file, text).expect("the file of a Sentinel can be written");
            let mut command = Command::new(find("redis-server", &[], "redis-server"));
            command.arg(&file).args(["--sentinel", "--daemonize", "no", "--dir"]).arg(folder.path());
            let mut process = Process::spawn("redis-server", command, &folder.path().join("log"));
            let listens = || async move {
                if plain { answers(port).await.unwrap_or(false) } else { TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() }
            };
            if process.is_ready(listens).await {
                ports.push(port);
                processes.push(process);
            }
        }
        Self { ports, _processes: processes, _folder: folder }
    }

    /// Hosts and name: all that follows `redis+sentinel://` in the address of the master.
    pub fn place(&self) -> String {
        let places: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("{}/{MASTER}", places.join(","))
    }

    /// `redis+sentinel://127.0.0.1:PORT,127.0.0.1:PORT/MASTER`
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}", self.place())
    }

    /// Has the replica take over from the master.
    pub async fn fail_over(&self) {
        let begun = ask(self.ports[0], &format!("SENTINEL FAILOVER {MASTER}")).await.expect("a Sentinel answers");
        assert!(begun.starts_with("+OK"), "{begun}");
    }

    /// Has the master replaced, whichever it is, and waits until all of them name another.
    pub async fn change_master(&self) {
        let before = self.master_port().await;
        let replaced = |told: &str| field(told, "port").is_some_and(|port| Some(port) != before.as_deref());
        let deadline = Instant::now() + LIMIT;
        // Refused while they do so by themselves, or have no replica yet; and an attempt that has begun may be given up.
        loop {
            let told = ask(self.ports[0], &format!("SENTINEL MASTER {MASTER}")).await.unwrap_or_default();
            if replaced(&told) {
                break;
            }
            assert!(Instant::now() < deadline, "the Sentinels do not replace the master");
            if !field(&told, "flags").is_some_and(|flags| flags.contains("failover_in_progress")) {
                let _ = ask(self.ports[0], &format!("SENTINEL FAILOVER {MASTER}")).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.until("the Sentinels promote the replica", replaced).await;
    }

    /// Port of the master as the first of them names it.
    async fn master_port(&self) -> Option<String> {
        field(&ask(self.ports[0], &format!("SENTINEL MASTER {MASTER}")).await.ok()?, "port").map(str::to_owned)
    }

    /// Waits until all of them name this server as the master.
    pub async fn until_master(&self, redis: &Redis) {
        let port = redis.port().to_string();
        self.until("the Sentinels promote the replica", |told| field(told, "port") == Some(&port[..])).await;
    }

    /// Waits until all of them say so.
    async fn until(&self, what: &str, so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + LIMIT;
        for &port in &self.ports {
            while !so(&ask(port, &format!("SENTINEL MASTER {MASTER}")).await.unwrap_or_default()) {
                assert!(Instant::now() < deadline, "it takes too long until {what}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Sends one command as a person would type it, and returns the answer as it is on the wire. A Sentinel knows no QUIT.
async fn ask(port: u16, command: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    connection.write_all(format!("{command}\r\n").as_bytes()).await?;
    connection.shutdown().await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A field of an answer as it is on the wire.
fn field<'a>(told: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = told.lines().skip_while(|line| *line != name);
    lines.nth(2)
}
