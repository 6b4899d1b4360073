//! `motience-server plan`: how much accounts and organisations may have, by whoever has the database, also while servers run on it.

use std::process::ExitCode;

use motience_backend as backend;
use motience_cluster::Event;
use motience_proto::model::{PlanLimits, plan::is_plain_name};
use motience_runtime::clock::Clock;
use motience_settings::{env::Env, output::say};
use motience_store::{NewAct, Store};
use serde_json::{Value, json};

use crate::{
    admin::{Refused, find, on_store, say_told, tell},
    cli::{PlanAction, PlanHolder},
};

/// Does it, says so, and tells the outcome by the exit code.
pub(crate) async fn run(env: &Env, action: PlanAction) -> anyhow::Result<ExitCode> {
    on_store(env, async |config, store| act(config, store, action).await).await
}

async fn act(config: &backend::Config, store: &Store, action: PlanAction) -> anyhow::Result<()> {
    match action {
        PlanAction::List => {
            for (name, limits) in store.plans().await? {
                say(format_args!("{name}\t{}", serde_json::to_string(&limits)?))?;
            }
            Ok(())
        }
        PlanAction::Set { name, limits } => {
            if !is_plain_name(&name) {
                return Err(Refused::Name(name).into());
            }
            let limits: PlanLimits = limits.into();
            store.set_plan(&name, &limits, Clock::system().now()).await?;
            changed(config, store, "plan.set", format!("plan:{name}"), json!({"limits": limits}), &format!("The plan {name} is set")).await
        }
        PlanAction::Remove { name } => {
            if !store.remove_plan(&name).await? {
                return Err(Refused::UnknownPlan(name).into());
            }
            changed(config, store, "plan.remove", format!("plan:{name}"), Value::Null, &format!("The plan {name} is removed")).await
        }
        PlanAction::Give { name, to } => give(config, store, Some(name), to).await,
        PlanAction::Take { from } => give(config, store, None, from).await,
    }
}

async fn give(config: &backend::Config, store: &Store, plan: Option<String>, to: PlanHolder) -> anyhow::Result<()> {
    let word = plan.as_ref().map_or("has no plan of its own".to_owned(), |plan| format!("has the plan {plan}"));
    let (object, name, given) = match (to.username, to.organisation) {
        (Some(username), _) => {
            let user = find(store, username).await?;
            (backend::acts::account_object(user.id), user.username, store.give_plan(user.id, plan.as_deref()).await?)
        }
        (None, Some(name)) => {
            let found = store.organisation_called(&name).await?.ok_or_else(|| Refused::UnknownOrganisation(name.clone()))?;
            (format!("organisation:{}", found.id), name, store.give_organisation_plan(&found.id, plan.as_deref()).await?)
        }
        (None, None) => anyhow::bail!("--username or --organisation is missing"),
    };
    if !given {
        return Err(Refused::UnknownPlan(plan.unwrap_or_default()).into());
    }
    changed(config, store, "plan.give", object, json!({"plan": plan}), &format!("{name} {word}")).await
}

/// Records a change of what plans allow, by which an embedded node learns of it, and tells the nodes of a cluster.
pub(crate) async fn changed(
    config: &backend::Config,
    store: &Store,
    act: &'static str,
    object: String,
    detail: Value,
    done: &str,
) -> anyhow::Result<()> {
    store.record_act(&NewAct { at: Clock::system().now(), actor: None, act, object, concerns: [None, None], detail }).await?;
    say_told(format_args!("{done}"), tell(config, store, &[Event::QuotasChanged]).await)
}
