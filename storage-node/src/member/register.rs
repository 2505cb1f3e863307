//! The node's record and its sign of life in the coordinator.

use std::time::Duration;

use coffer_common::cluster::{DriveRecord, LiveRecord, NodeRecord, PROTOCOL_VERSION, live_key, node_key};
use coffer_common::coordination::{Coordinator, CoordinatorError, Expected};
use coffer_common::node::DriveInfo;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::DriveId;

use super::{MemberRefusal, MemberSettings, encode, node_records, own_drives, progress};
use crate::node::StorageNode;

const RETRY: Duration = Duration::from_secs(1);

/// A sign of life of this process.
pub(super) fn live_record() -> LiveRecord {
    LiveRecord { since_ms: UnixMillis::now().0, process: DriveId::random().0 as u64 }
}

/// Writes both until it worked once; from then on the coordinator renews the leased one by itself. False if the node
/// stops before: it was told to, or a start without the coordinator let in a drive (`opened`, as this start found it)
/// that is an older copy.
pub(super) async fn keep_registered(
    settings: &MemberSettings,
    node: &StorageNode,
    opened: Vec<DriveInfo>,
    coordinator: &dyn Coordinator,
    shutdown: &Shutdown,
) -> bool {
    let record = record(settings, node);
    loop {
        match register(&record, &opened, coordinator).await {
            Ok(Ok(())) => {
                tracing::info!(node = %record.id, address = record.address, "registered with the cluster");
                return true;
            }
            Ok(Err(refusal)) => {
                tracing::error!(%refusal, "stopping");
                shutdown.fail();
                return false;
            }
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.told() => return false,
        }
    }
}

async fn register(
    record: &NodeRecord,
    opened: &[DriveInfo],
    coordinator: &dyn Coordinator,
) -> Result<Result<(), MemberRefusal>, CoordinatorError> {
    if let Err(refusal) = progress::refuse_rolled_back(opened, &progress::known(coordinator).await?) {
        return Ok(Err(refusal));
    }
    let mut record = record.clone();
    keep_absent(&mut record, coordinator).await?;
    coordinator.put(&node_key(&record.id), encode(&record), Expected::Any, false).await?;
    coordinator.put(&live_key(&record.id), encode(&live_record()), Expected::Any, true).await?;
    Ok(Ok(()))
}

/// Drives that could not be opened now stay in the node's record: an old copy of one, or an empty folder in its place,
/// must be known for what it is.
///
/// # Errors
/// [`CoordinatorError`] if the present record cannot be read.
pub async fn keep_absent(
    record: &mut NodeRecord,
    coordinator: &dyn Coordinator,
) -> Result<(), CoordinatorError> {
    let nodes = node_records(coordinator).await?;
    for drive in own_drives(&nodes, &record.id.clone()) {
        if !record.drives.iter().any(|here| here.id == drive.id) {
            record.drives.push(drive.clone());
        }
    }
    Ok(())
}

fn record(settings: &MemberSettings, node: &StorageNode) -> NodeRecord {
    let infos = node.drive_infos();
    NodeRecord {
        id: settings.id.clone(),
        address: settings.advertise.clone(),
        zone: settings.zone.clone(),
        drives: infos.iter().filter(|drive| drive.id != DriveId(0)).map(DriveRecord::from).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        endpoints: settings.endpoints.clone(),
    }
}
