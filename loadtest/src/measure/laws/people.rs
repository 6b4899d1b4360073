//! Accounts of a measurement that are made in the database, many at once, with tokens that the node's secret signs. Through the API the passwords alone would
//! take an hour.

use anyhow::{Context as _, Result};
use motience_auth::{Config, Tokens, random_id};
use motience_proto::model::{LogId, Role, User, UserId};
use motience_runtime::clock::Clock;
use motience_settings::env::Env;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::node::Node;
use crate::common::accounts::Account;

/// A name that the accounts of a role begin with; a number follows.
pub(super) fn prefix(role: Role) -> String {
    format!("law-{role}-")
}

/// Makes `count` accounts of a role with this password hash. Their log ids are those of no other account.
pub(super) async fn make(database: &mut PgConnection, role: Role, count: usize, hash: &str) -> Result<()> {
    let logs = (1_i64 << 33) << i64::from(role == Role::Consumer);
    sqlx::query(MAKE).bind(prefix(role)).bind(hash).bind(role.as_str()).bind(logs).bind(i64::try_from(count)?).execute(database).await?;
    Ok(())
}

/// The accounts that [`make`] made whose names begin so, or the one that has the name, logged in as far as an access token goes.
pub(super) async fn logged_in(node: &Node, database: &mut PgConnection, name: &str) -> Result<Vec<Account>> {
    let env = Env::from_pairs([("JWT_SECRET", node.secret.as_str())]);
    let tokens = Tokens::new(&Config::from_env(&env)?, Clock::system())?;
    let rows: Vec<(i64, String, String, i64)> = sqlx::query_as(MADE).bind(name).fetch_all(database).await?;
    let account = |(id, username, role, log): (i64, String, String, i64)| {
        let user = User {
            id: UserId(id),
            username: username.clone(),
            role: role.parse()?,
            device_id: None,
            strict_device: false,
            visibility: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            log: LogId(log.cast_unsigned()),
        };
        let pair = tokens.issue(&user, &random_id()).context("a token cannot be signed")?;
        Ok::<_, anyhow::Error>(Account {
            id,
            username,
            password: String::new(),
            token: pair.access_token,
            refresh_token: pair.refresh_token,
        })
    };
    rows.into_iter().map(account).collect()
}

const MAKE: &str = "INSERT INTO users (username, password_hash, role, log_id) \
    SELECT $1 || n, $2, $3, $4 + n FROM generate_series(0, $5 - 1) AS n ORDER BY n";
const MADE: &str = "SELECT CAST(id AS BIGINT), username, role, log_id FROM users \
    WHERE username = $1 OR (right($1, 1) = '-' AND starts_with(username, $1)) ORDER BY id";
