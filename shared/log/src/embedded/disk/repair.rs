//! Looking through a log's file for damage, and making a new file of what can be read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use motience_proto::model::{LogEpoch, LogId, LogKey, Offset, ProducerId};
use motience_runtime::clock::millis;
use motience_runtime::private;
use rusqlite::{Connection, OpenFlags};

use super::{
    Error, FILE, load, locked,
    rows::{BatchRow, LogRow, column, offset},
    schema,
};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// Rows written at once.
const ROWS: usize = 1000;
/// Findings of SQLite that are told.
const FINDINGS: usize = 20;
/// Facts that a new file takes over.
const FACTS: [&str; 3] = ["highest_account", "believed", "confirmed"];
/// Both ways through the rows: from either end to the first that cannot be read.
const ROWS_UP: &str =
    "SELECT first, last, written, bytes, sender, entries, sum, producer, rowid FROM batches NOT INDEXED WHERE rowid > ?1 ORDER BY rowid";
const ROWS_DOWN: &str = "SELECT first, last, written, bytes, sender, entries, sum, producer, rowid FROM batches NOT INDEXED \
                         WHERE rowid < ?1 ORDER BY rowid DESC";

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
    /// Some of SQLite's own findings.
    pub findings: Vec<String>,
    /// Where a repair has put the file as it was.
    pub kept: Option<PathBuf>,
}

impl Health {
    /// Whether there is no damage.
    pub fn is_good(&self) -> bool {
        self.damaged.is_empty() && self.forgetful.is_empty() && self.findings.is_empty()
    }

    /// Nothing can be read after `read` up to `to`.
    fn hole(&mut self, connection: &Connection, key: LogKey, read: Offset, to: Offset) {
        if to > read {
            let next = load::next_place(connection, key, read.0.cast_signed());
            let is_there = next.map_or(true, |next| next.is_some_and(|place| offset(place) <= to));
            if is_there { &mut self.damaged } else { &mut self.lost }.push((key, read.next(), to));
        }
    }
}

/// Looks through the log in `dir`, also while a server runs on it.
pub fn check(dir: &Path) -> Result<Health, Error> {
    let path = dir.join(FILE);
    let sqlite = |e| Error::Sqlite(path.clone(), e);
    let connection = open_damaged(&path).map_err(sqlite)?;
    let mut health = Health { findings: findings(&connection), ..Health::default() };
    // A sound file of the first release is brought up to date, as a server would do.
    if health.findings.is_empty() && schema::version(&connection).map_err(sqlite)? == 0 {
        schema::open(&path).map_err(sqlite)?;
    }
    match keys(&connection) {
        Ok(keys) => keys.into_iter().for_each(|key| look_through(&connection, key, &mut health)),
        Err(e) if health.findings.is_empty() => health.findings.push(e.to_string()),
        Err(_) => {}
    }
    Ok(health)
}

/// Writes what can be read of the log in `dir` into a new file, if anything is damaged, and puts the old one aside. No server may run.
pub fn repair(dir: &Path) -> Result<Health, Error> {
    let _lock = locked(dir)?;
    let health = check(dir)?;
    if health.is_good() {
        return Ok(health);
    }
    let rebuilt = rebuild(dir)?;
    Ok(Health { findings: health.findings, forgetful: health.forgetful, ..rebuilt })
}

/// Says that the machine's clock is right: what is too old by it may go, however much that is. A server that runs hears of it.
pub fn confirm(dir: &Path, now: time::OffsetDateTime) -> Result<(), Error> {
    let path = dir.join(FILE);
    let sqlite = |e| Error::Sqlite(path.clone(), e);
    if !path.exists() {
        return Err(Error::Io(path.clone(), std::io::ErrorKind::NotFound.into()));
    }
    let connection = schema::open(&path).map_err(sqlite)?;
    schema::raise_fact(&connection, "confirmed", millis(now)).map_err(sqlite)
}

