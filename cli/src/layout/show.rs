//! `coffer layout show`: what is in force, what is staged, what is under way, and what to do next.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use coffer_common::cluster::ClusterMap;
use coffer_common::cluster::staged::{
    DriveChange, KnownDrive, LayoutPlan, LayoutState, MoveProgress, StagedChanges, known_drives,
};
use coffer_common::node::{DriveInfo, DriveState, NodeInfo};
use coffer_common::time::UnixMillis;
use coffer_common::types::{DriveId, NodeId, PartitionId, SlotIndex};
use serde::Serialize;

use super::{ShowArgs, held_bytes};
use crate::reach::on_layout;
use crate::table::table;
use crate::units::{bytes, duration};

pub(super) async fn run(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.cluster, async |_, state| {
        let mut view = View::of(&state);
        if state.map.target.is_some() {
            match args.cluster.ask_nodes(&state.map).await {
                Ok(infos) => view.ask(&state, &infos, UnixMillis::now()),
                Err(error) => view
                    .next
                    .push(format!("the nodes were not asked what keeps slots from moving: {error:#}")),
            }
        }
        if args.cluster.json {
            println!("{}", serde_json::to_string_pretty(&view)?);
        } else {
            print!("{}", screen(&view, &state));
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

#[derive(Debug, Serialize)]
struct View {
    version: u64,
    /// Slots of a partition.
    n: u8,
    slots: u32,
    drives: Vec<DriveView>,
    staged: Option<StagedChanges>,
    moves: Option<MoveProgress>,
    /// About how much of the drives' data the slots hold that have not begun to move; `None` if the nodes were not asked.
    waiting_bytes: Option<u64>,
    /// How long the moves go on at their pace until now; `None` while none is done.
    eta_seconds: Option<u64>,
    next: Vec<String>,
}

#[derive(Debug, Serialize)]
struct DriveView {
    id: DriveId,
    node: NodeId,
    path: String,
    zone: String,
    capacity_bytes: u64,
    /// Slots that it holds now.
    slots: u32,
    /// Slots that it holds when the running moves are done; `None` while there are none.
    slots_planned: Option<u32>,
    /// Slots that it has left and that are still copied from it.
    copied_from: u32,
    state: DriveWord,
}

/// A drive's part in the layout, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum DriveWord {
    /// Part of it.
    Placed,
    /// Part of it; its node's lease is gone.
    Away,
    /// Part of it; its node runs without it.
    Absent,
    /// Not part of it any more, and still holding slots, or those that have left it are still copied from it.
    Leaving,
    /// Registered, and not part of it.
    Unused,
    /// The same; it was taken out on purpose.
    Removed,
    /// Registered, not part of it, and it could take no slots: it is not there.
    Gone,
}

impl DriveWord {
    fn text(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Away => "away",
            Self::Absent => "absent",
            Self::Leaving => "leaving",
            Self::Unused => "not in the layout",
            Self::Removed => "taken out",
            Self::Gone => "not in the layout, not there",
        }
    }
}

impl View {
    fn of(state: &LayoutState) -> Self {
        let map = &state.map;
        let (now, copied_from) = (map.present_layout(), map.copied_from());
        let slots_on = |layout: &coffer_common::layout::Layout, drive: DriveId| {
            let found = layout.drives().iter().position(|placed| placed.id == drive);
            found.map_or(0, |at| layout.loads()[at])
        };
        let drives: Vec<DriveView> = known_drives(map)
            .into_iter()
            .map(|drive| {
                let held = (slots_on(&now, drive.id), copied_from.get(&drive.id).copied().unwrap_or(0));
                let slots_planned = map.target.as_ref().map(|target| slots_on(target, drive.id));
                view(drive, held, slots_planned, &state.live)
            })
            .collect();
        let moves = MoveProgress::of(map);
        Self {
            version: map.layout.version(),
            n: map.layout.n(),
            slots: now.loads().iter().sum(),
            next: next(state, &drives, moves.as_ref()),
            drives,
            staged: state.is_staged().then(|| state.staged.clone()),
            moves,
            waiting_bytes: None,
            eta_seconds: None,
        }
    }

    /// Adds to running moves what the nodes say of their drives.
    fn ask(&mut self, state: &LayoutState, infos: &BTreeMap<NodeId, NodeInfo>, now: UnixMillis) {
        let (Some(target), Some(moves)) = (&state.map.target, &self.moves) else { return };
        self.waiting_bytes = Some(LayoutPlan::new(&state.map, target).traffic(&held_bytes(infos)).bytes);
        let began_ms = state.map.moves_begun().map(|begun| begun.began_ms);
        self.eta_seconds = began_ms.and_then(|began| {
            (now.0.saturating_sub(began) * moves.left() as u64 / 1000).checked_div(moves.moved as u64)
        });
        let under_way = under_way(&state.map);
        let stuck = self.drives.iter().filter_map(|drive| {
            let slots = under_way.get(&drive.id).map(Vec::as_slice).unwrap_or_default();
            stuck(drive, slots, (infos, &state.live))
        });
        self.next.extend(stuck);
    }
}

/// The partitions of the slots that are on their way to each drive.
fn under_way(map: &ClusterMap) -> BTreeMap<DriveId, Vec<PartitionId>> {
    let mut found: BTreeMap<DriveId, Vec<PartitionId>> = BTreeMap::new();
    for (partition, record) in map.partitions.iter() {
        let slots = record.slots.iter().zip(0_u8..).filter(|(slot, _)| slot.is_under_way());
        for drive in slots.map(|(_, index)| map.drive_of(partition, SlotIndex(index))) {
            found.entry(drive).or_default().push(partition);
        }
    }
    found
}

/// What keeps a drive from taking the slots that it is to get, or that are on their way to it, by what its node says. Who does
/// not answer an operator may answer the other nodes: it is called silent only without its lease.
fn stuck(
    drive: &DriveView,
    under_way: &[PartitionId],
    (infos, live): (&BTreeMap<NodeId, NodeInfo>, &BTreeSet<NodeId>),
) -> Option<String> {
    let wanted = drive.slots_planned?.saturating_sub(drive.slots);
    let (node, path) = (&drive.node, &drive.path);
    let info = infos.get(node);
    let told = info.and_then(|info| info.drives.iter().find(|told| told.id == drive.id));
    let silent = match (info, told) {
        (None, _) => !live.contains(node),
        (Some(_), None) => true,
        (Some(_), Some(told)) => !told.state.serves(),
    };
    if silent && !under_way.is_empty() {
        return Some(given_up(drive, under_way.len()));
    }
    let told = told?;
    match told.state {
        DriveState::ReadOnly if wanted > 0 => Some(format!(
            "drive {node}:{path} is full: no more of the {wanted} slots that it is to get move there before it has room; delete \
             objects, or give it a smaller share with `coffer layout set {node}:{path} --capacity SIZE`"
        )),
        DriveState::Failed | DriveState::Offline if wanted > 0 => Some(format!(
            "drive {node}:{path} has failed: the {wanted} slots that it is to get do not move; replace it, or take it out with \
             `coffer layout remove {node}:{path}`"
        )),
        DriveState::Online | DriveState::Suspect => unhealed(drive, under_way, told),
        DriveState::ReadOnly | DriveState::Failed | DriveState::Offline => None,
    }
}

/// Says that a drive lacks shards of slots that are on their way to it, and that none comes back.
fn unhealed(drive: &DriveView, under_way: &[PartitionId], told: &DriveInfo) -> Option<String> {
    let lacking = under_way.iter().filter(|partition| told.lacking.surely(**partition)).count();
    if lacking == 0 || told.heal.shards_per_minute > 0 {
        return None;
    }
    let (DriveView { node, path, .. }, shards) = (drive, told.heal.missing.max(1));
    Some(format!(
        "drive {node}:{path} lacks {shards} shards, which keeps {lacking} slots on their way to it, and none came back lately. If that \
         stays so while all nodes are up, some objects have lost more shards than their parity makes up for: `coffer debug census \
         --incomplete` finds them, `coffer debug object` shows which slots have a shard; bring back a drive that has one"
    ))
}

/// What becomes of slots that are on their way to a drive that does not answer.
fn given_up(drive: &DriveView, slots: usize) -> String {
    let DriveView { node, path, .. } = drive;
    if drive.slots_planned == Some(0) {
        format!(
            "drive {node}:{path} is away or has failed: the {slots} slots that were on their way to it go to other drives, each when \
             enough other slots of its partition answer and lack nothing"
        )
    } else {
        format!(
            "drive {node}:{path} is away or has failed, and {slots} slots are on their way to it: start its node, replace the drive, \
             or give them to other drives with `coffer layout remove {node}:{path}`, `plan` and `apply`"
        )
    }
}

fn view(
    drive: KnownDrive,
    (slots, copied_from): (u32, u32),
    slots_planned: Option<u32>,
    live: &BTreeSet<NodeId>,
) -> DriveView {
    let placement = drive.placed.as_ref().unwrap_or(&drive.registered);
    let word = match &drive.placed {
        Some(_) if !live.contains(&drive.registered.node) => DriveWord::Away,
        Some(_) if drive.absent => DriveWord::Absent,
        Some(_) => DriveWord::Placed,
        None if slots + copied_from > 0 => DriveWord::Leaving,
        None if drive.obstacle(live).is_some() => DriveWord::Gone,
        None if drive.removed => DriveWord::Removed,
        None => DriveWord::Unused,
    };
    DriveView {
        id: drive.id,
        zone: placement.zone.clone(),
        capacity_bytes: placement.capacity_bytes,
        node: drive.registered.node,
        path: drive.path,
        slots,
        slots_planned,
        copied_from,
        state: word,
    }
}

/// What to type next.
fn next(state: &LayoutState, drives: &[DriveView], moves: Option<&MoveProgress>) -> Vec<String> {
    let mut next = Vec::new();
    let staged = |drive: &DriveView| state.staged.drives.contains_key(&drive.id);
    let unused = drives.iter().filter(|drive| drive.state == DriveWord::Unused && !staged(drive)).count();
    if unused > 0 {
        next.push(format!("{unused} registered drives hold no slots: `coffer layout add` takes them in"));
    }
    if state.is_staged() {
        next.push("`coffer layout plan` shows what the staged changes do".to_owned());
    }
    if let Some(moves) = moves {
        // What is staged is dropped first.
        let back = if state.is_staged() || state.before_moves().is_err() {
            ""
        } else {
            "; `coffer layout revert` takes the moves back"
        };
        next.push(format!("{} slots are still to move: look again later{back}", moves.left()));
    }
    let mut away = BTreeMap::new();
    for DriveView { node, path, state: word, .. } in drives {
        match word {
            DriveWord::Away => {
                away.insert(node, true);
            }
            DriveWord::Gone if !state.live.contains(node) => {
                away.entry(node).or_insert(false);
            }
            DriveWord::Gone => next.push(format!(
                "node {node} runs without drive {path}, which holds no slots: `coffer layout add` leaves it out"
            )),
            DriveWord::Absent => next.push(format!(
                "node {node} runs without drive {path}: put it back, start the node with `--replace {path}`, or take it out with \
                 `coffer layout remove {node}:{path}`"
            )),
            _ => {}
        }
    }
    for (node, placed) in away {
        if placed {
            next.push(format!(
                "node {node} is away: start it, or take it out with `coffer layout remove {node}`"
            ));
        } else if state.may_forget(node).is_ok() {
            next.push(format!(
                "node {node} is away and holds no slots: start it, or, if it is gone for good, `coffer node forget {node}`"
            ));
        }
    }
    next
}

fn screen(view: &View, state: &LayoutState) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "layout     version {}, {} slots a partition, {} slots in all\n",
        view.version, view.n, view.slots
    );
    let mut rows = vec![["NODE", "DRIVE", "ZONE", "CAPACITY", "SLOTS", "SHARE", "STATE"].map(str::to_owned)];
    for drive in &view.drives {
        let slots = match drive.slots_planned {
            Some(planned) if planned != drive.slots => format!("{} -> {planned}", drive.slots),
            _ => drive.slots.to_string(),
        };
        rows.push([
            drive.node.0.clone(),
            if drive.path.is_empty() { drive.id.to_string() } else { drive.path.clone() },
            drive.zone.clone(),
            bytes(drive.capacity_bytes),
            slots,
            format!("{:.1} %", 100.0 * f64::from(drive.slots) / f64::from(view.slots.max(1))),
            drive.state.text().to_owned(),
        ]);
    }
    out.push_str(&table(&rows));
    if let Some(staged) = &view.staged {
        let _ = writeln!(out, "\nstaged     version {}; nothing of it moves yet", staged.version);
        staged_lines(state).iter().for_each(|line| {
            let _ = writeln!(out, "           {line}");
        });
    }
    if let Some(moves) = &view.moves {
        let _ = writeln!(
            out,
            "\nmoves      to version {}: {} of {} slots moved, {} under way, {} waiting",
            moves.version, moves.moved, moves.total, moves.under_way, moves.waiting
        );
        if let Some(waiting) = view.waiting_bytes {
            let time = time_left(view.eta_seconds, moves.moved);
            let _ = writeln!(out, "           about {} of data wait{time}", bytes(waiting));
        }
    }
    if !view.next.is_empty() {
        out.push('\n');
    }
    for step in &view.next {
        let _ = writeln!(out, "  {step}");
    }
    out
}

