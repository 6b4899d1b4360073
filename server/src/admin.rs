//! `motience-server admin` and `motience-server device`: accounts and devices by whoever has the database, also while servers run on it.

use std::{
    io::{BufRead as _, IsTerminal as _, stdin},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use motience_auth::{self as auth, HashLimits, Hasher, SecretKind, canonical_username, check_password, random_id};
use motience_backend::{
    self as backend,
    acts::{account_object, erasure_detail},
    devices::{device_changed, device_object, state_act},
};
use motience_cluster::{self as cluster, Event};
use motience_log::{Log, redis};
use motience_proto::model::{Account, DeviceId, DeviceState, ProducerId, Role, User, UserId, Visibility, times};
use motience_relay::pipeline::scope::InvalidScope;
use motience_runtime::clock::Clock;
use motience_settings::{env::Env, output::say};
use motience_store::{self as store, AccountQuery, Erased, Invitation, MAX_PAGE, NewAct, NewUser, Page, Store};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use tracing::warn;

use crate::{
    cli::{Action, DeviceAction, OneDevice, ToErase},
    devices::labels::check as check_labels,
};

/// How long a token for a new password is good.
const RESET_LIFE: Duration = Duration::from_secs(3600);
/// The exit code of what was understood and is not done.
pub(crate) const REFUSED: u8 = 3;

/// Why an account is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the username '{0}' is taken")]
    Taken(String),
    #[error(transparent)]
    Username(#[from] auth::InvalidUsername),
    #[error("the password is refused: {0}")]
    Password(#[from] auth::Weak),
    #[error("there is no account called '{0}'")]
    Unknown(String),
    #[error("'{0}' is no producer")]
    NoProducer(String),
    #[error("there is no device called '{0}'")]
    UnknownDevice(String),
    #[error(transparent)]
    Subscription(#[from] store::Error),
    #[error(transparent)]
    Scope(#[from] InvalidScope),
    #[error("{0}")]
    Labels(String),
    #[error("there is no plan called '{0}'")]
    UnknownPlan(String),
    #[error("there is no organisation called '{0}'")]
    UnknownOrganisation(String),
    #[error("the name '{0}' is taken by another organisation")]
    TakenOrganisation(String),
    #[error("'{0}' is the last owner, or no member")]
    LastOwner(String),
    #[error("'{0}' is an account of another organisation, or of none")]
    Owned(String),
    #[error("'{0}' is no name: 1 to 64 letters, digits, '-', '_' and '.'")]
    Name(String),
    #[error("there is no key with the id '{0}'")]
    UnknownKey(String),
}

/// Does it, says so, and tells the outcome by the exit code.
pub(crate) async fn run(env: &Env, action: Action) -> anyhow::Result<ExitCode> {
    on_store(env, async |config, store| act(config, store, action).await).await
}

/// Does what is asked about devices.
pub(crate) async fn devices(env: &Env, action: DeviceAction) -> anyhow::Result<ExitCode> {
    on_store(env, async |config, store| match action {
        DeviceAction::List { producer } => list_devices(config, store, producer).await,
        DeviceAction::Revoke(one) => set_state(config, store, one, DeviceState::Revoked).await,
        DeviceAction::Quarantine(one) => set_state(config, store, one, DeviceState::Quarantined).await,
        DeviceAction::Restore(one) => set_state(config, store, one, DeviceState::Active).await,
        DeviceAction::Label { one, labels } => label(store, one, labels).await,
    })
    .await
}

/// Does something with the configured database, and tells the outcome by the exit code.
pub(crate) async fn on_store(env: &Env, act: impl AsyncFnOnce(&backend::Config, &Store) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    let config = backend::Config::from_env(env)?;
    if matches!(config.store, store::Config::SqliteMemory) {
        anyhow::bail!("the accounts of this server are in its memory, where no other program reaches them");
    }
    let store = Store::open(&config.store).await.context("the database cannot be opened")?;
    let outcome = act(&config, &store).await;
    store.close().await;
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => match e.downcast_ref::<Refused>() {
            Some(refused) => {
                eprintln!("motience-server: {refused}");
                Ok(ExitCode::from(REFUSED))
            }
            None => Err(e),
        },
    }
}

async fn act(config: &backend::Config, store: &Store, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Create { username, password_file } => {
            // Before anyone is asked for a password.
            let username = canonical_username(&username).map_err(Refused::from)?;
            if store.credentials(&username).await?.is_some() {
                return Err(Refused::Taken(username).into());
            }
            let password = password(password_file.as_deref())?;
            let user = create(store, &Hasher::new(HashLimits::default()), &config.auth, username, password).await?;
            say(format_args!("The operator {} was made, with the id {}, in {}.", user.username, user.id, config.store_place()))?;
        }
        Action::List { role, query } => {
            if list(store, role, query).await? == 0 {
                eprintln!("motience-server: there is no such account in {}", config.store_place());
            }
        }
        Action::Revoke { username } => {
            let user = find(store, username).await?;
            let Some((account, families)) = store.close_account(user.id, Clock::system().now()).await? else {
                return Err(Refused::Unknown(user.username).into());
            };
            record(store, "account.revoke", account_object(user.id), user.id, Value::Null).await?;
            let events = Event::account_closed(&account, &families);
            say_told(format_args!("{} is revoked", user.username), tell(config, store, &events).await)?;
        }
        Action::Visibility { username, set } => {
            let user = find(store, username).await?;
            let visibility = set.as_deref().filter(|set| *set != "default").map(str::parse).transpose()?;
            if !store.set_visibility(user.id.producer(), visibility).await? {
                return Err(Refused::NoProducer(user.username).into());
            }
            let detail = serde_json::json!({"visibility": visibility});
            record(store, "producer.visibility", account_object(user.id), user.id, detail).await?;
            let word = visibility.map_or("as PRODUCER_VISIBILITY says", Visibility::as_str);
            say(format_args!("{} is {word}.", user.username))?;
        }
        Action::Restore { username } => {
            let user = find(store, username).await?;
            store.reopen_account(user.id, Clock::system().now()).await?;
            record(store, "account.restore", account_object(user.id), user.id, Value::Null).await?;
            say(format_args!("{} may log in again.", user.username))?;
        }
        Action::ResetPassword { username } => {
            let user = find(store, username).await?;
            let (token, hash) = SecretKind::Reset.make();
            store.add_reset(&hash, user.id, Clock::system().now() + RESET_LIFE).await?;
            record(store, "account.reset_token", account_object(user.id), user.id, Value::Null).await?;
            // For people, apart from the token, which scripts read.
            eprintln!("Within an hour, and once: POST /account/reset {{\"token\": …, \"new_password\": …}}");
            say(&token)?;
        }
        Action::Invite { role, uses, days } => {
            let (token, hash) = SecretKind::Invitation.make();
            let now = Clock::system().now();
            let expires_at = now + Duration::from_secs(days * 24 * 3600);
            let invitation =
                Invitation { id: random_id(), role, note: None, uses_left: uses, created_by: None, created_at: now, expires_at };
            store.add_invitation(&invitation, &hash).await?;
            let object = format!("invitation:{}", invitation.id);
            let detail = serde_json::json!({"role": role, "uses": uses});
            store.record_act(&NewAct { at: now, actor: None, act: "invitation.create", object, concerns: [None, None], detail }).await?;
            say(&token)?;
        }
    }
    Ok(())
}

/// Makes an operator.
pub(crate) async fn create(
    store: &Store,
    hasher: &Hasher,
    auth: &auth::Config,
    username: String,
    password: SecretString,
) -> anyhow::Result<User> {
    let username = canonical_username(&username).map_err(Refused::from)?;
    check_password(auth, password.expose_secret()).map_err(Refused::from)?;
    let password_hash = hasher.hash(&username, password).await?;
    match store
        .create_user(NewUser { username: username.clone(), password_hash, role: Role::Admin, device_id: None, strict_device: false })
        .await
    {
        Ok(user) => Ok(user),
        Err(store::Error::UsernameTaken) => Err(Refused::Taken(username).into()),
        Err(e) => Err(e.into()),
    }
}

/// How many there were.
async fn list(store: &Store, role: Option<Role>, name: String) -> anyhow::Result<usize> {
    let mut query = AccountQuery { role, name, page: Page::default() };
    let mut shown = 0;
    loop {
        let accounts = store.accounts(&query).await?;
        for Account { user, revoked_at } in &accounts {
            let revoked = revoked_at.map(|at| at.format(&Rfc3339)).transpose()?.map_or(String::new(), |at| format!("\trevoked {at}"));
            say(format_args!("{}\t{}\t{}{revoked}", user.id, user.role, user.username))?;
        }
        shown += accounts.len();
        if !query.page.turn(accounts.len(), accounts.last().map(|last| last.user.id.0)) {
            return Ok(shown);
        }
    }
}

pub(crate) async fn find(store: &Store, username: String) -> anyhow::Result<User> {
    let found = store.credentials_meant(&username).await?;
    Ok(found.ok_or(Refused::Unknown(username))?.user)
}

async fn list_devices(config: &backend::Config, store: &Store, producer: String) -> anyhow::Result<()> {
    let producer = find_producer(store, producer).await?;
    let (mut after, mut shown) = (String::new(), 0);
    loop {
        let devices = store.devices(producer, &after, MAX_PAGE).await?;
        for device in &devices {
            let key = match &device.credential {
                Some(credential) => format!("{}\tuntil {}", credential.algorithm, credential.not_after.format(&Rfc3339)?),
                None => "no key\t".to_owned(),
            };
            let labels: Vec<String> = device.labels.iter().map(|(name, text)| format!("{name}={text}")).collect();
            say(format_args!("{}\t{}\t{key}\t{}", device.state, device.device, labels.join(" ")))?;
        }
        shown += devices.len();
        match devices.last() {
            Some(last) if devices.len() == MAX_PAGE as usize => after.clone_from(&last.device),
            _ => break,
        }
    }
    if shown == 0 {
        eprintln!("motience-server: this producer has no such device in {}", config.store_place());
    }
    Ok(())
}

async fn set_state(config: &backend::Config, store: &Store, one: OneDevice, state: DeviceState) -> anyhow::Result<()> {
    let producer = find_producer(store, one.producer).await?;
    let id = DeviceId::new(&one.device)?;
    let Some((device, ended)) = store.set_device_state(producer, &id, state, config.devices.most, Clock::system().now()).await? else {
        return Err(Refused::UnknownDevice(one.device).into());
    };
    let told = tell(config, store, &device_changed(&device, &ended)).await;
    record(store, state_act(state), device_object(producer, &device.device), producer.user(), Value::Null).await?;
    say_told(format_args!("{id} is {}", device.state), told)
}

async fn label(store: &Store, one: OneDevice, changes: Vec<(String, String)>) -> anyhow::Result<()> {
    let producer = find_producer(store, one.producer).await?;
    let id = DeviceId::new(&one.device)?;
    let known = store.device(producer, id.as_str()).await?.ok_or_else(|| Refused::UnknownDevice(one.device.clone()))?;
    let mut labels = known.labels;
    for (name, text) in changes {
        if text.is_empty() { drop(labels.remove(&name)) } else { drop(labels.insert(name, text)) }
    }
    check_labels(&labels).map_err(Refused::Labels)?;
    let (device, changed) = store.label_device(producer, &id, &labels).await?.ok_or(Refused::UnknownDevice(one.device))?;
    if changed {
        let detail = serde_json::json!({"labels": device.labels});
        record(store, "device.label", device_object(producer, &device.device), producer.user(), detail).await?;
    }
    let labels: Vec<String> = device.labels.iter().map(|(name, text)| format!("{name}={text}")).collect();
    Ok(say(format_args!("{id} has {}.", if labels.is_empty() { "no labels".to_owned() } else { labels.join(" ") }))?)
}

/// Records an act of this command line, by which an embedded node learns of it too.
pub(crate) async fn record(store: &Store, act: &'static str, object: String, owner: UserId, detail: Value) -> anyhow::Result<()> {
    let act = NewAct { at: Clock::system().now(), actor: None, act, object, concerns: [Some(owner), None], detail };
    Ok(store.record_act(&act).await?)
}

/// Asks the nodes to erase records.
pub(crate) async fn erase(env: &Env, wish: ToErase) -> anyhow::Result<ExitCode> {
    on_store(env, async |_, store| {
        let producer = find_producer(store, wish.producer).await?;
        let time = |name: &str, text: Option<String>| {
            text.map(|text| times::read(&text).with_context(|| format!("{name} must be {}", times::FORMS))).transpose()
        };
        let device = wish.device.map(|device| DeviceId::new(&device).map(|_| device)).transpose()?;
        let (from, to) = (time("--from", wish.from)?, time("--to", wish.to)?);
        let erased = Erased { device, from, to, first: wish.first, last: wish.last };
        let begun = match store.begin_record_erasure(producer, &erased, None, Clock::system().now()).await {
            Err(e @ store::Error::TooManyErasures) => return Err(Refused::from(e).into()),
            begun => begun?,
        };
        let begun = begun.ok_or_else(|| Refused::Unknown(producer.to_string()))?;
        record(store, "records.erase", account_object(producer.user()), producer.user(), erasure_detail(&begun)).await?;
        Ok(say(format_args!("Erasure {} begins within 30 seconds on a server that runs (GET /erasures shows it).", begun.id))?)
    })
    .await
}

async fn find_producer(store: &Store, name: String) -> anyhow::Result<ProducerId> {
    let user = find(store, name).await?;
    if user.role == Role::Producer { Ok(user.id.producer()) } else { Err(Refused::NoProducer(user.username).into()) }
}

/// Says what was done, and when the nodes know it.
pub(crate) fn say_told(done: std::fmt::Arguments<'_>, told: anyhow::Result<bool>) -> anyhow::Result<()> {
    let when = match told {
        Ok(true) => ", on every node",
        Ok(false) => "; a server that runs notices within 30 seconds",
        Err(e) => {
            warn!(error = %e, "cannot notify the nodes");
            "; the nodes cannot be told, and notice within 30 seconds"
        }
    };
    Ok(say(format_args!("{done}{when}."))?)
}

/// Tells the nodes of a cluster; `false`: there is none.
pub(crate) async fn tell(config: &backend::Config, store: &Store, events: &[Event]) -> anyhow::Result<bool> {
    let Some(url) = &config.redis else { return Ok(false) };
    let installation = store.installation().await?;
    let (secret, clock) = (&config.auth.secret, Clock::system());
    let log = redis::Log::connect(url, &installation, secret, 0, config.retention, clock, Arc::new(|_| {})).await?;
    let log = Log::Redis(log);
    for event in events {
        cluster::broadcast(&log, event).await?;
    }
    log.close().await;
    Ok(true)
}

/// From the file's or the standard input's first line, or from a person. Never from an argument, which others can see.
fn password(file: Option<&Path>) -> anyhow::Result<SecretString> {
    let first_line = |text: &str| SecretString::from(text.lines().next().unwrap_or_default().to_owned());
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).with_context(|| format!("the password file {} cannot be read", file.display()))?;
        return Ok(first_line(&text));
    }
    if !stdin().is_terminal() {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).context("the password cannot be read from standard input")?;
        return Ok(first_line(&line));
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).context("the password cannot be asked for");
    let password = ask("Password: ")?;
    if ask("Again: ")? != password {
        anyhow::bail!("the two passwords differ");
    }
    Ok(password.into())
}
