//! The way of a record: from its device into the log, and to the consumers of its producer.

use std::rc::Rc;

use super::{Event, JITTER, Part, Queue, World, nanos};
use crate::measure::model::station::Station;

impl World<'_> {
    pub(super) fn due(&mut self, number: usize) {
        let size = self.plan.size;
        let pause = size.every * (1.0 - JITTER + 2.0 * JITTER * self.rng.f64());
        self.after(pause, Event::Due(number));
        self.counts(0, size.batch as usize);
        let device = &mut self.devices[number];
        if !device.away {
            return self.ingest(number, size.batch as u32);
        }
        device.saved += size.batch as u32;
        if !std::mem::replace(&mut device.noticed, true)
            && let Some(loss) = self.plan.loss
        {
            let pause = loss.pause * self.rng.f64();
            self.after(loss.notice + pause, Event::Back(number));
        }
    }

    pub(super) fn ingest(&mut self, number: usize, records: u32) {
        let c = self.plan.constants;
        let (node, part) = (self.devices[number].node, Part { due: self.now, records });
        let end = self.node(node, c.ingest.get() + f64::from(records - 1) * c.ingest_more.get());
        let queue = number % self.followers.len() * self.nodes.len() + node;
        self.at(end, Event::Ingested(queue, part));
    }

    /// A node has a record: it waits, or is written at once.
    pub(super) fn ingested(&mut self, queue: usize, part: Part) {
        let Queue { writing, waiting } = &mut self.queues[queue];
        waiting.push(part);
        if !*writing {
            self.write(queue);
        }
    }

    /// Writes all that waits.
    fn write(&mut self, queue: usize) {
        let Queue { writing, waiting } = &mut self.queues[queue];
        *writing = true;
        let parts = std::mem::take(waiting);
        self.counts(1, 1);
        self.at(self.now + self.half_trip(), Event::Arrived(queue, parts));
    }

    pub(super) fn redis(&mut self, producer: usize) -> &mut Station {
        let servers = self.redis.len();
        &mut self.redis[producer % servers]
    }

    pub(super) fn append(&mut self, queue: usize, parts: &Rc<[Part]>) {
        let (c, producer) = (self.plan.constants, queue / self.nodes.len());
        let followers = self.followers[producer].clone();
        let more: u32 = parts.iter().map(|part| part.records - 1).sum();
        let takes = c.append.get()
            + (parts.len() - 1) as f64 * c.append_part.get()
            + f64::from(more) * c.append_more.get()
            + (parts.len() * followers.len()) as f64 * c.publish.get();
        let now = self.now;
        let end = self.redis(producer).serve(now, nanos(takes)) + self.half_trip();
        self.counts(2, parts.len() * followers.len());
        self.at(end, Event::Written(queue, Rc::clone(parts)));
        for (node, consumers) in followers {
            self.at(end, Event::Published(node, consumers, Rc::clone(parts)));
        }
    }

    pub(super) fn written(&mut self, queue: usize, parts: &[Part]) {
        let acked = if self.lost.is_some() { &mut self.outcome.acked_after } else { &mut self.outcome.acked };
        for part in parts.iter().filter(|part| part.due >= self.from) {
            acked.saturating_record(((self.now - part.due) / 1000).max(1));
        }
        self.queues[queue].writing = false;
        if !self.queues[queue].waiting.is_empty() {
            self.write(queue);
        }
    }

    pub(super) fn deliver(&mut self, node: usize, consumers: u32, parts: &[Part]) {
        let (c, of_each) = (self.plan.constants, f64::from(consumers));
        let records: u32 = parts.iter().map(|part| part.records).sum();
        let more = f64::from(records) - parts.len() as f64;
        let takes = parts.len() as f64 * (c.receive.get() + of_each * c.deliver.get()) + more * of_each * c.deliver_more.get();
        let end = self.node(node, takes);
        self.counts(3, (records * consumers) as usize);
        for part in parts.iter().filter(|part| part.due >= self.from) {
            self.outcome.delivered.saturating_record_n(((end - part.due) / 1000).max(1), u64::from(consumers));
        }
    }
}
