//! `motience-server subscriptions`: consent by whoever has the database, in place of the producers, also while servers run on it.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, ensure};
use motience_backend as backend;
use motience_proto::model::{Agreement, Status, Subscription, UserId, times};
use motience_relay::pipeline::scope::Scope;
use motience_runtime::clock::Clock;
use motience_settings::{env::Env, output::say};
use motience_store::{self as store, Change, Decision, Page, Store, Terms, Wanted};
use time::format_description::well_known::Rfc3339;

use crate::{
    admin::{Refused, find, on_store, say_told, tell},
    cli::SubscriptionAction,
    subscriptions::decide::event,
};

/// Does it, says so, and tells the outcome by the exit code.
pub(crate) async fn run(env: &Env, action: SubscriptionAction) -> anyhow::Result<ExitCode> {
    on_store(env, async |config, store| act(config, store, action).await).await
}

async fn act(config: &backend::Config, store: &Store, action: SubscriptionAction) -> anyhow::Result<()> {
    let (id, decision) = match action {
        SubscriptionAction::List { producer, status } => return list(store, producer, status).await,
        SubscriptionAction::Approve { id, until, scope } => (id, Decision::Approve(terms(until.as_deref(), scope.as_deref())?)),
        SubscriptionAction::Deny { id } => (id, Decision::Deny),
        SubscriptionAction::Revoke { id } => (id, Decision::Revoke),
    };
    let (subscription, change) = store.decide(id, decision, None, Clock::system().now()).await.map_err(refused)?;
    let done = format!("Subscription {id} is {}", subscription.status);
    if change == Change::Unchanged {
        return Ok(say(format_args!("{done}."))?);
    }
    say_told(format_args!("{done}"), tell(config, store, &[event(&subscription)]).await)
}

/// A decision that its subscription does not allow is refused; anything else is a failure of the database.
fn refused(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::NoSubscription | store::Error::WrongState(_) => Refused::from(error).into(),
        other => other.into(),
    }
}

fn terms(until: Option<&str>, scope: Option<&Path>) -> anyhow::Result<Terms> {
    let now = Clock::system().now();
    let expires_at = until.map(|text| times::read(text).with_context(|| format!("--until must be {}", times::FORMS))).transpose()?;
    ensure!(expires_at.is_none_or(|end| end > now), "--until must be in the future");
    let agreement = scope.map(|path| {
        let text = std::fs::read(path).with_context(|| format!("the scope {} cannot be read", path.display()))?;
        serde_json::from_slice::<Agreement>(&text).with_context(|| format!("the scope {} is no agreement", path.display()))
    });
    let scope = agreement.transpose()?.map(|agreement| Scope::text(agreement, now).map_err(Refused::from)).transpose()?;
    Ok(Terms { expires_at, scope: scope.flatten() })
}

async fn list(store: &Store, producer: Option<String>, status: Option<Status>) -> anyhow::Result<()> {
    let producer = match producer {
        Some(name) => Some(find(store, name).await?.id.producer()),
        None => None,
    };
    let (wanted, now) = (status.map_or(Wanted::Standing, Wanted::Only), Clock::system().now());
    let mut page = Page::default();
    loop {
        let found = match producer {
            Some(producer) => store.subscribers_of(producer, wanted, page, now).await?,
            None => store.subscriptions(wanted, page, now).await?,
        };
        let ids: Vec<UserId> = found.iter().flat_map(|found| [found.consumer_id.user(), found.producer_id.user()]).collect();
        let users = store.users_by_id(&ids).await?;
        let name = |id: UserId| users.get(&id).map_or("?", |user| user.username.as_str());
        for Subscription { id, status, consumer_id, producer_id, expires_at, .. } in &found {
            let until = expires_at.map(|at| at.format(&Rfc3339)).transpose()?.map_or(String::new(), |at| format!("\tuntil {at}"));
            say(format_args!("{id}\t{status}\t{}\t{}{until}", name(consumer_id.user()), name(producer_id.user())))?;
        }
        if !page.turn(found.len(), found.last().map(|last| last.id)) {
            return Ok(());
        }
    }
}