/// How long the moves go on, behind what waits.
fn time_left(eta_seconds: Option<u64>, moved: usize) -> String {
    match eta_seconds {
        Some(seconds) => {
            let left = duration(seconds as f64 / 3600.0);
            format!("; at the pace until now all is done in some {left}")
        }
        None if moved == 0 => "; how long that takes is told once the first slots have moved".to_owned(),
        // An older version began the moves: nobody knows when.
        None => String::new(),
    }
}

/// The staged changes, one a line.
pub(super) fn staged_lines(state: &LayoutState) -> Vec<String> {
    let known = known_drives(&state.map);
    let line = |(id, change): (&DriveId, &DriveChange)| {
        let drive = known.iter().find(|drive| drive.id == *id);
        let name = drive.map_or_else(|| id.to_string(), KnownDrive::place);
        let placed = drive.and_then(|drive| drive.placed.as_ref());
        match (change, placed) {
            (DriveChange::Remove, _) => format!("remove {name}"),
            (DriveChange::Place(new), None) => {
                format!("add {name}: {}, zone `{}`", bytes(new.capacity_bytes), new.zone)
            }
            (DriveChange::Place(new), Some(old)) => format!(
                "set {name}: {} in zone `{}` of node {}, until now {} in zone `{}` of node {}",
                bytes(new.capacity_bytes),
                new.zone,
                new.node,
                bytes(old.capacity_bytes),
                old.zone,
                old.node
            ),
        }
    };
    state.staged.drives.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use coffer_common::cluster::staged::Placement;
    use coffer_common::node::{DriveHeal, Lacking, Partitions};
    use coffer_common::types::Incarnation;

    use super::*;

    fn node() -> NodeId {
        NodeId("a".to_owned())
    }

    /// A drive that holds ten slots and is to hold so many.
    fn drive(planned: u32) -> DriveView {
        DriveView {
            id: DriveId(1),
            node: node(),
            path: "/data".to_owned(),
            zone: String::new(),
            capacity_bytes: 0,
            slots: 10,
            slots_planned: Some(planned),
            copied_from: 0,
            state: DriveWord::Placed,
        }
    }

    /// What the drive's node says of it, if it answers.
    fn told(drives: Vec<DriveInfo>) -> BTreeMap<NodeId, NodeInfo> {
        let info =
            NodeInfo { id: node(), cluster: None, version: String::new(), protocol: 1, clock_ms: 0, drives };
        [(node(), info)].into()
    }

    fn info(state: DriveState) -> DriveInfo {
        DriveInfo::unknown(DriveId(1), Incarnation(0), "/data".to_owned(), state)
    }

    #[test]
    fn slots_on_their_way_to_a_drive_that_does_not_answer_are_named_with_the_way_out() {
        let (away, up) = (BTreeSet::new(), BTreeSet::from([node()]));
        let two = [PartitionId(3), PartitionId(4)];
        let nobody = BTreeMap::new();
        let without_it = told(vec![]);
        let failed = told(vec![info(DriveState::Failed)]);
        for (infos, live) in [(&nobody, &away), (&without_it, &up), (&failed, &up)] {
            let said = stuck(&drive(12), &two, (infos, live)).unwrap();
            let way_out = "2 slots are on their way to it: start its node, replace the drive, or give them to other drives with \
                           `coffer layout remove a:/data`";
            assert!(
                said.starts_with("drive a:/data is away or has failed") && said.contains(way_out),
                "{said}"
            );
            let said = stuck(&drive(0), &two, (infos, live)).unwrap();
            assert!(said.contains("the 2 slots that were on their way to it go to other drives"), "{said}");
        }
        let well = told(vec![info(DriveState::Online)]);
        for (infos, live, slots) in
            [(&nobody, &up, two.as_slice()), (&nobody, &away, &two[..0]), (&well, &up, &two[..])]
        {
            assert_eq!(stuck(&drive(12), slots, (infos, live)), None, "it may only not answer here");
        }
    }

    #[test]
    fn shards_that_do_not_come_back_are_told_with_how_to_find_their_objects() {
        let up = BTreeSet::from([node()]);
        let lacks = |shards_per_minute| DriveInfo {
            heal: DriveHeal { missing: 5, shards_per_minute, ..DriveHeal::default() },
            lacking: Lacking::In(Partitions::from_iter([PartitionId(4), PartitionId(7)])),
            ..info(DriveState::Online)
        };
        let said = |rate, slots: &[PartitionId]| stuck(&drive(10), slots, (&told(vec![lacks(rate)]), &up));
        let words = said(0, &[PartitionId(3), PartitionId(4)]).unwrap();
        for wanted in [
            "drive a:/data lacks 5 shards, which keeps 1 slots on their way",
            "`coffer debug census --incomplete`",
            "`coffer debug object`",
        ] {
            assert!(words.contains(wanted), "{wanted} is not in {words}");
        }
        assert_eq!(said(6, &[PartitionId(4)]), None, "they come back");
        assert_eq!(said(0, &[PartitionId(3)]), None, "it lacks shards of other slots");
    }

    #[test]
    fn drives_that_are_full_or_have_failed_are_named_while_they_are_to_get_slots() {
        let up = BTreeSet::from([node()]);
        let said = |state, planned| stuck(&drive(planned), &[], (&told(vec![info(state)]), &up));
        let full = said(DriveState::ReadOnly, 12).unwrap();
        assert!(full.contains("is full: no more of the 2 slots"), "{full}");
        let failed = said(DriveState::Failed, 12).unwrap();
        assert!(failed.contains("has failed: the 2 slots"), "{failed}");
        assert_eq!((said(DriveState::ReadOnly, 10), said(DriveState::Failed, 9)), (None, None));
    }

    #[test]
    fn how_long_moves_go_on_is_told_once_there_is_a_pace() {
        assert_eq!(time_left(None, 0), "; how long that takes is told once the first slots have moved");
        assert!(time_left(Some(7200), 5).starts_with("; at the pace until now all is done in some 2 h"));
        assert_eq!(time_left(None, 5), "");
    }

    #[test]
    fn a_drive_leaves_until_nothing_is_copied_from_it_any_more() {
        let registered = Placement { node: node(), zone: String::new(), capacity_bytes: 1 };
        let known = KnownDrive {
            id: DriveId(1),
            path: "/data".to_owned(),
            registered,
            placed: None,
            fresh: false,
            absent: false,
            removed: false,
        };
        let (up, away) = (BTreeSet::from([node()]), BTreeSet::new());
        let word = |held, live| view(known.clone(), held, Some(0), live).state;
        assert_eq!([(7, 0), (0, 7)].map(|held| word(held, &up)), [DriveWord::Leaving; 2]);
        assert_eq!(word((0, 7), &away), DriveWord::Leaving);
        assert_eq!((word((0, 0), &up), word((0, 0), &away)), (DriveWord::Unused, DriveWord::Gone));
        let taken_out = KnownDrive { removed: true, ..known.clone() };
        assert_eq!(view(taken_out, (0, 0), None, &up).state, DriveWord::Removed);
    }
}
