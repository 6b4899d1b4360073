//! The end of a run: everything is mended, devices empty their outboxes, consumers read to the heads, the history is written.

use std::{path::Path, time::Duration};

use anyhow::Result;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{
    options::Options,
    platform::{NetworkPath, Platform},
    proxy::Impairment,
    verify::{History, Verdict, verify},
};

/// Longest wait for the devices to settle what they have.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for consumers and the history writer after that.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(45);
/// Longest wait for them where the run is to find a broken promise.
const MUTANT_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Verifies the run once nothing is missing any more, or when the time for that is over.
pub(super) async fn settle(platform: &Platform, options: &Options, dir: &Path, troubles: &Mutex<Vec<String>>) -> Result<Verdict> {
    if let Err(e) = mend(platform).await {
        troubles.lock().push(format!("the platform cannot be mended: {e:#}"));
    }
    drain(platform, troubles).await;
    let deadline = Instant::now() + if options.mutation.is_some() { MUTANT_LIMIT } else { ARRIVAL_LIMIT };
    let mut size = 0;
    let verdict = loop {
        let before = std::mem::replace(&mut size, written(dir));
        if before == size || Instant::now() > deadline {
            let mut history = History::load(dir, options.devices, options.consumers)?;
            history.store = match platform.stored().await {
                Ok(rows) => Some(rows),
                Err(e) if Instant::now() > deadline => {
                    troubles.lock().push(format!("data_history cannot be read: {e:#}"));
                    None
                }
                Err(_) => {
                    sleep(LOOK).await;
                    continue;
                }
            };
            let verdict = verify(&history);
            if verdict.violations.is_empty() || Instant::now() > deadline {
                break verdict;
            }
        }
        sleep(LOOK).await;
    };
    for consumer in &platform.consumers {
        consumer.lock().await.kill().await?;
    }
    for node in &platform.nodes {
        node.lock().await.stop().await?;
    }
    Ok(verdict)
}

/// Undoes whatever a fault that was broken off may have left.
async fn mend(platform: &Platform) -> Result<()> {
    if let Some(redis) = &platform.redis {
        let mut redis = redis.lock().await;
        redis.signal(Signal::CONT)?;
        redis.start_again().await?;
    }
    if let Some(postgres) = &platform.postgres {
        postgres.lock().await.start_again().await;
    }
    for node in &platform.nodes {
        let mut node = node.lock().await;
        node.signal(Signal::CONT)?;
        node.start_again().await?;
    }
    for device in &platform.devices {
        device.lock().await.link.set(Impairment::default());
    }
    for consumer in &platform.consumers {
        let consumer = consumer.lock().await;
        consumer.signal(Signal::CONT)?;
        match &consumer.path {
            NetworkPath::Link(link) => link.set(Impairment::default()),
            NetworkPath::Pipe(pipe) => pipe.stall(false),
        }
    }
    Ok(())
}

async fn drain(platform: &Platform, troubles: &Mutex<Vec<String>>) {
    for device in &platform.devices {
        if let Err(e) = device.lock().await.finish().await {
            troubles.lock().push(format!("{e:#}"));
        }
    }
    let deadline = Instant::now() + DRAIN_LIMIT;
    for device in &platform.devices {
        let mut device = device.lock().await;
        loop {
            match device.has_ended() {
                Ok(Some(status)) if status.success() => break,
                Ok(None) if Instant::now() < deadline => sleep(LOOK).await,
                end => {
                    troubles.lock().push(format!("device {} did not settle: {end:?}", device.plan.number));
                    break;
                }
            }
        }
    }
}

/// Bytes in the history files.
fn written(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file).map(|data| data.len()).sum()
}
