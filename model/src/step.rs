//! The steps: which can happen, and their effects.

use crate::{
    Delivery, Mutant,
    names::{Name, Names},
    state::{Connection, Consumer, Cursor, Data, Device, Fence, Log, LogEpoch, Past, Progress, Session, State, Write},
};

/// One step. Connections and writes are named by their place in [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A device connects to some node, which raises its fence and tells it what is in the log, and sends the rest of its
    /// outbox.
    Connect(usize),
    /// A record's message arrives at the node. Messages overtake each other.
    Arrive(usize, Name),
    /// Delivers the message, of which a copy stays in flight.
    ArriveTwice(usize, Name),
    /// The node writes what has gathered, one write at a time.
    Write(usize),
    /// A write reaches the log and is done, or refused by its fence; the connection hears of it.
    Append(usize),
    /// Writes, but the answer is lost.
    AppendUnheard(usize),
    /// A connection waits no longer for the answer to its write: it raises its fence and looks what is in the log.
    TimeOut(usize),
    /// Acknowledgements arrive at the device.
    Acknowledge(usize),
    /// A device restarts with its outbox, or its link is cut; the node's side of the connection goes on.
    Cut(usize),
    /// The node of a device's connection crashes.
    NodeCrash(usize),
    /// All that the log has done so far is made to survive.
    Persist,
    /// The log loses what was not made to survive, and begins a new epoch.
    Rollback,
    /// Retention removes entries up to this offset.
    Trim(u8),
    /// The consumer is given the published entry after its place.
    Hear(Name),
    /// The consumer reads the log: an entry, or the notice of a gap or a reset.
    Read,
    /// The consumer saves its progress.
    Save,
    /// The consumer is killed, and goes on from what it saved.
    Kill,
}

impl Delivery {
    /// All that can happen now.
    pub(crate) fn possible(&self, state: &State, steps: &mut Vec<Step>) {
        for (d, device) in state.devices.iter().enumerate() {
            if !device.linked {
                if device.outbox != Names::NONE {
                    steps.push(Step::Connect(d));
                }
                continue;
            }
            if state.left.cuts > 0 {
                steps.push(Step::Cut(d));
            }
            if state.left.node_crashes > 0 {
                steps.push(Step::NodeCrash(d));
            }
        }
        for (c, connection) in state.connections.iter().enumerate() {
            for name in connection.arriving.iter() {
                steps.push(Step::Arrive(c, name));
                if state.left.duplicates > 0 {
                    steps.push(Step::ArriveTwice(c, name));
                }
            }
            match connection.writing {
                None if connection.queue != Names::NONE => steps.push(Step::Write(c)),
                Some(_) if state.left.unknown_outcomes > 0 || !state.writes.iter().any(|w| connection.sent(w)) => {
                    steps.push(Step::TimeOut(c));
                }
                _ => {}
            }
            if connection.acks != Names::NONE {
                steps.push(Step::Acknowledge(c));
            }
        }
        for (w, write) in state.writes.iter().enumerate() {
            steps.push(Step::Append(w));
            if state.left.unknown_outcomes > 0 && state.connections.iter().any(|c| c.sent(write)) {
                steps.push(Step::AppendUnheard(w));
            }
        }
        let data = &state.log.data;
        if state.left.rollbacks > 0 {
            steps.push(Step::Rollback);
            if state.log.saved.is_none() {
                steps.push(Step::Persist);
            }
        }
        if state.left.trims > 0 {
            steps.extend((data.removed + 1..=data.last()).map(Step::Trim));
        }
        if let Some(consumer) = &state.consumer {
            let place = consumer.now.place;
            steps.extend(published(state, place).iter().map(Step::Hear));
            if place.log_epoch != state.log.log_epoch || place.offset < data.last() {
                steps.push(Step::Read);
            }
            if state.left.kills > 0 {
                steps.push(Step::Kill);
                if consumer.saved.is_none() {
                    steps.push(Step::Save);
                }
            }
        }
    }

