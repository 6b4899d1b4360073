//! The relay between the TUN devices: threads that read packets, ask the emulator, and deliver in time.
//!
//! Threads and not tasks, for tokio's timers are as coarse as a millisecond; a thread that waits for a condition is woken
//! within a tenth of one.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::Serialize;
use tun_rs::{InterruptEvent, SyncDevice};

use super::{
    Error,
    emulator::{Dropped, Emulator},
    impairment::Impairment,
    nat::{self, Nat},
};

/// Largest packet of a TUN device.
const MAX_PACKET: usize = 65_536;
/// Packets under way in one direction at most: more than any profile's delay and rate together let be.
const MAX_UNDER_WAY: usize = 200_000;

/// Traffic of one direction, in IP packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets that the sender put on the link.
    pub packets: u64,
    /// Its bytes, IP headers included.
    pub bytes: u64,
    /// Packets that arrived, doubles included.
    pub delivered: u64,
    /// Lost on the way, by outages too.
    pub lost: u64,
    /// Dropped by the bottleneck's queue.
    pub overflowed: u64,
    /// Swallowed by a block, a black hole, a forgotten NAT mapping or an uplink that is down.
    pub swallowed: u64,
}

impl Counts {
    /// Traffic since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            delivered: self.delivered - before.delivered,
            lost: self.lost - before.lost,
            overflowed: self.overflowed - before.overflowed,
            swallowed: self.swallowed - before.swallowed,
        }
    }
}

/// Traffic that does not get through at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Block {
    /// Everything does.
    Nothing = 0,
    /// UDP is swallowed, as by a firewall that knows the web only.
    Udp = 1,
    /// Nothing gets through.
    Everything = 2,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device to the server.
    Up,
    /// From the server to the device.
    Down,
}

