//! `motience-server key`: keys of programs by whoever has the database, also while servers run on it.

use std::process::ExitCode;

use motience_auth::key_family;
use motience_cluster::Event;
use motience_settings::{env::Env, output::say};
use motience_store::{Key, MAX_PAGE, Store};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    admin::{Refused, find, on_store, record, say_told, tell},
    cli::KeyAction,
};

/// Does it, says so, and tells the outcome by the exit code.
pub(crate) async fn run(env: &Env, action: KeyAction) -> anyhow::Result<ExitCode> {
    on_store(env, async |config, store| match action {
        KeyAction::List { username } => list(store, username).await,
        KeyAction::Revoke { id } => {
            let key = store.revoke_key(&id, None).await?.ok_or(Refused::UnknownKey(id))?;
            record(store, "key.revoke", format!("key:{}", key.id), key.user, json!({"name": key.name})).await?;
            let told = tell(config, store, &[Event::FamilyRevoked { family: key_family(&key.id) }]).await;
            say_told(format_args!("The key {} ({}) is revoked", key.id, key.name), told)
        }
    })
    .await
}

async fn list(store: &Store, username: Option<String>) -> anyhow::Result<()> {
    if let Some(username) = username {
        let user = find(store, username).await?;
        return store.keys_of(user.id).await?.iter().try_for_each(show);
    }
    let mut after = String::new();
    loop {
        let keys = store.keys_after(&after, MAX_PAGE).await?;
        keys.iter().try_for_each(show)?;
        match keys.last() {
            Some(last) if keys.len() == MAX_PAGE as usize => after.clone_from(&last.id),
            _ => return Ok(()),
        }
    }
}

fn show(key: &Key) -> anyhow::Result<()> {
    let time = |at: Option<OffsetDateTime>| at.map_or(Ok("never".to_owned()), |at| at.format(&Rfc3339));
    let (ends, used) = (time(key.expires_at)?, time(key.last_used_at)?);
    Ok(say(format_args!("{}\t{}\t{}\t{}\tends {ends}\tused {used}", key.id, key.user, key.name, key.scopes))?)
}