    /// Does a step that is possible.
    pub(crate) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Connect(device) => self.connect(state, device),
            Step::Arrive(c, name) => {
                state.connections[c].arriving = state.connections[c].arriving.without(Names::one(name));
                self.arrive(&mut state.connections[c], name, &mut state.past);
            }
            Step::ArriveTwice(c, name) => {
                state.left.duplicates -= 1;
                self.arrive(&mut state.connections[c], name, &mut state.past);
            }
            Step::Write(c) => self.write(state, c),
            Step::Append(w) => self.append(state, w, true),
            Step::AppendUnheard(w) => {
                state.left.unknown_outcomes -= 1;
                self.append(state, w, false);
            }
            Step::TimeOut(c) => self.time_out(state, c),
            Step::Acknowledge(c) => {
                let connection = &mut state.connections[c];
                let acks = std::mem::take(&mut connection.acks);
                acknowledge(&mut state.devices[usize::from(connection.device)], acks, &mut state.past);
            }
            Step::Cut(device) => {
                state.left.cuts -= 1;
                let connection = linked(state, device);
                connection.linked = false;
                connection.acks = Names::NONE;
                state.devices[device].linked = false;
            }
            Step::NodeCrash(device) => {
                state.left.node_crashes -= 1;
                let at = linked_at(state, device);
                end(state, at);
            }
            Step::Persist => state.log.saved = Some(Box::new(state.log.data.clone())),
            Step::Rollback => self.roll_back(state),
            Step::Trim(offset) => {
                state.left.trims -= 1;
                state.log.data.removed = offset;
            }
            Step::Hear(name) => {
                if let Some(consumer) = &mut state.consumer {
                    consumer.now.handle(name);
                }
            }
            Step::Read => {
                if let Some(consumer) = &mut state.consumer {
                    self.read(&mut state.log, &mut consumer.now);
                }
            }
            Step::Save => {
                if let Some(consumer) = &mut state.consumer {
                    consumer.saved = Some(consumer.now.clone());
                }
            }
            Step::Kill => {
                state.left.kills -= 1;
                if let Some(consumer) = &mut state.consumer {
                    self.kill(consumer, state.log.log_epoch);
                }
            }
        }
    }

    /// `Hello` and `Welcome`.
    fn connect(&self, state: &mut State, d: usize) {
        let session = &mut state.log.data.sessions[d];
        session.raise(state.log.log_epoch);
        let logged = if self.is(Mutant::SkipDedupWindow) { Names::NONE } else { session.seen };
        let connection = Connection {
            device: d as u8,
            fence: session.fence,
            linked: true,
            arriving: state.devices[d].outbox.without(logged),
            submitted: logged,
            queue: Names::NONE,
            logged,
            writing: None,
            acks: Names::NONE,
        };
        state.connections.push(connection);
        // By device, oldest first.
        state.connections.sort_by_key(|c| c.device);
        state.devices[d].linked = true;
        acknowledge(&mut state.devices[d], logged, &mut state.past);
    }

    fn arrive(&self, connection: &mut Connection, name: Name, past: &mut Past) {
        if self.is(Mutant::AckBeforeAppend) && connection.linked {
            connection.acks = connection.acks.and(Names::one(name));
        }
        if connection.submitted.has(name) && !self.is(Mutant::SkipDedupWindow) {
            past.filtered = true;
            return;
        }
        connection.submitted = connection.submitted.and(Names::one(name));
        connection.queue = connection.queue.and(Names::one(name));
    }

    /// Gathered records go to the log, except those that the connection has learnt to be there meanwhile.
    fn write(&self, state: &mut State, c: usize) {
        let connection = &mut state.connections[c];
        let gathered = std::mem::take(&mut connection.queue);
        let late = self.is(Mutant::SkipDedupWindow) || self.is(Mutant::FilterOnArrivalOnly);
        let again = if late { Names::NONE } else { gathered.both(connection.logged) };
        state.past.filtered |= again != Names::NONE;
        if connection.linked {
            connection.acks = connection.acks.and(again);
        }
        let records = gathered.without(again);
        if records == Names::NONE {
            return;
        }
        connection.writing = Some(records);
        let Connection { device, fence, logged, .. } = *connection;
        state.writes.push(Write { device, fence, seen: logged.and(records), records });
    }

    /// The atomic step of the log.
    fn append(&self, state: &mut State, w: usize, heard: bool) {
        let write = state.writes.remove(w);
        let Log { log_epoch, data, .. } = &mut state.log;
        data.epochs.enter(*log_epoch, data.entries.len() as u8);
        let held = data.sessions[usize::from(write.device)].fence;
        let valid = match self.mutant {
            Some(Mutant::SkipFenceCheck) => true,
            // The write does not say in which epoch its fence was raised.
            Some(Mutant::FenceOfAnyEpoch) => held.log_epoch == *log_epoch && held.number == write.fence.number,
            _ => held.log_epoch == *log_epoch && held == write.fence,
        };
        if valid {
            data.sessions[usize::from(write.device)].seen = write.seen;
            data.entries.extend(write.records.iter());
            state.past.destroyed = state.past.destroyed.without(write.records);
        }
        let Some(c) = state.connections.iter().position(|c| heard && c.sent(&write)) else { return };
        if !valid {
            return end(state, c);
        }
        let connection = &mut state.connections[c];
        connection.writing = None;
        connection.logged = write.seen;
        if connection.linked && !self.is(Mutant::AckBeforeAppend) {
            connection.acks = connection.acks.and(write.records);
        }
    }

    /// The outcome of a write is unknown: the fence is raised, so that the write cannot still happen, and what is in the log
    /// already is not written again. Where the log has begun a new epoch, the first connection that asks may raise the fence:
    /// which one is the newest may have been forgotten.
    fn time_out(&self, state: &mut State, c: usize) {
        let writing = state.writes.iter().any(|w| state.connections[c].sent(w));
        let connection = &mut state.connections[c];
        let Some(records) = connection.writing else { return };
        if writing {
            state.left.unknown_outcomes -= 1;
        }
        let session = &mut state.log.data.sessions[usize::from(connection.device)];
        if self.is(Mutant::AppendAgain) {
            connection.queue = connection.queue.and(records);
            connection.writing = None;
            return;
        }
        let log_epoch = state.log.log_epoch;
        if session.fence.log_epoch == log_epoch && session.fence != connection.fence {
            return end(state, c);
        }
        session.raise(log_epoch);
        let seen = if self.is(Mutant::SkipDedupWindow) { Names::NONE } else { session.seen };
        connection.fence = session.fence;
        connection.logged = session.seen;
        connection.writing = None;
        connection.queue = connection.queue.and(records.without(seen));
        if connection.linked {
            connection.acks = connection.acks.and(records.both(seen));
        }
    }

    /// The running writes were on connections to a server that is gone.
    fn roll_back(&self, state: &mut State) {
        state.left.rollbacks -= 1;
        state.writes.clear();
        let log = &mut state.log;
        let mut kept = log.saved.take().map(|saved| *saved).unwrap_or_default();
        if self.is(Mutant::DedupWindowOutlives) {
            for (kept, lost) in kept.sessions.iter_mut().zip(&log.data.sessions) {
                kept.seen = lost.seen;
            }
        }
        let lost = std::mem::replace(&mut log.data, kept);
        let acks = state.connections.iter().fold(state.past.acknowledged, |all, c| all.and(c.acks));
        let gone = lost.names().without(log.data.names());
        state.past.destroyed = state.past.destroyed.and(gone.both(acks));
        if state.consumer.is_some() {
            state.past.epochs.push((log.log_epoch, lost.entries));
        }
        log.log_epoch = match self.mutant {
            Some(Mutant::EpochBesideData) => log.log_epoch,
            Some(Mutant::EpochReturns) => 3 - log.log_epoch,
            _ => log.log_epoch + 1,
        };
    }

    fn read(&self, log: &mut Log, reader: &mut Progress) {
        let Log { log_epoch, data, .. } = log;
        data.epochs.enter(*log_epoch, data.entries.len() as u8);
        let Progress { place, .. } = reader;
        if place.log_epoch != *log_epoch {
            *place = self.resume(data, *place, *log_epoch);
            reader.reset = true;
        } else if place.offset < data.removed {
            let gone = &data.entries[usize::from(place.offset)..usize::from(data.removed)];
            reader.told = reader.told.and(gone.iter().copied().collect());
            place.offset = data.removed;
        } else if let Some(name) = data.entries.get(usize::from(place.offset)) {
            reader.handle(*name);
        }
    }

    /// Where a consumer goes on in the epoch `epoch`.
    pub(crate) fn resume(&self, data: &Data, place: Cursor, log_epoch: LogEpoch) -> Cursor {
        let unknown = data.epochs.0.iter().all(|(known, _)| *known != place.log_epoch);
        if unknown && self.is(Mutant::BelieveUnknownEpoch) {
            return Cursor { log_epoch, offset: place.offset.min(data.last()) };
        }
        data.epochs.resume(place, log_epoch, data.last())
    }

    fn kill(&self, consumer: &mut Consumer, log_epoch: LogEpoch) {
        consumer.now = consumer.saved.clone().unwrap_or_else(|| Progress::start(log_epoch));
        if self.is(Mutant::ForgetReset) {
            consumer.now.reset = false;
        }
    }
}

