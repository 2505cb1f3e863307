//! The versions of a key, in a bucket that keeps them.
//!
//! Owns: what is written where, and in which order, so that no version is lost or comes back. Never does: decide what S3
//! answers, or free anything that a version is made of while there is that version.
//!
//! | register | holds |
//! |---|---|
//! | object | the current version, and what it says of all others ([`History`](coffer_common::meta::History)): the highest ordinal, where the null version is, what is being removed |
//! | version | one version that is not current any more, newest first: written before the next one is |
//! | part 0 of an upload named by the version's op | the bytes of a version that came in one piece |
//!
//! So one register holds one version, whatever their number, and a listing is a merge of two ranges. The one exception
//! is the object that was there before the bucket kept versions: its shards stay where they are, below the versions that
//! come on top of it (`Version::null_version`), until it is deleted or replaced.
//!
//! **A change** ([`key`]) reads the key's register strictly, clears away what is being removed, archives the current
//! version if it is to stay, and commits the next under the key's lock on top of exactly what was read; else it starts
//! again. So each version knows the one that it supersedes, and that one is archived. A version that is deleted ceases
//! to be by that commit alone: its archive says nothing any more as soon as the current version does not admit it
//! ([`head`]).
//!
//! **Consistency.** Every change of the set of versions, and of what protects one of them, is a commit to the key's
//! register, so that they are ordered as writes are. A read of an archived version reads the key's register first.
//! A listing reads it first, too: a version is in one register or the other from then on, never in neither.
//!
//! **Crash.** After the archive: it is of the current version, and hidden. After the commit: what is being removed is
//! recorded in it; the next change, or the sweep, clears it away. Before the commit, after the bytes: they belong to no
//! version and stay; a write that ends with an error removes them itself.
//!
//! **Retries.** A commit that comes too late is tried again; one whose outcome is unknown is not. A newer record of the bucket
//! is taken on the way, but never that of another bucket of its name. **Cancellation**: as a crash.
//!
//! **State of the bucket** ([`state`]): before the first version is written, every writer goes through here, so that a
//! write that knows nothing of versions never supersedes one.

mod amend;
mod archive;
mod clock;
mod head;
mod key;
mod list;
mod lock;
mod read;
mod remove;
mod state;
mod write;

#[cfg(test)]
mod tests;

pub(super) use amend::{amend, set_retention};
pub(super) use archive::{is_archived, sweep_removed};
pub(super) use clock::latest;
pub(super) use head::{Head, without_shards};
pub(super) use key::Key;
pub(super) use list::list_versions;
pub use lock::LockRefused;
pub(super) use lock::{may_protect, with_default};
pub(super) use read::{Kept, find};
pub(super) use remove::{delete, delete_many};
pub(super) use state::{set_object_lock, set_versioning};
pub(super) use write::put;
