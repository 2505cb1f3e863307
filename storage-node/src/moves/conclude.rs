//! Making a target that is reached the layout. Any node may do it; one conditional transaction decides.

use std::time::Duration;

use bytes::Bytes;
use coffer_common::cluster::{Cluster, ClusterMap, LAYOUT_KEY, LAYOUT_MOVES_KEY, LAYOUT_TARGET_KEY};
use coffer_common::coordination::{Change, CoordinatorError, Expected, Write};
use coffer_common::layout::{PartitionRecord, SlotRole};

/// How often it is looked whether all slots are there.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks at the map for ever.
pub(super) async fn run(cluster: &Cluster) {
    loop {
        let map = cluster.map();
        if map.target.is_some() && is_reached(&map) {
            match conclude(cluster).await {
                Ok(Some(version)) => tracing::info!(version, "all slots are where this layout has them"),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "the target layout is not concluded now"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether every slot is where the target has it, votes, and needs nothing of the drive before.
fn is_reached(map: &ClusterMap) -> bool {
    let votes = |record: &PartitionRecord| record.slots.iter().all(|slot| slot.role == SlotRole::Voter);
    map.target.is_some() && map.moves() == (0, 0) && map.partitions.iter().all(|(_, record)| votes(record))
}

/// The target becomes the layout, unless anybody has changed either since; returns its version.
async fn conclude(cluster: &Cluster) -> Result<Option<u64>, CoordinatorError> {
    let coordinator = cluster.coordinator();
    let (Some(layout), Some(target)) =
        (coordinator.get(LAYOUT_KEY).await?, coordinator.get(LAYOUT_TARGET_KEY).await?)
    else {
        return Ok(None);
    };
    // Read after the revisions that the transaction is conditional on: slots go nowhere but to this target.
    let confirmed = cluster.confirmed().await?;
    if !is_reached(&confirmed) {
        return Ok(None);
    }
    let value = Bytes::clone(&target.value);
    let writes = vec![
        Write {
            key: layout.key,
            expected: Expected::Revision(layout.revision),
            change: Change::Put { value, leased: false },
        },
        Write { key: target.key, expected: Expected::Revision(target.revision), change: Change::Delete },
        Write { key: LAYOUT_MOVES_KEY.to_owned(), expected: Expected::Any, change: Change::Delete },
    ];
    match coordinator.transaction(writes).await {
        Ok(_) => Ok(confirmed.target.map(|target| target.version())),
        Err(CoordinatorError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
