//! A copy of the log as it was at one moment, made while a server runs on it.
//!
//! For that moment the log is held, so that nobody writes: full segments get a second name, the last one is copied, and a reader stands in the
//! database as it is. Everything else happens afterwards. A restored copy needs nothing of its own: each start begins a new log epoch.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use motience_runtime::private;
use rusqlite::{Connection, OpenFlags, backup::Backup};

use super::{
    Error, FILE, Hold, readable, schema,
    segment::{FOLDER, list, sync},
};

/// Folder of second names, in the data folder: names of one file are on one disk.
const PINNED: &str = "log.backup";
/// Pause where somebody else has a lock of the database.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Copies the log in `dir` to the folder `to`, where none may be. Records that were acknowledged before are in the copy. Writing stands still
/// while the last segment is copied.
pub fn copy(dir: &Path, to: &Path) -> Result<(), Error> {
    readable(dir)?;
    let io = |e| Error::Io(dir.to_owned(), e);
    let pinned = Pinned::new(dir)?;
    let path = dir.join(FILE);
    let sqlite = |e| Error::Sqlite(path.clone(), e);
    let mut database = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sqlite)?;
    database.busy_timeout(schema::BUSY).map_err(sqlite)?;
    let reading = {
        let _held = Hold::open(dir).and_then(|hold| hold.alone()).map_err(io)?;
        pinned.pin(&dir.join(FOLDER)).map_err(io)?;
        let reading = database.transaction().map_err(sqlite)?;
        // A transaction begins with its first question.
        schema::version(&reading).map_err(sqlite)?;
        reading
    };
    let target = to.join(FILE);
    private::folder(&to.join(FOLDER)).and_then(|()| private::file(&target)).map_err(|e| Error::Io(to.to_owned(), e))?;
    let written = || -> rusqlite::Result<()> {
        let mut target = Connection::open(&target)?;
        Backup::new(&reading, &mut target)?.run_to_completion(i32::MAX, BUSY_PAUSE, None)?;
        // One file, without a journal beside it.
        target.pragma_update(None, "journal_mode", "DELETE")
    };
    written().map_err(sqlite)?;
    drop(reading);
    pinned.copy(&to.join(FOLDER)).map_err(|e| Error::Io(to.to_owned(), e))?;
    File::open(target).and_then(|file| file.sync_all()).and_then(|()| sync(to)).map_err(|e| Error::Io(to.to_owned(), e))
}

/// Segments under second names, which nobody removes; they go with this.
struct Pinned {
    folder: PathBuf,
    /// Held for as long as a backup lasts, so that no other takes its names for forgotten ones.
    _lock: File,
}

impl Pinned {
    fn new(dir: &Path) -> Result<Self, Error> {
        let folder = dir.join(PINNED);
        let io = |e| Error::Io(folder.clone(), e);
        let path = dir.join(format!("{PINNED}.lock"));
        private::file(&path).map_err(io)?;
        let lock = File::open(&path).map_err(io)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io(io::Error::other("another backup is being made")),
            TryLockError::Error(e) => io(e),
        })?;
        // A backup that was killed leaves its names.
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => private::folder(&folder).map_err(io)?,
        }
        Ok(Self { folder, _lock: lock })
    }

    /// Gives the segments second names, and copies the last one, which goes on growing. Nobody may write meanwhile.
    fn pin(&self, segments: &Path) -> io::Result<()> {
        let (segments, _) = list(&Arc::from(segments))?;
        let Some((last, full)) = segments.split_last() else { return Ok(()) };
        for segment in full {
            link(&segment.path(), &self.folder)?;
            // Made anew where it is missing.
            let _ = link(&segment.index_path(), &self.folder);
        }
        write(&last.path(), &self.folder)
    }

    /// Copies everything pinned, and has it on the disk.
    fn copy(&self, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            write(&entry?.path(), to)?;
        }
        sync(to)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The next backup removes what cannot be removed now.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn link(file: &Path, folder: &Path) -> io::Result<()> {
    fs::hard_link(file, folder.join(file.file_name().unwrap_or_default()))
}

/// Copies a file to a folder under its own name.
fn write(file: &Path, folder: &Path) -> io::Result<()> {
    private::copy(file, &folder.join(file.file_name().unwrap_or_default()))
}
