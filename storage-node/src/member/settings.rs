//! Settings of a member.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use coffer_common::rpc::NodeSecurity;
use coffer_common::types::NodeId;

use crate::pace::Slowdown;

/// What must be there before the first layout is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// These addresses, each with this many drives.
    Addresses(Vec<(String, usize)>),
    /// This many nodes.
    Nodes(usize),
    /// A cluster that exists already: this node never founds one.
    Cluster,
}

/// Settings of a member.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// The node's id.
    pub id: NodeId,
    /// Where its port is.
    pub listen: SocketAddr,
    /// What others connect to, `host:port`.
    pub advertise: String,
    /// What fails together above the node.
    pub zone: String,
    /// Where its drives are.
    pub drives: Vec<PathBuf>,
    /// Paths whose drive is gone for good.
    pub replace: Vec<PathBuf>,
    /// The endpoint list it was started with, expanded; empty without one.
    pub endpoints: Vec<String>,
    /// What a first layout waits for.
    pub expected: Expected,
    /// In how long a drive is scrubbed once; zero for never.
    pub scrub_period: Duration,
    /// How often what no slot needs is purged; zero for never.
    pub purge_period: Duration,
    /// How much slower requests may be while background work runs.
    pub background_slowdown: Slowdown,
    /// How callers are known.
    pub security: NodeSecurity,
    /// The coordinator's addresses, for messages.
    pub etcd: Vec<String>,
}
