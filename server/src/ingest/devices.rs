//! Which connections stand, so that a device that comes back on this node takes over from its own older connection at
//! once. Across nodes the fence in the log does the same at the next write.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use motience_shared::{
    model::{DeviceId, Fence, LogEpoch, ProducerId},
    wire::CloseCode,
};
use quinn::Connection;

use super::number;

/// Established connections of this node.
#[derive(Default)]
pub(super) struct Devices(Mutex<State>);

#[derive(Default)]
struct State {
    connections: HashMap<(ProducerId, DeviceId), (Holder, Connection)>,
    established: usize,
}

/// A fence, and the life of the log in which it was raised: only within one life does the higher one come later.
pub(super) type Holder = (LogEpoch, Fence);

/// An established connection; given back when dropped.
pub(super) struct Established<'d> {
    devices: &'d Devices,
    device: Option<((ProducerId, DeviceId), Holder)>,
}

impl Devices {
    /// Connections past their Hello.
    pub(super) fn established(&self) -> usize {
        self.lock().established
    }

    /// Counts a connection that is past its Hello.
    pub(super) fn establish(&self) -> Established<'_> {
        self.lock().established += 1;
        metrics::gauge!("motience_quic_connections").increment(1);
        Established { devices: self, device: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Established<'_> {
    /// Takes over from an older connection of the same device.
    pub(super) fn take_over(&mut self, producer: ProducerId, device: &DeviceId, holder: Holder, connection: &Connection) {
        let key = (producer, device.clone());
        let mut state = self.devices.lock();
        match state.connections.get(&key) {
            // Two connections may overtake each other between log and here: the higher fence stays.
            Some((newer, _)) if newer.0 == holder.0 && newer.1 > holder.1 => connection.close(number(CloseCode::Fenced), FENCED),
            _ => {
                if let Some((_, older)) = state.connections.insert(key.clone(), (holder, connection.clone())) {
                    older.close(number(CloseCode::Fenced), FENCED);
                }
                self.device = Some((key, holder));
            }
        }
    }
}

const FENCED: &[u8] = b"a newer connection of this device took over";

impl Drop for Established<'_> {
    fn drop(&mut self) {
        let mut state = self.devices.lock();
        state.established -= 1;
        metrics::gauge!("motience_quic_connections").decrement(1);
        if let Some((key, holder)) = self.device.take()
            && state.connections.get(&key).is_some_and(|(h, _)| *h == holder)
        {
            state.connections.remove(&key);
        }
    }
}
