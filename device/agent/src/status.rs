//! The status file: written while the agent runs, read by `motience-device status`. Each device has one of its own.

mod text;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use motience_device::{
    clock, private_file,
    producer::{LinkState, Producer, Stats},
};
use serde::{Deserialize, Serialize};
use tokio::time;

use crate::{
    Config,
    notify::Watchdog,
    places::{NAME, own_temporary_dir},
    sensors::Counts,
};

/// How often the file is written.
const PERIOD: Duration = Duration::from_secs(1);
/// A file older than this is of an agent that is gone.
const STALE: Duration = Duration::from_secs(10);

/// Content of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub pid: u32,
    /// Among which processes it has this number, where the system tells.
    #[serde(default)]
    pub processes: Option<String>,
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

/// State of an agent as seen from outside.
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
        match self {
            Self::Running(status) => text::of(status),
            Self::NotRunning => "not running\n".into(),
        }
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

/// Reads the file.
pub fn read(path: &Path) -> io::Result<Found> {
    let fresh = match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        // A clock that was set back makes the file young, which is the better guess.
        Ok(modified) => SystemTime::now().duration_since(modified).is_ok_and(|age| age < STALE) || modified > SystemTime::now(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NotRunning),
        Err(error) => return Err(error),
    };
    let status: Status = serde_json::from_slice(&fs::read(path)?)?;
    let running = fresh && status.stats.state != LinkState::Stopped && is_alive(&status);
    Ok(if running { Found::Running(Box::new(status)) } else { Found::NotRunning })
}

/// More than one agent runs, and nothing says which one is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("several agents run here, of the devices {}: say which one is meant, by --config or --status-file", .0.join(", "))]
pub struct Several(Vec<String>);

/// Looks for the file of this name in the folders, or for any where there is no name. A folder that somebody else may have made under
/// a name of ours is passed over.
pub fn find(dirs: &[PathBuf], name: Option<&str>) -> io::Result<Result<Found, Several>> {
    let mut running: Vec<Box<Status>> = Vec::new();
    // The service's is root's to read, which matters only where no other is found.
    let mut unreadable = None;
    let named = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    for dir in dirs.iter().filter(|dir| is_trusted(dir)) {
        let paths = match name {
            Some(name) => vec![dir.join(name)],
            None => files_in(dir).unwrap_or_else(|error| {
                unreadable = Some(named(dir, error));
                Vec::new()
            }),
        };
        for path in paths {
            match read(&path) {
                Ok(Found::Running(status)) => running.push(status),
                Ok(Found::NotRunning) => {}
                Err(error) => unreadable = Some(named(&path, error)),
            }
        }
    }
    if let Some(error) = unreadable.filter(|_| running.is_empty()) {
        return Err(error);
    }
    // A folder may be there under two names.
    running.sort_by_key(|status| status.pid);
    running.dedup_by_key(|status| status.pid);
    let names = running.iter().map(|status| status.device_id.clone()).collect();
    Ok(match (running.pop(), running.is_empty()) {
        (None, _) => Ok(Found::NotRunning),
        (Some(status), true) => Ok(Found::Running(status)),
        (Some(_), false) => Err(Several(names)),
    })
}

fn files_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(NAME[0]) && name.ends_with(NAME[1])) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// Anybody can make a folder among the temporary ones, under whatever name.
fn is_trusted(dir: &Path) -> bool {
    #[cfg(unix)]
    if dir == own_temporary_dir() {
        use std::os::unix::fs::MetadataExt as _;
        return fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::getuid().as_raw());
    }
    let _ = dir;
    true
}

/// Among which processes this one has its number: containers count by themselves.
fn processes() -> Option<String> {
    fs::read_link("/proc/self/ns/pid").ok()?.into_os_string().into_string().ok()
}

/// Whether the process that wrote the file is there, as far as can be told.
fn is_alive(status: &Status) -> bool {
    let known = status.processes.is_some() && status.processes == processes();
    !known || Path::new("/proc").join(status.pid.to_string()).exists()
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
        let started_at = clock::timestamp();
        let status = Status {
            pid: std::process::id(),
            processes: processes(),
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
        if path.parent().is_some_and(|dir| dir.exists() && !is_trusted(dir)) {
            if !std::mem::replace(&mut self.complained, true) {
                tracing::warn!(path = %path.display(), "no status is written: the folder is somebody else's");
            }
            return;
        }
        self.status.stats = stats.clone();
        self.status.updated_at = clock::timestamp();
        self.status.sensors = self.counts.iter().map(|counts| counts.snapshot()).collect();
        if let Err(error) = serde_json::to_vec(&self.status).map_err(Into::into).and_then(|text| private_file::write(path, &text))
            && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(path = %path.display(), %error, "cannot write the status file");
        }
    }
}

