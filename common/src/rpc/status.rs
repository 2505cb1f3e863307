//! Node errors as gRPC statuses: the code tells other tools what happened, the metadata key `coffer-error-bin`
//! carries the error itself.

use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::node::NodeError;
use crate::proto::storage_v1 as wire;

const ERROR_KEY: &str = "coffer-error-bin";

/// The status of a failed call.
pub fn error_to_status(error: NodeError) -> Status {
    let code = match &error {
        NodeError::Unreachable { .. } => Code::Unavailable,
        NodeError::Timeout { .. } => Code::DeadlineExceeded,
        NodeError::Denied(_) => Code::PermissionDenied,
        NodeError::DriveUnavailable { .. } => Code::FailedPrecondition,
        NodeError::ShardUnavailable { .. } => Code::NotFound,
        NodeError::Invalid(_) => Code::InvalidArgument,
        NodeError::Overloaded => Code::ResourceExhausted,
    };
    let text = error.to_string();
    let bytes = wire::NodeError::from(error).encode_to_vec();
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(ERROR_KEY, MetadataValue::from_bytes(&bytes));
    Status::with_metadata(code, text, metadata)
}

/// The error of a failed call to `node`.
pub fn status_to_error(node: &str, status: &Status) -> NodeError {
    let carried = status
        .metadata()
        .get_bin(ERROR_KEY)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| wire::NodeError::decode(bytes).ok())
        .and_then(|error| NodeError::try_from(error).ok());
    if let Some(error) = carried {
        return error;
    }
    match status.code() {
        Code::DeadlineExceeded => NodeError::Timeout { node: node.to_owned() },
        Code::PermissionDenied | Code::Unauthenticated => NodeError::Denied(status.message().to_owned()),
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange => {
            NodeError::Invalid(status.message().to_owned())
        }
        Code::ResourceExhausted => NodeError::Overloaded,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => NodeError::Unreachable { node: node.to_owned(), reason: reason(status) },
    }
}

fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DriveId, OpId};

    #[test]
    fn every_error_survives_as_a_status() {
        for error in [
            NodeError::Unreachable { node: "a".to_owned(), reason: "gone".to_owned() },
            NodeError::Timeout { node: "a".to_owned() },
            NodeError::Denied("no".to_owned()),
            NodeError::DriveUnavailable { drive: DriveId(1), reason: "failed".to_owned() },
            NodeError::ShardUnavailable { op: OpId::default(), reason: "lost".to_owned() },
            NodeError::Invalid("ü".to_owned()),
            NodeError::Overloaded,
        ] {
            assert_eq!(status_to_error("b", &error_to_status(error.clone())), error);
        }
    }

    #[test]
    fn a_foreign_status_keeps_its_text_and_names_the_node() {
        let error = status_to_error("node-1", &Status::internal("broken pipe"));
        assert_eq!(error.to_string(), "node `node-1` does not answer: broken pipe");
    }
}
