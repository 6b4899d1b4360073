//! Devices of a connection whose records name their device themselves: most carry one, some carry many.

use std::{collections::HashMap, fmt, sync::Arc};

use motience_proto::model::{LogKey, Transport, times::ClockFault};

use super::{Devices, Presence};

/// Devices of one connection that count as connected; what comes of others is counted all the same.
const MOST: usize = 1024;

/// Devices of one connection.
pub struct Senders {
    devices: Arc<Devices>,
    key: LogKey,
    transport: Transport,
    /// Device of the last record: nearly always that of the next, too.
    last: Option<(Box<str>, Presence)>,
    others: HashMap<Box<str>, Presence>,
}

impl Senders {
    pub(super) fn new(devices: Arc<Devices>, key: LogKey, transport: Transport) -> Self {
        Self { devices, key, transport, last: None, others: HashMap::new() }
    }

    /// Counts a record of `device`, whose time says this of its clock.
    pub fn seen(&mut self, device: &str, fault: Option<ClockFault>) {
        if let Some((last, presence)) = &self.last
            && **last == *device
        {
            presence.dated(fault);
            return presence.seen(1);
        }
        let next = match self.others.remove_entry(device) {
            Some(known) => known,
            None if self.others.len() >= MOST => {
                return self.devices.note(self.key, device, self.transport, 1, fault);
            }
            None => (device.into(), self.devices.enter(self.key, device, self.transport)),
        };
        next.1.dated(fault);
        next.1.seen(1);
        if let Some((last, presence)) = self.last.replace(next) {
            self.others.insert(last, presence);
        }
    }
}

impl fmt::Debug for Senders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Senders").field("producer", &self.key.producer).field("others", &self.others.len()).finish_non_exhaustive()
    }
}
