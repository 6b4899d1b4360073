//! The command line of `motience-device`.

use std::{fmt, path::PathBuf, process::ExitCode, sync::LazyLock, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use motience_certs::client;
use motience_device::login::Algorithm;
use motience_proto::model::DeviceId;
use motience_settings::output::{is_unread, say};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    Error,
    config::{self, Config, Overrides, Variables},
    enrol, register, run,
    sensors::trial,
    status::{find, read},
};

/// The settings cannot work (`EX_CONFIG`): starting again without changing them is of no use.
const BAD_CONFIG: u8 = 78;
/// The server refused (`EX_NOPERM`) what was asked of it once: `register`. An agent that runs waits and asks again.
const REFUSED: u8 = 77;
/// The outbox's file cannot be used (`EX_IOERR`): another agent has it, or the disk is full. That may pass.
const BAD_DISK: u8 = 74;
/// Ended by a second signal.
const ABORTED: u8 = 130;

static VERSION: LazyLock<String> = LazyLock::new(|| motience_settings::version(&[]));

/// Streams this device's readings to a Motience server. Settings come from the file of --config, from the environment, and from `.env`.
#[derive(Debug, Parser)]
#[command(name = "motience-device", version = VERSION.as_str())]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Settings {
    /// TOML file with the settings. Default: environment variables.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// PEM file of CA certificates to trust instead of the system's.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The ingest server, such as quic://localhost:4433.
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// The authentication service, such as https://localhost:4433 (AUTH_URL).
    #[arg(long, global = true, value_name = "URL")]
    auth: Option<String>,
    /// The status file, written by `run` and read by `status`.
    #[arg(long, global = true, value_name = "FILE")]
    status_file: Option<PathBuf>,
    /// Allow http:// and ws:// to other machines: passwords, tokens and records then travel without encryption.
    #[arg(long, global = true)]
    insecure_plaintext: bool,
    /// Check the settings, read each sensor once, and exit (the same as `check-config`).
    #[arg(long)]
    check_config: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the sensors and stream their records (the default).
    Run,
    /// Show the running agent's state. Exit code: 0 connected, 2 not connected, 3 not running.
    Status {
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Register the account that the settings name, with the role `producer`.
    Register,
    /// Make a key for this device and enrol it by a token that its producer made. From then on it logs in by that key, and needs no
    /// account and no password.
    Enrol {
        /// The token, as printed or scanned. Default: read it from standard input.
        #[arg(long)]
        token: Option<String>,
        /// The device's name, where the token names none (also DEVICE_ID).
        #[arg(long, value_name = "NAME")]
        device_id: Option<String>,
        /// Kind of the key.
        #[arg(long, value_enum, default_value_t)]
        key: KeyKind,
        /// Enrol although this device is enrolled already; its present key is forgotten once the server has taken the new one.
        #[arg(long)]
        anew: bool,
    },
    /// Check the settings, read each sensor once, and report what is wrong.
    CheckConfig,
    /// List the settings that environment variables have, as a file that can be copied to `.env`.
    Settings,
}

/// Kind of a device's key.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum KeyKind {
    /// Ed25519.
    #[default]
    Ed25519,
    /// ECDSA over P-256.
    P256,
}

impl From<KeyKind> for Algorithm {
    fn from(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Ed25519 => Self::Ed25519,
            KeyKind::P256 => Self::P256,
        }
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(code) => code,
        Err((code, sentence)) => {
            // One line for each setting that is wrong.
            sentence.lines().for_each(|line| eprintln!("motience-device: {line}"));
            ExitCode::from(code)
        }
    }
}

type Failure = (u8, String);

