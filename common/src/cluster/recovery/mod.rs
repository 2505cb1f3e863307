//! Rebuilding the coordinator's state from what drives remember, when the coordinator has lost it.
//!
//! Owns: what a drive tells ([`DriveReport`]), the state that follows from all of them ([`Recovery::plan`], pure), and writing
//! it into an empty coordinator ([`Recovery::apply`]). Never reads a drive, never changes a state that is there.
//!
//! ```text
//! every node: drives ──► DriveReport ─┐
//! every node: drives ──► DriveReport ─┼─► plan ──► apply ──► marker, records, …, and the cluster's record last
//! ```
//!
//! ## Consistency
//! 1. **Generation.** One above the highest that any copy, fence, tag or adopted revision of any drive names. Fences and revisions
//!    of the recovered cluster are thereby above all that were ever given: no slot refuses them, and no lock or record of
//!    before is taken for a new one.
//! 2. **Epochs.** Every partition gets one above `(generation − 1) · 2^32`: above all that were raised before, also those
//!    that no drive has heard of. So no epoch names two states.
//! 3. **Layout, roles, nodes.** From the newest copy. It is checked against what slots have adopted: at least M slots of every
//!    partition must have been read, of which one knows any epoch that took effect. Where slots are ahead of the copy, a change of a
//!    slot's drive or role was under way in the last moments: it is told. A slot votes only if it says so itself, so an old word
//!    in the map costs a vote until its node has taken the change up again. Which drive has the slot is not left to an old word: the
//!    drive before would vote too, without what was acknowledged since. A slot that moved after that copy is where the drive that
//!    took it says (`moved`); where the drives do not tell, the recovery is refused, or the operator gives up the drives that would.
//!    There a purge may have gone unseen as well: the new epoch counts as one, so that operations from before it end.
//! 4. **Buckets.** From the newest copy, which drives get within a second of a change. One that was made after it, and holds
//!    objects, is told by its id, and comes back under the name that the operator gives it; one whose deletion had begun after it
//!    is told too.
//!
//! ## Crash consistency
//! A marker is written first, the cluster's record last, together with the marker's end. An interrupted recovery is no cluster
//! to anybody, and the next one begins by taking its remains away. Each step demands the marker, so of two recoveries at a time
//! one ends.
//!
//! ## Retries
//! None: it is run again.

mod apply;
mod moved;
mod plan;
mod report;
#[cfg(test)]
mod tests;

pub use apply::ApplyError;
pub use plan::{BucketFinding, CopySource, DriveFinding, DriveSight, NameError, Recovery, RecoveryRefusal};
pub use report::{BucketReport, CopyReport, DriveReport, PartitionReport, REPORT_FORMAT};
