//! The report of a check.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    history::Id,
    schedule::{Decks, Fault},
    verify::{Counts, Verdict, Violation},
};

/// Violations that are told in full; the first of each invariant always is.
const TOLD: usize = 3;
/// How far from a record's own lines faults belong to its story, in microseconds.
const NEAR: u64 = 5_000_000;
/// Lines of one story.
const STORY: usize = 60;

/// Prints the outcome.
pub(crate) fn print(seed: u64, tally: &BTreeMap<Fault, u32>, decks: &Decks, verdict: &Verdict, troubles: &[String], dir: &Path) {
    say!("faults injected");
    for fault in decks.kinds() {
        say!("  {fault:<16} {:>6}", tally.get(&fault).copied().unwrap_or_default());
    }
    counts(&verdict.counts);
    for trouble in troubles {
        say!("! {trouble}");
    }
    let (mut by, mut told) = (BTreeMap::<_, Vec<&Violation>>::new(), BTreeSet::new());
    for violation in &verdict.violations {
        by.entry(violation.invariant).or_default().push(violation);
    }
    for (invariant, violations) in &by {
        say!("BROKEN {}: {} times", invariant.name(), violations.len());
        for violation in violations.iter().take(TOLD) {
            say!("  {violation}");
        }
        if let Some(id) = violations.iter().find_map(|violation| violation.id)
            && told.insert(id)
        {
            story(id, dir);
        }
    }
    say!("seed {seed}: {}", if by.is_empty() && troubles.is_empty() { "every invariant holds" } else { "NOT GOOD" });
}

fn counts(counts: &Counts) {
    say!("records");
    for (name, count) in [
        ("offered", counts.offered),
        ("taken", counts.taken),
        ("acknowledged", counts.acked),
        ("dropped", counts.dropped),
        ("lost", counts.lost),
        ("in the history", counts.stored),
    ] {
        say!("  {name:<16} {count:>8}");
    }
    for (kind, [received, resets, gaps]) in &counts.received {
        say!("  {:<16} {received:>8}   {resets} resets, {gaps} gaps", kind.name());
    }
    say!("  epochs of logs   {:>8}", counts.epochs);
    say!("  destroyed        {:>8}   (receptions that an injected rollback made impossible)", counts.destroyed);
}

/// Every line of every file about a record.
fn story(id: Id, dir: &Path) {
    say!("  the story of {id}:");
    let needle = format!("\"id\":\"{id}\"");
    let mut lines: Vec<(u64, String)> = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_history = name == "harness" || (name.starts_with("device-") || name.starts_with("consumer-")) && !name.contains('.');
        if !is_history {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        lines.extend(text.lines().filter(|line| line.contains(&needle)).map(|line| (time(line), format!("{name}: {line}"))));
    }
    lines.sort();
    let (from, to) = (lines.first().map_or(0, |line| line.0), lines.last().map_or(0, |line| line.0));
    // Faults that were injected meanwhile.
    let harness = std::fs::read_to_string(dir.join("harness")).unwrap_or_default();
    let near = |line: &&str| time(line) + NEAR > from && time(line) < to + NEAR;
    let done = |line: &&str| line.contains("\"e\":\"fault\"") || line.contains("\"e\":\"note\"");
    lines.extend(harness.lines().filter(done).filter(near).map(|line| (time(line), format!("harness: {line}"))));
    lines.sort();
    for (_, line) in lines.iter().take(STORY) {
        say!("    {line}");
    }
    if lines.len() > STORY {
        say!("    and {} lines more", lines.len() - STORY);
    }
}

fn time(line: &str) -> u64 {
    let digits = line.strip_prefix("{\"t\":").and_then(|rest| rest.split(',').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()
}
