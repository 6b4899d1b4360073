//! The whole protocol holds in every scenario; each mutant is found.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use motience_model::{Delivery, Mutant, Scenario};
use stateright::{Checker, HasDiscoveries, Model};

/// One check after the other: each uses both cores, and much memory.
static TURN: Mutex<()> = Mutex::new(());

/// Tries everything, and prints how much that was.
fn holds(scenario: Scenario) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let checker = Delivery::new(scenario).checker().threads(2).spawn_bfs().join();
    println!(
        "{}: {} states, {} transitions, longest run {} steps, {:.1} s",
        scenario.name,
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}

#[test]
fn connections_break() {
    holds(Scenario::CONNECTIONS);
}

#[test]
fn the_log_loses_its_tail() {
    holds(Scenario::ROLLBACK);
}

#[test]
fn a_consumer_is_killed_and_falls_behind() {
    holds(Scenario::CONSUMER);
}

#[test]
fn a_consumer_is_reset() {
    holds(Scenario::RESET);
}

#[test]
fn writers_of_three_lives() {
    holds(Scenario::WRITERS_OF_THREE_EPOCHS);
}

#[test]
fn a_consumer_of_three_lives() {
    holds(Scenario::READER_OF_THREE_EPOCHS);
}

#[test]
fn every_fault_at_once() {
    holds(Scenario::EVERYTHING);
}

#[test]
fn every_mutant_is_found() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for mutant in Mutant::ALL {
        let model = Delivery::broken(mutant);
        assert!(model.promises().contains(&mutant.breaks()), "{mutant:?} is checked in a scenario that does not look");
        let enough = HasDiscoveries::AllOf(BTreeSet::from([mutant.breaks()]));
        let checker = model.checker().threads(2).finish_when(enough).spawn_bfs().join();
        let found = checker.discovery(mutant.breaks());
        let Some(path) = found else { panic!("{mutant:?} was not found in {} states", checker.unique_state_count()) };
        println!("{mutant:?}: \"{}\" is broken after {:?}", mutant.breaks(), path.into_actions());
    }
}
