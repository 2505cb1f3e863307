//! Is a history of operations on one register linearizable? Decided by trying every order that real time allows.
//!
//! Values are small numbers, 0 is "absent". An operation takes effect at one moment between its invocation and its
//! return; one whose outcome is unknown may take effect at any moment after its invocation, or never; one that is known
//! to have had no effect must not be in the history at all.

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Returns the value.
    Read,
    /// Replaces the value (0: a delete).
    Write(u8),
    /// Replaces the first value by the second, or reports that the first is not there (0, v: create v).
    Replace(u8, u8),
    /// Replaces the value and returns the one before.
    Swap(u8),
}

/// What an operation has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// Nothing but success.
    Ok,
    /// The condition does not hold.
    Rejected,
    /// This value.
    Value(u8),
    /// It is not known whether it has taken effect.
    Unknown,
}

/// One operation of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub call: Call,
    /// What it has returned.
    pub returned: Return,
    /// When it began.
    pub begin: u64,
    /// When it returned; ignored if its outcome is unknown.
    pub end: u64,
}

impl Operation {
    /// The value after it, if what it returned fits the value before.
    fn apply(&self, value: u8) -> Option<u8> {
        match (self.call, self.returned) {
            (Call::Read, Return::Value(seen)) => (seen == value).then_some(value),
            (Call::Read, _) => None,
            (Call::Write(new), _) => Some(new),
            (Call::Replace(old, _), Return::Rejected) => (value != old).then_some(value),
            (Call::Replace(old, new), _) => (value == old).then_some(new),
            (Call::Swap(new), Return::Value(seen)) => (seen == value).then_some(new),
            (Call::Swap(new), _) => Some(new),
        }
    }
}

/// Whether some order explains all that was returned. The register begins absent.
///
/// # Panics
/// With more than 20 operations or values above 31: the search would not end.
pub fn is_linearizable(history: &[Operation]) -> bool {
    assert!(history.len() <= 20, "a search over more than 20 operations does not end");
    let certain = history
        .iter()
        .enumerate()
        .filter(|(_, operation)| operation.returned != Return::Unknown)
        .fold(0_usize, |mask, (at, _)| mask | 1 << at);
    // For each set of operations that have taken effect, the values already tried, as a bit mask.
    let mut tried = vec![0_u32; 1 << history.len()];
    let mut open = vec![(0_usize, 0_u8)];
    while let Some((done, value)) = open.pop() {
        if done & certain == certain {
            return true;
        }
        if tried[done] >> value & 1 == 1 {
            continue;
        }
        tried[done] |= 1 << value;
        let waiting = |at: usize| done >> at & 1 == 0;
        let first_end = history
            .iter()
            .enumerate()
            .filter(|(at, _)| waiting(*at) && certain >> at & 1 == 1)
            .map(|(_, operation)| operation.end)
            .min()
            .unwrap_or(u64::MAX);
        for (at, operation) in history.iter().enumerate() {
            if waiting(at)
                && operation.begin < first_end
                && let Some(after) = operation.apply(value)
            {
                open.push((done | 1 << at, after));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: bool, operations: &[(Call, Return, u64, u64)]) {
        let history: Vec<_> = operations
            .iter()
            .map(|&(call, returned, begin, end)| Operation { call, returned, begin, end })
            .collect();
        assert_eq!(is_linearizable(&history), expected, "{operations:?}");
    }

    const READ: Call = Call::Read;
    const UNKNOWN: Return = Return::Unknown;

    #[test]
    fn reads_return_the_last_write() {
        check(true, &[(Call::Write(1), Return::Ok, 1, 2), (READ, Return::Value(1), 3, 4)]);
        check(false, &[(Call::Write(1), Return::Ok, 1, 2), (READ, Return::Value(0), 3, 4)]);
        check(true, &[(Call::Write(1), Return::Ok, 1, 5), (READ, Return::Value(0), 3, 4)]);
    }

    #[test]
    fn a_value_once_read_stays_visible() {
        let write = (Call::Write(1), UNKNOWN, 1, 9);
        check(true, &[write, (READ, Return::Value(0), 2, 3), (READ, Return::Value(1), 4, 5)]);
        check(false, &[write, (READ, Return::Value(1), 2, 3), (READ, Return::Value(0), 4, 5)]);
    }

    #[test]
    fn an_unknown_operation_may_take_effect_late_or_never_but_only_once() {
        let write = (Call::Write(1), UNKNOWN, 1, 2);
        check(true, &[write, (READ, Return::Value(0), 5, 6)]);
        check(true, &[write, (Call::Write(2), Return::Ok, 3, 4), (READ, Return::Value(1), 5, 6)]);
        let deleted = (Call::Write(0), Return::Ok, 5, 6);
        check(false, &[write, (READ, Return::Value(1), 3, 4), deleted, (READ, Return::Value(1), 7, 8)]);
        check(false, &[(READ, Return::Value(1), 1, 2), (Call::Write(1), UNKNOWN, 3, 4)]);
    }

    #[test]
    fn only_one_create_succeeds() {
        let create = |v, begin, end| (Call::Replace(0, v), Return::Ok, begin, end);
        check(false, &[create(1, 1, 4), create(2, 2, 3)]);
        check(true, &[create(1, 1, 4), (Call::Replace(0, 2), Return::Rejected, 2, 3)]);
        check(false, &[(Call::Replace(0, 2), Return::Rejected, 1, 2), create(1, 3, 4)]);
    }

    #[test]
    fn a_swap_returns_what_it_replaced() {
        let write = (Call::Write(1), Return::Ok, 1, 2);
        check(true, &[write, (Call::Swap(2), Return::Value(1), 3, 4), (READ, Return::Value(2), 5, 6)]);
        check(
            false,
            &[write, (Call::Swap(2), Return::Value(1), 3, 6), (Call::Swap(3), Return::Value(1), 3, 6)],
        );
    }

    #[test]
    fn a_rejection_tells_that_another_value_was_there() {
        check(false, &[(Call::Write(3), Return::Ok, 1, 2), (Call::Replace(3, 4), Return::Rejected, 3, 4)]);
        check(true, &[(Call::Write(3), Return::Ok, 1, 2), (Call::Replace(4, 5), Return::Rejected, 3, 4)]);
    }
}
