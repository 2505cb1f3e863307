//! Handlers of buckets, one file per operation.

pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod head;
pub(crate) mod list;
pub(crate) mod location;
