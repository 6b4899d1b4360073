//! A node for one measurement, with a Redis and a PostgreSQL of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use motience_testing::{Postgres, Redis};
use sqlx::{Connection as _, PgConnection};

use super::Options;
use crate::common::{
    accounts::{Account, Accounts},
    process,
    server::{Own, secret, shared},
};

pub(super) struct Node {
    pub(super) own: Own,
    pub(super) redis: Redis,
    pub(super) postgres: Postgres,
    /// Signs its tokens.
    pub(super) secret: String,
    settings: Vec<(String, String)>,
}

impl Node {
    /// Starts one. `set` comes before the settings of the command line.
    pub(super) async fn start(options: &Options, set: &[(&str, &str)]) -> Result<Self> {
        let (redis, postgres) = (Redis::start().await, Postgres::start().await);
        let secret = secret();
        let mut settings = shared(&redis, postgres.url(), &secret);
        settings.extend(set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        settings.extend(options.set.iter().cloned());
        let own = Own::start(options.server_program.clone(), &settings).await?;
        Ok(Self { own, redis, postgres, secret, settings })
    }

    /// Ends the server and starts another in its place, with more settings. Returns how long that took to be up.
    pub(super) async fn start_another(self, options: &Options, set: &[(&str, &str)]) -> Result<(Self, Duration)> {
        let Self { own, redis, postgres, secret, mut settings } = self;
        own.stop().await?;
        settings.extend(set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let began = Instant::now();
        let own = Own::start(options.server_program.clone(), &settings).await?;
        Ok((Self { own, redis, postgres, secret, settings }, began.elapsed()))
    }

    pub(super) fn accounts(&self) -> Result<Accounts> {
        Accounts::new(&self.own.addresses)
    }

    /// An account that is an operator's.
    pub(super) async fn operator(&self) -> Result<Account> {
        let accounts = self.accounts()?;
        let made = accounts.make("consumer", 1).await?.remove(0);
        let mut database = self.database().await?;
        sqlx::query("UPDATE users SET role = 'admin' WHERE id = $1").bind(made.id).execute(&mut database).await?;
        database.close().await?;
        accounts.login(&made.username, &made.password).await
    }

    pub(super) async fn database(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.postgres.url()).await.context("the measurement's PostgreSQL does not answer")
    }

    /// Resident bytes of the server.
    pub(super) fn resident(&self) -> Result<u64> {
        process::resident(self.pid()?)
    }

    /// Processor time that the server has used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        process::cpu(self.pid()?)
    }

    fn pid(&self) -> Result<u32> {
        self.own.addresses.pid.context("the server is a process of this machine")
    }
}