impl Counts {
    fn snapshot(&self) -> Sensor {
        Sensor { name: self.name.clone(), records: self.records.load(Relaxed), bad: self.bad.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use motience_device::{outbox::Order, producer::OutboxStats};

    use super::*;
    use crate::places::file_name;

    fn status(state: LinkState) -> Status {
        Status {
            pid: std::process::id(),
            processes: processes(),
            version: "0".into(),
            device_id: "dev".into(),
            server: "localhost:4433".into(),
            started_at: "now".into(),
            updated_at: "now".into(),
            stats: Stats { state, outbox: OutboxStats { acked: 7, ..OutboxStats::default() }, ..Stats::default() },
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
        let outbox = &mut status.stats.outbox;
        (outbox.enqueued, outbox.lost, outbox.blocked) = (9, 1, 2);
        (outbox.oldest, outbox.order) = (Some(Duration::from_millis(2500)), Order::LiveFirst);
        status.stats.disk.bytes = Some(4096);
        status.stats.outbox.copies_found = 1;
        (status.stats.transport.superseded, status.stats.transport.rivalry) = (3, 2);
        let text = Found::Running(Box::new(status)).to_text();
        assert!(text.contains("put back in time") && text.contains("another device uses this name"), "{text}");
        assert!(text.contains("9 enqueued, 7 acknowledged, 0 refused, 0 dropped, 1 lost, 2 blocked"), "{text}");
        assert!(text.contains("the oldest 2.5 s old, live first, 4096 bytes on disk"), "{text}");
    }

    fn write(path: &Path, status: &Status) -> io::Result<()> {
        private_file::write(path, &serde_json::to_vec(status)?)
    }

    #[test]
    fn the_device_that_is_meant_is_found_and_never_another() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["nowhere", "user", "system"].map(|name| dir.path().join(name));
        let post = |dir: &str, identity, device_id: &str, pid| {
            let status = Status { device_id: device_id.into(), pid, ..status(LinkState::Connected) };
            write(&dir_of(&dirs, dir).join(file_name(identity)), &status).unwrap();
        };
        let device = |name: Option<&str>| match find(&dirs, name).unwrap().unwrap() {
            Found::Running(status) => Some(status.device_id),
            Found::NotRunning => None,
        };
        assert_eq!(device(None), None);
        post("system", 1, "one", std::process::id());
        assert_eq!(device(None).as_deref(), Some("one"), "the service's, where nothing says which");
        assert_eq!(device(Some(&file_name(1))).as_deref(), Some("one"));
        assert_eq!(device(Some(&file_name(2))), None, "another device's is not shown");
        // A process that is always there, and one that never is.
        post("user", 2, "two", 1);
        post("user", 3, "three", u32::MAX);
        assert_eq!(device(Some(&file_name(2))).as_deref(), Some("two"));
        assert_eq!(device(Some(&file_name(3))), None, "its process is gone");
        let several = find(&dirs, None).unwrap().unwrap_err().to_string();
        assert!(several.contains("one") && several.contains("two") && !several.contains("three"), "{several}");
    }

    #[test]
    fn a_folder_that_cannot_be_read_hides_no_agent() {
        let dir = tempfile::tempdir().unwrap();
        // No right is needed to fail here, and none helps: tests may run as root.
        let [closed, open] = ["closed", "open"].map(|name| dir.path().join(name));
        fs::write(&closed, "").unwrap();
        write(&open.join(file_name(1)), &status(LinkState::Connected)).unwrap();
        for dirs in [[closed.clone(), open.clone()], [open, closed.clone()]] {
            let Ok(Ok(Found::Running(found))) = find(&dirs, None) else { panic!("the agent was not found") };
            assert_eq!(found.device_id, "dev");
        }
        let told = find(std::slice::from_ref(&closed), None).unwrap_err().to_string();
        assert!(told.contains("closed"), "where there is no other it is told: {told}");
    }

    fn dir_of<'a>(dirs: &'a [PathBuf], name: &str) -> &'a Path {
        dirs.iter().find(|dir| dir.ends_with(name)).unwrap()
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
