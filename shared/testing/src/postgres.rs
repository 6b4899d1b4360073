//! A private PostgreSQL.

use std::{
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use super::process::{Process, find, free_port};

const PACKAGE: &str = "postgresql";

/// A PostgreSQL server on a free port of the loopback, that lets anyone in.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    port: u16,
    /// PostgreSQL refuses to run as root; a test that does hands the server to this account.
    account: Option<Account>,
    folder: TempDir,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Postgres {
    /// Makes an empty cluster and starts it. Takes a second or two.
    pub async fn start() -> Self {
        let account = is_root().then(|| account_of("postgres"));
        let mut postgres = Self { process: None, port: 0, account, folder: Self::folder(account) };
        postgres.initialise().await;
        postgres.start_anywhere().await;
        postgres
    }

    fn folder(account: Option<Account>) -> TempDir {
        let folder = TempDir::with_prefix("motience-postgres-").expect("a temporary folder can be made");
        if let Some(Account { uid, gid }) = account {
            chown(folder.path(), Some(uid), Some(gid)).expect("root may give its folder away");
        }
        folder
    }

    async fn start_anywhere(&mut self) {
        for _ in 0..5 {
            self.port = free_port();
            if self.try_start().await {
                return;
            }
        }
        panic!("postgres ends at its start:\n{}", std::fs::read_to_string(self.log()).unwrap_or_default());
    }

    /// A replica of this server on another port, which streams from it; once it answers. Restarted, it goes on from where it was.
    pub async fn replica(&self) -> Self {
        let folder = Self::folder(self.account);
        let mut replica = Self { process: None, port: 0, account: self.account, folder };
        let mut copy = replica.command("pg_basebackup");
        copy.args(["--host", "127.0.0.1", "--username", "postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        copy.args(["--port", &self.port.to_string(), "--pgdata"]).arg(replica.data());
        run(&mut copy).await;
        replica.start_anywhere().await;
        replica
    }

    /// The address of the database that is always there; the same after a restart.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Makes an empty database and gives its address, so that several tests can share a server.
    pub async fn database(&self, name: &str) -> String {
        let mut connection = PgConnection::connect(&self.url()).await.expect("the test's PostgreSQL answers");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).execute(&mut connection).await.expect("a new database name");
        self.url_of(name)
    }

    /// Runs a statement in the database that is always there.
    pub async fn execute(&self, statement: &'static str) {
        let mut connection = PgConnection::connect(&self.url()).await.expect("the test's PostgreSQL answers");
        sqlx::raw_sql(statement).execute(&mut connection).await.expect("the statement is good");
    }

    /// The port; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops the server from accepting and answering new connections, as a hung machine would. Sessions that exist go on.
    pub fn pause(&self) {
        self.running().signal("STOP");
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.running().signal("CONT");
    }

    /// Ends the server in order, its sessions cut off; [`start_again`](Self::start_again) brings it back.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            // INT is PostgreSQL's "fast" shutdown; TERM would wait for every session to leave.
            process.stop("INT").await;
        }
    }

    /// Starts the server on the same port and data; nothing happens where it runs.
    pub async fn start_again(&mut self) {
        if self.process.is_none() {
            let started = self.try_start().await;
            assert!(started, "postgres ended at its start, was its port taken? {}", self.url());
        }
    }

    /// Stops and starts again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Copies a database to a file, as `pg_dump` does while nodes use it.
    pub async fn dump(&self, to: &Path) {
        run(self.client("pg_dump").args(["--format=custom", "--file"]).arg(to).arg("--dbname").arg(self.url())).await;
    }

    /// Puts a copy into an empty database.
    pub async fn restore(&self, from: &Path) {
        run(self.client("pg_restore").args(["--exit-on-error", "--dbname"]).arg(self.url()).arg(from)).await;
    }

    /// One of PostgreSQL's programs, run by ourselves.
    fn client(&self, program: &str) -> Command {
        Command::new(find(program, &server_folders(), PACKAGE))
    }

    async fn initialise(&self) {
        let mut command = self.command("initdb");
        command
            .args(["--username", "postgres", "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C", "-D"])
            .arg(self.data());
        let made = tokio::task::spawn_blocking(move || command.output()).await.expect("initdb is waited for");
        let made = made.expect("initdb can be run");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    }

    async fn try_start(&mut self) -> bool {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        // Without fsync it survives a crash of the server, though not of the machine; a test needs no more.
        for setting in ["unix_socket_directories=", "fsync=off", "full_page_writes=off", "max_connections=100", "timezone=America/New_York"]
        {
            command.args(["-c", setting]);
        }
        let mut process = Process::spawn("postgres", command, &self.log());
        let url = self.url();
        let ready = process.is_ready(|| answers(url.clone())).await;
        self.process = ready.then_some(process);
        ready
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find(program, &server_folders(), PACKAGE));
        command.current_dir(self.folder.path()).env_remove("PGDATA");
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// The address of another database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the test stopped this server")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // "Immediate" shutdown takes the server's own children along; killed, it would leave them for a while.
            process.quit();
        }
    }
}

async fn run(command: &mut Command) {
    let name = format!("{command:?}");
    let done = tokio::process::Command::from(std::mem::replace(command, Command::new("true"))).output().await.expect("it can be run");
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
}

async fn answers(url: String) -> bool {
    let Ok(connection) = PgConnection::connect(&url).await else { return false };
    connection.close().await.is_ok()
}

/// Debian keeps the server's programs out of PATH, in a folder for each version.
fn server_folders() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders
}

pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

pub(super) fn account_of(name: &str) -> Account {
    let accounts = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    accounts
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| {
            (fields.first() == Some(&name))
                .then(|| Some(Account { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? }))?
        })
        .unwrap_or_else(|| panic!("there is no account {name}; on Debian: apt-get install {PACKAGE}"))
}
