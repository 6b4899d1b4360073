//! Files and folders for their owner's eyes only: the log, the accounts, the secret of a node.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use tracing::warn;

/// SQLite's own files beside a database.
const JOURNALS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Files of a node's data folder.
const OURS: [&str; 4] = ["log.", "motience.db", "jwt-secret", "outbox"];

/// Makes a folder, mode 0700, unless it is there. One of an earlier release that holds nothing but our files is closed to others; any
/// other is its owner's business, and a warning.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let mut is_ours = true;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        is_ours &= name.to_str().is_some_and(|name| OURS.iter().any(|ours| name.starts_with(ours)));
    }
    if is_ours && fs::set_permissions(path, Permissions::from_mode(0o700)).is_ok() {
        return Ok(());
    }
    warn!(folder = %path.display(), mode = format!("{mode:04o}"), "other users can read the data folder; chmod 700 protects it");
    Ok(())
}

/// Makes a file, mode 0600, unless it is there; closes one that others could read, and SQLite's journals beside it.
pub fn file(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    close(&file.metadata()?, path)?;
    for suffix in JOURNALS {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        if let Ok(metadata) = fs::metadata(&name) {
            close(&metadata, Path::new(&name))?;
        }
    }
    Ok(())
}

/// Copies a file to one that is not there yet, mode 0600, in a folder that may not be there either, and has it on the disk.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        folder(parent)?;
    }
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()
}

fn close(metadata: &fs::Metadata, path: &Path) -> io::Result<()> {
    match metadata.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => fs::set_permissions(path, Permissions::from_mode(0o600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_a_node_keeps_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/data");
        folder(&data).unwrap();
        file(&data.join("log.db")).unwrap();
        assert_eq!((mode(&data), mode(&data.join("log.db"))), (0o700, 0o600));
        // As an earlier release left them.
        fs::write(data.join("log.db-wal"), "x").unwrap();
        for path in [&data.join("log.db"), &data.join("log.db-wal")] {
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        folder(&data).unwrap();
        file(&data.join("log.db")).unwrap();
        assert_eq!((mode(&data), mode(&data.join("log.db")), mode(&data.join("log.db-wal"))), (0o700, 0o600, 0o600));
        // A folder with somebody's other files is not ours to close.
        fs::write(data.join("notes.txt"), "x").unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        folder(&data).unwrap();
        assert_eq!(mode(&data), 0o755);
    }
}
