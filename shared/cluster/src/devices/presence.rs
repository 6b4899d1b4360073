//! One device on this node, and one connection of it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use motience_proto::model::{LogKey, Transport, times::ClockFault};
use motience_runtime::clock::{Clock, millis};
use parking_lot::Mutex;

use super::{REPEAT_CONNECTED, REPEAT_SILENT};
use crate::{DeviceReport, window::Window};

/// Largest backlog that a device is believed: every reader of JSON has it exactly.
const MOST_BACKLOG: u64 = (1 << 53) - 1;

/// Path of a connection as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// A round trip.
    pub rtt: Duration,
    /// The device's address.
    pub address: SocketAddr,
    /// Packets received so far: they show that the device is there.
    pub packets: u64,
}

/// A device as this node knows it.
pub(super) struct Device {
    pub(super) key: LogKey,
    id: Arc<str>,
    records: AtomicU64,
    pub(super) seen_ms: AtomicI64,
    connections: AtomicU32,
    /// Records whose time cannot be right.
    misdated: AtomicU64,
    /// Fault of the last record's time: its place in [`FAULTS`] plus one; 0: none.
    clock: AtomicU8,
    state: Mutex<State>,
}

/// Faults of a clock.
const FAULTS: [ClockFault; 2] = [ClockFault::Seconds, ClockFault::Ahead];

struct State {
    links: Vec<Link>,
    next_link: u64,
    transport: Transport,
    health: Health,
    rtt_us: Option<u64>,
    address_changes: u64,
    rate: Window,
    /// Look at which the device was reported last; 0: never.
    reported_at: u64,
    /// Changing part of that report.
    reported: Option<Changing>,
}

/// Health that a device reports of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Health {
    loss_ppm: Option<u64>,
    backlog: Option<u64>,
}

/// Part of a report whose change is worth another one: records, connected, transport, health, changes of address.
type Changing = (u64, bool, Transport, Health, u64);

struct Link {
    number: u64,
    transport: Transport,
    look: Option<Box<dyn Fn() -> Path + Send + Sync>>,
    /// The path at the last look.
    last: Option<Path>,
}

impl Device {
    /// Its name within the account.
    pub(super) fn name(&self) -> &str {
        &self.id
    }

    pub(super) fn new(key: LogKey, id: Arc<str>, transport: Transport, now_ms: i64) -> Self {
        let state = State {
            links: Vec::new(),
            next_link: 0,
            transport,
            health: Health::default(),
            rtt_us: None,
            address_changes: 0,
            rate: Window::default(),
            reported_at: 0,
            reported: None,
        };
        let (records, connections) = (AtomicU64::new(0), AtomicU32::new(0));
        let (misdated, clock) = (AtomicU64::new(0), AtomicU8::new(0));
        Self { key, id, records, seen_ms: AtomicI64::new(now_ms), connections, misdated, clock, state: Mutex::new(state) }
    }

    /// Notes what the times of its newest records say of its clock: `misdated` of them cannot be right.
    pub(super) fn dated(&self, fault: Option<ClockFault>, misdated: u64) {
        let number = fault.and_then(|fault| FAULTS.iter().position(|known| *known == fault)).map_or(0, |at| at as u8 + 1);
        self.clock.store(number, Relaxed);
        self.misdated.fetch_add(misdated, Relaxed);
        if let Some(fault) = fault {
            metrics::counter!("motience_records_misdated_total", "reason" => fault.as_str()).increment(misdated);
        }
    }

    pub(super) fn seen(&self, records: u64, now_ms: i64) {
        self.records.fetch_add(records, Relaxed);
        self.seen_ms.fetch_max(now_ms, Relaxed);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connections.load(Relaxed) > 0
    }

    /// Notes a request, which is no connection.
    pub(super) fn came_by(&self, transport: Transport) {
        let mut state = self.state.lock();
        if state.links.is_empty() {
            state.transport = transport;
        }
    }

