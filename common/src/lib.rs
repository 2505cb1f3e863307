//! What Coffer's gateway and storage node must agree on.
//!
//! Pure parts (no I/O, no clock, no `async`): [`types`], [`protocol`], `erasure`, `layout`, `shard`,
//! `endpoints`. Parts with I/O: `coordination` (etcd and the embedded coordinator), `node` (how a gateway
//! talks to a storage node), `cluster` (the live map built from both),
//! `driver` (runs protocol machines over it). This crate never imports
//! `coffer-gateway` or `coffer-storage-node`.

pub mod blocking;
pub mod cluster;
pub mod config;
pub mod coordination;
pub mod driver;
pub mod endpoints;
pub mod erasure;
pub mod layout;
pub mod limits;
#[cfg(any(test, feature = "simulation", feature = "test-util"))]
pub mod linearizability;
pub mod meta;
pub mod node;
pub mod proto;
pub mod protocol;
pub mod random;
pub mod rpc;
pub mod shard;
pub mod shutdown;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;
pub mod telemetry;
pub mod time;
pub mod types;
