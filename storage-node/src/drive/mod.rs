//! A drive as the node uses it: who it is, how its files are reached, and how well it is.
//!
//! Owns: the identity file `coffer.json` and the refusals around it ([`identity`]), every call into `std::fs`
//! ([`io`]), the I/O threads of one drive ([`pool`], [`threads`]) and its health ([`health`]). Never knows what the files
//! mean.
//!
//! ```text
//! store, journal, index, shards ──► DriveIo ──► the file system
//!                              └──► IoPool (own threads, bounded queue): a hung drive holds only its own callers
//! ```

mod health;
mod identity;
mod io;
mod pool;
#[cfg(any(test, feature = "simulation"))]
mod simulated;
mod threads;

pub(crate) use health::Health;
pub use identity::{DriveIdentity, DriveProbe, DriveRefusal, KnownPath, format, format_again, probe, survey};
pub(crate) use identity::{OpenDrive, is_in_use, remember_paths};
pub(crate) use io::{DriveFile, DriveIo, FileIo, is_full};
pub(crate) use pool::{IoPool, PoolError};
#[cfg(any(test, feature = "simulation"))]
pub use simulated::{Call, Effect, Fault, SimulatedDrive, When};
pub(crate) use threads::Threads;

/// Size of the file system that a drive is, or will be, on; 0 if it does not say.
pub(crate) fn capacity_bytes(path: &std::path::Path) -> u64 {
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    rustix::fs::statvfs(there).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize))
}
