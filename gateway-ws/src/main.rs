//! `motience-gateway`: the WebSocket gateway as a process of its own, beside the servers of a cluster.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, LazyLock},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use motience_backend::{self as backend, Backend, Kind};
use motience_certs::Source;
use motience_gateway::{Addresses, Config, bind, certificate};
use motience_http::{
    Detail, ListenAddress, Listener, Operations, check_plaintext, drain, healthcheck, operations as operations_router, operations_listener,
    reload, serve, while_starting,
};
use motience_otlp::Exporter;
use motience_runtime::{
    causes,
    clock::Clock,
    descriptors,
    lifecycle::{self, EX_CONFIG, Shutdown, notify_ready},
    telemetry::{self, Logging, Traces},
};
use motience_settings::{
    env::{self, Env, Reader},
    output::say,
};
use serde_json::json;
use tracing::{info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The operations port of a gateway unless OPERATIONS_PORT says otherwise: beside a server on the same machine, which has 9090.
const OPERATIONS_PORT: u16 = 9091;

static VERSION: LazyLock<String> = LazyLock::new(|| motience_settings::version(&[]));

/// The WebSocket gateway. Settings come from the environment and from `.env`; `motience-server settings` lists them with their defaults.
#[derive(Parser)]
#[command(name = "motience-gateway", version = VERSION.as_str())]
struct Cli {
    /// Check the settings, report everything that is wrong, and exit: 0 good, 78 bad. Also opens the certificate files and connects to
    /// the database and Redis.
    #[arg(long)]
    check_config: bool,
    /// With --check-config: do not connect to the database and Redis.
    #[arg(long, requires = "check_config")]
    offline: bool,
    /// Write the addresses to this file, as JSON, once all ports listen.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// The command. Default: serve.
    #[command(subcommand)]
    command: Option<Command>,
}

/// The commands of the program.
#[derive(Subcommand)]
enum Command {
    /// Drain a running gateway on this machine: it is no longer ready, takes no new sessions, and asks those it has to leave. Stop it afterwards.
    ///
    /// Exit codes: 0 no session is left; 1 some are, or the node cannot be asked.
    Drain {
        /// Address of the operations port (also HEALTHCHECK_ADDRESS). Default: from OPERATIONS_ADDRESS and OPERATIONS_PORT.
        #[arg(long)]
        address: Option<String>,
        /// Seconds to wait until the last session has left.
        #[arg(long, default_value_t = 600)]
        limit: u64,
    },
    /// Ask a running gateway whether it is ready: exit code 0 or 1.
    Healthcheck {
        /// Address of the operations port (also HEALTHCHECK_ADDRESS). Default: from OPERATIONS_ADDRESS and OPERATIONS_PORT.
        #[arg(long)]
        address: Option<String>,
        /// Seconds to wait for the answer.
        #[arg(long, default_value_t = 3)]
        limit: u64,
    },
}

fn main() -> ExitCode {
    match lifecycle::run(run(Cli::parse())).context("the runtime cannot be started").flatten() {
        Ok(code) => code,
        Err(e) => {
            // One line for each setting that is wrong.
            causes(e.as_ref()).lines().for_each(|line| eprintln!("motience-gateway: {line}"));
            if e.is::<env::Error>() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// All settings of the process.
struct Settings {
    gateway: Config,
    backend: backend::Config,
    source: Source,
    operations: ListenAddress,
    traces: Traces,
}

impl Settings {
    /// Reads them and checks how they fit together.
    fn read(reader: &mut Reader<'_>) -> Self {
        let settings = Self {
            gateway: reader.group(),
            backend: backend::Config::read(reader),
            source: certificate::source(reader),
            operations: Operations::address(reader, OPERATIONS_PORT),
            traces: reader.group(),
        };
        let Self { gateway, backend, source, .. } = &settings;
        // Only for what is wrong with it: logs are set up for commands too, which read nothing else.
        let _: Logging = reader.group();
        if backend.kind() == Kind::Embedded {
            reader.wrong("REDIS_URL", "is missing: a gateway by itself meets the servers in Redis; set REDIS_URL and DATABASE_URL");
        }
        if gateway.tls {
            certificate::check(reader, source);
        }
        check_plaintext(reader, gateway.listeners().into_iter().filter(|(.., tls)| !tls).map(|(name, at, _)| (name, at)));
        if let Some((name, at, _)) = gateway.listeners().into_iter().find(|(_, at, _)| !at.is_loopback()) {
            backend.auth.check_published(reader, name, at);
        }
        settings
    }
}

/// Says everything that is wrong with the settings, and with what they name. Files and services whose own settings are wrong are not tried.
async fn check(env: &Env, offline: bool) -> ExitCode {
    let (settings, errors) = env.inspect(Settings::read);
    let mut wrong = env.misspelt();
    wrong.extend(errors.iter().map(ToString::to_string));
    if settings.gateway.tls {
        wrong.extend(certificate::problem(&settings.source, &errors));
    }
    if !offline {
        wrong.extend(settings.backend.probe(&errors).await);
    }
    if wrong.is_empty() {
        // Whoever does not read it has the exit code.
        let _ = say("The configuration is good.");
        return ExitCode::SUCCESS;
    }
    wrong.iter().for_each(|line| eprintln!("motience-gateway: {line}"));
    ExitCode::from(EX_CONFIG)
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Some(Command::Healthcheck { address, limit }) => {
            return Ok(healthcheck::run("motience-gateway", address, limit, OPERATIONS_PORT).await);
        }
        Some(Command::Drain { address, limit }) => return Ok(drain::run("motience-gateway", address, limit, OPERATIONS_PORT).await),
        None => {}
    }
    let env = Env::load()?;
    if cli.check_config {
        return Ok(check(&env, cli.offline).await);
    }
    let Settings { gateway, backend, source, operations, traces } = env.read(Settings::read)?;
    telemetry::init(&env, "info")?;
    telemetry::tell_build(&[]);
    env.misspelt().iter().for_each(|misspelt| warn!("{misspelt}"));
    let traces = Exporter::start(&traces, "motience-gateway", &backend.node)?;
    descriptors::prepare(backend.permits.websocket + 2 * gateway.limits.connections);
    let shutdown = Shutdown::with(gateway.limits.drain);
    shutdown.spawn_signals();
    let clock = Clock::system();
    let load = || source.load(clock.now()).with_context(|| format!("the certificate cannot be used ({})", certificate::settings(&source)));
    let tls = if gateway.tls { Some(load()?) } else { None };
    let (identity, ca) = tls.unzip();
    let bind_error = |cause| motience_gateway::Error::Bind { address: operations, setting: "OPERATIONS_PORT", cause };
    let sockets = operations.listen().map_err(bind_error)?;
    let limits = gateway.limits.clone();
    let waiting: Vec<_> = sockets.iter().collect();
    let opening = while_starting(&waiting, &limits, Backend::open_when_there(backend, clock.clone()));
    // A shutdown does not wait for a start that waits for its database.
    let Some(backend) = shutdown.soft().run_until_cancelled(opening).await else { return Ok(ExitCode::SUCCESS) };
    let backend = backend?;
    backend.reports.nodes.set_roles(["wss"]);
    identity.iter().try_for_each(|identity| backend.ask_for_certificates(identity))?;
    let (scheme, origins) = (gateway.scheme(), gateway.origins.clone());
    let apply = move |settings: &Settings, changed: &[&'static str]| {
        origins.set(&settings.gateway.origins);
        changed.iter().copied().filter(|name| *name == "WSS_ORIGINS").collect()
    };
    shutdown.spawn("settings", reload(env, shutdown.clone(), Settings::read, apply));
    let gateway = bind(gateway, identity.as_ref(), None, backend.clone(), shutdown.clone()).await?;
    let listening = Listening { scheme, at: gateway.addresses(), operations: operations.local(&sockets), ca: ca.flatten() };
    listening.log();
    let router = operations_listener(
        operations_router("motience-gateway", backend.clone(), Detail::Full, &shutdown).merge(gateway.statistics()),
        &backend,
    );
    for socket in sockets {
        shutdown.spawn("http", serve(Listener::kept(socket), router.clone(), limits.clone(), shutdown.clone()));
    }
    if let Some(file) = &cli.ready_file {
        listening.write(file)?;
    }
    notify_ready();
    info!("ready");
    if let Some(identity) = identity {
        shutdown.spawn("certificates", certificate::reload(Arc::clone(&identity), shutdown.clone()));
        shutdown.spawn("renewal", certificate::renew(identity, source, clock, shutdown.clone()));
    }
    shutdown.spawn("gateway", gateway.run());
    shutdown.soft().cancelled().await;
    if !shutdown.drain(limits.drain.limit).await {
        warn!("not everything ended in time");
    }
    if tokio::time::timeout(Duration::from_secs(1), backend.close()).await.is_err() {
        warn!("the backend did not close in time");
    }
    if let Some(traces) = traces {
        traces.finish().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// The addresses of the process, for its log and for its ready file.
struct Listening {
    scheme: &'static str,
    at: Addresses,
    operations: SocketAddr,
    /// The development CA, where the certificate is self-made.
    ca: Option<PathBuf>,
}

impl Listening {
    fn log(&self) {
        let Self { scheme, at, operations, .. } = self;
        for (role, url) in [
            ("wss1: producers", format!("{scheme}://{}/producer", at.wss1)),
            ("wss2: consumers", format!("{scheme}://{}/consumer", at.wss2)),
            ("producers' tester page", format!("http://{}/", at.wss1_ui)),
            ("console and consumers' tester page", format!("http://{}/", at.wss2_ui)),
            ("operations: health, readiness, metrics", format!("http://{operations}")),
        ] {
            info!(role, url, "listening");
        }
    }

    /// Writes the ready file, which appears as a whole or not at all.
    fn write(&self, file: &Path) -> anyhow::Result<()> {
        let Self { scheme, at, operations, ca } = self;
        let addresses = json!({
            "wss1": format!("{scheme}://localhost:{}/producer", at.wss1.port()),
            "wss2": format!("{scheme}://localhost:{}/consumer", at.wss2.port()),
            "producer_page": format!("http://localhost:{}/", at.wss1_ui.port()),
            "consumer_page": format!("http://localhost:{}/", at.wss2_ui.port()),
            "operations": format!("http://localhost:{}", operations.port()),
            "ca": ca,
        });
        let partial = file.with_extension("partial");
        std::fs::write(&partial, addresses.to_string())
            .and_then(|()| std::fs::rename(&partial, file))
            .with_context(|| format!("{} cannot be written", file.display()))
    }
}
