//! The status file: written while the agent runs, read by `motience-device status`.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::time;

use super::{Config, notify::Watchdog, sensors::Counts};
use crate::{
    link::Report,
    outbox::Order,
    producer::{LinkState, Producer, Stats},
};

/// How often the file is written.
const PERIOD: Duration = Duration::from_secs(1);
/// A file older than this is of an agent that is gone.
const STALE: Duration = Duration::from_secs(10);

/// What the file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// The device.
    pub device_id: String,
    /// The server.
    pub server: String,
    /// When the agent started.
    pub started_at: String,
    /// When the file was written.
    pub updated_at: String,
    /// The producer.
    #[serde(flatten)]
    pub stats: Stats,
    /// The sensors.
    pub sensors: Vec<Sensor>,
}

/// One sensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    /// Its name.
    pub name: String,
    /// Records it has made.
    pub records: u64,
    /// Readings that were unusable.
    pub bad: u64,
}

/// What is known from the outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// An agent runs.
    Running(Box<Status>),
    /// None does.
    NotRunning,
}

impl Found {
    /// 0 connected, 2 running without a connection, 3 not running.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Running(status) if matches!(status.stats.state, LinkState::Connected | LinkState::Draining) => 0,
            Self::Running(_) => 2,
            Self::NotRunning => 3,
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let Self::Running(status) = self else { return "not running\n".into() };
        let stats = &status.stats;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<10} {value}");
        };
        line("device", status.device_id.clone());
        line("state", format!("{:?}", stats.state).to_lowercase());
        line("server", status.server.clone());
        if let (Some(node), Some(durability)) = (&stats.node, &stats.durability) {
            line("node", format!("{node} (acknowledges: {durability})"));
        }
        if let Some(rtt) = stats.rtt {
            line(
                "link",
                format!("{:.1} ms round trip, {} of {} packets lost", rtt.as_secs_f64() * 1e3, stats.lost_packets, stats.sent_packets),
            );
        }
        if let Some(way) = stats.way {
            line("way", format!("{way}, {} times by the gateway, {} times back to QUIC", stats.fallbacks, stats.returns));
        }
        if let Some(link) = &stats.link {
            line("copies", copies(link));
        }
        if stats.latest_sent + stats.latest_dropped > 0 {
            line("latest", format!("{} sent, {} dropped", stats.latest_sent, stats.latest_dropped));
        }
        line(
            "records",
            format!(
                "{} taken, {} acknowledged, {} refused, {} dropped, {} lost, {} blocked",
                stats.taken, stats.acked, stats.refused, stats.dropped, stats.lost, stats.blocked
            ),
        );
        line("outbox", outbox(stats));
        if let Some(error) = &stats.disk_error {
            line("disk", error.clone());
        }
        line("reconnects", stats.reconnects.to_string());
        for sensor in &status.sensors {
            line("sensor", format!("{}: {} records, {} bad", sensor.name, sensor.records, sensor.bad));
        }
        if let Some(error) = &stats.last_error {
            line("error", error.clone());
        }
        line("since", format!("{} (process {})", status.started_at, status.pid));
        text
    }

    /// For programs.
    pub fn to_json(&self) -> String {
        let json = match self {
            Self::Running(status) => serde_json::to_string_pretty(status),
            Self::NotRunning => Ok(r#"{"state":"not_running"}"#.into()),
        };
        json.unwrap_or_else(|_| "{}".into()) + "\n"
    }
}

fn copies(link: &Report) -> String {
    let mut text = format!("{} a record ({:.1} % of packets lost", link.copies, link.loss * 100.0);
    if let Some(burst) = link.burst_ms {
        let _ = write!(text, ", in bursts of {burst:.0} ms");
    }
    let share = if link.first_bytes > 0 { link.copy_bytes as f64 * 100.0 / link.first_bytes as f64 } else { 0.0 };
    let _ = write!(text, "), {} sent, {share:.0} % more bytes", link.copies_sent);
    text
}

fn outbox(stats: &Stats) -> String {
    let mut text = format!("{} records, {} bytes", stats.outbox_records, stats.outbox_bytes);
    if let Some(age) = stats.outbox_oldest {
        let _ = write!(text, ", the oldest {:.1} s old", age.as_secs_f64());
    }
    if stats.outbox_unsaved > 0 {
        let _ = write!(text, ", {} not on disk yet", stats.outbox_unsaved);
    }
    if stats.outbox_skipped > 0 {
        let _ = write!(text, ", {} numbers skipped", stats.outbox_skipped);
    }
    let order = match stats.outbox_order {
        Order::OldestFirst => "oldest first",
        Order::LiveFirst => "live first",
    };
    let _ = write!(text, ", {order}");
    match stats.disk_bytes {
        Some(bytes) => {
            let _ = write!(text, ", {bytes} bytes on disk");
        }
        None => text.push_str(", in memory"),
    }
    text
}

