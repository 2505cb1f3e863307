//! `coffer layout show`: what is in force, what is staged, what is under way, and what to do next.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use coffer_common::cluster::staged::{
    DriveChange, KnownDrive, LayoutPlan, LayoutState, MoveProgress, StagedChanges, known_drives,
};
use coffer_common::node::{DriveState, NodeInfo};
use coffer_common::time::UnixMillis;
use coffer_common::types::{DriveId, NodeId};
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
    /// Not part of it any more, and still holding slots.
    Leaving,
    /// Registered, and not part of it.
    Unused,
    /// The same, and it could take no slots: it is not there.
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
            Self::Gone => "not in the layout, not there",
        }
    }
}

impl View {
    fn of(state: &LayoutState) -> Self {
        let map = &state.map;
        let now = map.present_layout();
        let slots_on = |layout: &coffer_common::layout::Layout, drive: DriveId| {
            let found = layout.drives().iter().position(|placed| placed.id == drive);
            found.map_or(0, |at| layout.loads()[at])
        };
        let drives: Vec<DriveView> = known_drives(map)
            .into_iter()
            .map(|drive| {
                let slots = slots_on(&now, drive.id);
                let slots_planned = map.target.as_ref().map(|target| slots_on(target, drive.id));
                view(drive, slots, slots_planned, state)
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
        let stuck: Vec<String> = self.drives.iter().filter_map(|drive| stuck(drive, infos)).collect();
        self.next.extend(stuck);
    }
}

/// What keeps a drive from taking the slots that it is to get, by what its node says.
fn stuck(drive: &DriveView, infos: &BTreeMap<NodeId, NodeInfo>) -> Option<String> {
    let wanted = drive.slots_planned?.checked_sub(drive.slots).filter(|wanted| *wanted > 0)?;
    let told = infos.get(&drive.node)?.drives.iter().find(|told| told.id == drive.id)?;
    let (node, path) = (&drive.node, &drive.path);
    match told.state {
        DriveState::ReadOnly => Some(format!(
            "drive {node}:{path} is full: no more of the {wanted} slots that it is to get move there before it has room; delete \
             objects, or give it a smaller share with `coffer layout set {node}:{path} --capacity SIZE`"
        )),
        DriveState::Failed | DriveState::Offline => Some(format!(
            "drive {node}:{path} has failed: the {wanted} slots that it is to get do not move; replace it, or take it out with \
             `coffer layout remove {node}:{path}`"
        )),
        DriveState::Online | DriveState::Suspect => None,
    }
}

fn view(drive: KnownDrive, slots: u32, slots_planned: Option<u32>, state: &LayoutState) -> DriveView {
    let placement = drive.placed.as_ref().unwrap_or(&drive.registered);
    let word = match &drive.placed {
        Some(_) if !state.live.contains(&drive.registered.node) => DriveWord::Away,
        Some(_) if drive.absent => DriveWord::Absent,
        Some(_) => DriveWord::Placed,
        None if slots > 0 => DriveWord::Leaving,
        None if drive.obstacle(&state.live).is_some() => DriveWord::Gone,
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
            let _ = write!(out, "           about {} of data wait", bytes(waiting));
            match view.eta_seconds {
                Some(seconds) => {
                    let left = duration(seconds as f64 / 3600.0);
                    let _ = writeln!(out, "; at the pace until now all is done in some {left}");
                }
                None => out.push('\n'),
            }
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
