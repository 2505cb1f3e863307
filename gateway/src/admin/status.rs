//! The state of the cluster as one document.

use coffer_common::cluster::staged::{MoveProgress, NearlyFull, nearly_full};
use coffer_common::cluster::{Cluster, NodeStatus};
use coffer_common::layout::{ParitySettings, Tolerance};
use coffer_common::node::{DriveInfo, Lacking};
use coffer_common::types::{ClusterId, NodeId};
use serde::Serialize;

use super::quorum::{Quorum, View};

/// The cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Every slot answers, and its drive knows that it lacks no shard but those that a write has left missing a moment ago.
    Healthy,
    /// Everything can be written and, as far as is known, read; slots are away or lack shards, or do not know what they lack.
    Degraded,
    /// Everything can be read as far as is known, not everything written.
    ReadOnly,
    /// Not everything can be read.
    Unavailable,
}

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The cluster in one word.
    pub health: Health,
    /// For people: why it is not healthy, and what that means; what healthy means.
    pub reason: String,
    /// Its id.
    pub cluster: ClusterId,
    /// Its generation.
    pub generation: u32,
    /// Slots of a partition.
    pub slots: u8,
    /// Partitions and what they can lose, as of now.
    pub quorum: Quorum,
    /// What the layout can lose when everything is up and nothing is missing.
    pub tolerance: Tolerance,
    /// Data shards of the widest objects, by which it is told what may fail.
    pub data_shards: u8,
    /// Bytes of all drives that answer; of a node's drives on one file system, once.
    pub capacity_bytes: u64,
    /// Free bytes of all drives that answer, counted in the same way.
    pub free_bytes: u64,
    /// Versions whose shard is missing on a drive that answers, those that are superseded and not freed yet among them.
    pub missing_shards: u64,
    /// Versions that are committed but not yet known to be so everywhere.
    pub unstable_versions: u64,
    /// What is known to be missing, and how it comes back.
    pub heal: Heal,
    /// The version of the layout.
    pub layout: u64,
    /// How far slots are on their way to another one; `None` if none are.
    pub moves: Option<MoveProgress>,
    /// Drives that are nearly full, and what would relieve them.
    pub nearly_full: Vec<NearlyFull>,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// The version of this gateway.
    pub version: &'static str,
}

/// Catch-up as the drives that answer know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Heal {
    /// Registers with a version that is not superseded and whose shard is missing on some drive.
    pub missing_shards: u64,
    /// Drives that lack shards which no write has left missing only a moment ago.
    pub lacking_drives: u64,
    /// Drives that do not know yet all that they lack.
    pub unknown_drives: u64,
    /// About how many registers are owed to slots that did not take part: each is known to all other slots.
    pub owed_registers: u64,
    /// Whether every drive knows all of its own.
    pub complete: bool,
    /// Shards rebuilt since the nodes started.
    pub rebuilt_shards: u64,
    /// Their bytes.
    pub rebuilt_bytes: u64,
    /// How fast, lately.
    pub shards_per_minute: u64,
    /// How long the drive takes that needs longest at its rate; `None` if nothing is missing, if a drive that lacks shards stands
    /// still, or if it is not known what is missing. Slots that have not begun to move are not in it.
    pub eta_seconds: Option<u64>,
}

impl Heal {
    fn of<'a>(drives: impl Iterator<Item = &'a DriveInfo>, n: u8) -> Self {
        let mut sum = Self { complete: true, ..Self::default() };
        let mut slowest = Some(0);
        for DriveInfo { heal, lacking, .. } in drives {
            // A drive that lacks more than its list takes does not know where, but how much.
            let unknown = *lacking == Lacking::Unknown && heal.missing == 0;
            sum.unknown_drives += u64::from(unknown);
            if lacking.anything() && !unknown {
                sum.lacking_drives += 1;
                let rate = heal.shards_per_minute;
                let seconds = (rate > 0).then(|| (heal.missing * 60).div_ceil(rate));
                slowest = slowest.zip(seconds).map(|(slowest, seconds)| slowest.max(seconds));
            }
            sum.missing_shards += heal.missing;
            sum.owed_registers += heal.owed;
            sum.complete &= heal.complete;
            sum.rebuilt_shards += heal.rebuilt_shards;
            sum.rebuilt_bytes += heal.rebuilt_bytes;
            sum.shards_per_minute += heal.shards_per_minute;
        }
        sum.owed_registers = sum.owed_registers.div_ceil(u64::from(n).saturating_sub(1).max(1));
        sum.eta_seconds = slowest.filter(|_| sum.lacking_drives > 0 && sum.unknown_drives == 0);
        sum
    }
}

