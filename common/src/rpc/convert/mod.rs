//! Conversions between the wire's types and the domain's, one small file by message family.
//!
//! To the wire: `From`, by value (payload bytes move, they are never copied). From the wire: `TryFrom`, which checks
//! everything the domain's types promise. Both are exhaustive: a new domain variant does not compile until it has a
//! wire form. What an older build does not know arrives as an absent field and is refused, never half understood.

mod bulk;
mod error;
#[cfg(test)]
mod golden;
mod hand_over;
mod id;
mod list;
mod node;
mod owed;
mod purge;
mod reply;
mod request;
#[cfg(test)]
mod round_trip;
mod version;

use bytes::Bytes;

pub use hand_over::{hand_over_answers, hand_over_requests};
pub use node::{snapshot_kind_from_wire, snapshot_kind_to_wire};

use crate::node::NodeError;
use crate::types::RegisterKey;

/// A message from a peer does not say what it must.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed message: `{0}` is missing, unknown or out of range")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for NodeError {
    fn from(malformed: Malformed) -> Self {
        Self::Invalid(malformed.to_string())
    }
}

/// Converts a field that must be there.
fn required<W, D: TryFrom<W, Error = Malformed>>(
    field: Option<W>,
    name: &'static str,
) -> Result<D, Malformed> {
    field.ok_or(Malformed(name))?.try_into()
}

/// Converts a field that may be absent.
fn optional<W, D: TryFrom<W, Error = Malformed>>(field: Option<W>) -> Result<Option<D>, Malformed> {
    field.map(D::try_from).transpose()
}

/// Narrows a number to the domain's width.
fn narrow<N: TryInto<D>, D>(value: N, name: &'static str) -> Result<D, Malformed> {
    value.try_into().map_err(|_| Malformed(name))
}

fn register_to_wire(register: &RegisterKey) -> Bytes {
    register.encode().into()
}

fn register_from_wire(bytes: &Bytes) -> Result<RegisterKey, Malformed> {
    RegisterKey::decode(bytes).map_err(|_| Malformed("register"))
}
