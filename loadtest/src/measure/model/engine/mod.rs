//! The simulation: devices, nodes and servers of Redis as discrete events.
//!
//! A device's record takes a processor of its node, waits while another write of its producer is under way on this node, takes the thread of the
//! producer's server of Redis, and is acknowledged. Each node that follows the producer is sent it, and takes a processor to deliver it. Beside that the nodes compare logs and
//! write reports, in the bursts in which the code does. Equal seeds have equal outcomes.

mod events;
mod flow;
mod loss;
mod questions;

use std::rc::Rc;

use fastrand::Rng;
use hdrhistogram::Histogram;

use self::{events::Events, questions::Question};
use super::{
    constants::Constants,
    rates::{LOOK, Rates},
    size::{Placement, Size},
    station::{Nanos, Station},
};

/// How much a device's pause between two records differs.
const JITTER: f64 = 0.1;
/// Highest latency recorded, in microseconds.
const MAX_LATENCY: u64 = 600_000_000;

/// A simulation.
pub(super) struct Plan<'p> {
    pub(super) size: &'p Size,
    pub(super) constants: &'p Constants,
    /// Processors of a node.
    pub(super) cores: usize,
    pub(super) seed: u64,
    /// Seconds that are measured, after as many as the queues need.
    pub(super) seconds: f64,
    /// The loss of a node after that.
    pub(super) loss: Option<Loss>,
}

/// How devices and consumers of a lost node come back.
#[derive(Clone, Copy)]
pub(super) struct Loss {
    /// Seconds from a record that is not acknowledged until its device connects anew, and of a consumer likewise.
    pub(super) notice: f64,
    /// Ceiling of the first pause before a try, and of every pause, in seconds.
    pub(super) pause: f64,
    pub(super) longest: f64,
    /// Connections of a node that have yet to say who they are, and all of its QUIC connections.
    pub(super) unauthenticated: usize,
    pub(super) connections: usize,
    /// Seconds that are simulated at most.
    pub(super) most: f64,
}

/// The outcome of a simulation.
pub(super) struct Outcome {
    /// Utilisation of each server of Redis, and of each node.
    pub(super) redis: Vec<f64>,
    pub(super) nodes: Vec<f64>,
    /// In a second: records, writes, published parts, deliveries.
    pub(super) records: f64,
    pub(super) appends: f64,
    pub(super) published: f64,
    pub(super) deliveries: f64,
    /// Microseconds until the acknowledgement, and until a consumer has it.
    pub(super) acked: Histogram<u64>,
    pub(super) delivered: Histogram<u64>,
    /// Until the acknowledgement, after a node was lost.
    pub(super) acked_after: Histogram<u64>,
    /// Seconds after which each device was back, in order, and tries that were refused.
    pub(super) back: Vec<f64>,
    pub(super) refused: u64,
}

/// A sending of a device.
#[derive(Clone, Copy)]
struct Part {
    due: Nanos,
    records: u32,
}

enum Event {
    Due(usize),
    Ingested(usize, Part),
    Arrived(usize, Vec<Part>),
    Written(usize, Rc<[Part]>),
    /// To a node, for so many of its consumers.
    Published(usize, u32, Rc<[Part]>),
    Compare(usize),
    Report(usize),
    /// A question of a node to a server, and how many of its kind follow it.
    Asked(usize, Question, u32),
    Lost(usize),
    Back(usize),
    Opening(usize, usize),
    Opened(usize, usize),
    ConsumerBack(usize),
}

#[derive(Default)]
struct Device {
    node: usize,
    away: bool,
    noticed: bool,
    /// Records in its outbox, while it is away.
    saved: u32,
    tries: i32,
}

/// A node's queue of one producer.
#[derive(Default)]
struct Queue {
    writing: bool,
    waiting: Vec<Part>,
}

#[derive(Default, Clone)]
struct Connections {
    quic: usize,
    unauthenticated: usize,
}

struct World<'p> {
    plan: &'p Plan<'p>,
    rates: Rates,
    rng: Rng,
    now: Nanos,
    from: Nanos,
    until: Nanos,
    events: Events,
    nodes: Vec<Station>,
    redis: Vec<Station>,
    devices: Vec<Device>,
    queues: Vec<Queue>,
    /// For each producer the nodes that follow it, with how many consumers.
    followers: Vec<Vec<(usize, u32)>>,
    /// The node of each consumer.
    consumers: Vec<usize>,
    connections: Vec<Connections>,
    lost: Option<usize>,
    counts: [u64; 4],
    outcome: Outcome,
}

fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9).round() as Nanos
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("constant bounds are valid")
}

/// Runs a simulation.
pub(super) fn simulate(plan: &Plan<'_>) -> Outcome {
    let mut world = World::new(plan);
    world.begin();
    let limit = world.until + plan.loss.map_or(0, |loss| nanos(loss.most));
    let lost = |world: &World<'_>| world.devices.iter().filter(|device| device.away).count();
    let mut all = usize::MAX;
    while let Some((at, event)) = world.events.next() {
        if at > limit || world.outcome.back.len() >= all {
            break;
        }
        world.now = at;
        let is_loss = matches!(event, Event::Lost(_));
        world.take(event);
        if is_loss {
            all = lost(&world).max(1);
        }
    }
    world.finish()
}

