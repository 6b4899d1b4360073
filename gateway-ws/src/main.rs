//! `motience-gateway`: the WebSocket gateway as a process of its own, beside the servers of a cluster.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use motience_certs::Source;
use motience_gateway::{Config, bind, certificate};
use motience_shared::{
    backend::{self, Backend, Kind},
    clock::Clock,
    env::{self, Env},
    http::check_plaintext,
    lifecycle::{EX_CONFIG, Shutdown, notify_ready},
    telemetry,
};
use serde_json::json;
use tracing::warn;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time for connections to end, before the process leaves anyway.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// The WebSocket gateway. Settings come from the environment and from `.env`; see `.env.example`.
#[derive(Parser)]
#[command(name = "motience-gateway", version)]
struct Cli {
    /// Check the configuration, say what is wrong with it, and exit: 0 good, 78 bad.
    #[arg(long)]
    check_config: bool,
    /// Once everything listens, write the addresses to this file as JSON.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // One line for each setting that is wrong.
            format!("{e:#}").lines().for_each(|line| eprintln!("motience-gateway: {line}"));
            if e.is::<env::Error>() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// All settings of the process.
struct Settings {
    gateway: Config,
    backend: backend::Config,
    source: Source,
}

impl Settings {
    /// Reads them and checks how they fit together; the error has everything that is wrong.
    fn from_env(env: &Env) -> Result<Self, env::Error> {
        let mut errors = Vec::new();
        env.gather(&mut errors, Env::environment);
        let gateway = env.gather(&mut errors, Config::from_env);
        let backend = env.gather(&mut errors, backend::Config::from_env);
        let source = env.gather(&mut errors, certificate::from_env);
        if let Some(backend) = &backend
            && backend.kind() == Kind::Embedded
        {
            let problem = "is missing: a gateway by itself meets the servers in Redis; set REDIS_URL and DATABASE_URL";
            errors.push(env::Error::invalid("REDIS_URL", problem));
        }
        if let (Some(gateway), Some(backend), Some(source)) = (&gateway, &backend, &source) {
            errors.extend(certificate::check(source, env.production() && gateway.tls).err());
            let plain = gateway.listeners().into_iter().filter(|(.., tls)| !tls);
            errors.extend(check_plaintext(env, plain.map(|(name, at, _)| (name, at))).err());
            let reached = gateway.listeners().into_iter().find(|(_, at, _)| !at.is_loopback());
            errors.extend(reached.and_then(|(name, at, _)| backend.auth.check_published(name, at)));
        }
        env::Error::all(errors)?;
        match (gateway, backend, source) {
            (Some(gateway), Some(backend), Some(source)) => Ok(Self { gateway, backend, source }),
            _ => unreachable!("nothing is missing where nothing is wrong"),
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let env = Env::load()?;
    let Settings { gateway, backend, source } = Settings::from_env(&env)?;
    if cli.check_config {
        println!("The configuration is good.");
        return Ok(());
    }
    telemetry::init(&env, "info")?;
    let shutdown = Shutdown::new();
    shutdown.spawn_signals();
    let clock = Clock::system();
    let tls = if gateway.tls { Some(source.load(clock.now())?) } else { None };
    let (identity, ca) = tls.unzip();
    let backend = Backend::open(backend, clock.clone()).await?;
    backend.relay.own_node().set_roles(["wss"]);
    let scheme = gateway.scheme();
    let gateway = bind(gateway, identity.as_ref(), None, backend.clone(), shutdown.clone()).await?;
    if let Some(file) = &cli.ready_file {
        let at = gateway.addresses();
        let addresses = json!({
            "wss1": format!("{scheme}://localhost:{}/producer", at.wss1.port()),
            "wss2": format!("{scheme}://localhost:{}/consumer", at.wss2.port()),
            "producer_page": format!("http://localhost:{}/", at.wss1_ui.port()),
            "consumer_page": format!("http://localhost:{}/", at.wss2_ui.port()),
            "ca": ca.flatten(),
        });
        let partial = file.with_extension("partial");
        std::fs::write(&partial, addresses.to_string())
            .and_then(|()| std::fs::rename(&partial, file))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    notify_ready();
    if let Some(identity) = identity {
        shutdown.spawn("certificates", certificate::reload(Arc::clone(&identity), shutdown.clone()));
        shutdown.spawn("renewal", certificate::renew(identity, source, clock, shutdown.clone()));
    }
    shutdown.spawn("gateway", gateway.run());
    shutdown.soft().cancelled().await;
    if !shutdown.drain(DRAIN_LIMIT).await {
        warn!("not everything ended in time");
    }
    if tokio::time::timeout(Duration::from_secs(1), backend.close()).await.is_err() {
        warn!("the backend did not close in time");
    }
    Ok(())
}
