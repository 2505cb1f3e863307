//! How far the journals of drives are, as the cluster knows it: what tells a drive that was restored from an older copy.
//!
//! Owns: publishing the starts and journal sequences of a node's drives, and the comparison at a start. Never decides
//! what becomes of such a drive.
//!
//! 1. Every 10 s, if something was written, and when the node stops: `progress/<node>` gets the drives' records. The
//!    map does not follow that key, and no request waits for it.
//! 2. A start compares each drive with what any node has told of it, before it counts as one: a copy has fewer starts,
//!    or the same and a shorter journal. An id is looked for everywhere, for a drive may have moved to another node.
//!    Until the node has registered it is compared again; once it has tried to, its own start may be known.
//!
//! A drive that was copied and put back within the last seconds before a crash looks like one that was not; as does any
//! copy if the coordinator cannot be asked. The latter is caught up with when the node registers.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{DriveRecord, NodeRecord, PROGRESS_PREFIX, progress_key};
use coffer_common::coordination::{Coordinator, CoordinatorError, Expected};
use coffer_common::node::DriveInfo;
use coffer_common::shutdown::Shutdown;

use super::{MemberRefusal, encode};
use crate::node::StorageNode;

const INTERVAL: Duration = Duration::from_secs(10);

/// What the cluster knows of the drives of all nodes; a drive may be in it several times.
///
/// # Errors
/// [`CoordinatorError`] if it cannot be asked.
pub async fn known(coordinator: &dyn Coordinator) -> Result<Vec<DriveRecord>, CoordinatorError> {
    let nodes = coordinator.list("nodes/").await?;
    let nodes = nodes.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
    let progress = coordinator.list(PROGRESS_PREFIX).await?;
    let progress = progress.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
    Ok(nodes
        .flat_map(|node: NodeRecord| node.drives)
        .chain(progress.flat_map(|d: Vec<DriveRecord>| d))
        .collect())
}

/// Refuses a drive that is not as far as it once was. `opened` are drives as this start found them, or as it has told of them.
///
/// # Errors
/// [`MemberRefusal::RolledBack`], and [`MemberRefusal::Replaced`] if another has taken its place since.
pub fn refuse_rolled_back(opened: &[DriveInfo], known: &[DriveRecord]) -> Result<(), MemberRefusal> {
    for drive in opened {
        let newest = known.iter().filter(|known| known.id == drive.id).map(|known| known.incarnation).max();
        if let Some(known) = newest.filter(|newest| *newest > drive.incarnation) {
            let (found, path) = (drive.incarnation, drive.path.clone());
            return Err(MemberRefusal::Replaced { drive: drive.id, path, found, known });
        }
        let same = |known: &&DriveRecord| known.id == drive.id && known.incarnation == drive.incarnation;
        let furthest =
            known.iter().filter(same).map(|known| (known.boot_count, known.journal_sequence)).max();
        let found = (drive.boot_count, drive.journal_sequence);
        if let Some(known) = furthest.filter(|known| found.0 < known.0 || found.1 < known.1) {
            return Err(MemberRefusal::RolledBack {
                drive: drive.id,
                path: drive.path.clone(),
                found,
                known,
            });
        }
    }
    Ok(())
}

/// Publishes until the shutdown is told, and once more then. `own_records` are the records that a publication itself
/// adds to each drive, so that an idle store stays idle.
pub async fn keep_published(
    node: Arc<StorageNode>,
    coordinator: Arc<dyn Coordinator>,
    own_records: u64,
    shutdown: Shutdown,
) {
    let mut published: Vec<DriveRecord> = Vec::new();
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(INTERVAL) => false,
            () = shutdown.told() => true,
        };
        let drives: Vec<_> = node.drives().map(|drive| DriveRecord::from(&drive.info())).collect();
        let advanced = |drive: &DriveRecord| {
            let before = published.iter().find(|before| before.id == drive.id);
            before.is_none_or(|before| drive.journal_sequence > before.journal_sequence + own_records)
        };
        if stopping || drives.iter().any(advanced) {
            match coordinator.put(&progress_key(node.id()), encode(&drives), Expected::Any, false).await {
                Ok(_) => published = drives,
                Err(error) => tracing::debug!(%error, "the journals' progress was not published"),
            }
        }
        if stopping {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use coffer_common::node::DriveState;
    use coffer_common::types::{DriveId, Incarnation};

    use super::*;

    fn drive(id: u128, incarnation: u32, boot_count: u64, journal_sequence: u64) -> DriveInfo {
        DriveInfo {
            boot_count,
            journal_sequence,
            ..DriveInfo::unknown(DriveId(id), Incarnation(incarnation), "/d".to_owned(), DriveState::Online)
        }
    }

    #[test]
    fn fewer_starts_or_a_shorter_journal_are_an_older_copy_whoever_knows_of_them() {
        let known = [drive(1, 0, 3, 50), drive(1, 0, 3, 90), drive(2, 0, 7, 10), drive(1, 0, 2, 40)];
        let known: Vec<_> = known.iter().map(DriveRecord::from).collect();
        let refused = |found: DriveInfo| refuse_rolled_back(&[drive(2, 0, 7, 10), found], &known).is_err();
        assert!(refused(drive(1, 0, 2, 90)) && refused(drive(1, 0, 3, 89)) && refused(drive(1, 0, 0, 0)));
        assert!(!refused(drive(1, 0, 3, 90)) && !refused(drive(1, 0, 4, 91)));
        assert!(!refused(drive(1, 1, 0, 0)), "it has lost and learned its state since");
        assert!(!refused(drive(3, 0, 0, 0)), "nobody knows it");
        let replaced = [DriveRecord::from(&drive(1, 2, 0, 0))];
        let refusal = refuse_rolled_back(&[drive(1, 1, 9, 900)], &replaced);
        assert!(matches!(refusal, Err(MemberRefusal::Replaced { .. })), "another is in its place");
    }
}
