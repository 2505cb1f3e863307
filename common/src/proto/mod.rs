//! Types generated from `proto/`. Nothing outside the transport (`rpc` here and in the storage node) and the metadata
//! encoders uses them: everybody else works with the domain types they are converted to.

/// Package `coffer.storage.v1`: calls to a storage node.
pub mod storage_v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        reason = "generated code"
    )]
    tonic::include_proto!("coffer.storage.v1");
}