/// Writes what can be read into a new file and puts the old one aside. Nobody may have it open.
pub(super) fn rebuild(dir: &Path) -> Result<Health, Error> {
    let (path, new) = (dir.join(FILE), dir.join("log.db.new"));
    let sqlite = |e| Error::Sqlite(path.clone(), e);
    let io = |e| Error::Io(dir.to_owned(), e);
    for part in ["", "-wal", "-shm"] {
        match fs::remove_file(beside(&new, part)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
    }
    private::file(&new).map_err(io)?;
    let old = open_damaged(&path).map_err(sqlite)?;
    let mut made = schema::open(&new).map_err(sqlite)?;
    let mut health = Health::default();
    let logs = copy(&old, &mut made).map_err(sqlite)?;
    for key in logs.into_values() {
        look_through(&made, key, &mut health);
    }
    made.pragma_update(None, "wal_checkpoint", "TRUNCATE").map_err(sqlite)?;
    drop((old, made));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let kept = dir.join(format!("log.db.damaged-{since}"));
    for part in ["-wal", "-shm", ""] {
        let from = beside(&path, part);
        if from.exists() {
            fs::rename(from, beside(&kept, part)).map_err(io)?;
        }
    }
    fs::rename(&new, &path).map_err(io)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    health.kept = Some(kept);
    Ok(health)
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

/// All logs that `logs` names, and those whose batches alone are left.
fn keys(connection: &Connection) -> rusqlite::Result<Vec<LogKey>> {
    let mut keys = BTreeMap::new();
    let mut outcome = Ok(());
    for (ask, is_enough) in [
        ("SELECT producer, COALESCE(number, producer) FROM logs", false),
        ("SELECT DISTINCT producer, producer FROM batches INDEXED BY batches_place", true),
        ("SELECT DISTINCT producer, producer FROM batches NOT INDEXED", true),
    ] {
        let mut add = || -> rusqlite::Result<()> {
            let mut statement = connection.prepare(ask)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (log, number): (i64, i64) = (row.get(0)?, row.get(1)?);
                keys.entry(log).or_insert(LogKey { producer: ProducerId(number), log: LogId(log.cast_unsigned()) });
            }
            Ok(())
        };
        match add() {
            Ok(()) if is_enough => break,
            Ok(()) => {}
            Err(e) => outcome = Err(e),
        }
    }
    match outcome {
        Err(e) if keys.is_empty() => Err(e),
        _ => Ok(keys.into_values().collect()),
    }
}

/// Reads all of a log, as a reader would come through it.
fn look_through(connection: &Connection, key: LogKey, health: &mut Health) {
    health.logs += 1;
    let row = load::log_row(connection, key);
    let whole = row.is_ok()
        && load::sessions(connection, key, &mut drop).unwrap_or(false)
        && load::ids(connection, key, &mut |_, _| ()).unwrap_or(false);
    if !whole {
        health.forgetful.push(key);
    }
    let row = row.ok().flatten().unwrap_or_default();
    let removed = row.removed.map(offset);
    // Where nobody noted what retention has removed, nothing is known of what came before the first.
    let (mut at, mut is_first) = (removed.unwrap_or_default(), removed.is_none());
    let mut read = at;
    loop {
        let Ok(found) = load::read(connection, key, LogEpoch(0), at, CHUNK) else { break };
        for batch in &found.batches {
            if !is_first {
                health.hole(connection, key, read, Offset(batch.first.0 - 1));
            }
            is_first = false;
            health.records += batch.len() as u64;
            health.bytes += batch.bytes() as u64;
            (at, read) = (batch.last(), batch.last());
        }
        match found.skipped {
            Some(skipped) => at = skipped,
            None if found.batches.is_empty() => break,
            None => {}
        }
    }
    if !is_first {
        health.hole(connection, key, read, offset(row.last));
    }
    if load::next_place(connection, key, read.0.cast_signed()).is_ok_and(|place| place.is_some_and(|place| place > row.last)) {
        health.findings.push(format!("a batch of producer {} is out of its place", key.producer));
    }
}

/// Copies whatever can be read: by the index, and row by row from both ends, since either may be damaged where the other is not.
fn copy(old: &Connection, new: &mut Connection) -> rusqlite::Result<BTreeMap<i64, LogKey>> {
    for name in FACTS {
        if let Ok(Some(value)) = schema::fact(old, name) {
            schema::raise_fact(new, name, value)?;
        }
    }
    let mut logs: BTreeMap<i64, LogKey> = keys(old).unwrap_or_default().into_iter().map(|key| (column(key.log), key)).collect();
    for (log, key) in &logs {
        copy_log(old, new, *log, *key)?;
    }
    for (ask, mut from) in [(ROWS_UP, i64::MIN), (ROWS_DOWN, i64::MAX)] {
        loop {
            let (rows, is_end) = some_rows(old, ask, &mut from);
            let transaction = new.transaction()?;
            for (log, row) in &rows {
                logs.entry(*log).or_insert(LogKey { producer: ProducerId(*log), log: LogId(log.cast_unsigned()) });
                row.put(&transaction, *log)?;
            }
            transaction.commit()?;
            if is_end {
                break;
            }
        }
    }
    for (log, key) in &logs {
        settle(old, new, *log, *key)?;
    }
    Ok(logs)
}

fn copy_log(old: &Connection, new: &mut Connection, log: i64, key: LogKey) -> rusqlite::Result<()> {
    let mut at = Offset(0);
    while let Ok(found) = load::read(old, key, LogEpoch(0), at, CHUNK) {
        let transaction = new.transaction()?;
        for batch in &found.batches {
            BatchRow::of(batch, batch.received.map_or(0, millis)).put(&transaction, log)?;
            at = batch.last();
        }
        transaction.commit()?;
        match found.skipped {
            Some(skipped) => at = skipped,
            None if found.batches.is_empty() => break,
            None => {}
        }
    }
    let transaction = new.transaction()?;
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
    transaction.commit()
}

/// Rows that can be read and are what their checksums say, and whether there are no more.
fn some_rows(old: &Connection, ask: &str, from: &mut i64) -> (Vec<(i64, BatchRow)>, bool) {
    let mut found = Vec::new();
    let mut read = || -> rusqlite::Result<bool> {
        let mut statement = old.prepare_cached(ask)?;
        let mut rows = statement.query([*from])?;
        for _ in 0..ROWS {
            let Some(row) = rows.next()? else { return Ok(true) };
            *from = row.get(8)?;
            let Ok(log) = row.get::<_, i64>(7) else { continue };
            let key = LogKey { producer: ProducerId(log), log: LogId(log.cast_unsigned()) };
            if let Ok((row, _)) = load::checked_row(row, log, key, LogEpoch(0)) {
                found.push((log, row));
            }
        }
        Ok(false)
    };
    let is_end = read().unwrap_or(true);
    (found, is_end)
}

/// Writes down where a log stands, and leaves out what retention has removed.
fn settle(old: &Connection, new: &Connection, log: i64, key: LogKey) -> rusqlite::Result<()> {
    let known = load::log_row(old, key).ok().flatten();
    let (first, last): (Option<i64>, Option<i64>) =
        new.query_row("SELECT MIN(first), MAX(last) FROM batches WHERE producer = ?1", [log], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let row = known.unwrap_or_else(|| LogRow {
        number: Some(key.producer.0),
        last: last.unwrap_or(0),
        removed: first.map(|first| first - 1),
        ..LogRow::default()
    });
    if let Some(removed) = row.removed {
        new.execute("DELETE FROM batches WHERE producer = ?1 AND last <= ?2", [log, removed])?;
    }
    row.put(new, log)
}
