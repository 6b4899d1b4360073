//! Where the file is, and what becomes of one that is damaged.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use redb::{Builder, Database, DatabaseError};

use crate::{clock, private_file};

/// Damaged files that are kept for a look at them.
const KEPT: usize = 3;
/// The end of a draft's name.
const DRAFT: &str = "draft";

/// A place for one file. Tests have one in memory, which fails when they say.
pub(crate) trait Medium: fmt::Debug + Send + 'static {
    /// Opens the file, or makes it.
    fn open(&self, builder: &Builder) -> Result<Database, DatabaseError>;
    /// Makes a new file beside it, instead of one from an earlier attempt.
    fn draft(&self, builder: &Builder) -> Result<Database, DatabaseError>;
    /// Moves the file aside and the draft into its place.
    fn adopt(&self) -> io::Result<()>;
    /// Moves the file aside; the next one that is opened is new.
    fn set_aside(&self) -> io::Result<()>;
    /// Bytes of the file.
    fn size(&self) -> u64;
    /// Its name, for people.
    fn name(&self) -> String;
}

/// A file in a folder of its own, or at least with names of its own.
#[derive(Debug)]
pub(crate) struct OnDisk(pub(crate) PathBuf);

impl Medium for OnDisk {
    fn open(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        if let Some(dir) = self.dir() {
            private_file::make_dir(dir)?;
        }
        let draft = self.beside(DRAFT);
        if self.0.exists() {
            // Of an attempt that did not come to its end: it must never take this file's place.
            remove(&draft)?;
            private_file::close_to_others(&self.0)?;
        } else if draft.exists() {
            // A cut between the two steps of `adopt`: the draft was whole before the first.
            fs::rename(&draft, &self.0)?;
        } else {
            private_file::create(&self.0)?;
            self.sync_dir()?;
        }
        builder.create(&self.0)
    }

    fn draft(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        let draft = self.beside(DRAFT);
        remove(&draft)?;
        private_file::create(&draft)?;
        builder.create(&draft)
    }

    fn adopt(&self) -> io::Result<()> {
        self.move_aside()?;
        fs::rename(self.beside(DRAFT), &self.0)?;
        self.sync_dir()
    }

    fn set_aside(&self) -> io::Result<()> {
        remove(&self.beside(DRAFT))?;
        self.move_aside()?;
        self.sync_dir()
    }

    fn size(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

impl OnDisk {
    fn dir(&self) -> Option<&Path> {
        self.0.parent().filter(|dir| !dir.as_os_str().is_empty())
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.0.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{what}"));
        self.0.with_file_name(name)
    }

    fn move_aside(&self) -> io::Result<()> {
        let now = clock::unix_millis() / 1000;
        // Two in one second: the later one takes the next free name.
        let free = (now..).map(|time| self.beside(&format!("damaged-{time}"))).find(|path| !path.exists());
        match fs::rename(&self.0, free.unwrap_or_else(|| self.beside("damaged"))) {
            // Somebody has removed it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.prune()
    }

    /// Removes all but the newest damaged files.
    fn prune(&self) -> io::Result<()> {
        let prefix = self.beside("damaged-");
        let prefix = prefix.file_name().unwrap_or_default().as_encoded_bytes();
        let mut damaged = Vec::new();
        for entry in fs::read_dir(self.dir().unwrap_or(Path::new(".")))? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(prefix) {
                damaged.push(entry.path());
            }
        }
        damaged.sort();
        let old = damaged.len().saturating_sub(KEPT);
        damaged[..old].iter().try_for_each(fs::remove_file)
    }

    /// A name is on disk only when its folder is.
    fn sync_dir(&self) -> io::Result<()> {
        #[cfg(unix)]
        fs::File::open(self.dir().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_damaged_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let medium = OnDisk(dir.path().join("sub/outbox.redb"));
        for _ in 0..KEPT + 2 {
            drop(medium.open(&Builder::new()).unwrap());
            assert!(medium.size() > 0);
            medium.set_aside().unwrap();
        }
        let names: Vec<_> = fs::read_dir(dir.path().join("sub")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), KEPT, "{names:?}");
        assert!(names.iter().all(|name| name.to_str().unwrap().starts_with("outbox.redb.damaged-")));
    }

    #[test]
    fn a_draft_takes_the_place_even_after_a_cut_between_the_two_steps() {
        let dir = tempfile::tempdir().unwrap();
        let medium = OnDisk(dir.path().join("outbox.redb"));
        drop(medium.open(&Builder::new()).unwrap());
        drop(medium.draft(&Builder::new()).unwrap());
        medium.move_aside().unwrap();
        drop(medium.open(&Builder::new()).unwrap());
        assert!(!medium.beside(DRAFT).exists());
        assert!(medium.size() > 0);
        drop(medium.draft(&Builder::new()).unwrap());
        medium.adopt().unwrap();
        assert!(medium.0.exists() && !medium.beside(DRAFT).exists());
    }

    #[test]
    fn a_draft_that_came_to_nothing_is_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let medium = OnDisk(dir.path().join("outbox.redb"));
        drop(medium.open(&Builder::new()).unwrap());
        fs::write(medium.beside(DRAFT), "half").unwrap();
        medium.set_aside().unwrap();
        drop(medium.open(&Builder::new()).unwrap());
        fs::write(medium.beside(DRAFT), "half").unwrap();
        drop(medium.open(&Builder::new()).unwrap());
        assert!(!medium.beside(DRAFT).exists());
        medium.set_aside().unwrap();
        medium.set_aside().unwrap();
    }
}
