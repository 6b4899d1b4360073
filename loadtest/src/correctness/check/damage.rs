//! Damage to a device's outbox while the device is dead.

use std::{fs::OpenOptions, os::unix::fs::FileExt as _, path::Path};

use anyhow::Result;
use fastrand::Rng;

/// Most bytes that are cut off.
const MAX_TEAR: u64 = 16 * 1024;

/// Cuts some bytes off the end. Says what it did; nothing where there is nothing.
pub(crate) fn tear(path: &Path, random: &mut Rng) -> Result<String> {
    let file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(String::new());
    }
    let bytes = random.u64(1..=length.min(MAX_TEAR));
    file.set_len(length - bytes)?;
    Ok(format!("{bytes} of {length} bytes cut off"))
}

/// Flips a bit of one of the last bytes that say something. Says which.
pub(crate) fn flip(path: &Path, random: &mut Rng) -> Result<String> {
    let contents = std::fs::read(path)?;
    let written: Vec<usize> = contents.iter().enumerate().rev().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).take(4096).collect();
    let Some(at) = random.choice(&written).copied() else { return Ok(String::new()) };
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&[contents[at] ^ (1 << random.u8(0..8))], at as u64)?;
    Ok(format!("a bit of byte {at} of {} flipped", contents.len()))
}
