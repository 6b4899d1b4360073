//! Room: segments of which nothing is in use are removed, and what slow producers still have in others is copied into one.
//!
//! A segment goes as a whole. So that a few records of a slow producer do not keep the whole segments of a busy one, survivors of neighbours are
//! copied forward into a new segment, which takes their place. The new one holds nothing but survivors, so they are not copied again with the next busy
//! segment; and each copy frees at least as much as it writes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use motience_proto::model::{LogKey, RangeSet};

use super::{
    frame::{Draft, Encoder, Frame, MAGIC},
    index::{Index, Run, Runs, Slots, filed},
    segment::{Name, Piece, Position, Segment, UNFINISHED, scan, sync},
};
use crate::{batch::blank, embedded::state::Note};

/// Bytes written and synced at once: a larger part would hold up the log's writer.
const PART: usize = 1 << 20;
/// Small segments that are put together where there are so many.
const MANY: usize = 8;
/// Most segments that are put together at once.
const WIDTH: usize = 64;

/// A segment in the making, which appears under its name once it is whole.
pub(super) struct Maker {
    segment: Arc<Segment>,
    unfinished: PathBuf,
    folder: Arc<Path>,
    file: File,
    encoder: Encoder,
    buffer: Vec<u8>,
    written: u64,
    runs: Runs,
    known: HashMap<LogKey, usize>,
}

impl Maker {
    pub(super) fn new(folder: &Arc<Path>, name: Name) -> io::Result<Self> {
        let segment = Arc::new(Segment::new(folder, name, 0));
        let unfinished = segment.path().with_extension(UNFINISHED);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        Ok(Self {
            segment,
            unfinished,
            folder: Arc::clone(folder),
            file,
            encoder: Encoder::default(),
            buffer: MAGIC.to_vec(),
            written: 0,
            runs: Vec::new(),
            known: HashMap::new(),
        })
    }

