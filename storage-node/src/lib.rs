//! Coffer's storage node: it owns drives, and keeps on them what the slots of the commit protocol promise.
//!
//! ```text
//! rpc ─► node (one NodeClient over all drives) ─► store (one drive's slots) ─► journal | index | shards ─► drive
//! ```
//! Never imports the gateway, never talks S3, and never decides what an object is: metadata is opaque here.

pub mod admin;
pub mod app;
#[doc(hidden)]
pub mod bench;
pub mod config;
mod drive;
pub mod heal;
mod image;
mod index;
pub mod inspect;
pub mod join;
mod journal;
pub mod member;
pub mod moves;
mod node;
pub mod pace;
pub mod purge;
pub mod rpc;
pub mod scrub;
pub mod settle;
mod shards;
mod store;

#[cfg(any(test, feature = "simulation"))]
pub use drive::{Call, Effect, Fault, SimulatedDrive, When};
pub use drive::{DriveIdentity, DriveProbe, DriveRefusal, KnownPath, format, format_again, probe, survey};
pub use node::{NodeConfig, NodeOpenError, StorageNode};
pub use store::{DriveStore, OpenError};
