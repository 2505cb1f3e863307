//! `coffer layout plan`, `apply` and `revert`: what a change means, and starting it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use coffer_common::cluster::ClusterMap;
use coffer_common::cluster::staged::{
    DrivePlan, LayoutPlan, LayoutState, LayoutStateError, NearlyFull, Share, Traffic, nearly_full,
};
use coffer_common::coordination::Coordinator;
use coffer_common::layout::Layout;
use coffer_common::node::{DriveInfo, DriveState, NodeInfo};
use coffer_common::types::NodeId;
use serde::Serialize;
use serde_json::json;

use super::{ApplyArgs, PlanArgs, RevertArgs, advice, held_bytes};
use crate::reach::{confirmed, on_layout};
use crate::table::table;
use crate::units::{bytes, duration};

pub(super) async fn show(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.cluster, async |_, state| {
        if !state.is_staged() && !args.cluster.json {
            let infos = args.cluster.ask_nodes(&state.map).await?;
            proposals(&state.map, &infos).iter().for_each(|drive| println!("  {}", advice(drive)));
        }
        let report = Report::of(args, &state, &state.planned(None)?).await?;
        report.print(args, false)?;
        if !args.cluster.json {
            println!("\n  coffer layout apply --version {}", report.plan.version);
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

pub(super) async fn apply(args: &ApplyArgs) -> anyhow::Result<ExitCode> {
    on_layout(&args.plan.cluster, async |coordinator, state| {
        let layout = state.planned(Some(args.version))?;
        start(&args.plan, coordinator, &state, &layout, args.yes).await
    })
    .await
}

pub(super) async fn revert(args: &RevertArgs) -> anyhow::Result<ExitCode> {
    let json = args.plan.cluster.json;
    on_layout(&args.plan.cluster, async |coordinator, state| {
        if !state.is_staged() {
            let layout = state.before_moves()?;
            return start(&args.plan, coordinator, &state, &layout, args.yes).await;
        }
        state.unstage(coordinator).await?;
        let moving = state.map.target.is_some();
        if json {
            println!("{}", json!({ "dropped": state.staged, "moves_under_way": moving }));
        } else {
            println!("dropped version {}, which was staged", state.staged.version);
            if moving && state.before_moves().is_ok() {
                println!(
                    "the moves that are under way go on; `coffer layout revert` once more takes them back"
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

/// Shows what the layout means, asks, and makes it the one that the slots go to.
async fn start(
    args: &PlanArgs,
    coordinator: &dyn Coordinator,
    state: &LayoutState,
    layout: &Layout,
    yes: bool,
) -> anyhow::Result<ExitCode> {
    let report = Report::of(args, state, layout).await?;
    if !args.cluster.json {
        report.print(args, false)?;
        println!();
    }
    if !confirmed(&format!("Move {} slots?", report.plan.moving), yes)? {
        return Ok(ExitCode::FAILURE);
    }
    match state.make_target(layout, coordinator).await {
        Err(LayoutStateError::Coordinator(error)) => {
            anyhow::bail!("{error}; whether it was applied is not known: look with `coffer layout show`")
        }
        done => done?,
    }
    if args.cluster.json {
        report.print(args, true)?;
    } else {
        println!(
            "version {} is applied: the slots move while the cluster serves; `coffer layout show` tells how far they are",
            layout.version()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A plan with what the nodes say of the data that moves.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    plan: LayoutPlan,
    traffic: Traffic,
    /// Seconds that the busiest drive needs.
    about_seconds: u64,
    warnings: Vec<String>,
    /// Drives that are nearly full and that the plan does not relieve.
    nearly_full: Vec<NearlyFull>,
}

/// What the nodes' drives need.
fn proposals(map: &ClusterMap, infos: &BTreeMap<NodeId, NodeInfo>) -> Vec<NearlyFull> {
    let drives = infos.iter().flat_map(|(node, info)| info.drives.iter().map(move |drive| (node, drive)));
    nearly_full(map, drives)
}

impl Report {
    async fn of(args: &PlanArgs, state: &LayoutState, layout: &Layout) -> anyhow::Result<Self> {
        let infos = args.cluster.ask_nodes(&state.map).await?;
        let mut report = Self::new(LayoutPlan::new(&state.map, layout), &infos, args.rate);
        report.nearly_full = proposals(&state.map, &infos);
        let relieved = |drive: &DrivePlan| drive.slots_out > drive.slots_in;
        let relieved: Vec<_> =
            report.plan.drives.iter().filter(|drive| relieved(drive)).map(|d| d.id).collect();
        report.nearly_full.retain(|drive| !relieved.contains(&drive.id));
        Ok(report)
    }

    fn new(plan: LayoutPlan, infos: &BTreeMap<NodeId, NodeInfo>, rate: u64) -> Self {
        let held = held_bytes(infos);
        let traffic = plan.traffic(&held);
        let of_plan = plan.drives.iter().filter(|drive| drive.before.is_some());
        let held_in_all: u64 = of_plan.filter_map(|drive| held.get(&drive.id)).sum();
        let mut warnings = warnings(&plan, held_in_all);
        let is_full = |drive: &DriveInfo| drive.state == DriveState::ReadOnly;
        let full: Vec<_> =
            infos.values().flat_map(|info| &info.drives).filter(|drive| is_full(drive)).collect();
        let named = |is: &dyn Fn(&DrivePlan) -> bool| -> String {
            let drives = plan.drives.iter().filter(|drive| is(drive));
            drives.map(|drive| format!("{}:{}", drive.node, drive.path)).collect::<Vec<_>>().join(", ")
        };
        let silent = |drive: &DrivePlan| !held.contains_key(&drive.id);
        let telling = [
            (
                named(&|drive| silent(drive) && drive.before.is_some()),
                "do not answer",
                "what they hold is rebuilt from the others, which takes longer",
            ),
            (
                named(&|drive| silent(drive) && drive.slots_in > 0),
                "do not answer, and are to get slots",
                "none moves there before they do, and the change is not done before",
            ),
            (
                named(&|drive| drive.slots_in > 0 && full.iter().any(|full| full.id == drive.id)),
                "are full, and are to get slots",
                "none moves there before they have room",
            ),
        ];
        for (drives, what, then) in telling.iter().filter(|(drives, ..)| !drives.is_empty()) {
            warnings.push(format!("these drives {what}: {drives}; {then}"));
        }
        let about_seconds = traffic.busiest_drive_bytes.div_ceil(rate.max(1));
        Self { plan, traffic, about_seconds, warnings, nearly_full: Vec::new() }
    }

    fn print(&self, args: &PlanArgs, applied: bool) -> anyhow::Result<()> {
        if args.cluster.json {
            let mut document = serde_json::to_value(self)?;
            document["applied"] = applied.into();
            println!("{}", serde_json::to_string_pretty(&document)?);
        } else {
            print!("{}", self.screen(args.rate));
        }
        Ok(())
    }

    fn screen(&self, rate: u64) -> String {
        let (plan, traffic) = (&self.plan, &self.traffic);
        let mut out = String::new();
        let _ = writeln!(
            out,
            "version {}, in place of {}: {} of {} slots move ({:.1} %; {} must)\n",
            plan.version,
            plan.from,
            plan.moving,
            plan.slots,
            100.0 * plan.moving as f64 / plan.slots as f64,
            plan.must_move
        );
        out.push_str(&drives_table(plan));
        let (before, after) = (&plan.before, &plan.after);
        let _ = writeln!(
            out,
            "\ncapacity   {}, of which {} can be filled",
            change(bytes(before.capacity_bytes), bytes(after.capacity_bytes)),
            change(bytes(before.usable_bytes), bytes(after.usable_bytes))
        );
        let _ = writeln!(
            out,
            "may fail   nodes: {} for writes, {} for reads; drives: {} for writes, {} for reads",
            change(before.nodes_for_writes, after.nodes_for_writes),
            change(before.nodes_for_reads, after.nodes_for_reads),
            change(before.drives_for_writes, after.drives_for_writes),
            change(before.drives_for_reads, after.drives_for_reads)
        );
        let _ = writeln!(
            out,
            "data       about {} move, if a drive's data is spread evenly over its slots: measured on {} drives, by what \
             their file systems hold in all; assumed for {}",
            bytes(traffic.bytes),
            traffic.measured_drives,
            traffic.assumed_drives
        );
        let _ = writeln!(
            out,
            "time       about {}, if a drive reads or writes {} in a second (`--rate`); {} for the busiest drive",
            duration(self.about_seconds as f64 / 3600.0),
            bytes(rate),
            bytes(traffic.busiest_drive_bytes)
        );
        for warning in self.warnings.iter().cloned().chain(self.nearly_full.iter().map(advice)) {
            let _ = writeln!(out, "\n  {warning}");
        }
        out
    }
}

fn drives_table(plan: &LayoutPlan) -> String {
    let mut rows = vec![["NODE", "DRIVE", "ZONE", "CAPACITY", "SLOTS", "IN", "OUT"].map(str::to_owned)];
    for drive in &plan.drives {
        let part = |of: &dyn Fn(&Share) -> String| {
            let part = |share: &Option<Share>| share.as_ref().map_or("-".to_owned(), of);
            change(part(&drive.before), part(&drive.after))
        };
        rows.push([
            drive.node.0.clone(),
            if drive.path.is_empty() { drive.id.to_string() } else { drive.path.clone() },
            part(&|share| share.zone.clone()),
            part(&|share| bytes(share.capacity_bytes)),
            part(&|share| share.slots.to_string()),
            drive.slots_in.to_string(),
            drive.slots_out.to_string(),
        ]);
    }
    table(&rows)
}

/// `1 -> 2`, or `1` if it stays.
fn change<T: PartialEq + std::fmt::Display>(before: T, after: T) -> String {
    if before == after { after.to_string() } else { format!("{before} -> {after}") }
}

fn warnings(plan: &LayoutPlan, held_bytes: u64) -> Vec<String> {
    let mut warnings = plan.after.warnings.clone();
    if !plan.critical_nodes.is_empty() && plan.after.nodes_for_writes == 0 {
        let nodes: Vec<&str> = plan.critical_nodes.iter().map(|node| node.0.as_str()).collect();
        warnings.push(format!("writes stop while any one of these nodes is down: {}", nodes.join(", ")));
    }
    if held_bytes > plan.after.usable_bytes {
        warnings.push(format!(
            "the drives hold {} now, by what their file systems say, and {} can be filled afterwards: the cluster may \
             become full",
            bytes(held_bytes),
            bytes(plan.after.usable_bytes)
        ));
    }
    warnings
}
