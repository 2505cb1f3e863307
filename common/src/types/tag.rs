//! Fences and tags: the total order of a key's versions (PROTOCOL §1). No clock takes part.

use super::OpId;

/// What a lock holder shows to slots: the create-revision of its lock key, under the cluster generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// Raised when the coordinator's state is rebuilt, so that fences never go back.
    pub generation: u32,
    /// The coordinator's create-revision of the lock key.
    pub revision: u64,
}

/// Orders versions of one key, compared left to right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The highest fence known when the tag was chosen.
    pub fence: Fence,
    /// One more than the highest sequence seen under that fence.
    pub seq: u64,
    /// Unique per attempt.
    pub writer: OpId,
}
