//! Validated identities and names. A value of one of these types is well-formed: code below the edges
//! never checks again.

mod id;
mod name;
mod register;
mod tag;

pub use id::{
    BucketId, ClusterId, DriveId, Epoch, Incarnation, NodeId, OpId, ParseIdError, PartitionId, SlotIndex,
    SlotSet, UploadId,
};
pub use name::{BucketName, InvalidBucketName, InvalidObjectKey, ObjectKey};
pub use register::{DecodeRegisterKeyError, RegisterKey, RegisterKind, VersionRef};
pub use tag::{Fence, Tag};
