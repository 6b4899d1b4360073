//! A disk in memory that loses power, fills up and rots.

use std::{collections::HashMap, io, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use redb::{Builder, Database, DatabaseError, StorageBackend};

use super::Medium;

/// A change of a file since it was last synced.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct File {
    /// Content that reads see.
    now: Vec<u8>,
    /// Content that a power cut leaves for sure.
    synced: Vec<u8>,
    /// Content that a power cut left for sure before the last sync.
    before: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug)]
struct State {
    files: HashMap<String, File>,
    /// Steps (writes, syncs, lengths) until the power goes.
    fuse: Option<usize>,
    steps: usize,
    /// Bytes that the disk has; a file beyond takes no more writes.
    room: u64,
}

/// Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<State>>);

const MAIN: &str = "main";
const DRAFT: &str = "draft";

impl Disk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { files: HashMap::new(), fuse: None, steps: 0, room: u64::MAX })))
    }

    pub(crate) fn with(bytes: Vec<u8>) -> Self {
        let disk = Self::new();
        disk.lock().files.insert(MAIN.into(), File::with(bytes));
        disk
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().files.get(MAIN).map(|file| file.now.clone()).unwrap_or_default()
    }

    /// Every byte is this one now.
    pub(crate) fn overwrite(&self, byte: u8) {
        let length = self.bytes().len();
        self.lock().files.insert(MAIN.into(), File::with(vec![byte; length]));
    }

    pub(crate) fn files(&self) -> usize {
        self.lock().files.len()
    }

    /// Steps done so far.
    pub(crate) fn steps(&self) -> usize {
        self.lock().steps
    }

    /// The power goes at this step: it and all later ones fail.
    pub(crate) fn set_fuse(&self, step: usize) {
        self.lock().fuse = Some(step);
    }

    pub(crate) fn set_room(&self, room: u64) {
        self.lock().room = room;
    }

    /// The disk after a power cut: of what was not synced each change is there, or not, or only a part of it is, in any
    /// order; `random` decides.
    pub(crate) fn after_cut(&self, random: &mut fastrand::Rng) -> Self {
        let state = self.lock();
        let disk = Self::new();
        for (name, file) in &state.files {
            let mut bytes = file.synced.clone();
            let mut changes = file.unsynced.clone();
            if random.bool() {
                random.shuffle(&mut changes);
            }
            for change in &changes {
                match (random.u8(0..4), change) {
                    (0, _) => {}
                    (1, Change::Write(offset, data)) => {
                        let cut = random.usize(0..=data.len());
                        put(&mut bytes, *offset, &data[..cut]);
                    }
                    (_, Change::Write(offset, data)) => put(&mut bytes, *offset, data),
                    (_, Change::SetLen(len)) => bytes.resize(usize::try_from(*len).unwrap(), 0),
                }
            }
            disk.lock().files.insert(name.clone(), File::with(bytes));
        }
        disk
    }

    /// The disk without what it was told last before it was told to sync: it has lied, or that has rotten.
    pub(crate) fn after_lie(&self) -> Self {
        let state = self.lock();
        let disk = Self::new();
        for (name, file) in &state.files {
            disk.lock().files.insert(name.clone(), File::with(file.before.clone()));
        }
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    fn file(&self, name: &str) -> Handle {
        self.lock().files.entry(name.into()).or_default();
        Handle { disk: self.clone(), name: name.into() }
    }
}

impl File {
    fn with(bytes: Vec<u8>) -> Self {
        Self { now: bytes.clone(), synced: bytes.clone(), before: bytes, unsynced: Vec::new() }
    }
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.fuse {
            Some(fuse) if self.steps > fuse => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }
}

impl Medium for Disk {
    fn open(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(self.file(MAIN))
    }

    fn draft(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        self.lock().files.remove(DRAFT);
        builder.create_with_backend(self.file(DRAFT))
    }

    fn adopt(&self) -> io::Result<()> {
        self.set_aside()?;
        let mut state = self.lock();
        let draft = state.files.remove(DRAFT).unwrap();
        state.files.insert(MAIN.into(), draft);
        Ok(())
    }

    fn set_aside(&self) -> io::Result<()> {
        let mut state = self.lock();
        let file = state.files.remove(MAIN).unwrap();
        let name = format!("damaged-{}", state.files.len());
        state.files.insert(name, file);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn name(&self) -> String {
        "a disk in memory".into()
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    name: String,
}

impl Handle {
    fn with<T>(&self, work: impl FnOnce(&mut File) -> T) -> T {
        work(self.disk.lock().files.get_mut(&self.name).unwrap())
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.lock();
        let step = state.step();
        let room = state.room;
        let file = state.files.get_mut(&self.name).unwrap();
        let full = match &change {
            Change::Write(offset, data) => offset + data.len() as u64 > room,
            Change::SetLen(len) => *len > room.max(file.now.len() as u64),
        };
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // The step at which the power goes may have been begun.
        file.unsynced.push(change.clone());
        step?;
        match change {
            Change::Write(offset, data) => put(&mut file.now, offset, &data),
            Change::SetLen(len) => file.now.resize(usize::try_from(len).unwrap(), 0),
        }
        Ok(())
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|file| file.now.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|file| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let from = start.checked_add(out.len()).and_then(|end| file.now.get(start..end));
            out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.lock().step()?;
        self.with(|file| {
            file.before = std::mem::replace(&mut file.synced, file.now.clone());
            file.unsynced.clear();
        });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = usize::try_from(offset).unwrap();
    let end = start + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}
