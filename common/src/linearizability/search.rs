//! The search itself: depth first over sets of operations that have taken effect, with the value they lead to.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::{Call, Contradiction, Operation, Return};

/// A set of positions: all below `64 * skipped`, and those whose bit is set. The first word costs no allocation.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Positions {
    skipped: usize,
    first: u64,
    others: Vec<u64>,
}

impl Positions {
    fn word(&self, at: usize) -> u64 {
        match at.checked_sub(self.skipped) {
            None => u64::MAX,
            Some(0) => self.first,
            Some(at) => self.others.get(at - 1).copied().unwrap_or(0),
        }
    }

    fn contains(&self, position: usize) -> bool {
        self.word(position / 64) >> (position % 64) & 1 == 1
    }

    fn is_subset(&self, other: &Self) -> bool {
        let words = self.skipped + 1 + self.others.len();
        (other.skipped..words).all(|word| self.word(word) & !other.word(word) == 0)
    }

    fn insert(&mut self, position: usize) {
        let (word, bit) = (position / 64 - self.skipped, 1 << (position % 64));
        match word {
            0 => self.first |= bit,
            _ => {
                self.others.resize(self.others.len().max(word), 0);
                self.others[word - 1] |= bit;
            }
        }
        while self.first == u64::MAX {
            self.first = if self.others.is_empty() { 0 } else { self.others.remove(0) };
            self.skipped += 1;
        }
    }
}

/// What has taken effect, and the value it has led to.
#[derive(Clone)]
struct State {
    certain: Positions,
    unknown: Positions,
    value: u32,
    /// All certain operations before this position are done.
    from: usize,
}

/// A multiplicative hash: the sets are nobody's input, and the default costs more than the search.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// Who needs a value, and who can bring it; by position.
#[derive(Default)]
struct Roles {
    readers: Vec<usize>,
    certain_writers: Vec<usize>,
    unknown_writers: Vec<usize>,
}

/// What can be next, and where it leads.
struct Way {
    certain: bool,
    position: usize,
    value: u32,
}

/// The operations, certain and unknown ones by invocation.
pub(super) struct Search {
    certain: Vec<Operation>,
    unknown: Vec<Operation>,
    /// Where each certain operation stands in the history.
    index: Vec<usize>,
    roles: HashMap<u32, Roles>,
    /// For certain operations that are done and a value: the unknown ones that it took.
    tried: HashMap<(Positions, u32), Vec<Positions>, BuildHasherDefault<Mix>>,
    open: Vec<State>,
}

impl Search {
    pub(super) fn new(history: &[Operation]) -> Self {
        let history = with_unseen_values_made_one(history);
        let mut index: Vec<_> = (0..history.len()).collect();
        index.sort_by_key(|&at| (history[at].is_unknown(), history[at].begin));
        let mut certain: Vec<_> = index.iter().map(|&at| history[at]).collect();
        let unknown = certain.split_off(certain.partition_point(|operation| !operation.is_unknown()));
        let mut roles: HashMap<u32, Roles> = HashMap::new();
        for (position, operation) in certain.iter().enumerate() {
            if let Some(needed) = operation.needs() {
                roles.entry(needed).or_default().readers.push(position);
            }
            if let Some(value) = operation.leaves() {
                roles.entry(value).or_default().certain_writers.push(position);
            }
        }
        for (position, operation) in unknown.iter().enumerate() {
            if let Some(value) = operation.leaves() {
                roles.entry(value).or_default().unknown_writers.push(position);
            }
        }
        let start = State { certain: Positions::default(), unknown: Positions::default(), value: 0, from: 0 };
        Self { certain, unknown, index, roles, tried: HashMap::default(), open: vec![start] }
    }

    pub(super) fn run(mut self) -> Result<(), Contradiction> {
        let mut furthest = (0, 0);
        while let Some(mut state) = self.open.pop() {
            let Some(first_return) = self.settle(&mut state) else { return Ok(()) };
            furthest = furthest.max((first_return, state.from));
            let tried = self.tried.entry((state.certain.clone(), state.value)).or_default();
            if !tried.iter().any(|fewer| fewer.is_subset(&state.unknown)) {
                tried.push(state.unknown.clone());
                self.branch(&state, first_return);
            }
        }
        Err(Contradiction(self.index[furthest.1]))
    }

    /// Takes whatever fits and changes nothing. The first return among the certain operations that are left, if any.
    fn settle(&self, state: &mut State) -> Option<u64> {
        loop {
            while state.from < self.certain.len() && state.certain.contains(state.from) {
                state.from += 1;
            }
            let first_return = self.next(state, u64::MAX).map(|(_, operation)| operation.end).min()?;
            let mut took = false;
            for (position, operation) in self.certain.iter().enumerate().skip(state.from) {
                if operation.begin >= first_return {
                    break;
                }
                let fits = operation.only_looks() && operation.apply(state.value).is_some();
                if fits && !state.certain.contains(position) {
                    state.certain.insert(position);
                    took = true;
                }
            }
            if !took {
                return Some(first_return);
            }
        }
    }