fn execute(cli: Cli) -> Result<ExitCode, Failure> {
    if let Some(Command::Settings) = cli.command {
        tell(config::example().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let bad_config = |error: super::config::Error| (BAD_CONFIG, error.to_string());
    let variables = Variables::load().map_err(bad_config)?;
    let Settings { config, ca, server, auth, status_file, insecure_plaintext, check_config } = cli.settings;
    let overrides = Overrides { config, ca, server, auth, status_file, insecure_plaintext };
    let command = if check_config { Command::CheckConfig } else { cli.command.unwrap_or(Command::Run) };
    match command {
        Command::Status { json } => {
            let (path, name) = Config::whereabouts(&overrides, &variables).map_err(bad_config)?;
            let found = match &path {
                Some(path) => read(path).map_err(|e| (1, format!("cannot read {}: {e}", path.display())))?,
                None => {
                    let found = find(&variables.status_dirs(), name.as_deref());
                    found.map_err(|e| (1, format!("cannot read the status: {e}")))?.map_err(|several| (1, several.to_string()))?
                }
            };
            tell(if json { found.to_json() } else { found.to_text() }.trim_end())?;
            Ok(ExitCode::from(found.exit_code()))
        }
        Command::Settings => unreachable!("it was done before any setting was read"),
        Command::CheckConfig => {
            let config = Config::load(&overrides, &variables).map_err(bad_config)?;
            client::tcp_config(&config.trust, &[]).map_err(|e| (BAD_CONFIG, format!("CA (ca) cannot be used: {e}")))?;
            runtime()?.block_on(try_sensors(&config))?;
            tell("the settings are good")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Register => {
            let config = Config::load(&overrides, &variables).map_err(bad_config)?;
            log_to_stderr(&config.log)?;
            runtime()?.block_on(register(&config)).map_err(|e| failed(&e))?;
            tell(format_args!("registered {}", config.username))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Enrol { token, device_id, key, anew } => {
            let mut config = Config::enrolment(&overrides, &variables).map_err(bad_config)?;
            if let Some(name) = device_id {
                let name = DeviceId::new(&name).map_err(|e| (BAD_CONFIG, format!("--device-id cannot be used: {e}")))?;
                config.device_id = Some(name);
            }
            log_to_stderr(&config.log)?;
            let token = token.map_or_else(|| std::io::read_to_string(std::io::stdin()), Ok);
            let token = token.map_err(|e| (1, format!("the token cannot be read from standard input: {e}")))?;
            let identity = runtime()?.block_on(enrol(&config, token.trim(), key.into(), anew)).map_err(|e| failed(&e))?;
            tell(format_args!("enrolled {} of producer {}", identity.certificate.device_id, identity.certificate.producer_id))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run => {
            let config = Config::load(&overrides, &variables).map_err(bad_config)?;
            log_to_stderr(&config.log)?;
            let runtime = runtime()?;
            let result = runtime.block_on(run_until_signal(config));
            // A read of standard input cannot be interrupted: not waiting for it is the only way out.
            runtime.shutdown_timeout(Duration::from_millis(100));
            result
        }
    }
}

/// Writes a line for whoever asked. That nobody reads it is no failure: the exit code says the rest.
fn tell(line: impl fmt::Display) -> Result<(), Failure> {
    say(line).or_else(|e| if is_unread(&e) { Ok(()) } else { Err((1, format!("standard output cannot be written: {e}"))) })
}

/// Reads each sensor once and shows what came of it.
async fn try_sensors(config: &Config) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for (n, sensor) in config.sensors.iter().enumerate() {
        match trial(sensor, &config.device_id).await {
            Ok(words) => tell(format_args!("sensor {} ({}): {words}", n + 1, sensor.label()))?,
            Err(reason) => wrong.push(format!("sensor {} ({}): {reason}", n + 1, sensor.label())),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err((BAD_CONFIG, wrong.join("; "))) }
}

/// One thread: a device's work is waiting.
fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(|e| (1, format!("cannot start: {e}")))
}

fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|e| (BAD_CONFIG, format!("RUST_LOG (log) cannot be used: {e}")))?;
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color).with_writer(std::io::stderr).init();
    Ok(())
}

async fn run_until_signal(config: Config) -> Result<ExitCode, Failure> {
    let shutdown = CancellationToken::new();
    let mut signals = Signals::new().map_err(|e| (1, format!("cannot listen for signals: {e}")))?;
    let agent = run(config, shutdown.clone());
    tokio::pin!(agent);
    loop {
        tokio::select! {
            biased;
            () = signals.next() => {
                if shutdown.is_cancelled() {
                    tracing::warn!("a second signal: ending at once");
                    return Ok(ExitCode::from(ABORTED));
                }
                tracing::info!("stopping");
                shutdown.cancel();
            }
            result = &mut agent => return result.map(|_| ExitCode::SUCCESS).map_err(|e| failed(&e)),
        }
    }
}

fn failed(error: &Error) -> Failure {
    let code = match error {
        Error::Config(_) => BAD_CONFIG,
        Error::Refused(_) => REFUSED,
        Error::Outbox(_) => BAD_DISK,
    };
    (code, error.to_string())
}

/// SIGTERM and SIGINT, or Ctrl-C elsewhere.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
