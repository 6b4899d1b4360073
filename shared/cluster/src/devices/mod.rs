//! Devices of each producer: their transport, when they were last heard of, and how their link is; noticed where they
//! connect, and reported for every node to read.
//!
//! An ingress calls [`Devices::enter`] for a connection and [`Presence::seen`] for each group of records; a request that is no
//! connection calls [`Devices::note`]. Both cost a few atomics. Everything else happens every two seconds, for all devices at once.
//! How many are remembered is bounded, in all and for each producer: the longest silent make room, never one that is connected.

mod presence;
mod senders;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use motience_proto::model::{LogKey, ProducerId, Transport, times::ClockFault};
use motience_runtime::clock::{Clock, from_millis, millis};
use motience_settings::env::settings;
use parking_lot::Mutex;
use time::OffsetDateTime;

use self::presence::Device;
pub use self::{
    presence::{Path, Presence},
    senders::Senders,
};
use crate::DeviceReport;

/// A device that was silent for this long is forgotten.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);
/// Another node's report of a device is forgotten when it was not repeated for this long.
const BELIEVE_FOR: Duration = Duration::from_secs(30 * 60);
/// Looks after which a device is reported again although nothing has happened: half a minute while it is connected, five minutes else.
const REPEAT_CONNECTED: u64 = 15;
const REPEAT_SILENT: u64 = 150;
/// Devices reported at each look; where there are more, those that were reported longest ago come first.
const REPORTS_PER_LOOK: usize = 2000;
/// The part of a full table that is forgotten at once, so that looking for it is not paid for by every newcomer.
const SHED: usize = 16;

settings! {
    /// How many devices a node remembers.
    #[derive(Clone, Copy, Debug)]
    pub struct Most {
        /// Devices that a node remembers. The longest silent make room, never one that is connected.
        DEVICES_MAX = "100000" => all: usize;
        /// Likewise for each producer.
        DEVICES_MAX_PER_PRODUCER = "10000" => each: usize;
    }
}

/// Devices of this node, and the reports of the others.
pub struct Devices {
    node: String,
    clock: Clock,
    most: Most,
    here: Mutex<Table>,
    elsewhere: Mutex<Elsewhere>,
}

/// One device over all nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceStats {
    /// Its name within the account.
    pub device: String,
    /// Whether it has a connection to any node.
    pub connected: bool,
    /// The node it is connected to, or was last.
    pub node: String,
    /// Transport of its last connection or request.
    pub transport: Transport,
    /// The last sign of it.
    pub last_seen_at: OffsetDateTime,
    /// Records taken in from it since the nodes started.
    pub records: u64,
    /// Records a second over the last ten seconds.
    pub rate: f64,
    /// The share of its packets that is lost, as it says itself.
    pub loss: Option<f64>,
    /// A round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Records that wait in its outbox, as it says itself.
    pub backlog: Option<u64>,
    /// How often its address changed under an open connection.
    pub address_changes: u64,
    /// Fault of its clock, by the time of its last record.
    pub clock: Option<ClockFault>,
    /// Records whose time cannot be right, since the nodes started. They are kept like all others.
    pub misdated: u64,
}

#[derive(Default)]
struct Table {
    producers: HashMap<LogKey, HashMap<Arc<str>, Arc<Device>>>,
    devices: usize,
    looks: u64,
    /// Producers whose devices (`None`: all devices) were searched since the last look without finding one to forget: every newcomer to
    /// a full table would pay for that search again.
    barren: HashSet<Option<LogKey>>,
}

#[derive(Default)]
struct Elsewhere {
    producers: HashMap<LogKey, Reported>,
    devices: usize,
}

/// Reports and when they came, by device and node.
type Reported = HashMap<(String, String), (DeviceReport, OffsetDateTime)>;

impl Devices {
    /// Those of the node called `node`: none yet.
    pub fn new(node: String, clock: Clock, most: Most) -> Self {
        Self { node, clock, most, here: Mutex::default(), elsewhere: Mutex::default() }
    }

    /// The node's name.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Notes that a device has connected; it counts as connected until the presence is dropped.
    pub fn enter(self: &Arc<Self>, key: LogKey, device: &str, transport: Transport) -> Presence {
        Presence::new(self.clock.clone(), self.device(key, device, transport), transport)
    }

    /// Notes that a device sent records without a connection of its own.
    pub fn note(&self, key: LogKey, device: &str, transport: Transport, records: u64, fault: Option<ClockFault>) {
        if let Some(device) = self.device(key, device, transport) {
            device.dated(fault, if fault.is_some() { records } else { 0 });
            device.seen(records, self.now_ms());
            device.came_by(transport);
        }
    }

    /// Notes what the times of a device's newest records say of its clock: `misdated` of them cannot be right.
    pub fn dated(&self, key: LogKey, device: &str, transport: Transport, fault: Option<ClockFault>, misdated: u64) {
        if let Some(device) = self.device(key, device, transport) {
            device.dated(fault, misdated);
        }
    }

    /// One connection that may carry several devices.
    pub fn senders(self: &Arc<Self>, key: LogKey, transport: Transport) -> Senders {
        Senders::new(Arc::clone(self), key, transport)
    }

