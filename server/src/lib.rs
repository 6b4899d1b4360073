//! The Motience server: accounts, subscriptions, data streams, QUIC ingest and the WebSocket gateway, in one process or
//! in many.

pub mod accounts;
mod admin;
mod asyncapi;
mod audit;
mod backup;
pub mod cli;
pub mod config;
pub mod data;
#[cfg(feature = "demo")]
mod demo;
mod devices;
mod documents;
pub mod h3;
pub mod http;
pub mod ingest;
mod key;
mod logs;
mod org;
mod organisations;
mod plan;
pub mod server;
mod settings;
pub mod stream;
mod subscription_admin;
pub mod subscriptions;
mod token_keys;
pub mod webtransport;

use std::{io, path::Path, process::ExitCode};

use anyhow::Context as _;
use motience_backend::Kind;
use motience_gateway::certificate;
use motience_http::{drain, healthcheck, reload};
use motience_otlp::Exporter;
use motience_runtime::{
    causes,
    clock::Clock,
    descriptors,
    lifecycle::{self, EX_CONFIG, Shutdown, notify_ready},
    telemetry,
};
use motience_settings::{
    env::{self, Env},
    output::{is_unread, say},
};
use tracing::{info, warn};

use crate::{
    cli::{Cli, Command, Node},
    config::{Config, OPERATIONS_PORT, Roles},
    server::{Addresses, Server},
};

/// Does what the command line says; the whole program behind `main`.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = lifecycle::run(dispatch(cli)).context("the runtime cannot be started").flatten();
    match outcome {
        Ok(code) => code,
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(is_unread) => ExitCode::SUCCESS,
        Err(e) => match e.downcast_ref::<env::Error>() {
            Some(setting) => {
                // One line for each setting that is wrong.
                setting.to_string().lines().for_each(|line| eprintln!("motience-server: {line}"));
                ExitCode::from(EX_CONFIG)
            }
            None => {
                eprintln!("motience-server: {}", causes(e.as_ref()));
                ExitCode::FAILURE
            }
        },
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Some(Command::Healthcheck { address, limit }) => {
            return Ok(healthcheck::run("motience-server", address.clone(), *limit, OPERATIONS_PORT).await);
        }
        Some(Command::Drain { address, limit }) => {
            return Ok(drain::run("motience-server", address.clone(), *limit, OPERATIONS_PORT).await);
        }
        Some(Command::Openapi { document }) => {
            say(documents::text(*document)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Settings) => {
            say(settings::text().trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let env = Env::load()?;
    let mut node = cli.node;
    match cli.command {
        Some(Command::Admin { action }) => {
            telemetry::init(&env, "warn")?;
            return admin::run(&env, action).await;
        }
        Some(Command::Device { action }) => {
            telemetry::init(&env, "warn")?;
            return admin::devices(&env, action).await;
        }
        Some(Command::Subscriptions { action }) => {
            telemetry::init(&env, "warn")?;
            return subscription_admin::run(&env, action).await;
        }
        Some(Command::Key { action }) => {
            telemetry::init(&env, "warn")?;
            return key::run(&env, action).await;
        }
        Some(Command::Erase(wish)) => {
            telemetry::init(&env, "warn")?;
            return admin::erase(&env, wish).await;
        }
        Some(Command::Audit { action }) => {
            telemetry::init(&env, "warn")?;
            return audit::run(&env, action).await;
        }
        Some(Command::TokenKeys { action }) => {
            telemetry::init(&env, "warn")?;
            return token_keys::run(&env, action);
        }
        Some(Command::Plan { action }) => {
            telemetry::init(&env, "warn")?;
            return plan::run(&env, action).await;
        }
        Some(Command::Org { action }) => {
            telemetry::init(&env, "warn")?;
            return org::run(&env, action).await;
        }
        Some(Command::Log { action }) => {
            telemetry::init(&env, "warn")?;
            return logs::run(&env, action);
        }
        Some(Command::Backup { to }) => {
            telemetry::init(&env, "warn")?;
            return backup::run(&env, &to).await;
        }
        Some(Command::Restore { from }) => {
            telemetry::init(&env, "warn")?;
            return backup::restore(&env, &from).await;
        }
        #[cfg(feature = "demo")]
        Some(Command::Demo { seconds, dir, any_ports, ready_file }) => {
            telemetry::init(&env, "warn")?;
            let ready_file = ready_file.or(node.ready_file);
            return demo::run(&env, demo::Options { seconds, dir, any_ports, ready_file }).await;
        }
        Some(Command::Serve { node: told }) => {
            node = Node { roles: told.roles.or(node.roles), ready_file: told.ready_file.or(node.ready_file) };
        }
        _ => {}
    }
    if cli.check_config {
        return check(&env, node.roles, cli.offline).await;
    }
    let config = Config::from_env(&env, node.roles)?;
    telemetry::init(&env, "info")?;
    telemetry::tell_build(&cli::FEATURES);
    env.misspelt().iter().for_each(|misspelt| warn!("{misspelt}"));
    let traces = Exporter::start(&config.traces, "motience-server", &config.backend.node)?;
    descriptors::prepare(config.most_connections());
    let shutdown = Shutdown::with(config.http.limits.drain);
    shutdown.spawn_signals();
    let (stopped, running) = (shutdown.soft().clone(), shutdown.clone());
    // A check may wait minutes for its database, and is not waited for then.
    let Some(server) = stopped.run_until_cancelled(Server::bind(config, Clock::system(), shutdown)).await else {
        return Ok(ExitCode::SUCCESS);
    };
    let server = server?;
    server.addresses().log();
    let (live, roles) = (server.live(), node.roles);
    let reloading =
        reload(env, running.clone(), move |reader| Config::checked(reader, roles), move |config, changed| live.apply(config, changed));
    running.spawn("settings", reloading);
    if let Some(file) = &node.ready_file {
        write_ready(file, server.addresses())?;
    }
    notify_ready();
    info!("ready");
    server.run().await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says everything that is wrong with the settings, and with what they name. Files and services whose own settings are wrong are not tried.
async fn check(env: &Env, roles: Option<Roles>, offline: bool) -> anyhow::Result<ExitCode> {
    let (config, errors) = env.inspect(|reader| Config::checked(reader, roles));
    let mut wrong = env.misspelt();
    wrong.extend(errors.iter().map(ToString::to_string));
    if config.speaks_tls() {
        wrong.extend(certificate::problem(&config.certificate, &errors));
    }
    if !offline {
        wrong.extend(config.backend.probe(&errors).await);
    }
    if !wrong.is_empty() {
        wrong.iter().for_each(|line| eprintln!("motience-server: {line}"));
        return Ok(ExitCode::from(EX_CONFIG));
    }
    let log = match config.backend.kind() {
        Kind::Embedded => "in this process",
        Kind::Cluster => "in Redis",
    };
    say(format_args!("The configuration is good: the log is {log}, the roles are {}.", config.roles))?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever waits for the file finds it whole or not at all.
fn write_ready(file: &Path, addresses: &Addresses) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, serde_json::to_vec_pretty(addresses)?)
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("{} cannot be written", file.display()))
}