/// Entries that were published for the place after `place`: some may have been lost by the log or removed since. (One that
/// the log still has is the same heard as read.)
fn published(state: &State, place: Cursor) -> Names {
    let Log { log_epoch, data, .. } = &state.log;
    let removed = (place.log_epoch == *log_epoch && place.offset < data.removed).then_some(&data.entries);
    let earlier = state.past.epochs.iter().filter(|(log_epoch, _)| *log_epoch == place.log_epoch).map(|(_, entries)| entries);
    earlier.chain(removed).filter_map(|entries| entries.get(usize::from(place.offset)).copied()).collect()
}

fn acknowledge(device: &mut Device, names: Names, past: &mut Past) {
    past.acknowledged = past.acknowledged.and(device.outbox.both(names));
    device.outbox = device.outbox.without(names);
}

fn linked_at(state: &State, device: usize) -> usize {
    let of_device = |c: &Connection| c.linked && usize::from(c.device) == device;
    state.connections.iter().position(of_device).expect("a device that is linked has a connection")
}

fn linked(state: &mut State, device: usize) -> &mut Connection {
    let at = linked_at(state, device);
    &mut state.connections[at]
}

/// A node gives a connection up, or crashes: all it held of it is gone.
fn end(state: &mut State, c: usize) {
    let connection = state.connections.remove(c);
    if connection.linked {
        state.devices[usize::from(connection.device)].linked = false;
    }
}

impl Session {
    fn raise(&mut self, log_epoch: LogEpoch) {
        self.fence = Fence { log_epoch, number: self.fence.number + 1 };
    }
}

impl Progress {
    /// Works on the entry after its place.
    fn handle(&mut self, name: Name) {
        self.place.offset += 1;
        if !self.handled.has(name) {
            self.handled = self.handled.and(Names::one(name));
        } else if !self.reset {
            self.doubled = self.doubled.and(Names::one(name));
        }
    }
}