    /// Takes a look. Returns the look of the last report if another one is due.
    pub(super) fn look(&self, now: u64, now_ms: i64) -> Option<u64> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.rate.look(self.records.load(Relaxed));
        state.rtt_us = None;
        for link in &mut state.links {
            let Some(path) = link.look.as_ref().map(|look| look()) else { continue };
            state.rtt_us = Some(u64::try_from(path.rtt.as_micros()).unwrap_or(u64::MAX));
            if link.last.is_none_or(|last| last.packets != path.packets) {
                self.seen_ms.fetch_max(now_ms, Relaxed);
            }
            state.address_changes += u64::from(link.last.is_some_and(|last| last.address != path.address));
            link.last = Some(path);
        }
        let repeat = if state.links.is_empty() { REPEAT_SILENT } else { REPEAT_CONNECTED };
        // A rate that fades is worth a report too.
        let due = state.reported != Some(self.changing(state)) || state.rate.millirate() > 0 || now >= state.reported_at + repeat;
        due.then_some(state.reported_at)
    }

    /// The report for the other nodes, at this look.
    pub(super) fn reported(&self, now: u64) -> DeviceReport {
        let mut state = self.state.lock();
        state.reported_at = now;
        state.reported = Some(self.changing(&state));
        self.report_of(&state)
    }

    /// Thousandths of a record that it sends in a second.
    pub(super) fn millirate(&self) -> u64 {
        self.state.lock().rate.millirate()
    }

    pub(super) fn report(&self) -> DeviceReport {
        self.report_of(&self.state.lock())
    }

    fn report_of(&self, state: &State) -> DeviceReport {
        DeviceReport {
            producer: self.key.producer,
            log: Some(self.key.log),
            device: self.id.as_ref().to_owned(),
            connected: !state.links.is_empty(),
            transport: state.transport,
            seen_ms: self.seen_ms.load(Relaxed),
            records: self.records.load(Relaxed),
            millirate: state.rate.millirate(),
            loss_ppm: state.health.loss_ppm,
            rtt_us: state.rtt_us,
            backlog: state.health.backlog,
            address_changes: state.address_changes,
            clock: FAULTS.get(usize::from(self.clock.load(Relaxed)).wrapping_sub(1)).copied(),
            misdated: self.misdated.load(Relaxed),
        }
    }

    fn changing(&self, state: &State) -> Changing {
        (self.records.load(Relaxed), !state.links.is_empty(), state.transport, state.health, state.address_changes)
    }
}

/// One connection of a device, until dropped.
pub struct Presence {
    clock: Clock,
    /// `None`: there was no room to remember it.
    device: Option<Arc<Device>>,
    link: u64,
}

impl Presence {
    pub(super) fn new(clock: Clock, device: Option<Arc<Device>>, transport: Transport) -> Self {
        let link = device.as_ref().map_or(0, |device| {
            let mut state = device.state.lock();
            state.next_link += 1;
            state.transport = transport;
            let link = Link { number: state.next_link, transport, look: None, last: None };
            state.links.push(link);
            // The health of an earlier connection is not that of this one.
            state.health = Health::default();
            device.connections.fetch_add(1, Relaxed);
            device.seen(0, millis(clock.now()));
            state.next_link
        });
        Self { clock, device, link }
    }

    /// Has the path looked at every two seconds. `path` must not wait.
    pub fn watch(&self, path: impl Fn() -> Path + Send + Sync + 'static) {
        let Some(device) = &self.device else { return };
        // At once, so that a change of address before the first look is one; and outside of the lock.
        let first = path();
        let mut state = device.state.lock();
        state.rtt_us = Some(u64::try_from(first.rtt.as_micros()).unwrap_or(u64::MAX));
        if let Some(link) = state.links.iter_mut().find(|link| link.number == self.link) {
            link.look = Some(Box::new(path));
            link.last = Some(first);
        }
    }

    /// Notes what the time of one record says of the device's clock.
    pub fn dated(&self, fault: Option<ClockFault>) {
        if let Some(device) = &self.device {
            device.dated(fault, u64::from(fault.is_some()));
        }
    }

    /// Counts records; 0 is some other sign of life.
    pub fn seen(&self, records: u64) {
        if let Some(device) = &self.device {
            device.seen(records, millis(self.clock.now()));
        }
    }

    /// Notes the health that the device reports: millionths of its packets that are lost, where it knows, and records in its outbox.
    pub fn health(&self, loss_ppm: Option<u64>, backlog: u64) {
        let Some(device) = &self.device else { return };
        device.state.lock().health = Health { loss_ppm: loss_ppm.map(|ppm| ppm.min(1_000_000)), backlog: Some(backlog.min(MOST_BACKLOG)) };
        self.seen(0);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let Some(device) = &self.device else { return };
        let mut state = device.state.lock();
        state.links.retain(|link| link.number != self.link);
        device.connections.fetch_sub(1, Relaxed);
        match state.links.last().map(|link| link.transport) {
            Some(transport) => state.transport = transport,
            None => (state.health, state.rtt_us) = (Health::default(), None),
        }
        drop(state);
        device.seen(0, millis(self.clock.now()));
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("device", &self.device.as_ref().map(|device| &device.id)).finish_non_exhaustive()
    }
}
