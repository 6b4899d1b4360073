//! Looking through a log's files for damage, and making new ones of what can be read.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use motience_proto::model::{LogId, LogKey, Offset};
use motience_runtime::clock::millis;
use motience_runtime::private;
use rusqlite::{Connection, OpenFlags};

use super::{
    Error, FILE,
    compact::Maker,
    frame::{Append, Frame},
    import, load, locked, readable,
    rows::{LogRow, column, offset},
    schema,
    segment::{End, FOLDER, Name, Piece, Segment, list, scan},
};

/// Findings that are told.
const FINDINGS: usize = 20;
/// How often a log that a server is changing meanwhile is looked through again.
const TRIES: usize = 5;
/// Facts that a new database takes over. Without a checkpoint, the next start reads all segments.
const FACTS: [&str; 3] = ["highest_account", "believed", "confirmed"];

/// Findings in a log's file.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Logs in it.
    pub logs: u64,
    /// Records that can be read.
    pub records: u64,
    /// Bytes of their messages.
    pub bytes: u64,
    /// Offsets that cannot be read though retention has not removed them: whose, the first and the last.
    pub damaged: Vec<(LogKey, Offset, Offset)>,
    /// Likewise, but of an earlier damage: a repair has left them out.
    pub lost: Vec<(LogKey, Offset, Offset)>,
    /// Logs of whose devices, clients' ids or place something cannot be read.
    pub forgetful: Vec<LogKey>,
    /// Damaged parts of segments, and some of SQLite's own findings.
    pub findings: Vec<String>,
    /// Where a repair has put the files as they were.
    pub kept: Option<PathBuf>,
}

impl Health {
    /// Whether there is no damage.
    pub fn is_good(&self) -> bool {
        self.damaged.is_empty() && self.forgetful.is_empty() && self.findings.is_empty()
    }
}

/// A log as the segments have it.
#[derive(Debug, Default)]
struct Seen {
    records: u64,
    bytes: u64,
    first: Option<Offset>,
    last: Offset,
    removed: Option<Offset>,
    /// How many damaged parts came before the first batch, and before the one seen last.
    damage: [usize; 2],
    /// Offsets without a batch, and whether there is damage where they should be.
    holes: Vec<(Offset, Offset, bool)>,
}

impl Seen {
    fn batch(&mut self, append: &Append, damage: usize) {
        let (first, last) = (append.first, Offset(append.first.0 + append.entries.len() as u64 - 1));
        if self.first.is_none() {
            (self.first, self.damage[0]) = (Some(first), damage);
        } else if first <= self.last {
            return;
        } else if first > self.last.next() {
            self.holes.push((self.last.next(), Offset(first.0 - 1), damage > self.damage[1]));
        }
        (self.last, self.damage[1]) = (last, damage);
        self.records += append.entries.len() as u64;
        self.bytes += append.entries.iter().map(|entry| entry.message.len() as u64).sum::<u64>();
    }

    /// Adds the holes at both ends, and tells all of them.
    fn tell(mut self, key: LogKey, row: &LogRow, damage: usize, health: &mut Health) {
        let removed = row.removed.map(offset).max(self.removed);
        let end = offset(row.last);
        // Where nobody noted what retention has removed, nothing is known of what came before the first.
        if let (Some(removed), Some(first)) = (removed, self.first)
            && first > removed.next()
        {
            self.holes.insert(0, (removed.next(), Offset(first.0 - 1), self.damage[0] > 0));
        }
        if end > self.last && (self.first.is_some() || removed.is_some()) {
            let from = self.last.max(removed.unwrap_or_default()).next();
            self.holes.push((from, end, damage > self.damage[1]));
        }
        for (from, to, is_damaged) in self.holes {
            let from = from.max(removed.unwrap_or_default().next());
            if from <= to {
                if is_damaged { &mut health.damaged } else { &mut health.lost }.push((key, from, to));
            }
        }
        health.logs += 1;
        health.records += self.records;
        health.bytes += self.bytes;
    }
}

/// Looks through the log in `dir`, also while a server runs on it.
pub fn check(dir: &Path) -> Result<Health, Error> {
    readable(dir)?;
    let path = dir.join(FILE);
    let connection = open_damaged(&path).map_err(|e| Error::Sqlite(path, e))?;
    if schema::has_batches(&connection).unwrap_or(false) {
        return Ok(before_import(&connection));
    }
    let mut tries = 0;
    loop {
        match look_through(dir, &connection) {
            // The server has put a segment in the place of this one.
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            found => return found.map(|(health, _)| health).map_err(|e| Error::Io(dir.join(FOLDER), e)),
        }
    }
}

