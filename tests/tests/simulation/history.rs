//! What clients did and were told, and whether it makes sense.
//!
//! Owns: one register history per key, the bytes of every value, the outcome of every upload. A listing is a read of each
//! key. Never looks into the cluster.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use coffer_common::linearizability::{Call, Operation, Return, check};
use parking_lot::Mutex;

/// Names a value; 0 is "no object".
pub(crate) type Value = u32;

/// What became of the tries to complete or abort an upload.
#[derive(Debug, Default)]
struct Ending {
    completed: bool,
    aborted: bool,
    /// A Complete whose outcome nobody knows.
    unknown: bool,
    begin: u64,
    end: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct History {
    clock: AtomicU64,
    values: Mutex<Vec<Option<Bytes>>>,
    operations: Mutex<BTreeMap<String, Vec<Operation>>>,
    endings: Mutex<BTreeMap<(String, Value), Ending>>,
    violations: Mutex<Vec<String>>,
}

impl History {
    /// A moment: later than every one before.
    pub(crate) fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// A new value with these bytes; `None`: those of some other value, whichever was copied.
    pub(crate) fn value(&self, bytes: impl FnOnce(Value) -> Option<Bytes>) -> Value {
        let mut values = self.values.lock();
        let value = values.len() as Value + 1;
        values.push(bytes(value));
        value
    }

    /// Whether a value may consist of these bytes.
    fn consists_of(&self, value: Value, bytes: &[u8]) -> bool {
        let values = self.values.lock();
        match (value as usize).checked_sub(1).and_then(|index| values.get(index)) {
            Some(Some(known)) => known == bytes,
            Some(None) => values.iter().flatten().any(|known| known == bytes),
            None => false,
        }
    }

    /// Something that must never be.
    pub(crate) fn violation(&self, what: String) {
        self.violations.lock().push(what);
    }

    /// An operation on a key that began then and ends now.
    pub(crate) fn record(&self, key: &str, call: Call, returned: Return, begin: u64) {
        let operation = Operation { call, returned, begin, end: self.now() };
        self.operations.lock().entry(key.to_owned()).or_default().push(operation);
    }

    /// A read value with the bytes that came with it.
    pub(crate) fn record_read(&self, key: &str, value: Value, bytes: Option<&[u8]>, begin: u64) {
        if let Some(bytes) = bytes
            && !self.consists_of(value, bytes)
        {
            self.violation(format!("`{key}`: {} bytes that are not those of value {value}", bytes.len()));
        }
        self.record(key, Call::Read, Return::Value(value), begin);
    }

    /// A try to complete an upload of this value.
    pub(crate) fn record_complete(&self, key: &str, value: Value, returned: Return, begin: u64) {
        let mut endings = self.endings.lock();
        let ending = endings.entry((key.to_owned(), value)).or_default();
        let tried = ending.completed || ending.unknown;
        match returned {
            Return::Ok => {
                let now = self.now();
                ending.end = if ending.completed { ending.end.min(now) } else { now };
                ending.completed = true;
            }
            Return::Unknown => ending.unknown = true,
            _ => return,
        }
        ending.begin = if tried { ending.begin.min(begin) } else { begin };
    }

    /// An upload of this value was aborted.
    pub(crate) fn record_abort(&self, key: &str, value: Value) {
        self.endings.lock().entry((key.to_owned(), value)).or_default().aborted = true;
    }

    /// All keys that anything was done to.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.operations.lock().keys().cloned().collect()
    }

    /// How many operations have ended.
    pub(crate) fn len(&self) -> usize {
        self.operations.lock().values().map(Vec::len).sum()
    }

    /// Everything that is wrong.
    pub(crate) fn judge(&self) -> Vec<String> {
        let mut wrong = self.violations.lock().clone();
        let mut operations = self.operations.lock().clone();
        for ((key, value), ending) in &*self.endings.lock() {
            let Ending { completed, aborted, unknown, begin, end } = *ending;
            if completed && aborted {
                wrong.push(format!("`{key}`: the upload of value {value} was completed and aborted"));
            }
            let returned = if completed { Return::Ok } else { Return::Unknown };
            if completed || (unknown && !aborted) {
                let operation = Operation { call: Call::Write(*value), returned, begin, end };
                operations.entry(key.clone()).or_default().push(operation);
            }
        }
        for (key, mut operations) in operations {
            operations.sort_by_key(|operation| operation.begin);
            if let Err(contradiction) = check(&operations) {
                let told: Vec<_> = operations.iter().map(describe).collect();
                let at = contradiction.0;
                wrong.push(format!("`{key}` is not linearizable, at operation {at}:\n{}", told.join("\n")));
            }
        }
        wrong
    }
}

fn describe(operation: &Operation) -> String {
    let Operation { call, returned, begin, end } = operation;
    format!("    {begin:>5} {end:>5} {call:?} -> {returned:?}")
}
