//! Putting a backup where no node has any files yet.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use motience_auth::SECRET_FILE;
use motience_backend as backend;
use motience_log::embedded;
use motience_runtime::private;
use motience_settings::{env::Env, output::say};
use motience_store::{self as store, Store};

use super::{
    ACCOUNTS, LOG,
    manifest::{Entry, Manifest},
};

/// Folder of files that are not all there yet, in the data folder: what is put in place from there is put there at once.
const UNFINISHED: &str = "restore.unfinished";
/// Files that a node which never ran, or one that was refused, may have left.
const EMPTY: [&str; 3] = ["log.lock", "log.hold", "log.backup.lock"];

/// Puts the backup in the folder `from` into the data folder of these settings.
pub(crate) async fn restore(env: &Env, from: &Path) -> anyhow::Result<ExitCode> {
    let config = backend::Config::from_env(env)?;
    if config.redis.is_some() {
        bail!(
            "the accounts of this node are in PostgreSQL and its records in Redis: docs/operators.md, Backups, tells how both are restored"
        );
    }
    let manifest = Manifest::checked(from)?;
    let has = |name: &str| manifest.files.iter().any(|file| file.name == name);
    let accounts = match &config.store {
        store::Config::SqliteFile { path } if has(ACCOUNTS) => Some(path.clone()),
        _ if has(ACCOUNTS) => bail!("the backup has accounts, and DATABASE_URL or DB_HOST names another place for them"),
        _ => None,
    };
    let dir = &config.data_dir;
    private::folder(dir).with_context(|| format!("the folder {} cannot be made (DATA_DIR)", dir.display()))?;
    // Held to the end: no server may start on half of it.
    let _lock = embedded::locked(dir)?;
    refuse_used(dir, accounts.as_deref())?;
    let unfinished = dir.join(UNFINISHED);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let failed = || format!("the backup cannot be copied to {}", unfinished.display());
    private::folder(&unfinished).with_context(failed)?;
    for Entry { name, .. } in &manifest.files {
        private::copy(&from.join(name), &unfinished.join(name)).with_context(failed)?;
    }
    // A newer release may have made it.
    if accounts.is_some() {
        Store::check_file(&unfinished.join(ACCOUNTS)).await.context("the accounts of the backup cannot be used")?;
    }
    if has("log.db") {
        let health = embedded::check(&unfinished)?;
        say(format_args!("{} records of {} logs are restored.", health.records, health.logs))?;
    }
    put_in_place(&unfinished, dir, accounts.as_deref()).with_context(|| format!("the files cannot be put into {}", dir.display()))?;
    say(format_args!("{} is as it was at {}. Start the server: its logs begin new epochs.", dir.display(), manifest.begun_at))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses a data folder that a node has used.
fn refuse_used(dir: &Path, accounts: Option<&Path>) -> anyhow::Result<()> {
    let is_ours = |name: &str| (name.starts_with(LOG) && !EMPTY.contains(&name)) || name.starts_with(ACCOUNTS) || name == SECRET_FILE;
    let mut used = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        used.extend(path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours).then_some(path));
    }
    used.extend(accounts.filter(|path| path.exists() && !used.iter().any(|used| used == path)).map(Path::to_owned));
    used.sort();
    if let Some(first) = used.first() {
        bail!("the data folder is not empty: {} is there; move it away, or name another folder (DATA_DIR)", first.display());
    }
    Ok(())
}

/// Moves the files to where a node looks for them.
fn put_in_place(unfinished: &Path, dir: &Path, accounts: Option<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(unfinished)? {
        let entry = entry?;
        let to = match accounts {
            Some(accounts) if entry.file_name() == ACCOUNTS => {
                accounts.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(Ok(()), private::folder)?;
                accounts.to_owned()
            }
            _ => dir.join(entry.file_name()),
        };
        place(&entry.path(), &to)?;
    }
    fs::remove_dir(unfinished)?;
    File::open(dir)?.sync_all()
}

fn place(from: &Path, to: &PathBuf) -> io::Result<()> {
    match fs::rename(from, to) {
        // The accounts may be kept on another disk.
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            private::copy(from, to)?;
            fs::remove_file(from)
        }
        placed => placed,
    }
}