/// A file that no server of this version has opened yet: its batches are checked when they are read into segments.
fn before_import(connection: &Connection) -> Health {
    let count = "SELECT COUNT(DISTINCT producer), COALESCE(SUM(last - first + 1), 0), COALESCE(SUM(bytes), 0) FROM batches";
    let counted = connection.query_row(count, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
    let (logs, records, bytes) = counted.unwrap_or_default();
    let [logs, records, bytes] = [logs, records, bytes].map(i64::cast_unsigned);
    Health { logs, records, bytes, findings: findings(connection), ..Health::default() }
}

/// Writes what can be read of the log in `dir` into new files, if anything is damaged, and puts the old ones aside. No server may run.
pub fn repair(dir: &Path) -> Result<Health, Error> {
    let _lock = locked(dir)?;
    if let Ok(connection) = schema::open(&dir.join(FILE)) {
        import::import(dir, &connection, super::SEGMENT_BYTES)?;
    }
    let folder = dir.join(FOLDER);
    let io = |e| Error::Io(folder.clone(), e);
    let database = dir.join(FILE);
    let connection = open_damaged(&database).map_err(|e| Error::Sqlite(database.clone(), e))?;
    let (health, damaged) = look_through(dir, &connection).map_err(io)?;
    let is_sound = findings(&connection).is_empty() && health.forgetful.is_empty();
    drop(connection);
    if health.is_good() {
        return Ok(health);
    }
    let mut kept = None;
    if !is_sound {
        kept = Some(rebuild(dir)?);
    }
    if !damaged.is_empty() {
        let aside = kept.clone().unwrap_or_else(|| dir.join(format!("log.damaged-{}", schema::stamp())));
        private::folder(&aside).map_err(io)?;
        for segment in damaged {
            mend(&segment, &aside).map_err(io)?;
        }
        kept = Some(aside);
        // Positions are others now: all is read again at the next start.
        let connection = schema::open(&database).map_err(|e| Error::sqlite(dir, e))?;
        for names in [schema::CHECKPOINT, schema::BEGUN] {
            schema::forget_position(&connection, names).map_err(|e| Error::sqlite(dir, e))?;
        }
    }
    Ok(Health { findings: health.findings, forgetful: health.forgetful, kept, ..check(dir)? })
}

/// Says that the machine's clock is right: what is too old by it may go, however much that is. A server that runs hears of it.
pub fn confirm(dir: &Path, now: time::OffsetDateTime) -> Result<(), Error> {
    let path = dir.join(FILE);
    let sqlite = |e| Error::Sqlite(path.clone(), e);
    if !path.exists() {
        return Err(Error::Io(path.clone(), std::io::ErrorKind::NotFound.into()));
    }
    readable(dir)?;
    let connection = schema::open(&path).map_err(sqlite)?;
    schema::raise_fact(&connection, "confirmed", millis(now)).map_err(sqlite)
}

/// Writes what can be read of the database into a new one and puts the old one aside. Nobody may have it open.
pub(super) fn rebuild(dir: &Path) -> Result<PathBuf, Error> {
    let (path, new) = (dir.join(FILE), dir.join("log.db.new"));
    let sqlite = |e| Error::Sqlite(path.clone(), e);
    let io = |e| Error::Io(dir.to_owned(), e);
    for part in ["", "-wal", "-shm"] {
        match fs::remove_file(beside(&new, part)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
    }
    private::file(&new).map_err(io)?;
    let old = open_damaged(&path).map_err(sqlite)?;
    let mut made = schema::open(&new).map_err(sqlite)?;
    copy(&old, &mut made).map_err(sqlite)?;
    made.pragma_update(None, "wal_checkpoint", "TRUNCATE").map_err(sqlite)?;
    drop((old, made));
    let kept = dir.join(format!("log.damaged-{}", schema::stamp()));
    private::folder(&kept).map_err(io)?;
    for part in ["-wal", "-shm", ""] {
        let from = beside(&path, part);
        if from.exists() {
            fs::rename(from, beside(&kept.join(FILE), part)).map_err(io)?;
        }
    }
    fs::rename(&new, &path).map_err(io)?;
    super::segment::sync(dir).map_err(io)?;
    Ok(kept)
}

/// Opens a file that may be damaged.
fn open_damaged(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(schema::BUSY)?;
    // Without this SQLite reads nothing of a file that is shorter than it should be.
    connection.pragma_update(None, "writable_schema", true)?;
    Ok(connection)
}

fn beside(path: &Path, part: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(part);
    name.into()
}

fn findings(connection: &Connection) -> Vec<String> {
    let ask = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("PRAGMA integrity_check({FINDINGS})"))?;
        let mut rows = statement.query([])?;
        let mut said = Vec::new();
        while let Some(row) = rows.next()? {
            said.push(row.get::<_, String>(0)?);
        }
        Ok(said)
    };
    match ask() {
        Ok(said) if said == ["ok"] => Vec::new(),
        Ok(said) => said,
        Err(e) => vec![e.to_string()],
    }
}

