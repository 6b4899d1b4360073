//! A file that is appended to, followed across truncation and rotation.
//!
//! The place up to which its lines are safe, which is on the outbox's disk or acknowledged, is kept in a small file in the
//! state folder: after a restart the sensor goes on there. Lines that were safe and whose place was lost with the process
//! come twice; lines are left out only where a crash and a rotation, or a truncation that was overgrown between two looks,
//! come together.

use std::{
    collections::VecDeque,
    io::SeekFrom,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::BytesMut;
use motience_device::private_file;
use motience_proto::model::Seq;
use serde::{Deserialize, Serialize};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    time::{self, MissedTickBehavior},
};

use super::{
    Context, Sink,
    lines::{Line, Lines},
};
use crate::names;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Places that wait until they are safe; more are merged.
const MAX_UNSURE: usize = 1024;

/// Where the sensor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The file's inode: another file may come under the same name.
    inode: u64,
    /// The first byte of the first line that is not safe.
    offset: u64,
}

struct Open {
    file: File,
    inode: u64,
    /// Where the lines began.
    start: u64,
    lines: Lines,
}

struct Follower<'a> {
    path: PathBuf,
    from_start: bool,
    /// Where the place is kept; `None`: nowhere.
    memory: Option<PathBuf>,
    kept: Option<Place>,
    /// Places that hold once the record is safe.
    unsure: VecDeque<(Seq, Place)>,
    open: Option<Open>,
    /// Whether the file was looked for before: one that appears later is new, and read from its start.
    looked: bool,
    sink: &'a Sink,
}

pub(super) async fn run(path: PathBuf, from_start: bool, interval: Duration, sink: &Sink, context: &Context) {
    let memory = context.state_dir.as_ref().map(|dir| dir.join(name(&path)));
    let mut follower = Follower { path, from_start, memory, kept: None, unsure: VecDeque::new(), open: None, looked: false, sink };
    follower.recall();
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => break,
            _ = ticks.tick() => {}
        }
        if let Err(error) = follower.look().await {
            sink.bad(&format!("{}: {error}", follower.path.display()));
            follower.open = None;
        }
        follower.keep();
    }
    if let Some(&(last, _)) = follower.unsure.back() {
        // In memory, a producer that stopped for good settles nothing; the place then stays where it is.
        let _ = time::timeout(context.grace, sink.producer.saved_through(last)).await;
    }
    follower.keep();
}

impl Follower<'_> {
    /// Reads what is new.
    async fn look(&mut self) -> std::io::Result<()> {
        if let Some(open) = self.open.as_mut() {
            // Before anything else: what was written last before a rotation is still in the old file.
            read(open, &mut self.unsure, self.sink).await?;
            let position = open.file.stream_position().await?;
            match fs::metadata(&self.path).await {
                Ok(metadata) if inode(&metadata) == open.inode && metadata.len() >= position => return Ok(()),
                Ok(metadata) if inode(&metadata) == open.inode => {
                    tracing::info!(path = %self.path.display(), "the file was truncated");
                    self.kept = None;
                    // These places are of what is gone.
                    self.unsure.clear();
                }
                Ok(_) => {
                    tracing::info!(path = %self.path.display(), "the file was replaced");
                    // Its last lines may have been written after the look above and before the replacement.
                    read(open, &mut self.unsure, self.sink).await?;
                }
                // Between the two steps of a rotation.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
            self.open = None;
        }
        let first = !std::mem::replace(&mut self.looked, true);
        let mut file = match File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata().await?;
        let start = match self.kept {
            Some(kept) if first && kept.inode == inode(&metadata) && kept.offset <= metadata.len() => kept.offset,
            None if first && !self.from_start => metadata.len(),
            _ => 0,
        };
        file.seek(SeekFrom::Start(start)).await?;
        let inode = inode(&metadata);
        self.open = Some(Open { file, inode, start, lines: Lines::new(self.sink.max_record) });
        if self.kept.is_none() {
            self.kept = Some(Place { inode, offset: start });
            self.remember();
        }
        match self.open.as_mut() {
            Some(open) => read(open, &mut self.unsure, self.sink).await,
            None => Ok(()),
        }
    }

    /// Keeps the last place whose records are all safe.
    fn keep(&mut self) {
        let mut moved = false;
        while let Some(&(seq, place)) = self.unsure.front() {
            if !self.sink.producer.is_saved_through(seq) {
                break;
            }
            self.unsure.pop_front();
            self.kept = Some(place);
            moved = true;
        }
        if moved {
            self.remember();
        }
    }

    fn recall(&mut self) {
        // A file that is missing or unreadable is a first start.
        self.kept = self.memory.as_deref().and_then(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok());
    }

    fn remember(&self) {
        if let (Some(path), Some(place)) = (&self.memory, &self.kept)
            && let Err(error) = serde_json::to_vec(place).map_err(Into::into).and_then(|text| private_file::write(path, &text))
        {
            tracing::warn!(path = %path.display(), %error, "cannot keep the place in the file");
        }
    }
}

async fn read(open: &mut Open, unsure: &mut VecDeque<(Seq, Place)>, sink: &Sink) -> std::io::Result<()> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    while open.file.read_buf(&mut chunk).await? > 0 {
        open.lines.feed(&chunk);
        chunk.clear();
        while let Some(line) = open.lines.next() {
            let Line::Whole(line) = line else {
                sink.bad("a line is too long");
                continue;
            };
            let Some(seq) = sink.put(line).await else { continue };
            let place = Place { inode: open.inode, offset: open.start + open.lines.consumed() };
            if unsure.len() == MAX_UNSURE {
                unsure.pop_back();
            }
            unsure.push_back((seq, place));
        }
    }
    Ok(())
}

fn inode(metadata: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    return metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |at| at.as_secs());
}

/// The name of the file that keeps the place in `path`.
fn name(path: &Path) -> String {
    format!("follow-{:016x}.json", names::hash(&[path.as_os_str().as_encoded_bytes()]))
}
