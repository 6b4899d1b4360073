//! The agent's settings, put together from file, environment and command line.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use motience_certs::Trust;
use motience_device::{
    backoff::Backoff,
    client::{Gateway, Server},
    login::Identity,
};
use motience_proto::model::DeviceId;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{
    Config, Enrolment, Error, GRACE, INTERVAL, Kind, Overrides, REFUSED, Sensor, Settings, Variables,
    error::Mistakes,
    file::{File, time},
};
use crate::{names, places};

/// The account that a device belongs to, and the device's name in it.
struct Account {
    device_id: DeviceId,
    username: String,
    password: SecretString,
}

/// Checks everything. The error has all that is wrong.
pub(super) fn assemble(mut file: File, overrides: &Overrides, variables: &Variables) -> Result<Config, Error> {
    let mut wrong = Mistakes::of(overrides.config.as_deref());
    let mut given = Settings::default();
    if let Err(error) = variables.0.read(|reader| given = reader.group()) {
        wrong.add(error);
    }
    let place = identity_place(file.identity.as_deref(), file.state_dir.as_deref(), variables);
    let enrolled = wrong.setting("the device's identity", Identity::read(&place).map_err(|e| e.to_string())).flatten();
    let account = match &enrolled {
        Some(identity) => enrolled_account(identity, &mut file, &given, variables, &mut wrong),
        None => account(&mut file, &given, variables, &mut wrong),
    };
    // An enrolled device comes back to where it enrolled, unless told otherwise.
    let home = enrolled.as_ref().map(|identity| identity.home.clone()).unwrap_or_default();
    let said = |name: &str, value: String| variables.get(name).map(|_| value);
    let server = overrides.server.clone().or(file.server_url.take()).or(said("SERVER_URL", given.server_url.clone()));
    let server = server.or(home.server_url).unwrap_or(given.server_url);
    let server = wrong.setting("SERVER_URL (server_url)", server.parse::<Server>().map_err(|e| format!("cannot be used: {e}")));
    let auth_url = overrides.auth.clone().or(file.auth_url.take()).or(said("AUTH_URL", given.auth_url.clone()));
    let auth_url = auth_url.unwrap_or(if enrolled.is_some() { home.auth_url } else { given.auth_url });
    let gateway = file.fallback_url.take().or(given.fallback_url);
    let gateway = gateway.map(|url| url.parse::<Gateway>().map_err(|e| format!("cannot be used: {e}"))).transpose();
    let fallback = wrong.setting("FALLBACK_URL (fallback_url)", gateway).flatten();
    if !(file.insecure_plaintext.unwrap_or(given.insecure_plaintext) || overrides.insecure_plaintext) {
        refuse_plaintext(&auth_url, fallback.as_ref(), &mut wrong);
    }
    let ca = overrides.ca.clone().or(file.ca.take().map(Into::into)).or(given.ca).or(home.ca);
    let interval = time(Some(file.send_interval_secs.unwrap_or(given.send_interval_secs)));
    let interval = wrong.setting("SEND_INTERVAL_SECS (send_interval_secs)", interval).flatten().unwrap_or(INTERVAL);
    let sensors = sensors(&mut file, interval, &mut wrong);
    let (link, keep_alive) = file.link.check(&mut wrong);
    let grace = wrong.key("shutdown_grace_secs", time(file.shutdown_grace_secs)).flatten().unwrap_or(GRACE);
    let refused = wrong.key("refused_wait_secs", time(file.refused_wait_secs)).flatten().unwrap_or(REFUSED);
    let state_dir = file.state_dir.unwrap_or_else(|| variables.default_state_dir());
    // One for each account and device: records that one has taken must never be sent as another's.
    let identity = account.as_ref().map(|account| identity(&account.username, account.device_id.as_str())).unwrap_or_default();
    let outbox = file.outbox.check(state_dir.join(format!("outbox-{identity:016x}.redb")), &mut wrong);
    let status_file = || Some(variables.status_dirs().first()?.join(places::file_name(identity)));
    let config = account.zip(server).map(|(Account { device_id, username, password }, server)| Config {
        device_id,
        username,
        password,
        identity: enrolled.is_some().then_some(place),
        auth_url,
        server,
        server_name: file.server_name,
        fallback,
        trust: ca.map_or(Trust::Platform, Trust::Ca),
        sensors,
        outbox,
        backoff: Backoff::default(),
        gso: file.gso.unwrap_or(true),
        link,
        keep_alive,
        grace,
        token_file: Some(state_dir.join(format!("token-{identity:016x}.json"))),
        state_dir: Some(state_dir),
        status_file: overrides.status_file.clone().or(file.status_file).or_else(status_file),
        refused,
        log: file.log.unwrap_or(given.log),
    });
    wrong.finish(config)
}

/// Settings of an enrolment.
pub(super) fn enrolment(mut file: File, overrides: &Overrides, variables: &Variables) -> Result<Enrolment, Error> {
    let mut wrong = Mistakes::of(overrides.config.as_deref());
    let mut given = Settings::default();
    if let Err(error) = variables.0.read(|reader| given = reader.group()) {
        wrong.add(error);
    }
    let auth_url = overrides.auth.clone().or(file.auth_url.take()).unwrap_or(given.auth_url);
    if !(file.insecure_plaintext.unwrap_or(given.insecure_plaintext) || overrides.insecure_plaintext) {
        refuse_plaintext(&auth_url, None, &mut wrong);
    }
    let server_url = overrides.server.clone().or(file.server_url.take()).or_else(|| variables.get("SERVER_URL").map(str::to_owned));
    if let Some(url) = &server_url {
        wrong.setting("SERVER_URL (server_url)", url.parse::<Server>().map_err(|e| format!("cannot be used: {e}")));
    }
    let device_id = file.device_id.take().or(given.device_id);
    let device_id =
        device_id.and_then(|name| wrong.setting("DEVICE_ID (device_id)", DeviceId::new(&name).map_err(|e| format!("cannot be used: {e}"))));
    let ca = overrides.ca.clone().or(file.ca.take().map(Into::into)).or(given.ca);
    let place = identity_place(file.identity.as_deref(), file.state_dir.as_deref(), variables);
    let log = file.log.unwrap_or(given.log);
    wrong.finish(Some(Enrolment { auth_url, server_url, ca, place, device_id, log }))
}

