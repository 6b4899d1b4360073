//! `motience-server backup` and `restore`: the files of an embedded node, copied while it runs and put back where there are none.
//!
//! The accounts are copied first, then the log: a cursor of the copied accounts never points behind the end of the copied log. The manifest comes
//! last, so a folder without one is no backup.

mod manifest;
mod restore;

use std::{fs, io, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use motience_auth::SECRET_FILE;
use motience_backend as backend;
use motience_log::embedded;
use motience_runtime::{clock::Clock, private};
use motience_settings::{env::Env, output::say};
use motience_store::{self as store, Store};
use time::format_description::well_known::Rfc3339;

use self::manifest::Manifest;
pub(crate) use self::restore::restore;

/// Name of the accounts in a backup.
const ACCOUNTS: &str = "motience.db";
/// Names that begin the log's files.
const LOG: &str = "log.";

/// Makes a backup in the folder `to`, checks it, and says what is in it.
pub(crate) async fn run(env: &Env, to: &Path) -> anyhow::Result<ExitCode> {
    let config = backend::Config::from_env(env)?;
    if config.redis.is_some() {
        bail!(
            "the accounts of this node are in PostgreSQL and its records in Redis: docs/operators.md, Backups, tells how both are copied"
        );
    }
    prepare(to)?;
    let began = Clock::system().now();
    let mut left_out = Vec::new();
    match &config.store {
        store::Config::SqliteFile { path } => {
            let failed = || format!("the database {} cannot be copied", path.display());
            Store::copy_file(path, &to.join(ACCOUNTS)).await.with_context(failed)?;
        }
        store::Config::SqliteMemory => left_out.push("the accounts are in the server's memory"),
        store::Config::Postgres { .. } => left_out.push("the accounts are in PostgreSQL: copy them with pg_dump"),
    }
    let mut is_good = true;
    if config.volatile {
        left_out.push("the records are in the server's memory (LOG_DURABILITY)");
    } else {
        let (from, to) = (config.data_dir.clone(), to.to_owned());
        let copied = tokio::task::spawn_blocking(move || embedded::copy(&from, &to).and_then(|()| embedded::check(&to)));
        let health = copied.await??;
        say(format_args!("{} records of {} logs are copied.", health.records, health.logs))?;
        is_good = health.is_good();
    }
    match private::copy(&config.data_dir.join(SECRET_FILE), &to.join(SECRET_FILE)) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("{} cannot be copied", config.data_dir.join(SECRET_FILE).display())),
    }
    let manifest = Manifest::of(to, began.format(&Rfc3339)?).with_context(|| format!("{} cannot be read", to.display()))?;
    manifest.write(to).with_context(|| format!("{} cannot be written", to.display()))?;
    left_out.iter().try_for_each(|why| say(format_args!("Not in the backup: {why}.")))?;
    if !is_good {
        say("The log is damaged, and so is its copy: `motience-server log check` tells more.")?;
    }
    say(format_args!("The backup in {} has everything that was acknowledged before {}.", to.display(), manifest.begun_at))?;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the folder; one that holds anything is left alone.
fn prepare(to: &Path) -> anyhow::Result<()> {
    private::folder(to).with_context(|| format!("the folder {} cannot be made", to.display()))?;
    if fs::read_dir(to)?.next().is_some() {
        bail!("{} is not empty: name a folder of its own for each backup", to.display());
    }
    Ok(())
}
