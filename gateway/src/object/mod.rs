//! The object layer: buckets, objects and uploads on top of node clients and the pure protocol machines.
//!
//! Owns: the order of steps of every operation, stripes, the registers' metadata, listing. Never does: authentication,
//! HTTP, XML, S3 error codes (`s3` maps this module's errors), disk I/O.
//!
//! An operation runs so:
//! 1. the bucket's cached record gives the bucket id and its revision;
//! 2. bucket id and key give the partition, and the cluster map its slots;
//! 3. `coffer_common::driver` runs a pure machine of `coffer_common::protocol` over the slots' nodes: it sends, feeds replies, keeps timers;
//! 4. stripes carry the bytes (`stripe`), `list` merges nodes' pages.
//!
//! Consistency: what the protocol decides (PROTOCOL §5); this layer caches no object state. Retries: none of a mutation
//! whose outcome is unknown; the caller gets `Unavailable`. Cancellation: a dropped future leaves a prepared op, which
//! nodes sweep, or a commit that any reader settles. Crash: the same.

mod bucket;
mod bucket_delete;
mod census;
mod coding;
mod copy;
mod core;
mod delete;
mod documents;
mod encryption;
mod error;
mod get;
mod info;
mod lacking;
mod list;
mod look;
mod multipart;
mod pump;
mod put;
mod quota;
mod reclaim;
mod segment;
mod store;
mod turns;
mod types;
mod upload;
mod versioning;
mod versions;
mod write;

pub use bucket::bucket_record;
pub use census::{Holding, SlotFinding};
pub use encryption::{CustomerKey, Encrypt, Encrypted, EncryptionError, InvalidKeyring, Keyring, Unlock};
pub use error::{
    AmendError, BodyError, CompleteError, ConfigureError, CopyError, CreateBucketError, DeleteBucketError,
    DeleteError, GetError, HeadBucketError, ListError, LockError, OtherOwner, PartError, PutError,
    QuotaExceeded, ReadBroken, Unavailable, UploadError,
};
pub use look::{KeyLook, SlotLook};
pub use reclaim::Reclaimed;
pub use store::{ObjectStore, StoreSettings};
pub use types::*;
pub use versions::LockRefused;