    /// The device's entry; `None` where there is no room for it.
    fn device(&self, key: LogKey, device: &str, transport: Transport) -> Option<Arc<Device>> {
        let mut here = self.here.lock();
        if let Some(known) = here.producers.get(&key).and_then(|own| own.get(device)) {
            return Some(Arc::clone(known));
        }
        if here.producers.get(&key).is_some_and(|own| own.len() >= self.most.each) {
            here.shed(Some(key));
        }
        if here.devices >= self.most.all {
            here.shed(None);
        }
        let full = here.devices >= self.most.all;
        let own = here.producers.entry(key).or_default();
        if full || own.len() >= self.most.each {
            return None;
        }
        let id: Arc<str> = device.into();
        let entry = Arc::new(Device::new(key, Arc::clone(&id), transport, self.now_ms()));
        own.insert(id, Arc::clone(&entry));
        here.devices += 1;
        Some(entry)
    }

    /// Looks at every device: its rate, its path; forgets the long silent. Returns the reports that are due.
    pub(crate) fn look(&self) -> Vec<DeviceReport> {
        let now = self.clock.now();
        let (devices, looks) = {
            let mut here = self.here.lock();
            here.looks += 1;
            here.barren.clear();
            here.forget(now);
            (here.producers.values().flat_map(HashMap::values).cloned().collect::<Vec<_>>(), here.looks)
        };
        let mut due: Vec<(u64, &Arc<Device>)> = devices.iter().filter_map(|d| Some((d.look(looks, millis(now))?, d))).collect();
        due.sort_by_key(|(reported, _)| *reported);
        due.truncate(REPORTS_PER_LOOK);
        due.into_iter().map(|(_, device)| device.reported(looks)).collect()
    }

    /// Takes the reports of the node called `node`.
    pub(crate) fn apply(&self, node: &str, reports: &[DeviceReport], now: OffsetDateTime) {
        if node == self.node {
            return;
        }
        let mut guard = self.elsewhere.lock();
        let Elsewhere { producers, devices: remembered } = &mut *guard;
        for report in reports {
            let device = (report.device.clone(), node.to_owned());
            let own = producers.entry(report.key()).or_default();
            if own.contains_key(&device) || (*remembered < self.most.all && own.len() < self.most.each) {
                *remembered += usize::from(own.insert(device, (report.clone(), now)).is_none());
            }
        }
    }

    /// Devices of a producer over all nodes that are `wanted` by their names; at most so many, by name. `alive` says whether a node is still heard of.
    pub(crate) fn of(&self, key: LogKey, most: usize, wanted: impl Fn(&str) -> bool, alive: impl Fn(&str) -> bool) -> Vec<DeviceStats> {
        let here: Vec<Arc<Device>> = self.here.lock().producers.get(&key).map(|own| own.values().cloned().collect()).unwrap_or_default();
        let mut first = First::new(most);
        first.add_here(&self.node, &here, &wanted);
        if let Some(reported) = self.elsewhere.lock().producers.get(&key) {
            first.add_reported(key, reported, &wanted, &alive);
        }
        first.into_stats().map(|(_, stats)| stats).collect()
    }

    /// Devices of all producers with `query`, in lower case, in their names; at most so many, by name.
    pub(crate) fn search(&self, query: &str, most: usize, alive: impl Fn(&str) -> bool) -> Vec<(LogKey, DeviceStats)> {
        let wanted = |name: &str| name.to_lowercase().contains(query);
        let here: Vec<Arc<Device>> = self.here.lock().producers.values().flat_map(HashMap::values).cloned().collect();
        let mut first = First::new(most);
        first.add_here(&self.node, &here, wanted);
        for (key, reported) in &self.elsewhere.lock().producers {
            first.add_reported(*key, reported, wanted, &alive);
        }
        first.into_stats().collect()
    }

    /// Forgets the devices of a log whose account has ended; those that are still connected come to an end with their tokens, and are not told of.
    pub fn forget(&self, key: LogKey) {
        let mut here = self.here.lock();
        here.retain(|device| device.key != key);
        drop(here);
        let mut elsewhere = self.elsewhere.lock();
        elsewhere.producers.remove(&key);
        elsewhere.devices = elsewhere.producers.values().map(HashMap::len).sum();
    }

    /// The devices that send most to this node, at most `most`: producer, name, and records a second.
    pub fn busiest(&self, most: usize) -> Vec<(ProducerId, String, f64)> {
        let devices: Vec<Arc<Device>> = self.here.lock().producers.values().flat_map(HashMap::values).cloned().collect();
        let mut rates: Vec<(u64, &Device)> =
            devices.iter().map(|device| (device.millirate(), &**device)).filter(|(rate, _)| *rate > 0).collect();
        rates.sort_by(|(a, one), (b, other)| b.cmp(a).then(one.key.cmp(&other.key)).then_with(|| one.name().cmp(other.name())));
        rates.truncate(most);
        rates.into_iter().map(|(rate, device)| (device.key.producer, device.name().to_owned(), rate as f64 / 1000.0)).collect()
    }

