//! What people call drives.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{EditError, Placement, drive_table};
use crate::cluster::ClusterMap;
use crate::layout::LayoutDrive;
use crate::types::{DriveId, NodeId};

/// A drive that a node has registered, or that is part of the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownDrive {
    /// Its id.
    pub id: DriveId,
    /// Where it is mounted; empty if no node has registered it.
    pub path: String,
    /// Where its node says that it is; as the layout has it if no node has registered it.
    pub registered: Placement,
    /// How it is part of the layout, or of the one that moves lead to.
    pub placed: Option<Placement>,
    /// Whether it waits for its cluster's first layout.
    pub fresh: bool,
    /// Whether its node runs without it.
    pub absent: bool,
    /// Whether it was taken out of the layout and not taken in since, or slots are still leaving it.
    pub removed: bool,
}

/// A drive that a request leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its id.
    pub id: DriveId,
    /// `NODE:PATH`.
    pub place: String,
    /// Why.
    pub why: SkipReason,
}

/// Why a request leaves a drive out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// Its node runs without it.
    Absent,
    /// It has not been formatted.
    Fresh,
    /// Its node's lease is gone.
    NodeAway,
    /// It is not part of the layout, or is to leave it.
    NotPlaced,
    /// It was taken out of the layout.
    Removed,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.why {
            SkipReason::Absent => "its node runs without it",
            SkipReason::Fresh => "it has not been formatted yet",
            SkipReason::NodeAway => "its node is away",
            SkipReason::NotPlaced => "it is not part of the layout, or is to leave it",
            SkipReason::Removed => "it was taken out of the layout: name it to take it in again",
        };
        write!(f, "{} ({why})", self.place)
    }
}

impl KnownDrive {
    /// Why it could not take slots now, as far as the coordinator knows.
    pub fn obstacle(&self, live: &BTreeSet<NodeId>) -> Option<SkipReason> {
        match self {
            Self { absent: true, .. } => Some(SkipReason::Absent),
            Self { fresh: true, .. } => Some(SkipReason::Fresh),
            _ if !live.contains(&self.registered.node) => Some(SkipReason::NodeAway),
            _ => None,
        }
    }

    pub(super) fn skipped(&self, why: SkipReason) -> Skipped {
        Skipped { id: self.id, place: self.place(), why }
    }

    /// `NODE:PATH`.
    pub fn place(&self) -> String {
        let Placement { node, .. } = &self.registered;
        if self.path.is_empty() { format!("{node}:?") } else { format!("{node}:{}", self.path) }
    }
}

/// All drives of the nodes and of the layout, by node and path.
pub fn known_drives(map: &ClusterMap) -> Vec<KnownDrive> {
    let mut placed: BTreeMap<DriveId, Placement> =
        drive_table(map).iter().map(|drive| (drive.id, Placement::from(drive))).collect();
    let (now, mut removed) = (map.present_layout(), map.removed.clone());
    let held = now.drives().iter().zip(now.loads()).filter(|(_, slots)| *slots > 0);
    let held: Vec<&LayoutDrive> = held.map(|(drive, _)| drive).collect();
    removed.extend(held.iter().map(|drive| drive.id).chain(map.copied_from().into_keys()));
    let mut known = Vec::new();
    for node in map.nodes.values() {
        for drive in &node.drives {
            // One that has gone to another node is that one's.
            if map.locate(drive.id) != Some((&node.id, drive.incarnation)) {
                continue;
            }
            let placed = placed.remove(&drive.id);
            known.push(KnownDrive {
                id: drive.id,
                path: drive.path.clone(),
                registered: Placement {
                    node: node.id.clone(),
                    zone: node.zone.clone(),
                    capacity_bytes: drive.capacity_bytes,
                },
                removed: placed.is_none() && removed.contains(&drive.id),
                placed,
                fresh: drive.fresh,
                absent: drive.absent,
            });
        }
    }
    let unregistered = |id, placement: Placement, placed: Option<Placement>| KnownDrive {
        id,
        path: String::new(),
        registered: placement,
        removed: placed.is_none(),
        placed,
        fresh: false,
        absent: false,
    };
    known.extend(
        placed.into_iter().map(|(id, placement)| unregistered(id, placement.clone(), Some(placement))),
    );
    // Neither registered nor planned with, and a slot is on it all the same.
    for drive in held {
        if !known.iter().any(|other: &KnownDrive| other.id == drive.id) {
            known.push(unregistered(drive.id, Placement::from(drive), None));
        }
    }
    known.sort_by(|a, b| (&a.registered.node, &a.path, a.id).cmp(&(&b.registered.node, &b.path, b.id)));
    known
}

/// Drives, each once.
pub(super) type Found<'a> = Vec<&'a KnownDrive>;

/// The drives of all these names, and those that are left out: a name that means several drives means those that `suit`, if
/// any of them does.
pub(super) fn find_all<'a>(
    known: &'a [KnownDrive],
    names: &[String],
    suits: impl Fn(&KnownDrive) -> bool,
) -> Result<(Found<'a>, Found<'a>), EditError> {
    let (mut found, mut left_out) = (BTreeMap::new(), BTreeMap::new());
    for name in names {
        let drives = find(known, name)?;
        let any = drives.iter().any(|drive| suits(drive));
        for drive in drives {
            let group = if suits(drive) || !any { &mut found } else { &mut left_out };
            group.insert(drive.id, drive);
        }
    }
    left_out.retain(|id, _| !found.contains_key(id));
    Ok((found.into_values().collect(), left_out.into_values().collect()))
}

fn find<'a>(known: &'a [KnownDrive], name: &str) -> Result<Vec<&'a KnownDrive>, EditError> {
    let all = |wanted: &dyn Fn(&KnownDrive) -> bool| -> Vec<&KnownDrive> {
        known.iter().filter(|drive| wanted(drive)).collect()
    };
    let id = name.parse::<DriveId>().ok();
    let node = NodeId(name.to_owned());
    for exact in [
        all(&|drive| Some(drive.id) == id),
        all(&|drive| drive.registered.node == node),
        all(&|drive| !drive.path.is_empty() && drive.place() == name),
    ] {
        if !exact.is_empty() {
            return Ok(exact);
        }
    }
    let by_path = all(&|drive| !drive.path.is_empty() && drive.path == name);
    match by_path.as_slice() {
        [] => Err(EditError::NotFound(name.to_owned())),
        [_] => Ok(by_path),
        [first, ..] => Err(EditError::Ambiguous { name: name.to_owned(), example: first.place() }),
    }
}
