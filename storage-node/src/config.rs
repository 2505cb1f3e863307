//! Settings of the `coffer-storage-node` process: arguments and their environment forms.
//!
//! Owns: parsing, and the defaults of ports and names. Never opens anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use coffer_common::config::{ConfigError, EtcdArgs, SecurityArgs};
use coffer_common::endpoints::{EndpointError, Endpoints};
use coffer_common::types::NodeId;

use crate::member::{Expected, MemberSettings};
use crate::pace::Slowdown;

/// Arguments of a storage node, for its own binary and for `coffer storage-node`.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Folders where the node's drives are mounted, for example `/data{1...4}`.
    #[arg(required = true, value_name = "FOLDER")]
    pub drives: Vec<String>,

    /// Where gateways and other nodes reach this node.
    #[arg(long, env = "COFFER_NODE_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:9100")]
    pub node_address: SocketAddr,

    /// The name and port that others connect to [default: the node address, or the host name if that is 0.0.0.0].
    #[arg(long, env = "COFFER_ADVERTISE_ADDRESS", value_name = "HOST:PORT")]
    pub advertise_address: Option<String>,

    /// How many nodes must have registered before the first layout is made. Only for the very first start of a cluster.
    #[arg(long, env = "COFFER_BOOTSTRAP_EXPECT", value_name = "NODES")]
    pub bootstrap_expect: Option<usize>,

    /// What every node has.
    #[command(flatten)]
    pub common: CommonNodeArgs,

    /// The coordinator.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// How callers are known.
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// Arguments that a node has in every shape.
#[derive(Args, Clone, Debug)]
pub struct CommonNodeArgs {
    /// The node's name in the cluster [default: the host name; for `server` the host of its endpoints].
    #[arg(long, env = "COFFER_NODE_ID", value_name = "NAME")]
    pub node_id: Option<String>,

    /// What fails together above the node, such as a rack or a room.
    #[arg(long, env = "COFFER_ZONE", value_name = "ZONE", default_value = "")]
    pub zone: String,

    /// A folder whose drive is gone for good: if it is empty, a new drive takes the old one's place and learns from the
    /// others what that had promised. May be given several times.
    #[arg(long, value_name = "FOLDER")]
    pub replace: Vec<PathBuf>,

    /// In how long everything on a drive is re-read and verified once, such as `14d` or `36h`; `0` for never.
    #[arg(long, env = "COFFER_SCRUB_PERIOD", value_name = "TIME", default_value = "14d", value_parser = parse_period)]
    pub scrub_period: Duration,

    /// How often it is looked for tombstones and left-over shards that no drive needs any more; what a write has left over must be as
    /// old as that to go; `0` for never.
    #[arg(long, env = "COFFER_PURGE_PERIOD", value_name = "TIME", default_value = "1h", value_parser = parse_period)]
    pub purge_period: Duration,

    /// How many times as long requests may take while the node heals, joins, moves or scrubs; that work takes what is left,
    /// and always a little. `off`: as fast as it goes.
    #[arg(long, env = "COFFER_BACKGROUND_SLOWDOWN", value_name = "FACTOR", default_value = "1.5")]
    pub background_slowdown: Slowdown,

    /// Where the node's health and metrics are served.
    #[arg(long, env = "COFFER_NODE_ADMIN_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:9101")]
    pub node_admin_address: SocketAddr,
}

/// Arguments that make no node.
#[derive(Debug, thiserror::Error)]
pub enum NodeArgsError {
    /// The drives.
    #[error(transparent)]
    Endpoints(#[from] EndpointError),
    /// Folders are wanted.
    #[error("a storage node serves folders of its own machine: give `/data{{1...4}}`, not URLs")]
    Urls,
    /// Everything else.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl NodeArgs {
    /// The node's settings.
    ///
    /// # Errors
    /// [`NodeArgsError`].
    pub fn member_settings(&self) -> Result<MemberSettings, NodeArgsError> {
        let Endpoints::Standalone(drives) = Endpoints::parse(&self.drives)? else {
            return Err(NodeArgsError::Urls);
        };
        let any = self.node_address.ip().is_unspecified();
        let reachable = if any {
            format!("{}:{}", host_name(), self.node_address.port())
        } else {
            self.node_address.to_string()
        };
        Ok(MemberSettings {
            id: NodeId(self.common.node_id.clone().unwrap_or_else(host_name)),
            listen: self.node_address,
            advertise: self.advertise_address.clone().unwrap_or(reachable),
            zone: self.common.zone.clone(),
            drives,
            replace: self.common.replace.clone(),
            endpoints: Vec::new(),
            expected: self.bootstrap_expect.map_or(Expected::Cluster, Expected::Nodes),
            scrub_period: self.common.scrub_period,
            purge_period: self.common.purge_period,
            background_slowdown: self.common.background_slowdown,
            security: self.security.security()?,
            etcd: self.etcd.etcd.clone(),
        })
    }
}

/// A time in days, hours, minutes or seconds.
fn parse_period(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is no time: write a number and d, h, m or s, such as `14d`; `0` for never");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "d" => 24 * 3600,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        "" if number == 0 => 1,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

/// The host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_numbers_with_a_unit() {
        let hours = |hours: u64| Ok(Duration::from_secs(hours * 3600));
        assert_eq!([parse_period("14d"), parse_period("36h")], [hours(14 * 24), hours(36)]);
        assert_eq!(
            [parse_period("120m"), parse_period("7200s"), parse_period("0")],
            [hours(2), hours(2), hours(0)]
        );
        for wrong in ["", "d", "14", "14 d", "-1d", "1w", "14dd", "999999999999999999d"] {
            assert!(parse_period(wrong).is_err_and(|error| error.contains("`14d`")), "{wrong}");
        }
    }
}
