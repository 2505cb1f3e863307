//! The first layout: nodes with fresh drives register, and the first that sees all expected ones proposes it.

use std::time::{Duration, Instant};

use coffer_common::cluster::{
    ClusterRecord, DriveRecord, NodeRecord, PROTOCOL_VERSION, first_layout, live_key, node_key,
};
use coffer_common::coordination::{CLUSTER_KEY, Coordinator, Expected as Condition};
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{ClusterId, DriveId, Incarnation};

use super::check::layout;
use super::register::live_record;
use super::{Expected, MemberError, MemberSettings, encode, node_records, read};

const POLL: Duration = Duration::from_millis(250);
const REMIND: Duration = Duration::from_secs(10);

/// Registers this node's fresh drives and waits until the cluster exists.
pub(super) async fn found(
    settings: &MemberSettings,
    coordinator: &dyn Coordinator,
    shutdown: &Shutdown,
) -> Result<ClusterId, MemberError> {
    let record = fresh_record(settings, coordinator).await?;
    coordinator.put(&node_key(&settings.id), encode(&record), Condition::Any, false).await?;
    coordinator.put(&live_key(&settings.id), encode(&live_record()), Condition::Any, true).await?;
    let mut reminded = Instant::now();
    loop {
        if let Some(entry) = coordinator.get(CLUSTER_KEY).await?
            && let Ok(cluster) = serde_json::from_slice::<ClusterRecord>(&entry.value)
        {
            return Ok(cluster.id);
        }
        let live = coordinator.list("live/").await?;
        let mut nodes = node_records(coordinator).await?;
        nodes.retain(|node| live.entries.iter().any(|entry| entry.key == live_key(&node.id)));
        for node in &nodes {
            if !node.endpoints.is_empty()
                && !settings.endpoints.is_empty()
                && node.endpoints != settings.endpoints
            {
                let (ours, theirs) = (settings.endpoints.join(" "), node.endpoints.join(" "));
                let node = node.id.clone();
                return Err(super::MemberRefusal::EndpointsDiffer { ours, node, theirs }.into());
            }
        }
        match missing(&settings.expected, &nodes) {
            None => {
                let first = first_layout(&nodes, ClusterId::random())
                    .map_err(coffer_common::cluster::BootstrapError::from)?;
                if first.apply(coordinator).await? {
                    let (cluster, slots) = (first.record.id, first.record.n);
                    tracing::info!(%cluster, nodes = nodes.len(), slots, "the cluster is founded");
                    first.layout.tolerance().warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                }
            }
            Some(missing) if reminded.elapsed() >= REMIND => {
                reminded = Instant::now();
                tracing::info!(missing, "waiting for the other nodes before the first layout is made");
            }
            Some(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = shutdown.told() => return Err(MemberError::Stopped),
        }
    }
}

/// What is not there yet, for people.
fn missing(expected: &Expected, nodes: &[NodeRecord]) -> Option<String> {
    match expected {
        Expected::Cluster => Some("a cluster that was founded by others".to_owned()),
        Expected::Nodes(count) => {
            let there = nodes.len();
            (there < *count).then(|| format!("{there} of {count} nodes have registered"))
        }
        Expected::Addresses(addresses) => {
            let away: Vec<&str> = addresses
                .iter()
                .filter(|(address, drives)| {
                    !nodes.iter().any(|node| node.address == *address && node.drives.len() == *drives)
                })
                .map(|(address, _)| address.as_str())
                .collect();
            (!away.is_empty()).then(|| away.join(", "))
        }
    }
}

/// The record of a node whose drives are not formatted; ids of an earlier try are kept.
async fn fresh_record(
    settings: &MemberSettings,
    coordinator: &dyn Coordinator,
) -> Result<NodeRecord, MemberError> {
    let earlier = coordinator.get(&node_key(&settings.id)).await?;
    let earlier = earlier.and_then(|entry| serde_json::from_slice::<NodeRecord>(&entry.value).ok());
    let mut drives = Vec::with_capacity(settings.drives.len());
    for path in &settings.drives {
        let shown = path.display().to_string();
        let known = earlier.iter().flat_map(|node| &node.drives).find(|d| d.fresh && d.path == shown);
        drives.push(DriveRecord {
            id: known.map_or_else(DriveId::random, |drive| drive.id),
            incarnation: Incarnation(0),
            capacity_bytes: crate::drive::capacity_bytes(path),
            path: shown,
            boot_count: 0,
            journal_sequence: 0,
            fresh: true,
        });
    }
    Ok(NodeRecord {
        id: settings.id.clone(),
        address: settings.advertise.clone(),
        zone: settings.zone.clone(),
        drives,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        endpoints: settings.endpoints.clone(),
    })
}

/// The ids that a layout already has for this node's unformatted drives, by path.
pub(super) async fn planned_drives(
    settings: &MemberSettings,
    coordinator: &dyn Coordinator,
) -> Vec<(String, DriveId)> {
    let (record, layout) =
        (read(coordinator.get(&node_key(&settings.id))).await.flatten(), layout(coordinator).await);
    let record = record.and_then(|entry| serde_json::from_slice::<NodeRecord>(&entry.value).ok());
    let (Some(record), Some(layout)) = (record, layout) else { return Vec::new() };
    let placed = |drive: &&DriveRecord| drive.fresh && layout.drives().iter().any(|d| d.id == drive.id);
    record.drives.iter().filter(placed).map(|drive| (drive.path.clone(), drive.id)).collect()
}

#[cfg(test)]
mod tests {
    use coffer_common::types::NodeId;

    use super::*;

    fn node(address: &str, drives: usize) -> NodeRecord {
        let drive = DriveRecord {
            id: DriveId(1),
            incarnation: Incarnation(0),
            path: String::new(),
            capacity_bytes: 1,
            boot_count: 0,
            journal_sequence: 0,
            fresh: true,
        };
        NodeRecord {
            id: NodeId(address.to_owned()),
            address: address.to_owned(),
            zone: String::new(),
            drives: vec![drive; drives],
            version: String::new(),
            protocol: PROTOCOL_VERSION,
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn first_layout_waits_for_every_listed_node_with_all_of_its_drives() {
        let expected = Expected::Addresses(vec![("a:1".to_owned(), 2), ("b:1".to_owned(), 1)]);
        assert_eq!(missing(&expected, &[node("a:1", 2)]).as_deref(), Some("b:1"));
        assert_eq!(missing(&expected, &[node("a:1", 1), node("b:1", 1)]).as_deref(), Some("a:1"));
        assert_eq!(missing(&expected, &[node("b:1", 1), node("a:1", 2)]), None);
        assert!(missing(&Expected::Nodes(2), &[node("a:1", 1)]).is_some());
        assert_eq!(missing(&Expected::Nodes(1), &[node("a:1", 1)]), None);
        assert!(missing(&Expected::Cluster, &[node("a:1", 1)]).is_some());
    }
}