/// A node in [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Where its gRPC service answers.
    pub address: String,
    /// What fails together above it.
    pub zone: String,
    /// Whether it answers.
    pub alive: bool,
    /// Coffer's version there.
    pub version: String,
    /// How far its clock is ahead of the gateway's, in milliseconds.
    pub clock_ahead_ms: i64,
    /// Slots on its drives now.
    pub slots: u32,
    /// Slots that its drives have left and that are still copied from them.
    pub copied_from: u32,
    /// The file systems that its drives are on, those of failed ones left out.
    pub file_systems: Vec<FileSystem>,
    /// Its drives as it reported them last.
    pub drives: Vec<DriveInfo>,
}

/// A file system that drives are on.
#[derive(Clone, Debug, Serialize)]
pub struct FileSystem {
    /// Where these drives are mounted: as a rule, it is one. They fail together.
    pub drives: Vec<String>,
    /// Its size.
    pub capacity_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
}

impl FileSystem {
    /// Those of a node's drives that serve.
    fn of(drives: &[DriveInfo]) -> Vec<Self> {
        let mut found: Vec<(u64, Self)> = Vec::new();
        for drive in drives.iter().filter(|drive| drive.state.serves()) {
            let known = found.iter_mut().find(|(id, _)| *id == drive.file_system && *id != 0);
            match known {
                Some((_, shared)) => shared.drives.push(drive.path.clone()),
                None => {
                    let DriveInfo { capacity_bytes, free_bytes, .. } = *drive;
                    let drives = vec![drive.path.clone()];
                    found.push((drive.file_system, Self { drives, capacity_bytes, free_bytes }));
                }
            }
        }
        found.into_iter().map(|(_, found)| found).collect()
    }
}