    /// Bytes so far.
    pub(super) fn length(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Whether there is something of this log.
    fn has(&self, key: LogKey) -> bool {
        self.known.contains_key(&key)
    }

    /// Adds a batch. One whose offsets the log has already is left out.
    pub(super) fn add(&mut self, draft: &Draft<'_>) -> io::Result<()> {
        let known = self.known.get(&draft.key).map(|at| &self.runs[*at].1);
        if !draft.entries.is_empty() && known.is_some_and(|run| draft.first <= run.last) {
            return Ok(());
        }
        let Some(slot) = self.encoder.append(&mut self.buffer, self.written, draft) else { return Ok(()) };
        match self.known.get(&draft.key) {
            Some(at) => self.runs[*at].1.add(slot),
            None => {
                self.known.insert(draft.key, self.runs.len());
                self.runs.push((draft.key, Run::new(&self.segment, slot)));
            }
        }
        if self.buffer.len() >= PART { self.flush() } else { Ok(()) }
    }

    pub(super) fn note(&mut self, note: &Note) {
        Encoder::note(&mut self.buffer, note);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.file.sync_data()?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The segment and its runs, once it is on the disk.
    pub(super) fn finish(mut self) -> io::Result<(Arc<Segment>, Runs)> {
        self.flush()?;
        self.file.sync_all()?;
        self.segment.set_length(self.written);
        let blocks = filed::write(&self.segment, &self.runs)?;
        fs::rename(&self.unfinished, self.segment.path())?;
        sync(&self.folder)?;
        for ((_, run), (_, block)) in self.runs.iter_mut().zip(blocks) {
            run.slots = Slots::Filed(block);
        }
        Ok((self.segment, self.runs))
    }
}

/// Which neighbours to put together, of segments of these sizes, so much of each in use: where that frees half of `limit` and as much as it
/// writes; or many small ones, of which none is as large as all others.
pub(super) fn choose(segments: &[(u64, u64)], limit: u64) -> Option<Range<usize>> {
    let mut best: Option<(Range<usize>, u64, u64)> = None;
    let mut small = None;
    for from in 0..segments.len() {
        let (mut size, mut live, mut largest) = (0, 0, 0);
        for (to, (its_size, its_live)) in segments.iter().enumerate().skip(from).take(WIDTH) {
            (size, live, largest) = (size + its_size, live + its_live, largest.max(*its_live));
            if live > limit {
                break;
            }
            let freed = size.saturating_sub(live);
            let is_better = |(_, best_live, best_size): &(_, u64, u64)| {
                u128::from(live) * u128::from(*best_size) < u128::from(*best_live) * u128::from(size)
            };
            if freed >= live && freed >= limit / 2 && best.as_ref().is_none_or(is_better) {
                best = Some((from..to + 1, live, size));
            }
            if to + 1 - from >= MANY && largest * 2 <= live {
                small.get_or_insert(from..to + 1);
            }
        }
    }
    best.map(|(range, ..)| range).or(small)
}

/// Copies what is in use of these neighbours into one segment, which takes their place, with what it says of senders. Fails where any of it is
/// damaged: then they stay, so that readers are told of damage, and `log check` tells where it is.
pub(super) fn compact(index: &Index, folder: &Arc<Path>, old: &[Arc<Segment>], erased: Option<&Erased>) -> io::Result<()> {
    let (Some(first), Some(last)) = (old.first(), old.last()) else { return Ok(()) };
    let generation = old.iter().map(|segment| segment.name.generation).max().unwrap_or(0) + 1;
    let mut maker = Maker::new(folder, Name { first: first.name.first, last: last.name.last, generation })?;
    let (mut removed, mut notes) = (HashMap::new(), BTreeMap::new());
    for segment in old {
        let mut outcome = Ok(());
        scan(&segment.bytes()?, &mut |piece| {
            if outcome.is_err() {
                return;
            }
            match piece {
                Piece::Frame { frame: Frame::Append(mut append), .. } if !append.entries.is_empty() => {
                    if let Some(erased) = erased.filter(|erased| erased.key == append.key) {
                        blank(&mut append.entries, append.first, &erased.offsets);
                    }
                    let removed = *removed.entry(append.key.log).or_insert_with(|| index.removed(append.key.log).0);
                    if append.first.0 + append.entries.len() as u64 > removed.next().0 {
                        outcome = maker.add(&append.draft());
                    }
                }
                Piece::Frame { frame: Frame::Append(_), .. } => {}
                // The last one of each log says where it stands.
                Piece::Frame { frame: Frame::Note(note), .. } => drop(notes.insert(note.key, note)),
                Piece::Damaged { .. } | Piece::Orphan { .. } => {
                    outcome = Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", segment.path().display())));
                }
            }
        });
        outcome?;
    }
    notes.into_values().filter(|note| maker.has(note.key)).collect::<Vec<_>>().iter().for_each(|note| maker.note(note));
    let (made, runs) = maker.finish()?;
    index.replace(old, Some(made), runs);
    old.iter().try_for_each(|segment| segment.remove())
}

/// Records of a log whose messages are not copied.
pub(super) struct Erased {
    pub(super) key: LogKey,
    pub(super) offsets: RangeSet,
}

impl Erased {
    /// Writes anew, one by one, the segments that have any of these records. All of them must be written no more, and the database must know them.
    pub(super) fn rewrite(&self, index: &Index, folder: &Arc<Path>, checkpoint: Position) -> io::Result<()> {
        let has_any = |run: &Run| self.offsets.touches(&(run.first.0..=run.last.0));
        for run in index.runs(self.key.log).iter().filter(|run| has_any(run)) {
            if run.segment.name.last >= checkpoint.segment {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "the newest segment is still being written"));
            }
            compact(index, folder, std::slice::from_ref(&run.segment), Some(self))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_frees_much_for_little_is_put_together() {
        assert_eq!(choose(&[], 32 * MIB), None);
        assert_eq!(choose(&[(32 * MIB, 30 * MIB), (32 * MIB, 20 * MIB)], 32 * MIB), None, "too little is free");
        assert_eq!(choose(&[(32 * MIB, 30 * MIB), (32 * MIB, 10), (32 * MIB, 20 * MIB)], 32 * MIB), Some(1..2));
        let survivors = vec![(MIB, MIB); 12];
        assert_eq!(choose(&survivors[..7], 32 * MIB), None);
        assert_eq!(choose(&survivors, 32 * MIB), Some(0..8));
        let one_large: Vec<_> = std::iter::once((20 * MIB, 20 * MIB)).chain(vec![(10, 10); 7]).collect();
        assert_eq!(choose(&one_large, 32 * MIB), None, "the large one would be copied for nothing");
    }

    /// A busy producer's segments go again and again; what a slow one has among them is copied a few times, not each time.
    #[test]
    fn survivors_are_not_copied_again_and_again() {
        let (limit, mut segments, mut copied, mut written) = (32 * MIB, Vec::new(), 0, 0);
        for _ in 0..2000 {
            segments.push((limit, MIB / 10));
            written += limit;
            while let Some(range) = choose(&segments, limit) {
                let live: u64 = segments[range.clone()].iter().map(|(_, live)| live).sum();
                copied += live;
                segments.splice(range, [(live, live)]);
            }
        }
        assert!(copied < written / 20, "{} of {} MiB", copied / MIB, written / MIB);
        assert!(segments.len() < 60, "{}", segments.len());
    }
}
