//! Rules of the client machines that the simulation can break on purpose, to show that it would notice.
//!
//! Outside tests and the `simulation` feature a [`Geometry`](super::quorum::Geometry) cannot carry a flaw, and
//! `Geometry::breaks` is `false` at compile time. With the feature `simulation` makes flawed geometries, and so does a
//! thread on which `simulated::break_rule` was called.

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flaw {
    /// Reads return an undecided version without writing it back.
    NoWriteBack,
    /// Reads are decided by R0 − 1 answers.
    ReadsOnTooFew,
    /// Reads are decided by M − 1 COMMITTED answers.
    DecidesOnTooFew,
    /// W = k.
    WritesOnTooFew,
    /// STABLE is told before COMMIT is acknowledged.
    StableTooEarly,
    /// Tags rest on R0 − 1 answers.
    TagsOnTooFew,
    /// FENCE is enough on R0 − 1 slots.
    FencesOnTooFew,
    /// A plain write that is refused chooses a new tag.
    Retags,
    /// A false condition is answered without re-stamping an undecided version.
    NoRestamp,
    /// Acknowledgements of two epochs are added up.
    AddsUpEpochs,
    /// COMMIT is sent again although a purge came in between.
    ResendsOverPurge,
    /// A fenced op builds on a version that is not below its fence.
    BuildsAboveFence,
    /// Tags ignore the floor.
    IgnoresFloor,
    /// A slot that has lost its state votes after one voter's hand-over.
    JoinsFromOne,
    /// A moved slot votes after one other's hand-over.
    MovesWithoutAdopters,
    /// A bucket's revision is adopted by R0 − 1 slots.
    AdoptsOnTooFew,
    /// A bucket's revision is adopted by R0 slots, which a slot that has lost its state need not meet.
    AdoptsOnReadQuorum,
    /// What is purged is purged without an epoch.
    PurgesWithoutEpoch,
    /// One slot need not adopt the epoch of a purge.
    PurgesPartlyAdopted,
    /// One slot may hold what forbids a purge.
    PurgesOnTooFew,
    /// A write goes on although orphaned shards were purged since it prepared its own.
    CommitsOverSweep,
}
