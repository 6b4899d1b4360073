//! A node that is lost: its devices and consumers come back to the others.

use super::{Event, Outcome, World, nanos};
use crate::measure::model::station::Station;

impl World<'_> {
    /// The node is gone. Writes that it had under way count as written.
    pub(super) fn lose(&mut self, node: usize) {
        self.lost = Some(node);
        for device in self.devices.iter_mut().filter(|device| device.node == node) {
            device.away = true;
        }
        for followers in &mut self.followers {
            followers.retain(|(at, _)| *at != node);
        }
        let Some(loss) = self.plan.loss else { return };
        for consumer in 0..self.consumers.len() {
            if self.consumers[consumer] == node {
                let after = loss.notice * self.rng.f64();
                self.after(after, Event::ConsumerBack(consumer));
            }
        }
    }

    /// Any node but the lost one.
    pub(super) fn other_node(&mut self) -> usize {
        let all = self.nodes.len();
        let lost = self.lost.unwrap_or(all);
        let other = self.rng.usize(..if lost < all { (all - 1).max(1) } else { all });
        if other >= lost { (other + 1) % all } else { other }
    }

    /// A device tries to connect.
    pub(super) fn back(&mut self, device: usize) {
        let Some(loss) = self.plan.loss else { return };
        let node = self.other_node();
        let there = &mut self.connections[node];
        if there.unauthenticated >= loss.unauthenticated || there.quic >= loss.connections {
            self.outcome.refused += 1;
            let tries = &mut self.devices[device].tries;
            *tries += 1;
            let pause = (loss.pause * f64::from(*tries).exp2()).min(loss.longest) * self.rng.f64();
            return self.after(pause, Event::Back(device));
        }
        there.unauthenticated += 1;
        let end = self.node(node, self.plan.constants.handshake.get());
        self.at(end + self.half_trip(), Event::Opening(device, node));
    }

    pub(super) fn opened(&mut self, number: usize, node: usize) {
        let there = &mut self.connections[node];
        there.unauthenticated -= 1;
        there.quic += 1;
        let device = &mut self.devices[number];
        (device.node, device.away) = (node, false);
        let saved = std::mem::take(&mut device.saved);
        self.outcome.back.push((self.now - self.until) as f64 * 1e-9);
        if saved > 0 {
            self.ingest(number, saved);
        }
    }

    /// The outcome over the time that was measured.
    pub(super) fn finish(self) -> Outcome {
        let seconds = self.plan.seconds;
        let [records, appends, published, deliveries] = self.counts.map(|count| count as f64 / seconds);
        let used = |stations: &[Station]| stations.iter().map(Station::utilisation).collect();
        debug_assert!(nanos(seconds) == self.until - self.from);
        Outcome { redis: used(&self.redis), nodes: used(&self.nodes), records, appends, published, deliveries, ..self.outcome }
    }
}
