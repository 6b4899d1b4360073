//! A private Redis.

use std::{net::Ipv4Addr, path::Path, process::Command, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::process::{Process, find, free_port};

/// Longest wait for a replica to have its master's data.
const LINK_LIMIT: Duration = Duration::from_secs(20);

/// Folder of the append-only file, in the server's own.
const FILES: &str = "appendonlydir";

/// A Redis server on a free port of the loopback.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: u16,
    append_only: bool,
    /// The port of the server it follows.
    master: Option<u16>,
    /// More of its settings, as on the command line.
    settings: Vec<String>,
    folder: TempDir,
}

impl Redis {
    /// One that keeps everything in memory and forgets it when it ends.
    pub async fn start() -> Self {
        Self::launch(false, None, &[]).await
    }

    /// Starts with more settings, as on the command line: `["--maxmemory", "16mb"]`.
    pub async fn with(settings: &[&str]) -> Self {
        Self::launch(false, None, settings).await
    }

    /// One that follows another as its replica.
    pub async fn replica_of(master: &Self) -> Self {
        Self::following(master, false).await
    }

    /// One that follows another as its replica, and keeps an append-only file as [`durable`](Self::durable) does.
    pub async fn durable_replica_of(master: &Self) -> Self {
        Self::following(master, true).await
    }

    async fn following(master: &Self, append_only: bool) -> Self {
        let replica = Self::launch(append_only, Some(master.port), &[]).await;
        let deadline = tokio::time::Instant::now() + LINK_LIMIT;
        while !replica.command("INFO replication").await.contains("master_link_status:up") {
            assert!(tokio::time::Instant::now() < deadline, "the replica does not reach its master");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        replica
    }

    /// One that writes each command to its append-only file before it answers, and has it again after a restart.
    pub async fn durable() -> Self {
        Self::launch(true, None, &[]).await
    }

    /// One that also listens with TLS, and there asks its clients for certificates too.
    pub async fn over_tls(cert: &str, key: &str, ca: &str) -> Self {
        let port = free_port().to_string();
        let settings = ["--tls-port", &port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca];
        Self::with(&settings).await
    }

    /// One that begins with the append-only file that [`back_up`](Self::back_up) copied.
    pub async fn restored(from: &Path) -> Self {
        Self::launch_in(folder_with(Some(from)), true, None, &[]).await
    }

    /// Copies the append-only file to the folder `to` while the server runs, as Redis's own documentation has it: no rewrite may begin meanwhile.
    pub async fn back_up(&self, to: &Path) {
        self.command("CONFIG SET auto-aof-rewrite-percentage 0").await;
        while !self.command("INFO persistence").await.contains("aof_rewrite_in_progress:0") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        copy(&self.folder.path().join(FILES), &to.join(FILES));
        self.command("CONFIG SET auto-aof-rewrite-percentage 100").await;
    }

    /// The address of [`over_tls`](Self::over_tls).
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.settings.get(1).expect("it listens with TLS"))
    }

    /// `redis://127.0.0.1:PORT`; the same after a restart.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A file for the accounts of the nodes that meet here: those of one database are one installation.
    pub fn accounts(&self) -> std::path::PathBuf {
        self.folder.path().join("accounts.db")
    }

    /// Whether the server was neither stopped nor killed.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// One of its settings, as it was given on the command line.
    pub(super) fn setting(&self, name: &str) -> &str {
        let place = self.settings.iter().position(|setting| setting == name).expect("the server has this setting");
        &self.settings[place + 1]
    }

    /// Whether it is a master, by its own account.
    pub async fn is_master(&self) -> bool {
        self.runs() && ask(self.port, "INFO replication").await.is_ok_and(|told| told.contains("role:master"))
    }

    /// Whether it is a replica that has its master's data.
    pub async fn is_replica(&self) -> bool {
        self.runs() && ask(self.port, "INFO replication").await.is_ok_and(|told| told.contains("master_link_status:up"))
    }

    /// Stops the server from answering while its connections stay open, as a hung machine would.
    pub fn pause(&self) {
        self.running().signal("STOP");
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.running().signal("CONT");
    }

    /// Ends the server in order; [`start_again`](Self::start_again) brings it back.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop("TERM").await;
        }
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts the server on the same port and data; nothing happens where it runs.
    pub async fn start_again(&mut self) {
        if self.process.is_none() {
            let started = self.try_start().await;
            assert!(started, "redis-server ended at its start, was its port taken? {}", self.url());
        }
    }

    /// Stops in order and starts again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Takes the last `bytes` off the append-only file of a server that is down, as a power failure would.
    ///
    /// # Panics
    ///
    /// Where the server runs or keeps no such file.
    pub fn cut_tail(&self, bytes: u64) {
        assert!(self.process.is_none(), "a running server would notice nothing");
        let folder = std::fs::read_dir(self.folder.path().join(FILES)).expect("an append-only file");
        let file = folder.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(".incr.aof"));
        let path = file.expect("an append-only file");
        let length = path.metadata().expect("it can be measured").len();
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("it can be written");
        file.set_len(length.saturating_sub(bytes)).expect("it can be cut");
    }

    /// Removes all data of a server that is down.
    pub fn wipe(&self) {
        assert!(self.process.is_none(), "a running server would write it again");
        let _ = std::fs::remove_dir_all(self.folder.path().join(FILES));
    }

    /// Sends one command as a person would type it, and returns the answer as it is on the wire.
    pub async fn command(&self, command: &str) -> String {
        ask(self.port, command).await.expect("the server runs and answers")
    }

    async fn launch(append_only: bool, master: Option<u16>, settings: &[&str]) -> Self {
        Self::launch_in(folder_with(None), append_only, master, settings).await
    }

    async fn launch_in(folder: TempDir, append_only: bool, master: Option<u16>, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut redis = Self { process: None, port: 0, append_only, master, settings, folder };
        for _ in 0..5 {
            redis.port = free_port();
            if redis.try_start().await {
                return redis;
            }
        }
        panic!("redis-server ends at its start:\n{}", std::fs::read_to_string(redis.folder.path().join("log")).unwrap_or_default());
    }

    async fn try_start(&mut self) -> bool {
        let mut command = Command::new(find("redis-server", &[], "redis-server"));
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no", "--save", ""]);
        command.args(["--appendonly", if self.append_only { "yes" } else { "no" }, "--appendfsync", "always"]);
        command.arg("--dir").arg(self.folder.path());
        if let Some(master) = self.master {
            command.args(["--replicaof", "127.0.0.1", &master.to_string()]);
        }
        command.args(&self.settings);
        let mut process = Process::spawn("redis-server", command, &self.folder.path().join("log"));
        let port = self.port;
        let ready = process.is_ready(|| async move { answers(port).await.unwrap_or(false) }).await;
        self.process = ready.then_some(process);
        ready
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the test stopped this server")
    }
}