    /// Forgets reports that other nodes have not repeated.
    pub(crate) fn prune(&self, now: OffsetDateTime) {
        let mut elsewhere = self.elsewhere.lock();
        elsewhere.producers.retain(|_, own| {
            own.retain(|_, (report, heard)| now - *heard < BELIEVE_FOR && now - from_millis(report.seen_ms) < REMEMBER);
            !own.is_empty()
        });
        elsewhere.devices = elsewhere.producers.values().map(HashMap::len).sum();
    }

    fn now_ms(&self) -> i64 {
        millis(self.clock.now())
    }
}

impl Table {
    /// Forgets some of the longest silent, of one producer or of all.
    fn shed(&mut self, key: Option<LogKey>) {
        if self.barren.contains(&key) {
            return;
        }
        let of = |owner: &LogKey| key.is_none_or(|key| key == *owner);
        let all = self.producers.iter().filter(|(owner, _)| of(owner)).flat_map(|(_, own)| own.values());
        let mut silent: Vec<i64> = all.filter(|device| !device.is_connected()).map(|device| device.seen_ms.load(Relaxed)).collect();
        let most = silent.len() / SHED;
        if silent.is_empty() {
            self.barren.insert(key);
            return;
        }
        let until = *silent.select_nth_unstable(most).1;
        self.retain(|device| !of(&device.key) || device.is_connected() || device.seen_ms.load(Relaxed) > until);
    }

    fn forget(&mut self, now: OffsetDateTime) {
        let until = millis(now - REMEMBER);
        self.retain(|device| device.is_connected() || device.seen_ms.load(Relaxed) > until);
    }

    fn retain(&mut self, keep: impl Fn(&Device) -> bool) {
        self.producers.retain(|_, own| {
            own.retain(|_, device| keep(device));
            !own.is_empty()
        });
        self.devices = self.producers.values().map(HashMap::len).sum();
    }
}

/// The first of some devices by name, with the reports of all nodes about each.
struct First {
    most: usize,
    found: BTreeMap<(String, LogKey), Vec<(String, DeviceReport)>>,
}

impl First {
    fn new(most: usize) -> Self {
        Self { most, found: BTreeMap::new() }
    }

    /// Adds devices of this node. Their names are compared without the lock of the table, which those who send wait for.
    fn add_here(&mut self, node: &str, devices: &[Arc<Device>], wanted: impl Fn(&str) -> bool) {
        for device in devices.iter().filter(|device| wanted(device.name())) {
            self.add(device.name(), device.key, || (node.to_owned(), device.report()));
        }
    }

    fn add_reported(&mut self, key: LogKey, reported: &Reported, wanted: impl Fn(&str) -> bool, alive: impl Fn(&str) -> bool) {
        for ((name, node), (report, _)) in reported.iter().filter(|((name, _), _)| wanted(name)) {
            let connected = report.connected && alive(node);
            self.add(name, key, || (node.clone(), DeviceReport { connected, ..report.clone() }));
        }
    }

    fn add(&mut self, name: &str, key: LogKey, report: impl FnOnce() -> (String, DeviceReport)) {
        let last = self.found.last_key_value().map(|((last, of), _)| (last.as_str(), *of));
        if self.found.len() >= self.most && last.is_none_or(|last| (name, key) > last) {
            return;
        }
        self.found.entry((name.to_owned(), key)).or_default().push(report());
        if self.found.len() > self.most {
            self.found.pop_last();
        }
    }

    fn into_stats(self) -> impl Iterator<Item = (LogKey, DeviceStats)> {
        self.found.into_iter().flat_map(|((_, key), reports)| merge(reports).into_iter().map(move |stats| (key, stats)))
    }
}

/// Joins the reports of several nodes about one device: counts add up, the rest is the report of the node that has it, or had it last.
fn merge(mut reports: Vec<(String, DeviceReport)>) -> Vec<DeviceStats> {
    reports.sort_by(|(_, a), (_, b)| a.device.cmp(&b.device).then((b.connected, b.seen_ms).cmp(&(a.connected, a.seen_ms))));
    let mut all: Vec<DeviceStats> = Vec::new();
    for (node, report) in reports {
        let last_seen_at = from_millis(report.seen_ms);
        match all.last_mut().filter(|known| known.device == report.device) {
            Some(known) => {
                known.records += report.records;
                known.rate += report.millirate as f64 / 1000.0;
                known.address_changes += report.address_changes;
                known.misdated += report.misdated;
                known.last_seen_at = known.last_seen_at.max(last_seen_at);
            }
            None => all.push(DeviceStats {
                device: report.device,
                connected: report.connected,
                node,
                transport: report.transport,
                last_seen_at,
                records: report.records,
                rate: report.millirate as f64 / 1000.0,
                loss: report.loss_ppm.filter(|_| report.connected).map(|ppm| ppm as f64 / 1e6),
                rtt_ms: report.rtt_us.filter(|_| report.connected).map(|us| us as f64 / 1000.0),
                backlog: report.backlog.filter(|_| report.connected),
                address_changes: report.address_changes,
                clock: report.clock,
                misdated: report.misdated,
            }),
        }
    }
    all
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").field("node", &self.node).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
