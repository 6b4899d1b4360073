//! Cutting the end off the write-ahead log of a SQLite database whose process was killed.
//!
//! The cut is an honest lost tail only while nothing of it has been copied into the database: a checkpoint puts pages of the end
//! there that the beginning knows nothing of. The shared-memory file beside it tells (sqlite.org/walformat.html).

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const WAL_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// Cuts up to `bytes` off the WAL of `database`. Returns how many; 0 where it would not be honest just now.
pub(crate) fn cut_wal(database: &Path, bytes: u64) -> Result<u64> {
    let shm = std::fs::read(beside(database, "-shm")).context("the log has no shared memory")?;
    let number = |at: usize| Some(u64::from(u32::from_ne_bytes(shm.get(at..at + 4)?.try_into().ok()?)));
    let page = shm.get(14..16).and_then(|b| b.try_into().ok()).map(|b| u64::from(u16::from_ne_bytes(b)));
    let (Some(frames), Some(copied), Some(tried), Some(page)) = (number(16), number(96), number(128), page) else { return Ok(0) };
    if copied > 0 || tried > 0 || frames == 0 {
        return Ok(0);
    }
    let page = if page == 1 { 65_536 } else { page };
    let end = WAL_HEADER + frames * (FRAME_HEADER + page);
    let file = OpenOptions::new().write(true).open(beside(database, "-wal"))?;
    if file.metadata()?.len() < end {
        return Ok(0);
    }
    let bytes = bytes.min(end - WAL_HEADER);
    file.set_len(end - bytes)?;
    Ok(bytes)
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
