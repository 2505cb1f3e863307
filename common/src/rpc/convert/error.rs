//! Why a node gave no answer.

use super::{Malformed, required};
use crate::node::NodeError;
use crate::proto::storage_v1 as wire;
use wire::node_error::{DriveUnavailable, Kind, Overloaded, ShardUnavailable, Timeout, Unreachable};

impl From<NodeError> for wire::NodeError {
    fn from(error: NodeError) -> Self {
        let kind = match error {
            NodeError::Unreachable { node, reason } => Kind::Unreachable(Unreachable { node, reason }),
            NodeError::Timeout { node } => Kind::Timeout(Timeout { node }),
            NodeError::Denied(reason) => Kind::Denied(reason),
            NodeError::DriveUnavailable { drive, reason } => {
                Kind::DriveUnavailable(DriveUnavailable { drive: Some(drive.into()), reason })
            }
            NodeError::ShardUnavailable { op, reason } => {
                Kind::ShardUnavailable(ShardUnavailable { op: Some(op.into()), reason })
            }
            NodeError::Invalid(reason) => Kind::Invalid(reason),
            NodeError::Overloaded => Kind::Overloaded(Overloaded {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::NodeError> for NodeError {
    type Error = Malformed;

    fn try_from(error: wire::NodeError) -> Result<Self, Malformed> {
        Ok(match error.kind.ok_or(Malformed("error.kind"))? {
            Kind::Unreachable(e) => Self::Unreachable { node: e.node, reason: e.reason },
            Kind::Timeout(e) => Self::Timeout { node: e.node },
            Kind::Denied(reason) => Self::Denied(reason),
            Kind::DriveUnavailable(e) => {
                Self::DriveUnavailable { drive: required(e.drive, "error.drive")?, reason: e.reason }
            }
            Kind::ShardUnavailable(e) => {
                Self::ShardUnavailable { op: required(e.op, "error.op")?, reason: e.reason }
            }
            Kind::Invalid(reason) => Self::Invalid(reason),
            Kind::Overloaded(Overloaded {}) => Self::Overloaded,
        })
    }
}
