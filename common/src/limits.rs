//! Every size, count and duration that is a constant, with its reason. A knob needs a better one.

use std::time::Duration;

/// Partitions of a cluster, fixed at creation: 4,096 keep the balance of 1,000 drives within 5 %.
pub const PARTITION_COUNT: u16 = 4096;

/// Widest stripe, in slots.
pub const MAX_SLOTS: usize = 16;

/// Longest object key, in bytes of UTF-8 (S3).
pub const MAX_KEY_BYTES: usize = 1024;

/// Shards up to this size, in bytes, live in the journal beside their metadata; larger ones are files.
pub const INLINE_SHARD_BYTES: u32 = 128 * 1024;

/// Longest encoded object metadata, in bytes, that a slot accepts.
pub const MAX_METADATA_BYTES: usize = 1024 * 1024;

/// A session lease in the coordinator lives this long without a keep-alive.
pub const SESSION_TTL: Duration = Duration::from_secs(10);

/// After W answers to a COMMIT, how long to wait at most for the rest before answering the client.
pub const COMMIT_LINGER: Duration = Duration::from_millis(25);

/// STABLE notices are batched for at most this long.
pub const STABLE_DELAY: Duration = Duration::from_millis(200);

/// A version that is COMMITTED but not STABLE for this long is settled by its slot.
pub const SETTLE_AFTER: Duration = Duration::from_secs(2);

/// A superseded version is kept this long after STABLE, so that running reads end.
pub const READ_GRACE: Duration = Duration::from_secs(15 * 60);

/// A plain writer that keeps meeting an exclusive fence takes the lock after this long.
pub const EXCLUSIVE_PATIENCE: Duration = Duration::from_secs(1);

/// Clock difference between nodes that is reported and refused.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(3);

/// The version of the wire protocol this build speaks; it works with the one before and the one after.
pub const PROTOCOL_VERSION: u32 = 1;
