//! Is a history of operations on one register linearizable? Decided by searching for an order that real time allows
//! and that explains all that was returned (Wing and Gong 1993, with the memory of Lowe 2017).
//!
//! Only tests and the features `simulation` and `test-util` have it. It knows nothing of Coffer: values are numbers,
//! 0 is "absent". An operation takes effect at one moment between its invocation and its return; one whose outcome is
//! unknown may take effect at any moment after its invocation, or never; one that is known to have had no effect must
//! not be in the history at all.
//!
//! What keeps the search short, so that histories of thousands of operations cost milliseconds:
//!
//! 1. Only operations that began before the first of the others returned can be next; those that overlap, few.
//! 2. An operation that fits and changes nothing (a read of the value, a rejection) is taken at once: if any order
//!    explains the rest, one that begins with it does too.
//! 3. An unknown operation is tried only where one that waits for its value can follow: whatever is replaced before
//!    anybody has looked may as well never have happened.
//! 4. Of operations that do the same only one is tried, the first to return. Values that nobody asks for are one value.
//! 5. A value that somebody still needs is not replaced if nobody can bring it again.
//! 6. A set of operations and a value are tried once, whatever the order that led there, and not again with more of
//!    the unknown operations used up.

mod search;

#[cfg(test)]
mod tests;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Returns the value.
    Read,
    /// Replaces the value (0: a delete).
    Write(u32),
    /// Replaces the first value by the second, or reports that the first is not there (0, v: create v).
    Replace(u32, u32),
    /// Replaces the value and returns the one before.
    Swap(u32),
}

/// What an operation has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Return {
    /// Nothing but success.
    Ok,
    /// The condition does not hold.
    Rejected,
    /// This value.
    Value(u32),
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
    pub(crate) fn apply(&self, value: u32) -> Option<u32> {
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

/// No order explains the history. The search never got past the operation at this index: it and those about it
/// contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction(pub usize);

/// Whether some order explains all that was returned. The register begins absent.
pub fn is_linearizable(history: &[Operation]) -> bool {
    check(history).is_ok()
}

/// The same, telling where it goes wrong.
///
/// # Errors
/// If no order explains the history.
pub fn check(history: &[Operation]) -> Result<(), Contradiction> {
    search::Search::new(history).run()
}
