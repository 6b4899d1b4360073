//! The list of a backup's files, with their checksums: `backup.json`.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, bail};
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// Its name in the folder.
pub(super) const FILE: &str = "backup.json";
/// Form of a backup: a later one cannot be read by this program.
const FORMAT: u32 = 1;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// The version of the program that made the backup.
    version: String,
    /// When the backup was begun, as RFC 3339 has it.
    pub(super) begun_at: String,
    pub(super) files: Vec<Entry>,
}

/// A file of the backup.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Path within the folder.
    pub(super) name: String,
    bytes: u64,
    /// SHA-256, in hex.
    sha256: String,
}

/// The part of a list that every version can read.
#[derive(Deserialize)]
struct Form {
    format: u32,
    version: String,
}

impl Manifest {
    /// The list of all files in the folder.
    pub(super) fn of(folder: &Path, begun_at: String) -> io::Result<Self> {
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(inner) = folders.pop() {
            for entry in fs::read_dir(folder.join(&inner))? {
                let entry = entry?;
                let name = inner.join(entry.file_name());
                if entry.file_type()?.is_dir() {
                    folders.push(name);
                } else {
                    let (bytes, sha256) = sum(&entry.path())?;
                    let name = name.to_str().ok_or_else(|| io::Error::other("a file's name is not text"))?.to_owned();
                    files.push(Entry { name, bytes, sha256 });
                }
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), begun_at, files })
    }

    /// Writes the list, which appears as a whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let unfinished = folder.join("backup.json.new");
        motience_runtime::private::file(&unfinished)?;
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, folder.join(FILE))?;
        File::open(folder)?.sync_all()
    }

    /// Reads the list, and compares every file with it.
    pub(super) fn checked(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read(&path).with_context(|| format!("{} cannot be read: this is no finished backup", path.display()))?;
        let Form { format, version } = serde_json::from_slice(&text).with_context(|| format!("{} is no list of files", path.display()))?;
        if format > FORMAT {
            bail!("the backup has the form {format}, of motience-server {version}; this program reads forms up to {FORMAT}: upgrade it");
        }
        let manifest: Self = serde_json::from_slice(&text).with_context(|| format!("{} is no list of files", path.display()))?;
        for Entry { name, bytes, sha256 } in &manifest.files {
            let is_within = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            if !is_within {
                bail!("{} names {name:?}, which is not in the folder", path.display());
            }
            let found = sum(&folder.join(name)).with_context(|| format!("the backup's file {name} cannot be read"))?;
            if found != (*bytes, sha256.clone()) {
                bail!("the backup's file {name} is damaged: it is not the one that was written");
            }
        }
        Ok(manifest)
    }
}

/// Bytes of a file, and their checksum.
fn sum(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut hash, mut bytes, mut chunk) = (File::open(path)?, Context::new(&SHA256), 0, vec![0; CHUNK]);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        bytes += read as u64;
    }
    Ok((bytes, hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_of_a_newer_program_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |text: &str| {
            fs::write(folder.path().join(FILE), text).unwrap();
            Manifest::checked(folder.path()).err().unwrap().to_string()
        };
        // Something that this program does not know stands in place of the list.
        let newer = refusal(r#"{"format": 99, "version": "9.9.9", "archives": []}"#);
        assert!(newer.contains("form 99") && newer.contains("9.9.9") && newer.contains("upgrade"), "{newer}");
        assert!(refusal("{}").contains("no list of files"));
    }
}
