//! A run: the platform is started, faults are injected, everything is repaired and settled, the files are verified.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    sync::RwLock,
    time::{Instant, sleep},
};

use super::{
    history::{self, Event},
    options::Options,
    platform::Platform,
    programs, report,
    schedule::{Decks, Fault, Lane},
    settle,
    verify::{History, verify},
};
use crate::correctness::resume;

/// How often the time may be overrun until every kind of fault has taken place.
const OVERRUN: u32 = 4;
/// Longest wait for the first acknowledgements.
const FLOW_LIMIT: Duration = Duration::from_secs(30);

/// Runs the check. `Ok(false)`: an invariant is broken.
pub(crate) async fn run(options: Options) -> Result<bool> {
    if let Some(folder) = &options.verify {
        let verdict = verify(&History::load(folder, options.devices, options.consumers)?);
        report::print(options.seed.unwrap_or_default(), &BTreeMap::new(), &decks(&options)?, &verdict, &[], folder);
        return Ok(verdict.violations.is_empty());
    }
    motience_certs::install_provider();
    let programs = programs::find(&options).await?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let decks = decks(&options)?;
    let folder = Folder::new(options.keep.clone())?;
    let kind = if options.cluster.is_some() { "cluster" } else { "embedded" };
    if options.flood > 0 && options.mutation.is_none() {
        say!("{kind}, a flood with every consumer cut off {} times, seed {seed}", options.cuts);
        if !resume::part(options.flood, options.cuts, seed, programs.server.clone(), options.cluster.is_some()).await? {
            return Ok(false);
        }
    }
    say!("{kind}, {} s, seed {seed}, files in {}", options.duration().as_secs(), folder.path.display());

    let platform = Platform::start(&options, &programs, &folder.path).await?;
    let run = Run { platform, calm: RwLock::new(()), tally: Mutex::default(), troubles: Mutex::default(), stop: AtomicBool::new(false) };
    run.flow(&folder.path, options.devices).await?;
    run.storm(&decks, seed, options.duration()).await;
    let mut verdict = settle::settle(&run.platform, &options, &folder.path, &run.troubles).await?;
    let (tally, troubles) = (run.tally.lock().clone(), run.troubles.lock().clone());
    verdict.violations.truncate(10_000);
    report::print(seed, &tally, &decks, &verdict, &troubles, &folder.path);
    let good = verdict.violations.is_empty() && troubles.is_empty();
    folder.done(good);
    Ok(good)
}

fn decks(options: &Options) -> Result<Decks> {
    let mut decks = match &options.mutation {
        Some(mutation) => {
            Decks::for_mutation(mutation, options.cluster.is_some()).with_context(|| format!("there is no mutation {mutation}"))?
        }
        None => Decks::all(options.cluster),
    };
    if !options.only.is_empty() {
        for deck in [&mut decks.foundation, &mut decks.edge, &mut decks.slow] {
            deck.retain(|fault| options.only.contains(fault));
        }
    }
    Ok(decks)
}

struct Run {
    platform: Platform,
    /// Held to read by what shakes the servers, to write by what needs them undisturbed: whether the end of a subscription
    /// is known in time can be told only where somebody can know it.
    calm: RwLock<()>,
    tally: Mutex<BTreeMap<Fault, u32>>,
    /// Failures of the check itself.
    troubles: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Run {
    /// Returns once every device has a record acknowledged: a fault that finds no outbox and no log to strike says nothing.
    async fn flow(&self, dir: &Path, devices: u32) -> Result<()> {
        let deadline = Instant::now() + FLOW_LIMIT;
        for device in 0..devices {
            let path = dir.join(format!("device-{device}"));
            while !history::read(&path)?.iter().any(|line| matches!(line.event, Event::Acked { .. })) {
                if Instant::now() > deadline {
                    bail!("device {device} has no record acknowledged after {} s", FLOW_LIMIT.as_secs());
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    async fn storm(&self, decks: &Decks, seed: u64, duration: Duration) {
        let start = Instant::now();
        let lane = |n: u64, deck: &Vec<Fault>| Lane::new(deck.clone(), seed.wrapping_mul(3).wrapping_add(n));
        tokio::join!(
            self.lane(lane(0, &decks.foundation), &decks.foundation, start, duration),
            self.lane(lane(1, &decks.edge), &decks.edge, start, duration),
            self.lane(lane(2, &decks.slow), &decks.slow, start, duration),
        );
        // A run without faults is a run all the same.
        sleep(duration.saturating_sub(start.elapsed())).await;
    }

    /// Until the time is up and every kind of the deck has taken place.
    async fn lane(&self, lane: Lane, deck: &[Fault], start: Instant, duration: Duration) {
        for step in lane {
            sleep(step.rest).await;
            let missing = deck.iter().any(|fault| !self.tally.lock().contains_key(fault));
            let overrun = start.elapsed() >= duration * OVERRUN;
            if self.stop.load(Ordering::Relaxed) || start.elapsed() >= duration && (!missing || overrun) {
                break;
            }
            let (shared, alone);
            if step.fault == Fault::Revoke {
                alone = Some(self.calm.write().await);
                shared = None;
            } else {
                alone = None;
                shared = if step.fault.is_foundation() { Some(self.calm.read().await) } else { None };
            }
            tracing::info!(fault = %step.fault, at = ?start.elapsed(), "injecting");
            match self.platform.inject(step).await {
                Ok(true) => *self.tally.lock().entry(step.fault).or_default() += 1,
                Ok(false) => {}
                Err(e) => {
                    self.trouble(format!("{}: {e:#}", step.fault));
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
            drop((shared, alone));
            self.look_for_dead().await;
        }
        for fault in deck.iter().filter(|fault| !self.tally.lock().contains_key(fault)) {
            self.trouble(format!("{fault} did not take place"));
        }
    }

    /// Whoever has ended without being told to is a defect.
    async fn look_for_dead(&self) {
        for node in &self.platform.nodes {
            // One that is locked is being worked on.
            let Ok(mut node) = node.try_lock() else { continue };
            if let Ok(Some(status)) = node.has_ended() {
                self.trouble(format!("{} ended by itself: {status}", node.name));
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        for device in &self.platform.devices {
            let Ok(mut device) = device.try_lock() else { continue };
            if let Ok(Some(status)) = device.has_ended() {
                self.trouble(format!("device {} ended by itself: {status}", device.plan.number));
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        for consumer in &self.platform.consumers {
            let Ok(mut consumer) = consumer.try_lock() else { continue };
            if let Ok(Some(status)) = consumer.has_ended() {
                self.trouble(format!("consumer {} ended by itself: {status}", consumer.plan.number));
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn trouble(&self, what: String) {
        eprintln!("  ! {what}");
        self.troubles.lock().push(what);
    }
}

/// Where the files are.
struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Folder {
    fn new(keep: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = keep {
            std::fs::create_dir_all(&path)?;
            if std::fs::read_dir(&path)?.next().is_some() {
                bail!("{} is not empty", path.display());
            }
            return Ok(Self { path: std::path::absolute(path)?, temporary: None });
        }
        let temporary = TempDir::with_prefix("motience-check-")?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    /// Removes a temporary folder, but for one that holds the proof of a failure.
    fn done(self, good: bool) {
        if let Some(temporary) = self.temporary
            && !good
        {
            let path: &Path = &temporary.keep();
            say!("files kept in {}", path.display());
        }
    }
}
