//! The model checker's view of a [`Space`]. The example `protocol_model` includes this very file: the checker is a
//! dependency of tests and examples only.

use std::num::NonZeroUsize;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{Space, State, Step};

struct Checked(Space);

impl Model for Checked {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.0.initial()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.0.steps(state, actions);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Some(self.0.take(state, step))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("all invariants hold", |_, state| Space::breach(state).is_none())]
    }
}

/// What a search has come to.
#[derive(Clone, Debug)]
pub(super) struct Searched {
    /// Different states seen.
    pub(super) states: usize,
    /// Most steps from the first one.
    pub(super) depth: usize,
    /// What does not hold, after which steps.
    pub(super) breach: Option<(&'static str, Vec<Step>)>,
}

/// Visits every state, or about `limit` of them, those with the fewest steps first.
pub(super) fn search(space: Space, threads: NonZeroUsize, limit: Option<usize>) -> Searched {
    let builder = Checked(space).checker().threads(threads.get()).finish_when(HasDiscoveries::Any);
    match limit {
        Some(limit) => conclude(builder.target_state_count(limit).spawn_bfs().join()),
        None => conclude(builder.spawn_dfs().join()),
    }
}

fn conclude(checker: impl Checker<Checked>) -> Searched {
    let path = checker.discoveries().into_values().next();
    let breach = path.map(|path| {
        let what = Space::breach(path.last_state()).unwrap_or("nothing");
        (what, path.into_actions())
    });
    Searched { states: checker.unique_state_count(), depth: checker.max_depth(), breach }
}
