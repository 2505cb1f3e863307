//! Which life of the cluster etcd holds: the cluster's record as it was seen last, and revisions that never go back.
//!
//! Owns: the check that an etcd is the one that this process has worked with, or its lawful successor, and the stamp that
//! makes etcd's revisions rise over all generations. Never does I/O.
//!
//! An etcd that lost its data begins to count anew. What drives have adopted (revisions of buckets) must not: so a revision
//! is told as `(generation − 1) · 2^48 + etcd's own`. Generation 1 tells etcd's own numbers.
//!
//! **Consistency.** Every change demands the very record that was seen, so a condition on a revision is never compared with
//! another etcd's numbers. A record of a lower generation than one that was seen is an etcd that was set back.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, KeyValue};

use super::calls::unavailable;
use crate::coordination::{CoordinatorError, REVISION_BITS, Revision, record_generation};

/// The generations that have room above them.
const MAX_GENERATION: u32 = 1 << (u64::BITS - REVISION_BITS);

/// A revision as it is told, from etcd's own under a generation.
///
/// # Panics
/// If either is out of all proportion.
pub(super) fn stamped(generation: u32, raw: i64) -> Revision {
    let raw = u64::try_from(raw).unwrap_or(0);
    assert!(generation <= MAX_GENERATION && raw >> REVISION_BITS == 0, "revision {generation}.{raw}");
    u64::from(generation.max(1) - 1) << REVISION_BITS | raw
}

/// Etcd's own revision, of one as it is told.
pub(super) fn raw(revision: Revision) -> i64 {
    i64::try_from(revision & ((1 << REVISION_BITS) - 1)).unwrap_or(i64::MAX)
}

struct Seen {
    record: Bytes,
    generation: u32,
}

/// The cluster's record as it was seen last.
#[derive(Default)]
pub(super) struct Founded(ArcSwapOption<Seen>);

impl Founded {
    /// The generation; 1 before a record was seen.
    pub(super) fn generation(&self) -> u32 {
        self.0.load().as_ref().map_or(1, |seen| seen.generation)
    }

    /// The record, if one was seen.
    pub(super) fn record(&self) -> Option<Bytes> {
        self.0.load().as_ref().map(|seen| seen.record.clone())
    }

    /// Takes what a read found in the record's place, and tells its generation.
    ///
    /// # Errors
    /// `Unavailable` if a record was seen before and there is none now, or one of an earlier life.
    pub(super) fn see(&self, found: Option<&KeyValue>) -> Result<u32, CoordinatorError> {
        let seen = self.0.load();
        let Some(found) = found else {
            return match seen.as_ref() {
                None => Ok(1),
                Some(_) => Err(unavailable(
                    "etcd does not know this cluster any more: its data is lost, or another etcd's (`coffer recover` \
                     brings back what the drives remember)",
                )),
            };
        };
        if let Some(seen) = seen.as_ref()
            && seen.record == found.value()
        {
            return Ok(seen.generation);
        }
        let generation = record_generation(found.value()).unwrap_or(1).max(1);
        if seen.as_ref().is_some_and(|seen| generation < seen.generation) {
            return Err(unavailable("etcd was set back to a state before the cluster's last recovery"));
        }
        let record = Bytes::copy_from_slice(found.value());
        self.0.store(Some(Arc::new(Seen { record, generation })));
        Ok(generation)
    }

    /// Takes it that there is a record, of this generation or a later one, if none was seen.
    pub(super) fn vouch(&self, generation: u32) {
        let unseen = Arc::new(Seen { record: Bytes::new(), generation });
        self.0.rcu(|seen| Some(seen.clone().unwrap_or_else(|| unseen.clone())));
    }

    /// The generation, and what every change demands besides its own conditions: that the record, which lies at `key`, is
    /// the one of that generation.
    pub(super) fn demand(&self, key: String) -> (u32, Option<Compare>) {
        let seen = self.0.load();
        let compare = seen.as_ref().map(|seen| Compare::value(key, CompareOp::Equal, seen.record.to_vec()));
        (seen.as_ref().map_or(1, |seen| seen.generation), compare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::generation_of;

    #[test]
    fn revisions_rise_over_generations_and_are_those_of_etcd_in_the_first() {
        assert_eq!((stamped(1, 77), stamped(0, 77)), (77, 77));
        assert!(stamped(2, 1) > stamped(1, (1 << 48) - 1) && stamped(3, 1) > stamped(2, 1 << 40));
        for (generation, own) in [(1, 5), (2, 0), (65_536, (1 << 48) - 1)] {
            let told = stamped(generation, own);
            assert_eq!((generation_of(told), raw(told)), (generation, own));
        }
    }
}