/// A folder for a server, with a copy of an append-only file in it.
fn folder_with(files: Option<&Path>) -> TempDir {
    let folder = TempDir::with_prefix("motience-redis-").expect("a temporary folder can be made");
    if let Some(files) = files {
        copy(&files.join(FILES), &folder.path().join(FILES));
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder of a copy can be made");
    for entry in std::fs::read_dir(from).expect("there is an append-only file").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
    }
}

/// Sends one command as a person would type it, and returns the answer as it is on the wire.
async fn ask(port: u16, command: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

pub(super) async fn answers(port: u16) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    connection.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    connection.read_exact(&mut answer).await?;
    Ok(&answer == b"+PONG\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_durable_one_remembers_and_another_does_not() {
        for (mut redis, remembered) in [(Redis::durable().await, "$1\r\n1\r\n+OK\r\n"), (Redis::start().await, "$-1\r\n+OK\r\n")] {
            assert_eq!(redis.command("SET a 1").await, "+OK\r\n+OK\r\n");
            redis.restart().await;
            assert_eq!(redis.command("GET a").await, remembered);
            redis.kill();
            assert!(!answers(redis.port()).await.unwrap_or(false));
            redis.start_again().await;
            assert_eq!(redis.command("GET a").await, remembered);
        }
    }

    #[tokio::test]
    async fn a_paused_one_is_silent_until_resumed() {
        let redis = Redis::start().await;
        redis.pause();
        let port = redis.port();
        let asked = tokio::spawn(async move { answers(port).await.unwrap() });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), answers(port)).await.is_err());
        redis.resume();
        assert!(asked.await.unwrap());
    }
}
