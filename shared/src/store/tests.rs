//! One story, told to every engine, and what only one of them has to show.

mod adoption;
mod concurrency;
mod failure;
mod history;
mod story;

use std::path::Path;

use super::{Config, NewUser, Store};
use crate::{
    model::{Role, User},
    testing::Postgres,
};

/// A store of each engine. What the stores live in lives as long as this.
struct Engines {
    stores: Vec<(&'static str, Store)>,
    _folder: tempfile::TempDir,
    _postgres: Postgres,
}

impl Engines {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Postgres::start().await;
        let stores = vec![
            ("SQLite file", Store::open(&file(folder.path())).await.unwrap()),
            ("SQLite memory", Store::open(&Config::SqliteMemory).await.unwrap()),
            ("PostgreSQL", Store::open(&server(&postgres.url())).await.unwrap()),
        ];
        Self { stores, _folder: folder, _postgres: postgres }
    }
}

fn file(folder: &Path) -> Config {
    Config::SqliteFile { path: folder.join("data").join("motience.db") }
}

fn server(url: &str) -> Config {
    Config::Postgres { url: url.into(), max_connections: 10 }
}

async fn user(store: &Store, name: &str, role: Role) -> User {
    let new = NewUser { username: name.into(), password_hash: "$argon2id$x".into(), role, device_id: None };
    store.create_user(new).await.unwrap()
}
