//! The outbox's file: a redb database with the records that are not acknowledged, and the reservation of numbers.
//!
//! - Every commit is one transaction, synced before it counts: after a power cut at any byte the file is as after the
//!   last commit that counted, or a later one.
//! - Damage of another kind (a flipped bit, a cut file) is found by redb's checksums of pages and by ours of rows. Where
//!   the reservation is intact, the intact records go into a new file under the same epoch, and every other number is told to
//!   the server as skipped. Otherwise nothing is trusted: a new file, a new epoch. The damaged file is kept beside it.
//! - redb may panic over a damaged file that it did not expect; here that is damage like any other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use motience_mutation::Mutation;
use motience_proto::model::RangeSet;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, TableError};

use super::{Group, Loaded, Reservation, difference, new_epoch};

mod error;
mod medium;
mod row;

pub use error::Error;
pub(crate) use medium::{Medium, OnDisk};

use error::Fault;

/// Records by number.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// The reservation, under [`RESERVATION`].
const STATE: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("state");
const RESERVATION: u8 = 0;
/// Memory for pages of the file: the records are in memory anyway.
const CACHE: usize = 4 * 1024 * 1024;

/// Why a group was not written.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The file is not the one it was: everything must be written again.
    Restart,
    /// The disk fails; the same again later.
    Later(Error),
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Store {
    medium: Box<dyn Medium>,
    /// `None` after a failure: it is opened again with the next group.
    database: Option<Database>,
    /// Whether there was no room the last time.
    tight: bool,
}

impl Store {
    /// Opens the file, recovers it where it must be, or starts a new one.
    pub(crate) fn open(medium: impl Medium) -> Result<(Self, Loaded), Error> {
        let mut store = Self { medium: Box::new(medium), database: None, tight: false };
        let loaded = store.load().map_err(|fault| fault.named(store.medium.name()))?;
        Ok((store, loaded))
    }

    /// Writes a group and syncs it. Blocks.
    pub(crate) fn save(&mut self, group: &Group) -> Result<(), Refusal> {
        let result = guard(|| {
            if self.database.is_none() && !self.reopen(&group.reservation, group.saved)? {
                return Ok(false);
            }
            match &self.database {
                Some(database) => {
                    if self.tight && !group.gone.is_empty() {
                        make_room(database, group)?;
                    }
                    write(database, group).map(|()| true)
                }
                None => Err(Fault::Other("it is closed".into())),
            }
        });
        match result {
            Ok(true) => {
                self.tight = false;
                Ok(())
            }
            Ok(false) => Err(Refusal::Restart),
            Err(fault) => {
                self.tight = matches!(fault, Fault::NoSpace);
                // redb takes nothing more after a failure. Closing it may fail, and even panic, like anything else.
                let _ = catch_unwind(AssertUnwindSafe(|| self.database = None));
                Err(Refusal::Later(fault.named(self.medium.name())))
            }
        }
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        self.medium.size()
    }

    fn load(&mut self) -> Result<Loaded, Fault> {
        match self.attempt() {
            Ok((database, Some(loaded))) if !loaded.doubtful => {
                self.database = Some(database);
                Ok(loaded)
            }
            Ok((database, Some(mut loaded))) => {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
                loaded.settle_doubt();
                self.rebuild(&loaded)?;
                tracing::error!(file = self.medium.name(), lost = loaded.lost, kept = loaded.items.len(), "the outbox was damaged");
                Ok(loaded)
            }
            Ok((database, None)) => {
                self.database = Some(database);
                Ok(Loaded::new())
            }
            Err(Fault::Damaged(reason)) => {
                tracing::error!(file = self.medium.name(), reason, "the outbox is damaged; a new one is begun, the old one kept beside it");
                self.renew()?;
                Ok(Loaded { doubtful: true, ..Loaded::new() })
            }
            Err(fault) => Err(fault),
        }
    }

    /// Opens the file and reads all of it. `None`: it is new.
    fn attempt(&self) -> Result<(Database, Option<Loaded>), Fault> {
        guard(|| {
            let repaired = Arc::new(AtomicBool::new(false));
            let mut builder = builder();
            let flag = repaired.clone();
            builder.set_repair_callback(move |_| flag.store(true, Relaxed));
            let mut database = self.medium.open(&builder)?;
            let mut loaded = read(&database)?;
            // A repair, after a cut, has looked at every page; otherwise nobody has. The damaged page may be
            // one that no record is read from, but the next write might build on it.
            if let Some(loaded) = &mut loaded
                && !repaired.load(Relaxed)
                && !matches!(database.check_integrity(), Ok(true))
            {
                loaded.doubtful = true;
            }
            Ok((database, loaded))
        })
    }

