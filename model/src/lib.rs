//! A model of Motience's delivery: small enough that every order of events within its bounds is tried.
//!
//! One producer with two devices writes three records; one log; one consumer. All the faults that `docs/delivery.md`
//! speaks of are steps of the model, and what it promises are properties, which [`stateright`] checks in every state
//! that any order of steps can reach. A promise broken on purpose ([`Mutant`]) must be found: that shows that the
//! properties say something.
//!
//! | in the model | in the product |
//! |---|---|
//! | [`state::Device`]: outbox and link | `device/src/outbox`, `device/src/producer` |
//! | [`state::Connection`]: what a node holds of a connection | `shared/relay/src/publisher.rs` |
//! | [`Step::Connect`]: the fence is raised, the dedup window read | `Publisher::open`, function `open` of `shared/log/src/motience.lua` |
//! | [`Step::Write`], [`Step::TimeOut`]: group commit, and what follows an unknown outcome | `shared/relay/src/appender.rs` |
//! | [`Step::Append`]: fence, entries and dedup window in one step | function `append` of `motience.lua`, `shared/log/src/embedded/state.rs` |
//! | [`state::Epochs`]: where a cursor of an earlier epoch goes on | `shared/log/src/epochs.rs` |
//! | [`Step::Hear`]: a published entry reaches a node's ring, or never does | `shared/relay/src/{hub,ring}.rs` |
//! | [`Step::Read`]: the log is read; `Gap` and `Reset` are told | `shared/relay/src/subscriber.rs` |
//! | [`state::Consumer`]: place, names known, what is kept across a kill | `device/src/consumer/cursor.rs` and the application |
//!
//! How often each fault may happen is bounded ([`Scenario`]), how and when is not. Only safety is checked, and that the good
//! end can be reached; not that it is reached in time.
//!
//! Simplifications, and why they are safe:
//! - A record that is not yet taken into the outbox, or not yet sent, behaves like one whose message is still on its way;
//!   so all are taken at the start, and sent when the device connects. Messages arrive in any order, at any time or never.
//! - A connection neither loses nor repeats by itself (QUIC does that); it ends, and loses the messages in flight. Redundant transmissions,
//!   and a replayed first flight, are the fault "duplicate".
//! - Answers of the log and acknowledgements travel as one step: losing either looks the same to the device.
//! - Writes of different devices are written together in one call, but judged apart; here they are calls apart.
//! - A consumer hears or reads one entry at a time: every longer run is a sequence of these.
//! - Waiting for replicas or for the disk only moves the moment of the acknowledgement after the append; what a loss
//!   at that moment does is what a rollback does.
//!
//! Not in the model: an outbox that is lost and begins another epoch, senders and epochs that the log forgets because there
//! are too many, clients' own ids, records refused or skipped.
//!
//! `cargo test -p motience-model -- --nocapture` prints how many states were explored.

mod mutants;
pub mod names;
mod properties;
mod scenario;
pub mod state;
mod step;

pub use mutants::Mutant;
pub use properties::name as property;
pub use scenario::{Faults, Scenario};
pub use step::Step;

use stateright::{Model, Property};

use crate::state::State;

/// The protocol within the bounds of a scenario; whole, or with one promise broken.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The participants, and how often each fault may happen.
    pub scenario: Scenario,
    /// Rules that are broken on purpose.
    pub mutant: Option<Mutant>,
}

impl Delivery {
    /// The protocol as it is meant.
    pub fn new(scenario: Scenario) -> Self {
        Self { scenario, mutant: None }
    }

    /// The protocol with one promise broken, in the scenario that shows it.
    pub fn broken(mutant: Mutant) -> Self {
        Self { scenario: mutant.scenario(), mutant: Some(mutant) }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Model for Delivery {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.scenario)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.possible(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        self.take(&mut next, step);
        next.tidy();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.scenario)
    }
}