/// All logs that the database names, and those whose senders or ids alone are left.
fn keys(connection: &Connection) -> BTreeMap<LogId, LogKey> {
    let mut keys = BTreeMap::new();
    for ask in [load::LOGS, "SELECT DISTINCT producer, producer FROM sessions", "SELECT DISTINCT producer, producer FROM ids"] {
        // Damage is told by other findings.
        let _ = load::add_keys(connection, ask, &mut keys);
    }
    keys
}

/// Reads all of the log, as a start would; returns segments that are damaged too.
fn look_through(dir: &Path, connection: &Connection) -> io::Result<(Health, Vec<Segment>)> {
    let mut health = Health { findings: findings(connection), ..Health::default() };
    let (mut logs, mut damaged, mut damage): (BTreeMap<LogId, (LogKey, Seen)>, _, usize) = (BTreeMap::new(), Vec::new(), 0);
    let folder: Arc<Path> = dir.join(FOLDER).into();
    let (segments, _) = if folder.exists() { list(&folder)? } else { (Vec::new(), Vec::new()) };
    let last = segments.last().map(|segment| segment.name);
    for segment in segments {
        let bytes = segment.bytes()?;
        let (mut ends, mut pieces) = (End::default(), Vec::new());
        scan(&bytes, &mut |piece| {
            ends.see(&piece);
            pieces.push(piece);
        });
        // The last one may be within a write.
        let end = if Some(segment.name) == last { ends.of(bytes.len() as u64) } else { bytes.len() as u64 };
        let before = damage;
        for piece in pieces {
            match piece {
                Piece::Damaged { position, end: to } | Piece::Orphan { position, end: to, .. } if position < end => {
                    damage += 1;
                    if health.findings.len() < FINDINGS {
                        health.findings.push(format!("{}: bytes {position} to {to} are damaged", segment.path().display()));
                    }
                }
                Piece::Frame { position, frame, .. } if position < end => match frame {
                    Frame::Append(append) if !append.entries.is_empty() => {
                        logs.entry(append.key.log).or_insert_with(|| (append.key, Seen::default())).1.batch(&append, damage);
                    }
                    Frame::Append(_) => {}
                    Frame::Note(note) => {
                        let seen = &mut logs.entry(note.key.log).or_insert_with(|| (note.key, Seen::default())).1;
                        seen.removed = seen.removed.max(Some(note.removed));
                    }
                },
                _ => {}
            }
        }
        if damage > before {
            damaged.push(segment);
        }
    }
    for (log, key) in keys(connection) {
        logs.entry(log).or_insert_with(|| (key, Seen::default()));
    }
    for (key, seen) in logs.into_values() {
        let row = load::log_row(connection, key);
        let whole = row.is_ok()
            && load::sessions(connection, key, &mut drop).unwrap_or(false)
            && load::ids(connection, key, &mut |_, _| ()).unwrap_or(false);
        if !whole {
            health.forgetful.push(key);
        }
        seen.tell(key, &row.ok().flatten().unwrap_or_default(), damage, &mut health);
    }
    Ok((health, damaged))
}

/// Makes a segment of what can be read of a damaged one, which is put aside.
fn mend(segment: &Segment, aside: &Path) -> io::Result<()> {
    let folder: Arc<Path> = segment.path().parent().unwrap_or(Path::new("")).into();
    let mut maker = Maker::new(&folder, Name { generation: segment.name.generation + 1, ..segment.name })?;
    let mut outcome = Ok(());
    scan(&segment.bytes()?, &mut |piece| {
        let Piece::Frame { frame, .. } = piece else { return };
        if outcome.is_err() {
            return;
        }
        match frame {
            Frame::Note(note) => maker.note(&note),
            Frame::Append(append) => outcome = maker.add(&append.draft()),
        }
    });
    outcome?;
    maker.finish()?;
    segment.put_aside(aside)
}

/// Copies whatever can be read.
fn copy(old: &Connection, new: &mut Connection) -> rusqlite::Result<()> {
    for name in FACTS {
        if let Ok(Some(value)) = schema::fact(old, name) {
            schema::raise_fact(new, name, value)?;
        }
    }
    for key in keys(old).into_values() {
        let (transaction, log) = (new.transaction()?, column(key.log));
        if let Ok(Some(row)) = load::log_row(old, key) {
            row.put(&transaction, log)?;
        }
        let mut outcome = Ok(());
        let _ = load::sessions(old, key, &mut |row| {
            if outcome.is_ok() {
                outcome = row.put(&transaction, log);
            }
        });
        let _ = load::ids(old, key, &mut |id, at| {
            if outcome.is_ok() {
                outcome = schema::put_id(&transaction, log, &id, at);
            }
        });
        outcome?;
        transaction.commit()?;
    }
    Ok(())
}
