//! Handlers of buckets, one file per operation.

pub(crate) mod create;
pub(crate) mod defaults;
pub(crate) mod delete;
pub(crate) mod head;
pub(crate) mod list;
pub(crate) mod location;