    /// Opens the file again after a failure. Whether it is as it was.
    fn reopen(&mut self, reservation: &Reservation, saved: u64) -> Result<bool, Fault> {
        match self.attempt() {
            Ok((database, Some(loaded)))
                if !loaded.doubtful && loaded.reservation.epoch == reservation.epoch && loaded.reservation.last >= saved =>
            {
                self.database = Some(database);
                Ok(true)
            }
            Ok((database, found)) => {
                drop(database);
                tracing::error!(file = self.medium.name(), found = found.is_some(), "the outbox is written anew");
                self.renew().map(|()| false)
            }
            Err(Fault::Damaged(reason)) => {
                tracing::error!(file = self.medium.name(), reason, "the outbox is damaged and written anew");
                self.renew().map(|()| false)
            }
            Err(fault) => Err(fault),
        }
    }

    /// A new file in the place of the present one.
    fn renew(&mut self) -> Result<(), Fault> {
        self.medium.set_aside().map_err(redb::Error::Io)?;
        self.database = Some(self.medium.open(&builder())?);
        Ok(())
    }

    /// A new file with what is left of the present one.
    fn rebuild(&mut self, loaded: &Loaded) -> Result<(), Fault> {
        let draft = self.medium.draft(&builder())?;
        let group = Group { put: loaded.items.clone(), gone: RangeSet::new(), reservation: loaded.reservation.clone(), saved: 0 };
        write(&draft, &group)?;
        drop(draft);
        self.medium.adopt().map_err(redb::Error::Io)?;
        self.database = Some(self.medium.open(&builder())?);
        Ok(())
    }
}

impl Loaded {
    /// Nothing: a new life.
    fn new() -> Self {
        let reservation = Reservation { epoch: new_epoch(), last: 0, reserved: 0, last_sent: Some(0), abandoned: RangeSet::new() };
        Self { reservation, items: Vec::new(), doubtful: false, lost: 0, fresh: true }
    }

    /// Of every number that is not here it is unknown whether its record was acknowledged or is lost: the server is told that
    /// none of them will come, which it minds only where it has not seen them.
    fn settle_doubt(&mut self) {
        if !Mutation::IgnoreTornTail.is_on() {
            let mut all = RangeSet::new();
            all.insert_range(1..=self.reservation.reserved);
            self.reservation.abandoned = difference(&all, &self.items.iter().map(|item| item.seq.0).collect());
            self.reservation.last = self.reservation.reserved;
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// Takes a panic for damage.
fn guard<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Fault::Damaged("its structure makes no sense".into())))
}

fn write(database: &Database, group: &Group) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for range in group.gone.iter() {
            records.retain_in(range, |_, _| false)?;
        }
        for item in &group.put {
            records.insert(item.seq.0, row::encode(group.reservation.epoch, item).as_slice())?;
        }
        let mut state = transaction.open_table(STATE)?;
        state.insert(RESERVATION, row::encode_reservation(&group.reservation, records.len()?).as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

/// Removes what is acknowledged before anything is added. The pages are free only after another commit, for until then the last
/// commit but one must be whole.
fn make_room(database: &Database, group: &Group) -> Result<(), Fault> {
    let reservation = Reservation { last: group.saved, ..group.reservation.clone() };
    let removal = Group { put: Vec::new(), gone: group.gone.clone(), reservation, saved: group.saved };
    write(database, &removal)?;
    write(database, &removal)
}

/// Content of the file; `None` where it is new and empty.
fn read(database: &Database) -> Result<Option<Loaded>, Fault> {
    let transaction = database.begin_read()?;
    let state = match transaction.open_table(STATE) {
        Ok(state) => state,
        Err(TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let reservation = state.get(RESERVATION)?.and_then(|row| row::decode_reservation(row.value()));
    let (reservation, count) = reservation.ok_or_else(|| Fault::Damaged("its reservation is not intact".into()))?;
    let records = transaction.open_table(RECORDS)?;
    let mut items = Vec::new();
    let mut sound = true;
    let mut last = 0;
    for entry in records.iter()? {
        let Ok((seq, row)) = entry else {
            sound = false;
            break;
        };
        let seq = seq.value();
        match row::decode(reservation.epoch, seq, row.value()) {
            // Rows come in the order of their numbers, or the structure is broken.
            Some(item) if seq > last && seq <= reservation.last => {
                last = seq;
                items.push(item);
            }
            _ => sound = false,
        }
    }
    let lost = count.saturating_sub(items.len() as u64);
    let doubtful = !sound || items.len() as u64 != count;
    Ok(Some(Loaded { reservation, items, doubtful, lost, fresh: false }))
}

#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
