//! The first layout: nodes with fresh drives register, and the first that sees all expected ones proposes it.

use std::time::{Duration, Instant};

use coffer_common::cluster::{
    BootstrapError, ClusterRecord, DriveRecord, LAYOUT_KEY, NodeRecord, PROTOCOL_VERSION, first_layout,
    live_key, node_key,
};
use coffer_common::coordination::{CLUSTER_KEY, Coordinator, CoordinatorError, Expected as Condition};
use coffer_common::layout::Layout;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{ClusterId, DriveId, Incarnation};

use super::{ETCD_PATIENCE, Expected, MemberError, MemberSettings, node_records, patiently, register};

const POLL: Duration = Duration::from_millis(250);
const REMIND: Duration = Duration::from_secs(10);

/// Registers this node's fresh drives and waits until the cluster exists, however often the coordinator fails meanwhile.
pub(super) async fn found(
    settings: &MemberSettings,
    coordinator: &dyn Coordinator,
    shutdown: &Shutdown,
) -> Result<ClusterId, MemberError> {
    // Made once: its ids may be in a layout though the answer to the write was lost.
    let record = insist(shutdown, || fresh_record(settings, coordinator)).await?;
    insist(shutdown, || register::write(&record, Condition::Any, coordinator)).await?;
    let mut reminded = Instant::now();
    loop {
        let (cluster, nodes) = insist(shutdown, || founders(coordinator)).await?;
        if let Some(cluster) = cluster {
            return Ok(cluster.id);
        }
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
            None => propose(&nodes, coordinator).await?,
            Some(missing) if reminded.elapsed() >= REMIND => {
                reminded = Instant::now();
                tracing::info!(missing, "waiting for the other nodes before the first layout is made");
            }
            Some(_) => {}
        }
        pause(shutdown).await?;
    }
}

/// The cluster, if it is founded, and the nodes that are there.
async fn founders(
    coordinator: &dyn Coordinator,
) -> Result<(Option<ClusterRecord>, Vec<NodeRecord>), CoordinatorError> {
    let cluster = coordinator.get(CLUSTER_KEY).await?;
    let live = coordinator.list("live/").await?;
    let mut nodes = node_records(coordinator).await?;
    nodes.retain(|node| live.entries.iter().any(|entry| entry.key == live_key(&node.id)));
    Ok((cluster.and_then(|entry| serde_json::from_slice(&entry.value).ok()), nodes))
}

/// Proposes the first layout. What became of it the next look at the coordinator tells.
async fn propose(nodes: &[NodeRecord], coordinator: &dyn Coordinator) -> Result<(), MemberError> {
    let first = first_layout(nodes, ClusterId::random()).map_err(BootstrapError::from)?;
    match first.apply(coordinator).await {
        Ok(true) => {
            let (cluster, slots) = (first.record.id, first.record.n);
            tracing::info!(%cluster, nodes = nodes.len(), slots, "the cluster is founded");
            first.layout.tolerance().warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        Ok(false) => {}
        Err(BootstrapError::Coordinator(error)) if error.retryable() => {
            tracing::warn!(%error, "whether the cluster is founded is not known yet");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Asks until there is an answer, or until the node is told to stop.
async fn insist<T, F: Future<Output = Result<T, CoordinatorError>>>(
    shutdown: &Shutdown,
    ask: impl Fn() -> F,
) -> Result<T, MemberError> {
    let mut failures = 0_u32;
    loop {
        match ask().await {
            Err(error) if error.retryable() => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(%error, failures, "the coordinator does not answer; it is asked again");
                }
            }
            answer => return Ok(answer?),
        }
        pause(shutdown).await?;
    }
}

async fn pause(shutdown: &Shutdown) -> Result<(), MemberError> {
    tokio::select! {
        () = tokio::time::sleep(POLL) => Ok(()),
        () = shutdown.told() => Err(MemberError::Stopped),
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
) -> Result<NodeRecord, CoordinatorError> {
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
            absent: false,
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
///
/// # Errors
/// [`CoordinatorError`] if that is not to be learned: a drive of another id would leave its slots without one for ever.
pub(super) async fn planned_drives(
    settings: &MemberSettings,
    coordinator: &dyn Coordinator,
) -> Result<Vec<(String, DriveId)>, CoordinatorError> {
    let deadline = tokio::time::Instant::now() + ETCD_PATIENCE;
    let key = node_key(&settings.id);
    let (record, layout) = patiently(deadline, || async {
        Ok((coordinator.get(&key).await?, coordinator.get(LAYOUT_KEY).await?))
    })
    .await?;
    let record = record.and_then(|entry| serde_json::from_slice::<NodeRecord>(&entry.value).ok());
    let layout = layout.and_then(|entry| Layout::decode(&entry.value).ok());
    let (Some(record), Some(layout)) = (record, layout) else { return Ok(Vec::new()) };
    let placed = |drive: &&DriveRecord| drive.fresh && layout.drives().iter().any(|d| d.id == drive.id);
    Ok(record.drives.iter().filter(placed).map(|drive| (drive.path.clone(), drive.id)).collect())
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
            absent: false,
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
