//! Is a history linearizable around changes of the bucket? The search of [`crate::linearizability`] knows of no such
//! constraint on the order, so this is a plain one over short histories.

use crate::linearizability::{Call, Operation, Return, is_linearizable};

/// A change of the bucket that has returned: it takes effect between its begin and its end, and what was written under an
/// older record of the bucket may take effect only before it. Reads need no such rule: one that sees too little, because it
/// looked into a bucket that was deleted, is not linearizable beside what was written to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Barrier {
    pub(super) begin: u64,
    pub(super) end: u64,
    /// Whether it claims that the value is absent: the bucket was deleted.
    pub(super) empties: bool,
    /// The operations that ran under an older record, as a bit mask.
    pub(super) old: usize,
}

impl Barrier {
    /// Whether it forbids the operation at this place of the history, once it has taken effect. What began before it
    /// returned, and was never acknowledged, may be late; but nothing of a bucket that was deleted is seen again.
    fn forbids(&self, at: usize, operation: &Operation) -> bool {
        let writes = operation.call != Call::Read && operation.returned != Return::Rejected;
        let late = operation.returned == Return::Unknown && operation.begin < self.end && !self.empties;
        writes && self.old >> at & 1 == 1 && !late
    }
}

/// Whether some order explains all that was returned. The register begins absent.
///
/// # Panics
/// With more than 20 operations and barriers: the search would not end.
pub(super) fn is_linearizable_around(operations: &[Operation], barriers: &[Barrier]) -> bool {
    if barriers.is_empty() {
        return is_linearizable(operations);
    }
    assert!(operations.len() + barriers.len() <= 20, "a search over more than 20 operations does not end");
    let spans = operations.iter().map(|o| (o.begin, o.end, o.returned != Return::Unknown));
    let spans: Vec<_> = spans.chain(barriers.iter().map(|b| (b.begin, b.end, true))).collect();
    let apply = |at: usize, done: usize, value: u32| match barriers.get(at.wrapping_sub(operations.len())) {
        Some(barrier) => (!barrier.empties || value == 0).then_some(value),
        None => {
            let past = |(number, _): &(usize, &Barrier)| done >> (operations.len() + number) & 1 == 1;
            let mut past = barriers.iter().enumerate().filter(past);
            let forbidden = past.any(|(_, barrier)| barrier.forbids(at, &operations[at]));
            operations[at].apply(value).filter(|_| !forbidden)
        }
    };
    let certain = (0..spans.len()).filter(|&at| spans[at].2).fold(0_usize, |mask, at| mask | 1 << at);
    // For each set of operations that have taken effect, the values already tried.
    let mut tried = vec![0_u64; 1 << spans.len()];
    let mut open = vec![(0_usize, 0_u32)];
    while let Some((done, value)) = open.pop() {
        if done & certain == certain {
            return true;
        }
        if tried[done] >> value & 1 == 1 {
            continue;
        }
        tried[done] |= 1 << value;
        let left = (0..spans.len()).filter(|&at| done >> at & 1 == 0);
        let first_end = left.clone().filter(|&at| spans[at].2).map(|at| spans[at].1).min();
        let next = left.filter(|&at| first_end.is_none_or(|end| spans[at].0 < end));
        open.extend(next.filter_map(|at| Some((done | 1 << at, apply(at, done, value)?))));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_change_of_the_bucket_nothing_is_acknowledged_under_an_older_record() {
        let check = |expected, operations: &[(Call, Return, u64, u64)], empties, old| {
            let one = |&(call, returned, begin, end)| Operation { call, returned, begin, end };
            let operations: Vec<_> = operations.iter().map(one).collect();
            let barriers = [Barrier { begin: 3, end: 4, empties, old }];
            assert_eq!(is_linearizable_around(&operations, &barriers), expected, "{operations:?}");
        };
        let write = |end| (Call::Write(1), Return::Ok, 2, end);
        let seen = |value| (Call::Read, Return::Value(value), 5, 6);
        check(true, &[write(9), seen(1)], false, 1);
        check(false, &[write(9), seen(0)], false, 1);
        check(true, &[write(9), seen(0)], false, 0);
        let unknown = |begin| (Call::Write(1), Return::Unknown, begin, 0);
        let seen_later = (Call::Read, Return::Value(1), 7, 8);
        check(true, &[unknown(2), seen(0), seen_later], false, 1);
        check(false, &[unknown(5), seen_later], false, 1);
        // An object that was acknowledged is not lost by the deletion.
        check(false, &[write(2)], true, 1);
        check(false, &[write(9)], true, 1);
        check(true, &[unknown(2)], true, 1);
        // Nor does anything of the deleted bucket come back, and nobody looks into it once something is in the next one.
        let seen_later = (Call::Read, Return::Value(1), 7, 8);
        check(false, &[unknown(2), seen_later], true, 1);
        check(true, &[unknown(2), seen_later], false, 1);
        let next = (Call::Write(2), Return::Ok, 5, 6);
        let stale = |begin| (Call::Read, Return::Value(0), begin, 8);
        check(true, &[stale(2), next], true, 1);
        check(false, &[stale(7), next], true, 1);
        check(false, &[(Call::Replace(2, 3), Return::Rejected, 7, 8), next], true, 1);
    }
}
