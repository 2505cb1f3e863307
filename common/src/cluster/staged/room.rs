//! Which drives are nearly full, and which share of the load they should have instead.

use std::collections::BTreeSet;

use super::{LayoutEdit, StagedChanges, drive_table, propose};
use crate::cluster::ClusterMap;
use crate::layout::Layout;
use crate::node::DriveInfo;
use crate::types::{DriveId, NodeId};

/// A drive is nearly full from this share of its file system on, in percent.
const NEARLY_FULL_PERCENT: u64 = 90;
/// A smaller share is proposed if the cluster as a whole is less full than the drive by this much.
const WORTH_PERCENT: u64 = 5;

/// A drive that is nearly full.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NearlyFull {
    /// The drive.
    pub id: DriveId,
    /// Its node.
    pub node: NodeId,
    /// Where it is mounted.
    pub path: String,
    /// How much of its file system is used.
    pub used_percent: u64,
    /// The share of the load with which it would be as full as the cluster is as a whole, as `coffer layout set` takes it;
    /// `None` if that helps nothing: all are full, no other drive could take the slots, or slots are moving already.
    pub share_bytes: Option<u64>,
}

/// The nearly full drives among these, which are what nodes say of the drives that they have.
pub fn nearly_full<'a>(
    map: &ClusterMap,
    drives: impl Iterator<Item = (&'a NodeId, &'a DriveInfo)>,
) -> Vec<NearlyFull> {
    let placed = |id: DriveId| drive_table(map).iter().find(|drive| drive.id == id);
    let drives: Vec<_> = drives
        .filter(|(_, drive)| drive.state.serves() && drive.capacity_bytes > 0)
        .filter_map(|(node, drive)| Some((node, drive, placed(drive.id)?.capacity_bytes)))
        .collect();
    let used = |drive: &DriveInfo| drive.capacity_bytes.saturating_sub(drive.free_bytes);
    let all = |of: &dyn Fn(&DriveInfo) -> u64| -> u128 {
        drives.iter().map(|(_, drive, _)| u128::from(of(drive))).sum()
    };
    let (all_used, all_capacity) = (all(&used), all(&|drive| drive.capacity_bytes));
    let mut found = Vec::new();
    for (node, drive, share) in &drives {
        let used_percent = percent(used(drive).into(), drive.capacity_bytes.into());
        if used_percent < NEARLY_FULL_PERCENT {
            continue;
        }
        let worth = percent(all_used, all_capacity) + WORTH_PERCENT <= used_percent;
        let fair = || {
            let fuller = u128::from(used(drive)) * all_capacity;
            let fair = u128::from(*share) * all_used * u128::from(drive.capacity_bytes) / fuller.max(1);
            u64::try_from(fair).unwrap_or(u64::MAX)
        };
        found.push(NearlyFull {
            id: drive.id,
            node: (*node).clone(),
            path: drive.path.clone(),
            used_percent,
            share_bytes: (worth && map.target.is_none()).then(fair),
        });
    }
    keep_what_helps(map, &mut found);
    found
}

fn percent(part: u128, whole: u128) -> u64 {
    u64::try_from(part * 100 / whole.max(1)).unwrap_or(u64::MAX)
}

/// Drops the shares with which a drive would keep as many slots as it has.
fn keep_what_helps(map: &ClusterMap, found: &mut [NearlyFull]) {
    let mut staged = StagedChanges { version: map.layout.version() + 1, ..StagedChanges::default() };
    for drive in found.iter().filter(|drive| drive.share_bytes.is_some()) {
        let drives = vec![drive.id.to_string()];
        let edit = LayoutEdit::Set { drives, capacity_bytes: drive.share_bytes, zone: None };
        if let Ok((next, _)) = staged.edit(map, &BTreeSet::new(), &edit) {
            staged = next;
        }
    }
    if staged.drives.is_empty() {
        return;
    }
    let (now, planned) = (map.present_layout(), propose(map, &staged).ok());
    let slots = |layout: &Layout, id: DriveId| {
        let at = layout.drives().iter().position(|drive| drive.id == id);
        at.map_or(0, |at| layout.loads()[at])
    };
    for drive in found {
        let helps = planned.as_ref().is_some_and(|planned| slots(planned, drive.id) < slots(&now, drive.id));
        drive.share_bytes = drive.share_bytes.filter(|_| helps);
    }
}
