//! Which database, from the environment.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use motience_settings::env::{Reader, settings};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnectOptions;

/// The password that the documentation shows.
const DEFAULT_PASSWORD: &str = "postgres";

const DEFAULT_REFUSED: &str = "has the documented default password, which everybody knows; production needs one of its own";

settings! {
    /// How PostgreSQL is reached, as it is written.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The whole address, which takes precedence over the parts. `sqlite:PATH` is SQLite.
        DATABASE_URL, example "postgres://postgres:postgres@localhost:5432/motience" => url: Option<SecretString>;
        /// Its host.
        DB_HOST, example "localhost" => host: Option<String>;
        /// Its port.
        DB_PORT, example "5432" => port: Option<u16>;
        /// The database.
        DB_NAME, example "motience" => name: Option<String>;
        /// The account.
        DB_USER, example "postgres" => user: Option<String>;
        /// Its password. The one shown is the default, and is refused in production.
        DB_PASSWORD, example "postgres" => password: Option<SecretString>;
        /// Most connections that one node opens. All nodes together, servers and gateways, must stay a few below max_connections of
        /// PostgreSQL (100 by default; 3 are for superusers): nine processes at 10. With more, lower it, or put PgBouncer between.
        DB_MAX_CONNECTIONS = "10" => max_connections: u32, > 0;
        /// The address of a replica of that database (streaming replication): the history is read from it, over as many connections again. Whatever it
        /// lacks yet comes from the log or from the database itself.
        DATABASE_READ_URL, example "postgres://postgres:postgres@replica:5432/motience" => read_url: Option<SecretString>;
        /// How far behind the replica may be to be read.
        DATABASE_READ_LAG = "30s" => read_lag: Duration, > 0;
    }
}

/// Which database to open.
#[derive(Clone, Debug)]
pub enum Config {
    /// A file of an embedded node; made where it does not exist.
    SqliteFile {
        /// The database file.
        path: PathBuf,
    },
    /// A database that lives as long as its [`Store`](super::Store); for tests and demonstrations.
    SqliteMemory,
    /// A PostgreSQL server.
    Postgres {
        /// `postgres://user:password@host:port/database?options`.
        url: SecretString,
        /// Most connections this node opens.
        max_connections: u32,
    },
}

impl Config {
    /// Reads the settings. Where none of them names a database it is SQLite in `data_dir`.
    pub fn read(reader: &mut Reader<'_>, data_dir: &Path) -> Self {
        let settings: Settings = reader.group();
        let embedded = || Self::SqliteFile { path: data_dir.join("motience.db") };
        if let Some(url) = &settings.url {
            return Self::from_url(reader, url.expose_secret().trim(), settings.max_connections).unwrap_or_else(embedded);
        }
        let Settings { host, port, name, user, password, max_connections, .. } = settings;
        if host.is_none() && port.is_none() && name.is_none() && user.is_none() && password.is_none() {
            return embedded();
        }
        let host = host.unwrap_or_else(|| "localhost".to_owned());
        if host.contains(['/', '@', '?', '#', ' ']) {
            reader.wrong("DB_HOST", "must be a host name or an address");
            return Self::Postgres { url: "postgres://localhost".into(), max_connections };
        }
        let password = password.as_ref().map_or(DEFAULT_PASSWORD, |password| password.expose_secret());
        if reader.production() && password == DEFAULT_PASSWORD {
            reader.wrong("DB_PASSWORD", DEFAULT_REFUSED);
        }
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let url = format!(
            "postgres://{}:{}@{host}:{}/{}",
            percent_encode(user.as_deref().unwrap_or("postgres")),
            percent_encode(password),
            port.unwrap_or(5432),
            percent_encode(name.as_deref().unwrap_or("motience")),
        );
        check_readable(reader, "DB_HOST", &url);
        Self::Postgres { url: url.into(), max_connections }
    }

    /// `None`: the address is none.
    fn from_url(reader: &mut Reader<'_>, url: &str, max_connections: u32) -> Option<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            check_address(reader, "DATABASE_URL", url);
            return Some(Self::Postgres { url: url.into(), max_connections });
        }
        match url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path)) {
            Some(":memory:") => Some(Self::SqliteMemory),
            Some(path) if !path.is_empty() => Some(Self::SqliteFile { path: path.into() }),
            _ => {
                reader.wrong("DATABASE_URL", "must begin with postgres:// or sqlite:");
                None
            }
        }
    }
}

impl fmt::Display for Config {
    /// Where it is, for people: without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SqliteFile { path } => path.display().fmt(f),
            Self::SqliteMemory => f.write_str("in memory"),
            Self::Postgres { url, .. } => address(url, f),
        }
    }
}