    /// The certain operations that are left and began before this moment, and before another of them returned.
    fn next<'a>(&'a self, state: &'a State, mut until: u64) -> impl Iterator<Item = (usize, &'a Operation)> {
        let left = self.certain.iter().enumerate().skip(state.from);
        left.filter(|(position, _)| !state.certain.contains(*position)).take_while(move |(_, operation)| {
            let overlaps = operation.begin < until;
            until = until.min(operation.end);
            overlaps
        })
    }

    /// Opens every way to go on; the last one is the first to be tried.
    fn branch(&mut self, state: &State, first_return: u64) {
        let mut ways: Vec<Way> = Vec::new();
        let mut alike: Vec<&Operation> = Vec::new();
        for (position, operation) in self.unknown.iter().enumerate() {
            if operation.begin >= first_return || state.unknown.contains(position) {
                continue;
            }
            let after = operation.apply(state.value);
            let after = after.filter(|after| self.is_awaited(state, *after, first_return));
            if let Some(value) = after
                && !alike.iter().any(|other| other.is_like(operation))
            {
                alike.push(operation);
                ways.push(Way { certain: false, position, value });
            }
        }
        let mut overlapping: Vec<_> = self.next(state, first_return).collect();
        overlapping.sort_by_key(|(_, operation)| operation.end);
        let is_first =
            |at: usize| !overlapping[..at].iter().any(|(_, other)| other.is_like(overlapping[at].1));
        for at in (0..overlapping.len()).rev().filter(|&at| is_first(at)) {
            let (position, operation) = overlapping[at];
            ways.extend(operation.apply(state.value).map(|value| Way { certain: true, position, value }));
        }
        for Way { certain, position, value } in ways {
            let mut next = state.clone();
            let done = if certain { &mut next.certain } else { &mut next.unknown };
            done.insert(position);
            next.value = value;
            if !self.is_missed(&next, state.value) {
                self.open.push(next);
            }
        }
    }

    /// Whether an operation that can be next fits this value and not the present one.
    fn is_awaited(&self, state: &State, value: u32, first_return: u64) -> bool {
        let fits = |operation: &Operation| {
            operation.apply(state.value).is_none() && operation.apply(value).is_some()
        };
        self.next(state, first_return).any(|(_, operation)| fits(operation))
            || self
                .unknown
                .iter()
                .enumerate()
                .any(|(position, operation)| fits(operation) && !state.unknown.contains(position))
    }

    /// Whether a certain operation still needs this value, which is replaced and cannot come again.
    fn is_missed(&self, state: &State, value: u32) -> bool {
        let Some(roles) = self.roles.get(&value).filter(|_| value != state.value) else { return false };
        let left = |positions: &[usize]| {
            let first = positions.partition_point(|&position| position < state.from);
            positions[first..].iter().any(|&position| !state.certain.contains(position))
        };
        left(&roles.readers)
            && !left(&roles.certain_writers)
            && roles.unknown_writers.iter().all(|&position| state.unknown.contains(position))
    }
}

/// The same history with one value in place of all those that no operation asks for.
fn with_unseen_values_made_one(history: &[Operation]) -> Vec<Operation> {
    let seen: HashSet<_> = history.iter().filter_map(Operation::asks_for).chain([0]).collect();
    let unseen = (1..).find(|value| !seen.contains(value)).unwrap_or_default();
    let map = |value: u32| if seen.contains(&value) { value } else { unseen };
    let call = |call: Call| match call {
        Call::Read => Call::Read,
        Call::Write(new) => Call::Write(map(new)),
        Call::Replace(old, new) => Call::Replace(old, map(new)),
        Call::Swap(new) => Call::Swap(map(new)),
    };
    history.iter().map(|operation| Operation { call: call(operation.call), ..*operation }).collect()
}

impl Operation {
    fn is_unknown(&self) -> bool {
        self.returned == Return::Unknown
    }

    fn is_like(&self, other: &Self) -> bool {
        self.call == other.call && self.returned == other.returned
    }

    /// Whether it leaves the register as it is, wherever it fits.
    fn only_looks(&self) -> bool {
        self.call == Call::Read || self.returned == Return::Rejected
    }

    /// The value it leaves, if it changes the register.
    fn leaves(&self) -> Option<u32> {
        match self.call {
            Call::Write(new) | Call::Replace(_, new) | Call::Swap(new) => {
                Some(new).filter(|_| !self.only_looks())
            }
            Call::Read => None,
        }
    }

    /// The value that it fits, or does not fit.
    fn asks_for(&self) -> Option<u32> {
        match (self.call, self.returned) {
            (Call::Read | Call::Swap(_), Return::Value(seen)) => Some(seen),
            (Call::Replace(old, _), _) => Some(old),
            (Call::Read | Call::Write(_) | Call::Swap(_), _) => None,
        }
    }

    /// The only value that it fits.
    fn needs(&self) -> Option<u32> {
        self.asks_for().filter(|_| self.returned != Return::Rejected)
    }
}
