//! Which database, from the environment.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use motience_settings::env::{self, Env};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnectOptions;

/// Connections to PostgreSQL of one node, unless DB_MAX_CONNECTIONS says otherwise.
pub const MAX_CONNECTIONS: u32 = 10;

/// The password that the documentation shows.
const DEFAULT_PASSWORD: &str = "postgres";

const DEFAULT_REFUSED: &str = "has the documented default password, which everybody knows; production needs one of its own";

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
    /// DATABASE_URL, or else DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD; none of them: SQLite in `data_dir`.
    pub fn from_env(env: &Env, data_dir: &Path) -> Result<Self, env::Error> {
        if let Some(url) = env.get("DATABASE_URL") {
            return Self::from_url(env, url);
        }
        if ["DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"].iter().any(|name| env.has(name)) {
            let port: u16 = env.parse("DB_PORT", 5432)?;
            let host = env.get("DB_HOST").unwrap_or("localhost");
            if host.contains(['/', '@', '?', '#', ' ']) {
                return Err(env::Error::invalid("DB_HOST", "is a host name or an address"));
            }
            if env.production() && env.get("DB_PASSWORD").unwrap_or(DEFAULT_PASSWORD) == DEFAULT_PASSWORD {
                return Err(env::Error::invalid("DB_PASSWORD", DEFAULT_REFUSED));
            }
            let part = |name: &str, default: &'static str| percent_encode(env.get(name).unwrap_or(default));
            let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
            let url = format!(
                "postgres://{}:{}@{host}:{port}/{}",
                part("DB_USER", "postgres"),
                part("DB_PASSWORD", DEFAULT_PASSWORD),
                part("DB_NAME", "motience")
            );
            return Self::postgres(env, "DB_HOST", url);
        }
        Ok(Self::SqliteFile { path: data_dir.join("motience.db") })
    }

    fn from_url(env: &Env, url: &str) -> Result<Self, env::Error> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            if env.production() && has_default_password(url) {
                return Err(env::Error::invalid("DATABASE_URL", DEFAULT_REFUSED));
            }
            return Self::postgres(env, "DATABASE_URL", url.to_owned());
        }
        match url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path)) {
            Some(":memory:") => Ok(Self::SqliteMemory),
            Some(path) if !path.is_empty() => Ok(Self::SqliteFile { path: path.into() }),
            _ => Err(env::Error::invalid("DATABASE_URL", "begins with postgres:// or sqlite:")),
        }
    }

    fn postgres(env: &Env, variable: &str, url: String) -> Result<Self, env::Error> {
        // The parser's own message may quote the password.
        PgConnectOptions::from_str(&url)
            .map_err(|_| env::Error::invalid(variable, "cannot be read as the address of a PostgreSQL database"))?;
        let max_connections = env.parse("DB_MAX_CONNECTIONS", MAX_CONNECTIONS)?;
        if max_connections == 0 {
            return Err(env::Error::invalid("DB_MAX_CONNECTIONS", "must be at least 1"));
        }
        Ok(Self::Postgres { url: url.into(), max_connections })
    }
}

impl fmt::Display for Config {
    /// Where it is, for people: without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SqliteFile { path } => path.display().fmt(f),
            Self::SqliteMemory => f.write_str("in memory"),
            Self::Postgres { url, .. } => match PgConnectOptions::from_str(url.expose_secret()) {
                Ok(options) => {
                    let database = options.get_database().map(|name| format!("/{name}")).unwrap_or_default();
                    write!(f, "{}:{}{database}", options.get_host(), options.get_port())
                }
                Err(_) => f.write_str("PostgreSQL"),
            },
        }
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

    fn config(pairs: &[(&str, &str)]) -> Result<Config, env::Error> {
        Config::from_env(&Env::from_pairs(pairs.iter().copied()), Path::new("data"))
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
        assert_eq!(max_connections, MAX_CONNECTIONS);
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
