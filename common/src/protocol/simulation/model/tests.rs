use std::num::NonZeroUsize;

use super::checker::{Searched, search};
use super::*;
use crate::protocol::simulation::CASES;

const THREADS: NonZeroUsize = NonZeroUsize::MIN;

fn setup(name: &str) -> Setup {
    *SETUPS.iter().find(|setup| setup.name == name).unwrap()
}

#[test]
fn every_state_of_a_write_and_a_read_holds() {
    let Searched { states, depth, breach } = search(Space::new(setup("write-read"), None), THREADS, None);
    assert_eq!(breach, None);
    assert!(states > 30_000 && depth > 20, "only {states} states, {depth} deep");
}

#[test]
fn the_first_states_of_every_configuration_hold() {
    for setup in SETUPS {
        let Searched { states, breach, .. } = search(Space::new(*setup, None), THREADS, Some(10_000));
        assert_eq!(breach, None, "{}", setup.name);
        assert!(states > 1_000, "{}: only {states} states", setup.name);
    }
}

#[test]
fn broken_rules_are_noticed() {
    for (rule, name) in NOTICED {
        let case = CASES.iter().find(|case| case.name == *rule).unwrap();
        let Searched { breach, .. } = search(Space::new(setup(name), Some(case)), THREADS, Some(200_000));
        assert!(breach.is_some(), "{rule} is not noticed in {name}");
    }
}