pub(super) struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Carries packets between the device's `uplinks` and the `server`.
    pub(super) fn start(
        uplinks: Vec<(SyncDevice, [u8; 4])>,
        server: SyncDevice,
        up: Impairment,
        down: Impairment,
        seed: u64,
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let mut seeds = fastrand::Rng::with_seed(seed);
        let mut lane = |impairment| Lane::new(Emulator::new(impairment, seeds.u64(..), Duration::ZERO));
        let shared = Arc::new(Shared {
            start,
            up: lane(up),
            down: lane(down),
            block: AtomicU8::new(Block::Nothing as u8),
            active: AtomicUsize::new(0),
            nat: Mutex::default(),
            addresses: uplinks.iter().map(|(_, address)| *address).collect(),
            uplinks: uplinks.into_iter().map(|(device, _)| device).collect(),
            server,
            stop: InterruptEvent::new().map_err(|e| Error::new("no event can be made", e))?,
        });
        let mut relay = Self { shared, threads: Vec::new() };
        for n in 0..relay.shared.uplinks.len() {
            relay.thread("link-up-in", move |shared| shared.take_up(n))?;
        }
        relay.thread("link-up-out", Shared::give_up)?;
        relay.thread("link-down-in", Shared::take_down)?;
        relay.thread("link-down-out", Shared::give_down)?;
        Ok(relay)
    }

    pub(super) fn change(&self, direction: Direction, impairment: Impairment, seed: Option<u64>) {
        let now = self.shared.start.elapsed();
        let mut state = self.shared.lane(direction).state();
        match seed {
            Some(seed) => state.emulator = Emulator::new(impairment, seed, now),
            None => state.emulator.change(impairment, now),
        }
    }

    pub(super) fn block(&self, block: Block) {
        self.shared.block.store(block as u8, Ordering::Relaxed);
    }

    pub(super) fn rebind(&self) {
        self.shared.nat.lock().rebind();
    }

    pub(super) fn activate(&self, uplink: usize) {
        self.shared.active.store(uplink, Ordering::Relaxed);
    }

    pub(super) fn counts(&self, direction: Direction) -> Counts {
        self.shared.lane(direction).counts.read()
    }

    fn thread(&mut self, name: &str, body: impl FnOnce(&Shared) + Send + 'static) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(&shared));
        self.threads.push(thread.map_err(|e| Error::new("a thread cannot be started", e))?);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for lane in [&self.shared.up, &self.shared.down] {
            lane.state().stopped = true;
            lane.wake.notify_all();
        }
        // Where it fails, the readers wait for a packet that never comes: then they are left to the end of the process.
        if self.shared.stop.trigger().is_ok() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

struct Shared {
    start: Instant,
    up: Lane,
    down: Lane,
    block: AtomicU8,
    /// The uplink that is up.
    active: AtomicUsize,
    nat: Mutex<Nat>,
    addresses: Vec<[u8; 4]>,
    uplinks: Vec<SyncDevice>,
    server: SyncDevice,
    stop: InterruptEvent,
}

impl Shared {
    fn take_up(&self, uplink: usize) {
        self.take(&self.uplinks[uplink], &self.up, |_| self.active.load(Ordering::Relaxed) == uplink);
    }

    fn take_down(&self) {
        self.take(&self.server, &self.down, |_| true);
    }

    fn give_up(&self) {
        self.up.deliver(self.start, |packet| {
            self.nat.lock().up(packet);
            self.server.send(packet).is_ok()
        });
    }

    fn give_down(&self) {
        self.down.deliver(self.start, |packet| {
            let active = self.active.load(Ordering::Relaxed);
            nat::destination(packet) == self.addresses[active] && self.nat.lock().down(packet) && self.uplinks[active].send(packet).is_ok()
        });
    }

    fn take(&self, device: &SyncDevice, lane: &Lane, passes: impl Fn(&[u8]) -> bool) {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            let Ok(length) = device.recv_intr(&mut buffer, &self.stop) else {
                // The end, or a device that is just down.
                if lane.state().stopped {
                    return;
                }
                std::thread::yield_now();
                continue;
            };
            let packet = &buffer[..length];
            if !nat::is_ipv4(packet) {
                continue;
            }
            lane.counts.put(length);
            let blocked = match self.block.load(Ordering::Relaxed) {
                0 => false,
                1 => nat::is_udp(packet),
                _ => true,
            };
            if blocked || !passes(packet) {
                lane.counts.swallowed.fetch_add(1, Ordering::Relaxed);
            } else {
                lane.put(packet, self.start.elapsed());
            }
        }
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

/// One direction.
struct Lane {
    state: Mutex<State>,
    wake: Condvar,
    counts: Counters,
}

struct State {
    emulator: Emulator,
    /// Packets by when they are due; the number keeps those of the same instant in order.
    under_way: BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>,
    number: u64,
    stopped: bool,
}

impl Lane {
    fn new(emulator: Emulator) -> Self {
        let state = State { emulator, under_way: BinaryHeap::new(), number: 0, stopped: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), counts: Counters::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn put(&self, packet: &[u8], now: Duration) {
        let mut state = self.state();
        let outcome = state.emulator.decide(packet.len(), now);
        let outcome = if state.under_way.len() < MAX_UNDER_WAY { outcome } else { Err(Dropped::Queue) };
        match outcome {
            Ok((at, double)) => {
                for at in std::iter::once(at).chain(double) {
                    state.number += 1;
                    let number = state.number;
                    state.under_way.push(Reverse((at, number, packet.to_vec())));
                }
                drop(state);
                self.wake.notify_one();
            }
            Err(dropped) => {
                let counter = match dropped {
                    Dropped::Lost => &self.counts.lost,
                    Dropped::Queue => &self.counts.overflowed,
                    Dropped::Size => &self.counts.swallowed,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Hands out each packet when it is due, until the end.
    fn deliver(&self, start: Instant, give: impl Fn(&mut [u8]) -> bool) {
        let mut state = self.state();
        while !state.stopped {
            let now = start.elapsed();
            let wait = state.under_way.peek().map(|Reverse((at, ..))| at.saturating_sub(now));
            match wait {
                Some(Duration::ZERO) => {
                    let Some(Reverse((_, _, mut packet))) = state.under_way.pop() else { continue };
                    drop(state);
                    let counter = if give(&mut packet) { &self.counts.delivered } else { &self.counts.swallowed };
                    counter.fetch_add(1, Ordering::Relaxed);
                    state = self.state();
                }
                Some(wait) => {
                    self.wake.wait_for(&mut state, wait);
                }
                None => self.wake.wait(&mut state),
            }
        }
    }
}

#[derive(Default)]
struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    swallowed: AtomicU64,
}

impl Counters {
    fn put(&self, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            packets: read(&self.packets),
            bytes: read(&self.bytes),
            delivered: read(&self.delivered),
            lost: read(&self.lost),
            overflowed: read(&self.overflowed),
            swallowed: read(&self.swallowed),
        }
    }
}
