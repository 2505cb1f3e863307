//! The object layer over real storage nodes: what is acknowledged reads back, with half of the drives gone too, and what
//! cannot be decided is said to be unavailable.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test, all of it")]

mod body;
mod buckets;
mod cluster;
mod coordinator;
mod encryption;
mod faults;
mod fencing;
mod interleaving;
mod listing;
mod multipart;
mod plain;
mod purge;
mod reclaim;
mod settling;
mod versions;
