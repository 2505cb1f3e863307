//! A server on URLs: one node of a cluster with a gateway beside it; the same command on every node.
//!
//! 1. Which endpoints are this machine's: those at `--node-address`, else the only ones whose host is an address of
//!    this machine.
//! 2. The node joins the cluster or helps to found it (`coffer_storage_node::member`).
//! 3. The gateway starts on the cluster's map.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use coffer_common::endpoints::{DEFAULT_NODE_PORT, Endpoint, Endpoints, Scheme};
use coffer_common::rpc::NodeSecurity;
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use coffer_common::types::NodeId;
use coffer_gateway::app::Gateway;
use coffer_storage_node::app::App;
use coffer_storage_node::member::{Expected, MemberSettings};

use crate::listen;
use crate::server::ServerArgs;

/// One node of the endpoint list: its address and its drives.
type ListedNode = (String, Vec<Endpoint>);

pub(crate) async fn run(args: &ServerArgs, endpoints: Endpoints) -> anyhow::Result<ExitCode> {
    let config = args.gateway.gateway_config()?;
    if args.etcd.etcd.is_empty() {
        bail!(
            "URLs make a cluster, whose nodes agree through etcd: add `--etcd http://HOST:2379` (for a server on \
             this machine alone, give folders: /data{{1...4}})"
        );
    }
    let etcd = args.etcd.options()?;
    let security = args.security.security()?;
    let nodes = endpoints.nodes();
    refuse_scheme(&nodes, &security)?;
    let (listen_on, own) = own_node(args.node_address.as_deref(), &nodes).await?;
    listen::refuse_taken(&[
        (config.s3_address, "S3", "--address"),
        (config.admin_address, "the admin API", "--console-address"),
        (args.node.node_admin_address, "the node's health and metrics", "--node-admin-address"),
    ])?;
    let settings = settings(args, (listen_on, own), &nodes, security);
    let start = async |shutdown: Shutdown| {
        let metrics = Metrics::install(&shutdown)?;
        let admin = (args.node.node_admin_address, metrics.clone());
        let app = App::join(settings, etcd, admin, &shutdown).await?;
        Gateway::start(config, app.cluster.clone(), metrics, shutdown).await?;
        Ok(app)
    };
    listen::serve(start, App::leave).await
}

fn settings(
    args: &ServerArgs,
    (listen, own): (SocketAddr, ListedNode),
    nodes: &[ListedNode],
    security: NodeSecurity,
) -> MemberSettings {
    let (address, drives) = own;
    let host = drives.first().map(|drive| drive.host.clone()).unwrap_or_default();
    let alone = nodes.iter().filter(|(_, drives)| drives.iter().any(|d| d.host == host)).count() == 1;
    let id = args.node.node_id.clone().unwrap_or_else(|| if alone { host } else { address.clone() });
    MemberSettings {
        id: NodeId(id),
        listen,
        advertise: address,
        zone: args.node.zone.clone(),
        drives: drives.iter().map(|drive| PathBuf::from(&drive.path)).collect(),
        replace: args.node.replace.clone(),
        endpoints: nodes.iter().flat_map(|(_, drives)| drives).map(ToString::to_string).collect(),
        expected: Expected::Addresses(
            nodes.iter().map(|(address, drives)| (address.clone(), drives.len())).collect(),
        ),
        scrub_period: args.node.scrub_period,
        purge_period: args.node.purge_period,
        background_slowdown: args.node.background_slowdown,
        security,
        etcd: args.etcd.etcd.clone(),
    }
}

fn refuse_scheme(nodes: &[ListedNode], security: &NodeSecurity) -> anyhow::Result<()> {
    let https = nodes.iter().flat_map(|(_, drives)| drives).any(|drive| drive.scheme == Scheme::Https);
    match (https, security) {
        (true, NodeSecurity::ClusterSecret(_) | NodeSecurity::Insecure) => {
            bail!(
                "https:// endpoints need certificates: give their folder with `--tls-dir`, or write http://"
            )
        }
        (false, NodeSecurity::Mtls { .. }) => {
            bail!("with `--tls-dir` nodes speak TLS only: write https:// in the endpoints")
        }
        (true, NodeSecurity::Mtls { .. }) | (false, _) => Ok(()),
    }
}

/// The part of the list that this process serves, and where it listens.
async fn own_node(asked: Option<&str>, nodes: &[ListedNode]) -> anyhow::Result<(SocketAddr, ListedNode)> {
    let list = || nodes.iter().map(|(address, _)| address.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(asked) = asked {
        let asked = if has_port(asked) { asked.to_owned() } else { format!("{asked}:{DEFAULT_NODE_PORT}") };
        let Some(own) = nodes.iter().find(|(address, _)| address.eq_ignore_ascii_case(&asked)) else {
            bail!("`--node-address {asked}` is none of the endpoints' addresses: {}", list());
        };
        let resolved = resolve(&own.0).await.with_context(|| format!("cannot resolve `{asked}`"))?;
        let first = resolved.first().with_context(|| format!("`{asked}` has no address"))?;
        return Ok((*first, own.clone()));
    }
    let mut own = Vec::new();
    for node in nodes {
        let Ok(addresses) = resolve(&node.0).await else { continue };
        if let Some(address) = addresses.into_iter().find(|address| is_local(address.ip())) {
            own.push((address, node.clone()));
        }
    }
    match own.as_slice() {
        [] => bail!("none of the endpoints is this machine: {}; say which with `--node-address`", list()),
        [one] => Ok(one.clone()),
        several => {
            let several: Vec<&str> = several.iter().map(|(_, (address, _))| address.as_str()).collect();
            bail!(
                "several of the endpoints are this machine's: {}; say which this process serves, for example \
                 `--node-address {}`",
                several.join(", "),
                several[0]
            )
        }
    }
}

fn has_port(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok()
        || address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok())
}

async fn resolve(address: &str) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host(address).await?.collect())
}

/// Only an address of this machine can be bound.
fn is_local(address: IpAddr) -> bool {
    std::net::TcpListener::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(arguments: &[&str]) -> Vec<ListedNode> {
        Endpoints::parse(arguments).unwrap().nodes()
    }

    #[tokio::test]
    async fn node_address_decides_where_several_endpoints_are_local() {
        let nodes = nodes(&["http://127.0.0.{11...13}:9100/data"]);
        let error = own_node(None, &nodes).await.unwrap_err().to_string();
        assert!(error.contains("--node-address 127.0.0.11:9100"), "{error}");
        let (listen, own) = own_node(Some("127.0.0.12"), &nodes).await.unwrap();
        assert_eq!((listen, own.0.as_str()), ("127.0.0.12:9100".parse().unwrap(), "127.0.0.12:9100"));
        let error = own_node(Some("127.0.0.14:9100"), &nodes).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.11:9100, 127.0.0.12:9100"), "{error}");
    }

    #[tokio::test]
    async fn only_local_endpoint_is_found_without_being_told() {
        let nodes = nodes(&["http://192.0.2.7:9100/data", "http://127.0.0.1:9107/data{1...2}"]);
        let (listen, own) = own_node(None, &nodes).await.unwrap();
        assert_eq!((listen.port(), own.1.len()), (9107, 2));
    }
}
