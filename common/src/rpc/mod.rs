//! The wire between gateways and storage nodes: everything on the caller's side that knows tonic, prost and hyper,
//! and what both sides share (conversions, handshake, TLS, settings). The service itself is in the storage node.
//!
//! It never decides anything about objects, retries no mutation, and keeps no request: what the transport loses is
//! told as [`NodeError::Unreachable`](crate::node::NodeError) with an unknown outcome.
//!
//! ```text
//! RemoteNode ─┬─ control: one connection, one long-lived stream, many calls to a frame
//!             ├─ unary:   the same connection (hello, info, adopt)
//!             └─ bulk:    four connections, taken in turn (shards, listings, snapshots)
//! ```
//! 1. A connection is made when it is first needed; its name is resolved anew each time.
//! 2. Both sides greet each other and prove that they are of this cluster (`handshake`); what was proved holds for this
//!    connection only.
//! 3. When a connection breaks, everything that waits on it fails at once, and later calls fail fast until the
//!    backoff lets one try again.

mod backoff;
mod bulk;
mod connection;
mod control;
pub mod convert;
pub mod handshake;
mod io;
mod link;
mod remote;
mod security;
pub mod settings;
mod shard_body;
mod status;
mod tls;

pub use io::Io;
pub use remote::{Caller, RemoteNode};
pub use security::{Acceptor, ClusterSecret, MIN_SECRET_BYTES, NodeSecurity, SecurityError};
pub use status::{error_to_status, status_to_error};
