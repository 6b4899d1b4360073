//! A private PgBouncer.

use std::{os::unix::fs::chown, process::Command, str::FromStr as _};

use sqlx::{ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::{
    Postgres,
    postgres::{account_of, is_root},
    process::{Process, find, free_port},
};

/// A PgBouncer before a PostgreSQL server, on a free port of the loopback: each transaction may get another session of the server's.
#[derive(Debug)]
pub struct PgBouncer {
    _process: Process,
    port: u16,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts one with few sessions, so that clients share them.
    pub async fn start(postgres: &Postgres) -> Self {
        let folder = TempDir::with_prefix("motience-pgbouncer-").expect("a temporary folder can be made");
        let (settings, log) = (folder.path().join("pgbouncer.ini"), folder.path().join("log"));
        let mut command = Command::new(find("pgbouncer", &["/usr/sbin".into()], "pgbouncer"));
        if is_root() {
            // PgBouncer does not run as root.
            let account = account_of("postgres");
            chown(folder.path(), Some(account.uid), Some(account.gid)).expect("root may give its folder away");
            command.args(["-u", "postgres"]);
        }
        let port = free_port();
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 500\n",
            postgres.port()
        );
        std::fs::write(&settings, text).expect("the folder can be written");
        command.arg(&settings);
        let mut process = Process::spawn("pgbouncer", command, &log);
        let url = url(port, "postgres");
        let ready = process.is_ready(|| answers(url.clone())).await;
        assert!(ready, "pgbouncer ended at its start:\n{}", process.output());
        Self { _process: process, port, _folder: folder }
    }

    /// The address of a database behind it.
    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
}

async fn answers(url: String) -> bool {
    let options = PgConnectOptions::from_str(&url).expect("an address").extra_float_digits(None);
    let Ok(connection) = options.connect().await else { return false };
    connection.close().await.is_ok()
}
