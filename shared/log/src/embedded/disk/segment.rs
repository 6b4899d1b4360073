//! Segments: files of the folder `log.segments`, shared by all producers, each a run of frames in the order of writing.
//!
//! One is named `FIRST-LAST-GENERATION`: the numbers of the segments that it stands for, since survivors of several are put together, and how
//! often that was done. One that stands for another replaces it. Only the last one is ever written to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use motience_proto::model::LogKey;

use super::frame::{self, Decoder, Frame, MAGIC, MARK, Slot};

/// Folder of the segments, in the data folder.
pub(super) const FOLDER: &str = "log.segments";
/// End of the name of a file that is not finished.
pub(super) const UNFINISHED: &str = "new";

/// Name of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) generation: u32,
}

/// Position in the log of all producers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Number of the segment.
    pub(super) segment: u64,
    /// Byte within it.
    pub(super) at: u64,
}

/// A segment's file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: Name,
    folder: Arc<Path>,
    /// Bytes that were written and synced.
    length: AtomicU64,
}

/// Part of a segment.
pub(super) enum Piece {
    /// A frame, at its position; whether all before it had been synced; bytes.
    Frame { position: u64, length: usize, begins_group: bool, frame: Frame },
    /// Bytes that are no frame: up to where.
    Damaged { position: u64, end: u64 },
    /// A whole frame that names a sender which nobody defined, since that frame is damaged: up to where.
    Orphan { position: u64, end: u64, begins_group: bool },
}

impl Name {
    pub(super) fn numbered(number: u64) -> Self {
        Self { first: number, last: number, generation: 0 }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(".segment")?.splitn(3, '-');
        let name = Self { first: parts.next()?.parse().ok()?, last: parts.next()?.parse().ok()?, generation: parts.next()?.parse().ok()? };
        (name.first <= name.last).then_some(name)
    }

    fn file(self, suffix: &str) -> String {
        format!("{:010}-{:010}-{}.{suffix}", self.first, self.last, self.generation)
    }
}

impl Piece {
    pub(super) fn position(&self) -> u64 {
        match *self {
            Self::Frame { position, .. } | Self::Damaged { position, .. } | Self::Orphan { position, .. } => position,
        }
    }
}

impl Segment {
    pub(super) fn new(folder: &Arc<Path>, name: Name, length: u64) -> Self {
        Self { name, folder: Arc::clone(folder), length: AtomicU64::new(length) }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(self.name.file("segment"))
    }

    /// Path of its index.
    pub(super) fn index_path(&self) -> PathBuf {
        self.folder.join(self.name.file("index"))
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    pub(super) fn set_length(&self, length: u64) {
        self.length.store(length, Ordering::Release);
    }

    /// Opens the file to write at its end, with no more than `length` bytes in it; makes it where there is none. Bytes that are there are synced.
    pub(super) fn write(&self) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.path())?;
        file.write_all_at(&MAGIC, 0)?;
        file.set_len(self.length().max(MAGIC.len() as u64))?;
        file.sync_all()?;
        sync(&self.folder)?;
        Ok(file)
    }

    /// All that is written of it.
    pub(super) fn bytes(&self) -> io::Result<Bytes> {
        let length = self.length();
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        let path = self.path();
        let file = File::open(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Removes the file and its index.
    pub(super) fn remove(&self) -> io::Result<()> {
        absent(fs::remove_file(self.index_path()))?;
        absent(fs::remove_file(self.path()))
    }

    /// Moves the file to another folder, where it is kept.
    pub(super) fn put_aside(&self, folder: &Path) -> io::Result<()> {
        absent(fs::remove_file(self.index_path()))?;
        fs::rename(self.path(), folder.join(self.name.file("segment")))
    }
}

/// Makes a file that appears under its name once it is whole and on the disk.
pub(super) fn make(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".");
    unfinished.push(UNFINISHED);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    write(&file)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), sync)
}

/// Makes names in the folder durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Segments in the folder, in their order, and files that nobody needs any more: replaced segments, and unfinished ones.
pub(super) fn list(folder: &Arc<Path>) -> io::Result<(Vec<Segment>, Vec<PathBuf>)> {
    let (mut found, mut stale) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(name) = Name::parse(name) {
            found.push(Segment::new(folder, name, entry.metadata()?.len()));
        } else if name.ends_with(UNFINISHED) {
            stale.push(entry.path());
        }
    }
    // Of those that begin with the same number, the one that stands for most and is the youngest comes first.
    found.sort_by_key(|segment| (segment.name.first, u64::MAX - segment.name.last, u32::MAX - segment.name.generation));
    let mut end = None;
    found.retain(|segment| {
        let is_needed = end.is_none_or(|end| segment.name.last > end);
        if is_needed {
            end = Some(segment.name.last);
        } else {
            stale.extend([segment.path(), segment.index_path()]);
        }
        is_needed
    });
    Ok((found, stale))
}

/// Looks through a segment; returns the decoder as it is at the end.
pub(super) fn scan(bytes: &Bytes, found: &mut impl FnMut(Piece)) -> Decoder {
    let mut decoder = Decoder::default();
    let mut at = MAGIC.len();
    let mut damaged = (bytes.len() >= at && !bytes.starts_with(&MAGIC)).then_some(0);
    while at < bytes.len() {
        if let Some(length) = frame::whole(&bytes[at..]) {
            if let Some(position) = damaged.take() {
                found(Piece::Damaged { position, end: at as u64 });
            }
            let (position, frame) = (at as u64, bytes.slice(at..at + length));
            let begins_group = frame::begins_group(&frame);
            found(match decoder.frame(position, &frame) {
                Some(frame) => Piece::Frame { position, length, begins_group, frame },
                None => Piece::Orphan { position, end: (at + length) as u64, begins_group },
            });
            at += length;
        } else {
            damaged.get_or_insert(at as u64);
            at = bytes[at + 1..].iter().position(|byte| *byte == MARK).map_or(bytes.len(), |by| at + 1 + by);
        }
    }
    if let Some(position) = damaged {
        found(Piece::Damaged { position, end: bytes.len() as u64 });
    }
    decoder
}

/// Where a segment that was being written ends: before the first damage that no later group follows. A group is written once the one before
/// it is synced, so damage before a group is damage; behind the last group's beginning it is a write that did not end.
#[derive(Debug, Default)]
pub(super) struct End {
    torn: Option<u64>,
}

impl End {
    pub(super) fn see(&mut self, piece: &Piece) {
        match *piece {
            Piece::Frame { begins_group: true, .. } | Piece::Orphan { begins_group: true, .. } => self.torn = None,
            Piece::Frame { .. } | Piece::Orphan { .. } => {}
            Piece::Damaged { position, .. } => {
                self.torn.get_or_insert(position);
            }
        }
    }

    pub(super) fn of(&self, length: u64) -> u64 {
        self.torn.unwrap_or(length).max(MAGIC.len() as u64).min(length.max(MAGIC.len() as u64))
    }
}

/// Batches of a segment, as its frames have them.
pub(super) fn batches(bytes: &Bytes, found: &mut impl FnMut(LogKey, Slot)) {
    scan(bytes, &mut |piece| {
        if let Piece::Frame { position, length, frame: Frame::Append(append), .. } = piece
            && let Some(slot) = Slot::of(append.producer_epoch, append.first, append.at, &append.entries, (position, length))
        {
            found(append.key, slot);
        }
    });
}
