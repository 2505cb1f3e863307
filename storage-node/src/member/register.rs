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

/// Writes what a node says of itself, its record and its leased sign of life, in one change.
pub(super) async fn write(
    record: &NodeRecord,
    coordinator: &dyn Coordinator,
) -> Result<(), CoordinatorError> {
    let live = LiveRecord { since_ms: UnixMillis::now().0, process: DriveId::random().0 as u64 };
    let put = |key, value, leased| {
        let change = Change::Put { value, leased };
        Write { key, expected: Expected::Any, change }
    };
    let writes = vec![
        put(node_key(&record.id), encode(record), false),
        put(live_key(&record.id), encode(&live), true),
    ];
    coordinator.transaction(writes).await.map(drop)
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
    write(&record, coordinator).await?;
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
