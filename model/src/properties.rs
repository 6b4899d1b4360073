//! The promise of `docs/delivery.md`, as conditions that hold in every state.

use stateright::{Model, Property};

use crate::{
    Delivery, Scenario,
    names::Names,
    state::{Consumer, Progress, State},
};

/// The names of the properties.
pub mod name {
    /// See [`super::acknowledged_is_in`].
    pub const ACKNOWLEDGED: &str = "what is acknowledged is in the log, unless the log lost it";
    /// See [`super::once`].
    pub const ONCE: &str = "no record is in the log twice";
    /// See [`super::nothing_is_forgotten`].
    pub const FORGOTTEN: &str = "what is not acknowledged is still in its outbox";
    /// See [`super::one_name_for_a_place`].
    pub const PLACE: &str = "a place in an epoch of the log never means two records";
    /// See [`super::consumer_misses_nothing`].
    pub const MISSED: &str = "wherever a consumer goes on, it knows all that lies before";
    /// See [`super::consumer_sees_once`].
    pub const DOUBLED: &str = "no consumer that was told of no reset is given a record twice";
    /// See [`super::seen_is_in`].
    pub const SEEN: &str = "a dedup window names what is in the log and nothing else";
}

/// All that is checked in a scenario.
pub(crate) fn all(scenario: &Scenario) -> Vec<Property<Delivery>> {
    let mut all = vec![
        Property::always(name::ACKNOWLEDGED, acknowledged_is_in),
        Property::always(name::ONCE, once),
        Property::always(name::FORGOTTEN, nothing_is_forgotten),
        Property::always(name::SEEN, seen_is_in),
        Property::sometimes("every record is in the log and acknowledged", all_acknowledged),
    ];
    // That something can happen is checked, too: what never happens would prove nothing.
    let faults = &scenario.faults;
    if faults.duplicates > 0 {
        all.push(Property::sometimes("a record that came again is left out", |_: &Delivery, state: &State| state.past.filtered));
    }
    if faults.cuts + faults.unknown_outcomes > 0 {
        all.push(Property::sometimes("a write comes too late", |_: &Delivery, state: &State| {
            state.writes.iter().any(|w| state.log.data.sessions[usize::from(w.device)].fence != w.fence)
        }));
    }
    if faults.rollbacks > 0 {
        all.push(Property::sometimes("an acknowledged record is lost with the log's tail", |_: &Delivery, state: &State| {
            state.past.destroyed != Names::NONE
        }));
    }
    if scenario.consumer {
        all.push(Property::always(name::PLACE, one_name_for_a_place));
        all.push(Property::always(name::MISSED, consumer_misses_nothing));
        all.push(Property::always(name::DOUBLED, consumer_sees_once));
        all.push(Property::sometimes("the consumer has every record", |model: &Delivery, state: &State| {
            progress(state).is_some_and(|p| p.handled == records(model))
        }));
        if faults.trims > 0 {
            all.push(Property::sometimes("a gap is told", |_: &Delivery, state: &State| {
                progress(state).is_some_and(|p| p.told != Names::NONE)
            }));
        }
        if faults.rollbacks > 0 {
            all.push(Property::sometimes("a reset is told, and a record known before comes again", |_: &Delivery, state: &State| {
                let data = &state.log.data;
                progress(state).is_some_and(|p| {
                    let ahead = data.entries.iter().skip(usize::from(p.place.offset)).copied().collect::<Names>();
                    p.reset && p.place.log_epoch == state.log.log_epoch && ahead.both(p.handled) != Names::NONE
                })
            }));
        }
    }
    all
}

/// A device drops a record from its outbox when it hears that it is in the log. Only a log that lost its tail may have lost
/// it, and only if it was in the tail.
fn acknowledged_is_in(_: &Delivery, state: &State) -> bool {
    let promised = state.connections.iter().fold(state.past.acknowledged, |all, c| all.and(c.acks));
    promised.without(state.log.data.names()).without(state.past.destroyed) == Names::NONE
}

/// Not even where the device, the node or a copy of a message tried again.
fn once(_: &Delivery, state: &State) -> bool {
    state.log.data.entries.iter().all(|name| state.log.data.count(*name) == 1)
}

/// Nothing leaves an outbox but by an acknowledgement.
fn nothing_is_forgotten(model: &Delivery, state: &State) -> bool {
    let outboxes = state.devices.iter().fold(Names::NONE, |all, d| all.and(d.outbox));
    outboxes.and(state.past.acknowledged) == records(model)
}

/// Whoever has a cursor of an epoch, or hears an entry that was published in it, and finds that epoch still there, finds before
/// its place what it has read. (Where the log was in the same epoch before and after a loss, that is not so.)
fn one_name_for_a_place(_: &Delivery, state: &State) -> bool {
    let now = (state.log.log_epoch, &state.log.data.entries);
    let mut epochs = state.past.epochs.iter().map(|(log_epoch, entries)| (*log_epoch, entries)).chain([now]);
    while let Some((log_epoch, entries)) = epochs.next() {
        let same = |(other, others): (u8, &Vec<u8>)| other != log_epoch || entries.iter().zip(others).all(|(a, b)| a == b);
        if !epochs.clone().all(same) {
            return false;
        }
    }
    true
}

/// Else a record would be appended twice, or taken for appended and lost.
fn seen_is_in(_: &Delivery, state: &State) -> bool {
    let seen = state.log.data.sessions.iter().fold(Names::NONE, |all, s| all.and(s.seen));
    seen == state.log.data.names()
}

/// Both now and after a kill: of what the log holds before the place at which the consumer would go on, it has worked on everything, or got
/// the notice that retention removed it.
fn consumer_misses_nothing(model: &Delivery, state: &State) -> bool {
    let Some(Consumer { now, saved }) = &state.consumer else { return true };
    let knows = |progress: &Progress| {
        let mut data = state.log.data.clone();
        data.epochs.enter(state.log.log_epoch, data.last());
        let place = progress.place;
        let place = if place.log_epoch == state.log.log_epoch { place } else { model.resume(&data, place, state.log.log_epoch) };
        let before: Names = data.entries.iter().take(usize::from(place.offset)).copied().collect();
        before.without(progress.handled).without(progress.told) == Names::NONE
    };
    knows(now) && saved.as_ref().is_none_or(knows)
}

/// Offsets alone keep doubles away until a reset. From then on the record ids do.
fn consumer_sees_once(_: &Delivery, state: &State) -> bool {
    progress(state).is_none_or(|progress| progress.doubled == Names::NONE)
}

fn all_acknowledged(model: &Delivery, state: &State) -> bool {
    state.past.acknowledged == records(model) && state.log.data.names() == records(model)
}

fn records(model: &Delivery) -> Names {
    model.scenario.records[0].and(model.scenario.records[1])
}

fn progress(state: &State) -> Option<&Progress> {
    state.consumer.as_ref().map(|consumer| &consumer.now)
}

impl Delivery {
    /// The properties that are promises; the others only show that something happens.
    pub fn promises(&self) -> Vec<&'static str> {
        self.properties().into_iter().filter(|p| p.expectation == stateright::Expectation::Always).map(|p| p.name).collect()
    }
}
