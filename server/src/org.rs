//! `motience-server org`: organisations by whoever has the database, also while servers run on it.

use std::process::ExitCode;

use motience_auth::random_id;
use motience_backend as backend;
use motience_proto::model::plan::is_plain_name;
use motience_runtime::clock::Clock;
use motience_settings::{env::Env, output::say};
use motience_store::{MAX_PAGE, Organisation, Store};
use serde_json::json;

use crate::{
    admin::{Refused, find, on_store},
    cli::OrgAction,
    plan::changed,
};

/// Does it, says so, and tells the outcome by the exit code.
pub(crate) async fn run(env: &Env, action: OrgAction) -> anyhow::Result<ExitCode> {
    on_store(env, async |config, store| act(config, store, action).await).await
}

async fn act(config: &backend::Config, store: &Store, action: OrgAction) -> anyhow::Result<()> {
    let now = Clock::system().now();
    match action {
        OrgAction::List => list(store).await,
        OrgAction::Show { name } => show(store, called(store, name).await?).await,
        OrgAction::Create { name, owner } => {
            if !is_plain_name(&name) {
                return Err(Refused::Name(name).into());
            }
            let owner = find(store, owner).await?;
            let made = Organisation { id: random_id(), name, plan: None, created_at: now };
            if !store.add_organisation(&made, Some(owner.id)).await? {
                return Err(Refused::TakenOrganisation(made.name).into());
            }
            let done = format!("The organisation {} is made, with the owner {}", made.name, owner.username);
            changed(config, store, "organisation.create", object(&made), json!({"name": made.name}), &done).await
        }
        OrgAction::Remove { name } => {
            let found = called(store, name).await?;
            store.remove_organisation(&found.id).await?;
            let done = format!("The organisation {} is ended", found.name);
            changed(config, store, "organisation.end", object(&found), json!({"name": found.name}), &done).await
        }
        OrgAction::Member { name, username, role } => {
            let (found, user) = (called(store, name).await?, find(store, username).await?);
            let done = match role {
                Some(role) => store.set_member(&found.id, user.id, role, now).await?,
                None => store.remove_member(&found.id, user.id).await?,
            };
            if !done {
                return Err(Refused::LastOwner(user.username).into());
            }
            let word = role.map_or("no member".to_owned(), |role| role.to_string());
            let detail = json!({"member": user.id.0, "role": role});
            let done = format!("{} is {word} of {}", user.username, found.name);
            changed(config, store, "organisation.role", object(&found), detail, &done).await
        }
        OrgAction::Own { name, username } => {
            let (found, user) = (called(store, name).await?, find(store, username).await?);
            if !store.own_account(&found.id, user.id).await? {
                return Err(Refused::Owned(user.username).into());
            }
            let done = format!("{} owns {}", found.name, user.username);
            changed(config, store, "organisation.own", object(&found), json!({"account": user.id.0}), &done).await
        }
        OrgAction::Release { name, username } => {
            let (found, user) = (called(store, name).await?, find(store, username).await?);
            if !store.release_account(&found.id, user.id).await? {
                return Err(Refused::Owned(user.username).into());
            }
            let done = format!("{} is on its own", user.username);
            changed(config, store, "organisation.release", object(&found), json!({"account": user.id.0}), &done).await
        }
    }
}

async fn called(store: &Store, name: String) -> anyhow::Result<Organisation> {
    Ok(store.organisation_called(&name).await?.ok_or(Refused::UnknownOrganisation(name))?)
}

fn object(organisation: &Organisation) -> String {
    format!("organisation:{}", organisation.id)
}

async fn list(store: &Store) -> anyhow::Result<()> {
    let mut after = String::new();
    loop {
        let found = store.organisations(None, &after, MAX_PAGE).await?;
        for Organisation { id, name, plan, .. } in &found {
            say(format_args!("{id}\t{name}\t{}", plan.as_deref().unwrap_or("no plan")))?;
        }
        match found.last() {
            Some(last) if found.len() == MAX_PAGE as usize => after.clone_from(&last.id),
            _ => return Ok(()),
        }
    }
}

async fn show(store: &Store, organisation: Organisation) -> anyhow::Result<()> {
    for member in store.members(&organisation.id).await? {
        say(format_args!("{}\t{}\t{}", member.role, member.user, member.username))?;
    }
    for (user, username, role) in store.owned_accounts(&organisation.id).await? {
        say(format_args!("account\t{user}\t{username}\t{role}"))?;
    }
    Ok(())
}
