//! The node's record and its sign of life in the coordinator.

use std::time::Duration;

use coffer_common::cluster::{DriveRecord, LiveRecord, NodeRecord, PROTOCOL_VERSION, live_key, node_key};
use coffer_common::coordination::{Change, Coordinator, CoordinatorError, Expected, Write};
use coffer_common::node::DriveInfo;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::DriveId;

use super::{MemberRefusal, MemberSettings, encode, node_records, own_drives, progress};
use crate::node::StorageNode;

const RETRY: Duration = Duration::from_secs(1);
/// Between two looks whether the cluster still knows this node.
const LOOK: Duration = Duration::from_secs(10);

/// A sign of life of this process.
fn live_record() -> LiveRecord {
    LiveRecord { since_ms: UnixMillis::now().0, process: DriveId::random().0 as u64 }
}

/// Registers the node until it worked once; from then on the coordinator renews its sign of life by itself. False if the
/// node stops before: it was told to, or a start without the coordinator let in a drive (`opened`, as this start found it)
/// that is an older copy.
pub(super) async fn keep_registered(
    settings: &MemberSettings,
    node: &StorageNode,
    opened: Vec<DriveInfo>,
    coordinator: &dyn Coordinator,
    shutdown: &Shutdown,
) -> bool {
    let told = node.drive_infos();
    let (record, mut compared) = (record(settings, &told), opened);
    loop {
        match register(&record, &told, &mut compared, coordinator).await {
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

/// One try. `compared` is how far the drives are known at most: as this start found them, and as `told`, of which the record
/// is made, once a try has come to write it, for a write may be made though its answer is lost.
async fn register(
    record: &NodeRecord,
    told: &[DriveInfo],
    compared: &mut [DriveInfo],
    coordinator: &dyn Coordinator,
) -> Result<Result<(), MemberRefusal>, CoordinatorError> {
    if let Err(refusal) = progress::refuse_rolled_back(compared, &progress::known(coordinator).await?) {
        return Ok(Err(refusal));
    }
    let mut record = record.clone();
    keep_absent(&mut record, coordinator).await?;
    for drive in compared {
        if let Some(told) = told.iter().find(|told| told.id == drive.id) {
            drive.clone_from(told);
        }
    }
    write(&record, Expected::Any, coordinator).await?;
    Ok(Ok(()))
}

/// Writes the record and a sign of life at once: who finds the one without the other may take the node for gone.
///
/// # Errors
/// [`CoordinatorError`], with [`CoordinatorError::Conflict`] if the present record is not the `expected` one.
pub(super) async fn write(
    record: &NodeRecord,
    expected: Expected,
    coordinator: &dyn Coordinator,
) -> Result<(), CoordinatorError> {
    let put = |key, expected, value, leased| Write { key, expected, change: Change::Put { value, leased } };
    let writes = vec![
        put(node_key(&record.id), expected, encode(record), false),
        put(live_key(&record.id), Expected::Any, encode(&live_record()), true),
    ];
    coordinator.transaction(writes).await?;
    Ok(())
}

/// Writes the record again whenever it is gone: a node that is cut off may be forgotten while it runs.
pub(super) async fn keep_known(
    settings: &MemberSettings,
    node: &StorageNode,
    coordinator: &dyn Coordinator,
    shutdown: &Shutdown,
) {
    let record = record(settings, &node.drive_infos());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.told() => return,
        }
        match coordinator.get(&node_key(&record.id)).await {
            Ok(None) => match write(&record, Expected::Absent, coordinator).await {
                Ok(()) => {
                    tracing::warn!(node = %record.id, "the cluster had forgotten this node: registered again")
                }
                Err(error) => tracing::debug!(%error, "not registered again yet"),
            },
            Ok(Some(_)) => {}
            Err(error) => tracing::debug!(%error, "the node's record was not looked at"),
        }
    }
}

/// Drives that could not be opened now stay in the node's record, as absent ones: an old copy of one, or an empty folder in its
/// place, must be known for what it is.
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
            record.drives.push(DriveRecord { absent: true, ..drive.clone() });
        }
    }
    Ok(())
}

fn record(settings: &MemberSettings, drives: &[DriveInfo]) -> NodeRecord {
    NodeRecord {
        id: settings.id.clone(),
        address: settings.advertise.clone(),
        zone: settings.zone.clone(),
        drives: drives.iter().filter(|drive| drive.id != DriveId(0)).map(DriveRecord::from).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        endpoints: settings.endpoints.clone(),
    }
}