/// Where a device's identity is kept: beside its outbox, unless the configuration file says otherwise.
pub(super) fn identity_place(said: Option<&Path>, state_dir: Option<&Path>, variables: &Variables) -> PathBuf {
    said.map_or_else(|| state_dir.map_or_else(|| variables.default_state_dir(), Path::to_owned).join("identity"), Path::to_owned)
}

/// Stands for the account's name, which a device that enrolled need not know.
pub(super) fn enrolled_username(identity: &Identity) -> String {
    format!("producer-{}", identity.certificate.producer_id)
}

fn enrolled_account(
    identity: &Identity,
    file: &mut File,
    given: &Settings,
    variables: &Variables,
    wrong: &mut Mistakes<'_>,
) -> Option<Account> {
    let own = &identity.certificate.device_id;
    let said = file.device_id.take().or_else(|| given.device_id.clone());
    if said.as_deref().is_some_and(|said| said != own.as_str()) {
        wrong.setting::<()>("DEVICE_ID (device_id)", Err(format_args!("is not the device that enrolled here, which is '{own}'")));
    }
    // The name stays part of the outbox's: records that wait there go on waiting when a device enrols.
    let username = file.username.take().or_else(|| variables.username().map(str::to_owned));
    let username = username.unwrap_or_else(|| enrolled_username(identity));
    Some(Account { device_id: own.clone(), username, password: SecretString::default() })
}

/// A number of the names of files: one for each account and device.
pub(super) fn identity(username: &str, device_id: &str) -> u64 {
    names::hash(&[username.as_bytes(), device_id.as_bytes()])
}

fn account(file: &mut File, given: &Settings, variables: &Variables, wrong: &mut Mistakes<'_>) -> Option<Account> {
    let device_id = file.device_id.take().or_else(|| given.device_id.clone());
    let username = file.username.take().or_else(|| variables.username().map(str::to_owned));
    let has_password = file.password.is_some() || file.password_file.is_some() || variables.has_password();
    let missing: Vec<&str> = [
        (device_id.is_some(), "DEVICE_ID (in the configuration file: device_id)"),
        (username.is_some(), "MOTIENCE_USERNAME, or USERNAME (in the configuration file: username)"),
        (has_password, "PASSWORD (in the configuration file: password)"),
    ]
    .into_iter()
    .filter_map(|(there, setting)| (!there).then_some(setting))
    .collect();
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "is" } else { "are" };
        let places = "settings come from the file of --config, from the environment, or from .env";
        wrong.setting::<()>(&missing.join("; "), Err(format_args!("{verb} missing: {places}")));
    }
    let device_id =
        device_id.and_then(|name| wrong.setting("DEVICE_ID (device_id)", DeviceId::new(&name).map_err(|e| format!("cannot be used: {e}"))));
    let password = match (file.password.take(), file.password_file.take()) {
        (Some(_), Some(_)) => wrong.key("password", Err("and password_file exclude each other")),
        (None, Some(path)) => wrong.key("password_file", password_in(&path)),
        (password, None) => password.or_else(|| given.password.clone()),
    };
    if password.as_ref().is_some_and(|password| password.expose_secret().is_empty()) {
        wrong.setting::<()>("PASSWORD (password)", Err("is empty"));
    }
    Some(Account { device_id: device_id?, username: username?, password: password? })
}

fn password_in(path: &Path) -> Result<SecretString, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).into())
}

fn sensors(file: &mut File, interval: Duration, wrong: &mut Mistakes<'_>) -> Vec<Sensor> {
    let Some(asked) = file.sensors.take() else { return vec![Sensor::system(interval)] };
    if asked.is_empty() {
        wrong.refuse("sensors", "is empty: there would be nothing to send");
    }
    let sensors: Vec<Sensor> = asked.into_iter().enumerate().filter_map(|(n, sensor)| sensor.check(n, interval, wrong)).collect();
    if sensors.iter().filter(|sensor| sensor.kind == Kind::Stdin).count() > 1 {
        wrong.refuse("sensors", "has more than one of kind \"stdin\"");
    }
    sensors
}

/// A password, tokens and records must not travel where others can read them.
fn refuse_plaintext(auth_url: &str, fallback: Option<&Gateway>, wrong: &mut Mistakes<'_>) {
    let mut refuse = |setting: &str, secure: &str, host: &str| {
        let remedy = format!("write {secure}, or allow it with --insecure-plaintext (insecure_plaintext, INSECURE_PLAINTEXT)");
        wrong.setting::<()>(setting, Err(format_args!("would send secrets to {host} without encryption: {remedy}")));
    };
    // An address that cannot be read at all is reported later, with how it is written.
    if let Ok(url) = Url::parse(auth_url)
        && url.scheme() == "http"
        && let Some(host) = url.host_str()
        && !is_loopback(host)
    {
        refuse("AUTH_URL (auth_url)", "https://", host);
    }
    if let Some(gateway) = fallback
        && !gateway.is_secure()
        && !is_loopback(gateway.host())
    {
        refuse("FALLBACK_URL (fallback_url)", "wss://", gateway.host());
    }
}

/// Whether the name or address is this machine's own.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}
