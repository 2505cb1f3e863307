//! The wire between gateways and storage nodes: everything that knows tonic and prost, on the caller's side and
//! shared by both.
pub mod convert;