/// Where a PostgreSQL is, for people: without user and password.
pub(super) fn address(url: &SecretString, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match PgConnectOptions::from_str(url.expose_secret()) {
        Ok(options) => {
            let database = options.get_database().map(|name| format!("/{name}")).unwrap_or_default();
            write!(f, "{}:{}{database}", options.get_host(), options.get_port())
        }
        Err(_) => f.write_str("PostgreSQL"),
    }
}

/// Checks the address of a PostgreSQL as somebody wrote it.
pub(super) fn check_address(reader: &mut Reader<'_>, variable: &str, url: &str) {
    if reader.production() && has_default_password(url) {
        reader.wrong(variable, DEFAULT_REFUSED);
    }
    check_readable(reader, variable, url);
}

fn check_readable(reader: &mut Reader<'_>, variable: &str, url: &str) {
    // The parser's own message may quote the password.
    if PgConnectOptions::from_str(url).is_err() {
        reader.wrong(variable, "cannot be read as the address of a PostgreSQL database");
    }
}

/// Whether an address has [`DEFAULT_PASSWORD`], before its host or among its parameters.
fn has_default_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = place.split('/').next().and_then(|authority| authority.rsplit_once('@')).map_or("", |(user, _)| user);
    let before = user.split_once(':').is_some_and(|(_, password)| password == DEFAULT_PASSWORD);
    before || query.split('&').any(|pair| pair.strip_prefix("password=") == Some(DEFAULT_PASSWORD))
}

/// Writes `text` so that it can stand as one part of a URL.
fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_settings::env::{self, Env};

    fn config(pairs: &[(&str, &str)]) -> Result<Config, env::Error> {
        Env::from_pairs(pairs.iter().copied()).read(|reader| Config::read(reader, Path::new("data")))
    }

    #[test]
    fn nothing_said_is_a_file_in_the_data_folder() {
        assert!(matches!(config(&[]).unwrap(), Config::SqliteFile { path } if path == Path::new("data/motience.db")));
    }

    #[test]
    fn the_parts_make_a_url() {
        let Config::Postgres { url, max_connections } = config(&[("DB_HOST", "db"), ("DB_PASSWORD", "p@ss/w#rd %")]).unwrap() else {
            panic!("PostgreSQL was named");
        };
        assert_eq!(url.expose_secret(), "postgres://postgres:p%40ss%2Fw%23rd%20%25@db:5432/motience");
        assert_eq!(max_connections, 10);
        let options = PgConnectOptions::from_str(url.expose_secret()).unwrap();
        assert_eq!((options.get_host(), options.get_port(), options.get_database()), ("db", 5432, Some("motience")));
    }

    #[test]
    fn production_refuses_the_documented_password() {
        let production = ("NODE_ENV", "Production");
        for (pairs, name) in [
            (vec![("DB_HOST", "db")], "DB_PASSWORD: "),
            (vec![("DB_PASSWORD", "postgres")], "DB_PASSWORD: "),
            (vec![("DATABASE_URL", "postgres://postgres:postgres@db/motience")], "DATABASE_URL: "),
            (vec![("DATABASE_URL", "postgresql://me@db/motience?sslmode=require&password=postgres")], "DATABASE_URL: "),
        ] {
            assert!(config(&pairs).is_ok());
            let error = config(&[pairs, vec![production]].concat()).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
        for own in [("DB_PASSWORD", "postgres1"), ("DATABASE_URL", "postgres://postgres:own@db/postgres")] {
            assert!(config(&[own, production]).is_ok());
        }
    }

    #[test]
    fn a_url_wins_over_the_parts() {
        let both = config(&[("DATABASE_URL", "sqlite:/tmp/x.db"), ("DB_HOST", "db")]).unwrap();
        assert!(matches!(both, Config::SqliteFile { path } if path == Path::new("/tmp/x.db")));
        assert!(matches!(config(&[("DATABASE_URL", "sqlite::memory:")]).unwrap(), Config::SqliteMemory));
    }

    #[test]
    fn errors_name_the_variable_and_no_secret() {
        for (pairs, name) in [
            (vec![("DATABASE_URL", "mysql://root:hunter2@db/x")], "DATABASE_URL: "),
            (vec![("DATABASE_URL", "postgres://root:hunter2@db:port/x")], "DATABASE_URL: "),
            (vec![("DB_HOST", "db"), ("DB_PORT", "hunter")], "DB_PORT: "),
            (vec![("DB_HOST", "root:hunter2@db")], "DB_HOST: "),
            (vec![("DB_HOST", "db"), ("DB_MAX_CONNECTIONS", "0")], "DB_MAX_CONNECTIONS: "),
        ] {
            let error = config(&pairs).unwrap_err().to_string();
            assert!(error.starts_with(name) && !error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", config(&[("DATABASE_URL", "postgres://a:hunter2@db/x")]).unwrap()).contains("hunter2"));
    }
}
