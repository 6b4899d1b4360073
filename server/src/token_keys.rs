//! `motience-server token-keys`: the keys of JWT_KEYS, made, listed and replaced, also while servers use them.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use motience_auth::{Config, key_file, key_files, spent_key_files};
use motience_certs::device_key::{Algorithm, DeviceKey};
use motience_runtime::{clock::Clock, private};
use motience_settings::{env::Env, output::say};
use time::format_description::well_known::Rfc3339;

use crate::{
    admin::REFUSED,
    cli::{TokenAlgorithm, TokenKeysAction},
};

/// Does it, and says so.
pub(crate) fn run(env: &Env, action: TokenKeysAction) -> anyhow::Result<ExitCode> {
    let config = Config::from_env(env)?;
    let Some(folder) = &config.keys else { bail!("JWT_KEYS is not set: it names the folder of the keys") };
    match action {
        TokenKeysAction::List => {
            for file in key_files(folder)? {
                say(format_args!("{}\t{}", file.from.format(&Rfc3339)?, file.path.display()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        TokenKeysAction::Rotate { after, algorithm } => rotate(&config, folder, Duration::from_secs(after * 60), algorithm),
    }
}

fn rotate(config: &Config, folder: &Path, after: Duration, algorithm: TokenAlgorithm) -> anyhow::Result<ExitCode> {
    private::folder(folder).with_context(|| format!("{} (JWT_KEYS) cannot be made", folder.display()))?;
    let (now, files) = (Clock::system().now(), key_files(folder)?);
    let algorithm = match algorithm {
        TokenAlgorithm::Ed25519 => Algorithm::Ed25519,
        TokenAlgorithm::P256 => Algorithm::P256,
    };
    let (file, pem) = (key_file(folder, now + after)?, DeviceKey::generate(algorithm)?.pem());
    if let Some(waiting) = files.last().filter(|last| last.from > now || last.from == file.from) {
        eprintln!("motience-server: {} has not begun to sign, or only now; remove it to have another one", waiting.path.display());
        return Ok(ExitCode::from(REFUSED));
    }
    // A server may read the folder at any moment, so the file comes whole.
    let partial = file.path.with_extension("new");
    let write = || {
        let mut new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        new.write_all(pem.as_bytes())?;
        new.sync_all()?;
        fs::rename(&partial, &file.path)
    };
    write().with_context(|| format!("{} cannot be written", file.path.display()))?;
    say(format_args!("{} signs from {} on. Every node needs it before.", file.path.display(), file.from.format(&Rfc3339)?))?;
    for spent in spent_key_files(&files, config.access_ttl.max(config.refresh_ttl), now) {
        fs::remove_file(&spent.path).with_context(|| format!("{} cannot be removed", spent.path.display()))?;
        say(format_args!("{} is removed: its last tokens have ended.", spent.path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
