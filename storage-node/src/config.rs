//! Settings of the `coffer-storage-node` process: arguments and their environment forms.
//!
//! Owns: parsing, and the defaults of ports and names. Never opens anything.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use coffer_common::types::{ClusterId, NodeId};

use crate::node::NodeConfig;

/// Arguments of a storage node, for its own binary and for `coffer storage-node`.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Folders where the node's drives are mounted.
    #[arg(required = true, value_name = "PATH")]
    pub drives: Vec<PathBuf>,

    /// The node's name in the cluster [default: the host name].
    #[arg(long, env = "COFFER_NODE_ID", value_name = "NAME")]
    pub node_id: Option<String>,

    /// Refuse drives of any cluster but this one.
    #[arg(long, env = "COFFER_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<ClusterId>,

    /// A path whose drive is gone for good and may be formatted anew; may be given several times.
    #[arg(long, value_name = "PATH")]
    pub replace: Vec<PathBuf>,

    /// Where gateways and other nodes reach this node.
    #[arg(long, env = "COFFER_NODE_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:9100")]
    pub listen: SocketAddr,

    /// Where health and metrics are served.
    #[arg(long, env = "COFFER_NODE_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:9101")]
    pub admin_listen: SocketAddr,
}

impl NodeArgs {
    /// The node's settings.
    pub fn node_config(&self) -> NodeConfig {
        NodeConfig {
            node: NodeId(self.node_id.clone().unwrap_or_else(host_name)),
            drives: self.drives.clone(),
            cluster: self.cluster_id,
            replace: self.replace.clone(),
        }
    }
}

/// The host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