impl<'p> World<'p> {
    fn new(plan: &'p Plan<'p>) -> Self {
        let size = plan.size;
        let (nodes, producers) = (size.nodes as usize, size.producers as usize);
        // The first records are of this time too: queues are short, and are as they stay within a second.
        let warm = nanos(1.0 + size.every.min(1.0));
        let until = warm + nanos(plan.seconds);
        let outcome = Outcome {
            redis: Vec::new(),
            nodes: Vec::new(),
            records: 0.0,
            appends: 0.0,
            published: 0.0,
            deliveries: 0.0,
            acked: histogram(),
            delivered: histogram(),
            acked_after: histogram(),
            back: Vec::new(),
            refused: 0,
        };
        Self {
            plan,
            rates: Rates::of(size, plan.constants),
            rng: Rng::with_seed(plan.seed),
            now: 0,
            from: warm,
            until,
            events: Events::default(),
            nodes: (0..nodes).map(|_| Station::new(plan.cores, warm, until)).collect(),
            redis: (0..size.redis as usize).map(|_| Station::new(1, warm, until)).collect(),
            devices: Vec::new(),
            queues: (0..nodes * producers).map(|_| Queue::default()).collect(),
            followers: vec![Vec::new(); producers],
            consumers: Vec::new(),
            connections: vec![Connections::default(); nodes],
            lost: None,
            counts: [0; 4],
            outcome,
        }
    }

    /// Places everybody, and has everything begin at a time of its own.
    fn begin(&mut self) {
        let size = self.plan.size;
        for device in 0..size.devices as usize {
            let node = self.rng.usize(..self.nodes.len());
            self.connections[node].quic += 1;
            self.devices.push(Device { node, ..Device::default() });
            let first = self.rng.f64() * size.every;
            self.after(first, Event::Due(device));
        }
        for consumer in 0..size.consumers as usize {
            let node = match size.placement {
                Placement::Random => self.rng.usize(..self.nodes.len()),
                Placement::ByProducer => self.followed(consumer).next().unwrap_or_default() / size.follows as usize % self.nodes.len(),
            };
            self.consumers.push(node);
            self.follow(consumer, node);
        }
        for node in 0..self.nodes.len() {
            let (compare, report) = (self.rng.f64(), self.rng.f64() * LOOK);
            self.after(compare, Event::Compare(node));
            self.after(report, Event::Report(node));
        }
        if self.plan.loss.is_some() {
            let at = self.until as f64 * 1e-9;
            self.after(at, Event::Lost(0));
        }
    }

    /// The producers of a consumer: groups that are followed together, so that each has equally many.
    fn followed(&self, consumer: usize) -> impl Iterator<Item = usize> + use<> {
        let (follows, producers) = (self.plan.size.follows as usize, self.plan.size.producers as usize);
        (0..follows).map(move |n| (consumer * follows + n) % producers)
    }

    fn follow(&mut self, consumer: usize, node: usize) {
        for producer in self.followed(consumer) {
            let followers = &mut self.followers[producer];
            match followers.iter_mut().find(|(at, _)| *at == node) {
                Some((_, consumers)) => *consumers += 1,
                None => followers.push((node, 1)),
            }
        }
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.at(self.now + nanos(seconds), event);
    }

    fn at(&mut self, at: Nanos, event: Event) {
        self.events.add(at, event);
    }

    fn half_trip(&self) -> Nanos {
        nanos(self.plan.size.rtt / 2.0)
    }

    fn counts(&mut self, what: usize, how_many: usize) {
        if (self.from..self.until).contains(&self.now) {
            self.counts[what] += how_many as u64;
        }
    }

    /// Serves on a node.
    fn node(&mut self, node: usize, seconds: f64) -> Nanos {
        self.nodes[node].serve(self.now, nanos(seconds))
    }

    fn take(&mut self, event: Event) {
        let c = self.plan.constants;
        match event {
            Event::Due(device) => self.due(device),
            Event::Ingested(queue, part) => self.ingested(queue, part),
            Event::Arrived(queue, parts) => self.append(queue, &parts.into()),
            Event::Written(queue, parts) => self.written(queue, &parts),
            Event::Published(node, consumers, parts) if self.lost != Some(node) => self.deliver(node, consumers, &parts),
            Event::Compare(node) => self.compare(node),
            Event::Report(node) => self.report(node),
            Event::Asked(node, question, left) if self.lost != Some(node) => self.asked(node, question, left),
            Event::Lost(node) => self.lose(node),
            Event::Back(device) => self.back(device),
            Event::Opening(device, node) => {
                let (now, producer) = (self.now, device % self.followers.len());
                let end = self.redis(producer).serve(now, nanos(c.open.get()));
                self.at(end + self.half_trip(), Event::Opened(device, node));
            }
            Event::Opened(device, node) => self.opened(device, node),
            Event::ConsumerBack(consumer) => {
                let node = self.other_node();
                self.node(node, c.handshake_consumer.get());
                self.consumers[consumer] = node;
                self.follow(consumer, node);
            }
            Event::Published(..) | Event::Asked(..) => {}
        }
    }
}
