//! The Motience server: accounts, subscriptions, data streams, QUIC ingest and the WebSocket gateway, in one process or
//! in many.

mod admin;
pub mod ap;
mod asyncapi;
pub mod cli;
pub mod config;
mod demo;
mod documents;
pub mod dsm;
pub mod h3;
mod healthcheck;
pub mod http;
pub mod ingest;
pub mod server;
pub mod sm;
pub mod stream;
pub mod webtransport;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use motience_shared::{
    clock::Clock,
    env::{self, Env},
    lifecycle::{EX_CONFIG, Shutdown, notify_ready},
    telemetry,
};
use tokio::runtime::Runtime;

use crate::{
    cli::{Cli, Command},
    config::Config,
    server::{Addresses, Server},
};

/// Does what the command line says; the whole program behind `main`.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = Runtime::new().context("the runtime cannot be started").and_then(|runtime| runtime.block_on(dispatch(cli)));
    match outcome {
        Ok(code) => code,
        Err(e) => match e.downcast_ref::<env::Error>() {
            Some(setting) => {
                // One line for each setting that is wrong.
                setting.to_string().lines().for_each(|line| eprintln!("motience-server: {line}"));
                ExitCode::from(EX_CONFIG)
            }
            None => {
                eprintln!("motience-server: {e:#}");
                ExitCode::FAILURE
            }
        },
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(Command::Healthcheck { address, limit }) = &cli.command {
        return Ok(healthcheck::ask(address, *limit).await);
    }
    if let Some(Command::Openapi { document }) = &cli.command {
        println!("{}", documents::text(*document)?);
        return Ok(ExitCode::SUCCESS);
    }
    let env = Env::load()?;
    if let Some(Command::Admin { action }) = cli.command {
        telemetry::init(&env, "warn")?;
        return admin::run(&env, action).await;
    }
    if let Some(Command::Demo { seconds, dir, any_ports }) = &cli.command {
        telemetry::init(&env, "warn")?;
        return demo::run(&env, demo::Options { seconds: *seconds, dir: dir.clone(), any_ports: *any_ports, ready_file: cli.ready_file })
            .await;
    }
    let config = Config::from_env(&env, cli.roles)?;
    if cli.check_config {
        println!("The configuration is good: {:?} backend, roles {:?}.", config.backend.kind(), config.roles);
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::init(&env, "info")?;
    let shutdown = Shutdown::new();
    shutdown.spawn_signals();
    let server = Server::bind(config, Clock::system(), shutdown).await?;
    if let Some(file) = &cli.ready_file {
        write_ready(file, server.addresses())?;
    }
    notify_ready();
    server.run().await;
    Ok(ExitCode::SUCCESS)
}

/// Whoever waits for the file finds it whole or not at all.
fn write_ready(file: &Path, addresses: &Addresses) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, serde_json::to_vec_pretty(addresses)?)
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("{} cannot be written", file.display()))
}