/// Reads the file.
pub fn read(path: &Path) -> io::Result<Found> {
    let fresh = match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        // A clock that was set back makes the file young, which is the better guess.
        Ok(modified) => SystemTime::now().duration_since(modified).is_ok_and(|age| age < STALE) || modified > SystemTime::now(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NotRunning),
        Err(error) => return Err(error),
    };
    let status: Status = serde_json::from_slice(&fs::read(path)?)?;
    let running = fresh && status.stats.state != LinkState::Stopped;
    Ok(if running { Found::Running(Box::new(status)) } else { Found::NotRunning })
}

/// Writes the file.
pub(super) struct Board {
    path: Option<PathBuf>,
    status: Status,
    counts: Vec<Arc<Counts>>,
    complained: bool,
}

impl Board {
    pub(super) fn new(config: &Config, counts: Vec<Arc<Counts>>) -> Self {
        let started_at = crate::clock::timestamp();
        let status = Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            device_id: config.device_id.to_string(),
            server: format!("{}:{}", config.server.host, config.server.port),
            updated_at: started_at.clone(),
            started_at,
            stats: Stats::default(),
            sensors: Vec::new(),
        };
        Self { path: config.status_file.clone(), status, counts, complained: false }
    }

    /// Writes again and again, and tells systemd that the loop is alive.
    pub(super) async fn keep(&mut self, producer: &Producer, watchdog: &mut Watchdog) {
        let mut period = time::interval(PERIOD);
        loop {
            period.tick().await;
            watchdog.alive();
            self.post(&producer.stats());
        }
    }

    /// The last word.
    pub(super) fn end(&mut self, stats: &Stats) {
        self.post(stats);
    }

    fn post(&mut self, stats: &Stats) {
        let Some(path) = &self.path else { return };
        self.status.stats = stats.clone();
        self.status.updated_at = crate::clock::timestamp();
        self.status.sensors = self.counts.iter().map(|counts| counts.snapshot()).collect();
        if let Err(error) = write(path, &self.status)
            && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(path = %path.display(), %error, "cannot write the status file");
        }
    }
}

/// Writes beside the file and renames, so that no reader sees half of it.
pub(super) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(value)?)?;
    fs::rename(&draft, path)
}

impl Counts {
    fn snapshot(&self) -> Sensor {
        Sensor { name: self.name.clone(), records: self.records.load(Relaxed), bad: self.bad.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: LinkState) -> Status {
        Status {
            pid: 1,
            version: "0".into(),
            device_id: "dev".into(),
            server: "localhost:4433".into(),
            started_at: "now".into(),
            updated_at: "now".into(),
            stats: Stats { state, acked: 7, ..Stats::default() },
            sensors: vec![Sensor { name: "system".into(), records: 7, bad: 0 }],
        }
    }

    #[test]
    fn the_file_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/status.json");
        assert_eq!(read(&path).unwrap(), Found::NotRunning);
        for (state, code) in [(LinkState::Connected, 0), (LinkState::Waiting, 2), (LinkState::Stopped, 3)] {
            write(&path, &status(state)).unwrap();
            assert_eq!(read(&path).unwrap().exit_code(), code, "{state:?}");
        }
        write(&path, &status(LinkState::Connected)).unwrap();
        let found = read(&path).unwrap();
        assert!(found.to_text().contains("7 acknowledged"));
        assert!(found.to_json().contains("\"acked\": 7"));
        let mut status = status(LinkState::Connected);
        status.stats = Stats {
            taken: 9,
            lost: 1,
            blocked: 2,
            disk_bytes: Some(4096),
            outbox_oldest: Some(Duration::from_millis(2500)),
            outbox_order: Order::LiveFirst,
            ..status.stats
        };
        let text = Found::Running(Box::new(status)).to_text();
        assert!(text.contains("9 taken, 7 acknowledged, 0 refused, 0 dropped, 1 lost, 2 blocked"), "{text}");
        assert!(text.contains("the oldest 2.5 s old, live first, 4096 bytes on disk"), "{text}");
    }

    #[test]
    fn an_old_file_is_of_an_agent_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        write(&path, &status(LinkState::Connected)).unwrap();
        let old = SystemTime::now() - 2 * STALE;
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(read(&path).unwrap(), Found::NotRunning);
    }
}
