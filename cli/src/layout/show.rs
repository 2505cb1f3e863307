//! `coffer layout show`: what is in force, what is staged, what is under way, and what to do next.

use std::fmt::Write as _;
use std::process::ExitCode;

use coffer_common::cluster::staged::{
    DriveChange, KnownDrive, LayoutState, MoveProgress, StagedChanges, known_drives,
};
use coffer_common::types::{DriveId, NodeId};
use serde::Serialize;

use super::ShowArgs;
use crate::reach::on_layout;
use crate::table::table;
use crate::units::bytes;

pub(super) async fn run(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.cluster, async |_, state| {
        let view = View::of(&state);
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
    /// Not part of it any more, and still holding slots.
    Leaving,
    /// Registered, and not part of it.
    Unused,
}

impl DriveWord {
    fn text(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Away => "away",
            Self::Leaving => "leaving",
            Self::Unused => "not in the layout",
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
        }
    }
}

fn view(drive: KnownDrive, slots: u32, slots_planned: Option<u32>, state: &LayoutState) -> DriveView {
    let placement = drive.placed.as_ref().unwrap_or(&drive.registered);
    let word = match &drive.placed {
        Some(_) if state.live.contains(&drive.registered.node) => DriveWord::Placed,
        Some(_) => DriveWord::Away,
        None if slots > 0 => DriveWord::Leaving,
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
        next.push(format!(
            "{} slots are still to move: look again later; `coffer layout revert` takes the moves back",
            moves.total - moves.moved
        ));
    }
    for drive in drives.iter().filter(|drive| drive.state == DriveWord::Away) {
        next.push(format!(
            "node {} is away: start it, or take it out with `coffer layout remove {0}`",
            drive.node
        ));
    }
    next.dedup();
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