impl Status {
    /// As of now.
    pub(super) fn of(cluster: &Cluster, parity: &ParitySettings) -> Self {
        let (map, view) = (cluster.map(), View::of(cluster, parity));
        let (quorum, data_shards) = (view.quorum(), view.data_shards());
        let mut nodes: Vec<NodeView> = cluster.nodes().into_iter().map(NodeView::from).collect();
        let now = map.present_layout();
        for (drive, slots) in now.drives().iter().zip(now.loads()) {
            let node = map.node_of(drive.id);
            nodes.iter_mut().filter(|view| view.id == node).for_each(|view| view.slots += slots);
        }
        for (drive, slots) in map.copied_from() {
            let node = map.node_of(drive);
            nodes.iter_mut().filter(|view| view.id == node).for_each(|view| view.copied_from += slots);
        }
        let alive = || nodes.iter().filter(|node| node.alive);
        let drives = || alive().flat_map(|node| &node.drives).filter(|drive| drive.state.serves());
        let file_systems = || alive().flat_map(|node| &node.file_systems);
        let heal = Heal::of(drives(), map.layout.n());
        let joining = drives().filter(|drive| drive.join.waiting > 0).count();
        let health = health(&quorum, &heal, joining);
        Self {
            health,
            reason: reason(health, &quorum, &heal, joining),
            cluster: map.cluster,
            generation: map.generation,
            slots: map.layout.n(),
            tolerance: now.tolerance_of(data_shards),
            data_shards,
            capacity_bytes: file_systems().map(|found| found.capacity_bytes).sum(),
            free_bytes: file_systems().map(|found| found.free_bytes).sum(),
            missing_shards: drives().map(|drive| drive.missing_shards).sum(),
            heal,
            layout: map.layout.version(),
            moves: MoveProgress::of(&map),
            nearly_full: nearly_full(&map, of_nodes(&nodes)),
            unstable_versions: drives().map(|drive| drive.unstable).sum(),
            quorum,
            nodes,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

fn of_nodes(nodes: &[NodeView]) -> impl Iterator<Item = (&NodeId, &DriveInfo)> {
    let alive = nodes.iter().filter(|node| node.alive);
    alive.flat_map(|node| node.drives.iter().map(|drive| (&node.id, drive)))
}

/// `joining`: drives that have lost their state, and not all of whose slots vote.
fn health(quorum: &Quorum, heal: &Heal, joining: usize) -> Health {
    let whole = heal.lacking_drives + heal.unknown_drives == 0;
    if quorum.readable < quorum.partitions {
        Health::Unavailable
    } else if quorum.writable < quorum.partitions {
        Health::ReadOnly
    } else if quorum.complete.min(quorum.certain) == quorum.partitions && joining == 0 && whole {
        Health::Healthy
    } else {
        Health::Degraded
    }
}

/// What is the matter, and what that means for requests.
fn reason(health: Health, quorum: &Quorum, heal: &Heal, joining: usize) -> String {
    let Quorum { partitions, writable, readable, certain, complete, .. } = *quorum;
    let mut said = Vec::new();
    match health {
        Health::Healthy => return "every slot answers and has its shards".to_owned(),
        Health::Unavailable => said.push(format!("{readable} of {partitions} partitions can be read")),
        Health::ReadOnly => said.push(format!("{writable} of {partitions} partitions can be written")),
        Health::Degraded => {}
    }
    if complete < partitions {
        said.push(format!("{} of {partitions} partitions lack a slot", partitions - complete));
    }
    if joining > 0 {
        said.push(format!("{} not vote everywhere yet", many(joining as u64, "drive", "does", "do")));
    }
    if heal.lacking_drives > 0 {
        let shards = many(heal.missing_shards.max(1), "shard", "is", "are");
        said.push(format!(
            "{shards} {}",
            if heal.shards_per_minute > 0 { "being rebuilt" } else { "missing" }
        ));
    }
    if heal.unknown_drives > 0 {
        said.push(format!(
            "{} not know yet what is missing",
            many(heal.unknown_drives, "drive", "does", "do")
        ));
    }
    if health != Health::Unavailable {
        let all = if health == Health::Degraded { "read and written" } else { "read" };
        said.push(match partitions - certain {
            0 => format!("every object can be {all}"),
            unsure => format!("some objects of {unsure} partitions may not be readable before that is over"),
        });
    }
    said.join("; ")
}

/// `1 drive has`, `2 drives have`.
fn many(count: u64, what: &str, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {what} {one}") } else { format!("{count} {what}s {more}") }
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        let (version, drives) = match node.info {
            Some(info) => (info.version, info.drives),
            None => (node.record.version, Vec::new()),
        };
        Self {
            id: node.record.id,
            address: node.record.address,
            zone: node.record.zone,
            alive: node.alive,
            version,
            clock_ahead_ms: node.clock_ahead_ms,
            slots: 0,
            copied_from: 0,
            file_systems: FileSystem::of(&drives),
            drives,
        }
    }
}

#[cfg(test)]
mod tests {
    use coffer_common::node::{DriveHeal, DriveState, Partitions};
    use coffer_common::types::{DriveId, Incarnation, PartitionId};

    use super::*;

    fn drive(lacking: Lacking, (missing, owed, shards_per_minute): (u64, u64, u64)) -> DriveInfo {
        DriveInfo {
            heal: DriveHeal { missing, owed, shards_per_minute, complete: true, ..DriveHeal::default() },
            lacking,
            ..DriveInfo::unknown(DriveId(1), Incarnation(0), String::new(), DriveState::Online)
        }
    }

    #[test]
    fn a_file_system_that_several_drives_are_on_counts_once() {
        let at = |path: &str, file_system, free_bytes| DriveInfo {
            path: path.to_owned(),
            file_system,
            capacity_bytes: 100,
            free_bytes,
            ..whole((0, 0, 0))
        };
        let failed = DriveInfo { state: DriveState::Failed, ..at("/e", 9, 1) };
        let told = [
            at("/a", 7, 60),
            at("/b", 8, 50),
            at("/c", 7, 59),
            at("/old", 0, 10),
            at("/older", 0, 10),
            failed,
        ];
        let found = FileSystem::of(&told);
        let sum: (u64, u64) = (
            found.iter().map(|found| found.capacity_bytes).sum(),
            found.iter().map(|found| found.free_bytes).sum(),
        );
        assert_eq!(sum, (400, 130));
        assert_eq!(found[0].drives, ["/a", "/c"]);
        assert!(found[1..].iter().all(|found| found.drives.len() == 1));
    }

    fn some() -> Lacking {
        Lacking::In(Partitions::from_iter([PartitionId(1)]))
    }

    fn whole(figures: (u64, u64, u64)) -> DriveInfo {
        drive(Lacking::nothing(), figures)
    }

    #[test]
    fn what_three_slots_owe_to_the_fourth_is_counted_once() {
        let drives = [whole((0, 100, 0)), whole((0, 100, 0)), whole((0, 99, 0)), drive(some(), (50, 0, 100))];
        let heal = Heal::of(drives.iter(), 4);
        assert_eq!((heal.missing_shards, heal.owed_registers, heal.complete), (50, 100, true));
        assert_eq!((heal.lacking_drives, heal.eta_seconds), (1, Some(30)));
        assert_eq!(Heal::of(drives[..3].iter(), 4).eta_seconds, None, "nothing is being rebuilt");
    }

    #[test]
    fn the_slowest_drive_tells_how_long_it_takes_and_one_that_stands_still_that_nobody_knows() {
        let eta = |drives: &[DriveInfo]| Heal::of(drives.iter(), 4).eta_seconds;
        let (slow, fast) = (drive(some(), (2_000_000, 0, 6_000)), drive(some(), (60, 0, 6_000)));
        assert_eq!(eta(&[slow.clone(), fast.clone()]), Some(20_000));
        assert_eq!(eta(&[slow, fast.clone(), drive(some(), (1, 0, 0))]), None);
        assert_eq!(eta(&[fast.clone(), whole((3, 0, 0))]), Some(1), "a write has left these a moment ago");
        assert_eq!(eta(&[fast, drive(Lacking::Unknown, (0, 0, 0))]), None);
    }

    #[test]
    fn nobody_is_healthy_while_shards_are_missing_or_that_is_not_known() {
        let all =
            Quorum { partitions: 9, writable: 9, readable: 9, certain: 9, complete: 9, ..Quorum::default() };
        let told = |quorum: Quorum, drives: &[DriveInfo], joining| {
            let heal = Heal::of(drives.iter(), 4);
            let health = health(&quorum, &heal, joining);
            (health, reason(health, &quorum, &heal, joining))
        };
        let check = |(health, reason): (Health, String), expected, words: &str| {
            assert_eq!((health, reason.as_str()), (expected, words));
        };
        let written = whole((3, 0, 0));
        check(told(all, &[written], 0), Health::Healthy, "every slot answers and has its shards");
        let lacks = [drive(some(), (50, 0, 100)), whole((0, 0, 0))];
        let words = "50 shards are being rebuilt; every object can be read and written";
        check(told(all, &lacks, 0), Health::Degraded, words);
        let unknown = [drive(Lacking::Unknown, (0, 0, 0))];
        let words = "1 drive does not know yet what is missing; every object can be read and written";
        check(told(all, &unknown, 0), Health::Degraded, words);
        let words = "2 drives do not vote everywhere yet; every object can be read and written";
        check(told(all, &[], 2), Health::Degraded, words);
        let unsure = Quorum { certain: 7, ..all };
        let words = "50 shards are being rebuilt; some objects of 2 partitions may not be readable before that is over";
        check(told(unsure, &lacks, 0), Health::Degraded, words);
        let down = Quorum { complete: 0, writable: 4, ..all };
        let words =
            "4 of 9 partitions can be written; 9 of 9 partitions lack a slot; every object can be read";
        check(told(down, &[], 0), Health::ReadOnly, words);
        let words = "8 of 9 partitions can be read; 9 of 9 partitions lack a slot";
        check(told(Quorum { complete: 0, readable: 8, ..all }, &[], 0), Health::Unavailable, words);
    }
}
