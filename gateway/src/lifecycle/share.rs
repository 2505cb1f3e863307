//! Which gateway goes over which bucket.
//!
//! Every gateway that has had something to do has a leased key at the coordinator. A bucket falls to the one whose name goes first by
//! the hash of both (rendezvous hashing), so that all gateways come to the same answer without asking each other, and of a gateway that comes or
//! goes only its own buckets change hands. What gateways believe may differ for a moment: a bucket is gone over under its lock.

use bytes::Bytes;
use coffer_common::coordination::{Coordinator, CoordinatorError, Expected};
use coffer_common::random;
use coffer_common::types::BucketId;
use sha2::{Digest, Sha256};

/// Where the leased keys lie. Also known to `coffer_common::cluster::recovery`.
const PREFIX: &str = "lifecycle-gateways/";

/// This gateway's part.
pub(super) struct Share {
    /// Its name, for the life of the process.
    name: String,
    /// Whether its key is there: the coordinator renews it.
    is_known: bool,
}

/// The gateways that take part.
pub(super) struct Members {
    names: Vec<String>,
    own: String,
}

impl Share {
    /// Of a process that begins.
    pub(super) fn new() -> Self {
        Self { name: format!("{:016x}", random::random::<u64>()), is_known: false }
    }

    /// Who takes part now: this gateway too, from now on.
    ///
    /// # Errors
    /// The coordinator's.
    pub(super) async fn members(
        &mut self,
        coordinator: &dyn Coordinator,
    ) -> Result<Members, CoordinatorError> {
        if !self.is_known {
            let key = format!("{PREFIX}{}", self.name);
            coordinator.put(&key, Bytes::new(), Expected::Any, true).await?;
            self.is_known = true;
        }
        let entries = coordinator.list(PREFIX).await?.entries;
        let names = entries.iter().filter_map(|entry| entry.key.strip_prefix(PREFIX));
        let names: Vec<_> = names.map(str::to_owned).collect();
        // The key may be gone while its session lives, as after a recovery: the next look writes it again.
        self.is_known = names.contains(&self.name);
        Ok(Members { names, own: self.name.clone() })
    }
}

impl Members {
    /// Whether a bucket falls to this gateway.
    pub(super) fn is_ours(&self, bucket: BucketId) -> bool {
        owner(&self.names, bucket) == Some(&self.own)
    }
}

fn owner(names: &[String], bucket: BucketId) -> Option<&String> {
    let weight = |name: &&String| -> [u8; 32] {
        Sha256::new().chain_update(bucket.0.to_be_bytes()).chain_update(name.as_bytes()).finalize().into()
    };
    names.iter().max_by_key(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u64>) -> Vec<String> {
        range.map(|name| format!("{name:016x}")).collect()
    }

    #[test]
    fn buckets_are_shared_evenly_and_only_those_of_a_lost_gateway_change_hands() {
        let (four, three) = (names(0..4), names(0..3));
        let mut shares = [0; 4];
        for bucket in (0..1000).map(BucketId) {
            let one = owner(&four, bucket).unwrap();
            shares[four.iter().position(|name| name == one).unwrap()] += 1;
            assert!(one == &four[3] || owner(&three, bucket) == Some(one));
        }
        assert!(shares.iter().all(|share| (200..300).contains(share)), "{shares:?}");
    }

    #[test]
    fn exactly_one_gateway_takes_a_bucket_for_its_own() {
        let mut names = names(0..3);
        for bucket in (0..100).map(BucketId) {
            names.rotate_left(1);
            let of = |own: &String| Members { names: names.clone(), own: own.clone() }.is_ours(bucket);
            assert_eq!(names.iter().filter(|own| of(own)).count(), 1);
        }
        let stranger = Members { names, own: "a gateway whose key is gone".into() };
        assert!((0..100).map(BucketId).all(|bucket| !stranger.is_ours(bucket)));
    }
}
