//! `coffer plan`: what a shape of nodes and drives gives, before anything is bought or built.
//!
//! Owns: the arguments, the figures (computed with the layout that a cluster of this shape would really get) and how they
//! are shown. Asks no cluster.

mod figures;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use coffer_common::layout::{HOURS_PER_YEAR, ParitySettings, Tolerance, nines};

use self::figures::{Figures, Growth};
use crate::units::{bytes, duration, parse_bytes};

/// Show what a shape of nodes and drives gives: capacity, what may fail, rebuild time, durability, cost of growth.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    /// Nodes.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    nodes: u16,

    /// Drives of each node.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    drives: u16,

    /// Size of each drive, such as `10TB`.
    #[arg(long, value_name = "SIZE", default_value = "10TB", value_parser = parse_bytes)]
    size: u64,

    /// Zones that the nodes are spread over in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    zones: u16,

    /// Parity of STANDARD; by default half of the stripe.
    #[arg(long, value_name = "EC:m")]
    parity: Option<String>,

    /// Nodes that are added later, each of the same kind.
    #[arg(long, value_name = "NODES", default_value_t = 1)]
    add: u16,

    /// Part of the drives that fail in a year, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.5)]
    failure_rate: f64,

    /// What a drive reads or writes in a second while it is healed beside other work.
    #[arg(long, value_name = "SIZE", default_value = "50MB", value_parser = parse_bytes)]
    heal_rate: u64,

    /// Hours until somebody has put a new drive in the place of a failed one.
    #[arg(long, value_name = "HOURS", default_value_t = 24.0)]
    replace_hours: f64,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Most drives that are planned for: the layout's limit is higher, people's patience is not.
const MAX_DRIVES: usize = 10_000;

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let drives = (usize::from(args.nodes) + usize::from(args.add)) * usize::from(args.drives);
    if drives > MAX_DRIVES {
        bail!("{drives} drives are more than the {MAX_DRIVES} that can be planned for");
    }
    if !(args.failure_rate > 0.0 && args.failure_rate <= 100.0) {
        bail!("`--failure-rate {}` must be above 0 and at most 100", args.failure_rate);
    }
    if !(0.0..=HOURS_PER_YEAR).contains(&args.replace_hours) {
        bail!("`--replace-hours {}` must be 0 to {HOURS_PER_YEAR}", args.replace_hours);
    }
    if args.heal_rate == 0 || args.size == 0 {
        bail!("`--heal-rate` and `--size` must be above 0");
    }
    let standard = args.parity.as_deref().map(ParitySettings::parse).transpose()?;
    let figures = Figures::of(args, standard).context("no cluster of this shape")?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print!("{}", screen(args, &figures));
    }
    Ok(ExitCode::SUCCESS)
}

fn screen(args: &PlanArgs, figures: &Figures) -> String {
    let mut out = String::new();
    let (k, m) = (figures.data_shards, figures.parity_shards);
    let _ = writeln!(
        out,
        "{} nodes x {} drives of {}: stripes of {} slots, {k} data + {m} parity\n",
        args.nodes,
        args.drives,
        bytes(args.size),
        k + m
    );
    let _ = writeln!(
        out,
        "capacity    {} raw, {} for data ({:.0} %)",
        bytes(figures.tolerance.capacity_bytes),
        bytes(figures.data_bytes),
        100.0 * figures.data_bytes as f64 / figures.tolerance.capacity_bytes.max(1) as f64
    );
    may_fail(&mut out, args, figures);
    let _ = writeln!(
        out,
        "rebuild     of one full drive: {} ({} written to it at {}/s, {} read from each of the others)",
        duration(figures.rebuild_hours),
        bytes(args.size),
        bytes(args.heal_rate),
        bytes(figures.rebuild_read_bytes)
    );
    durability(&mut out, args, figures);
    if let Some(growth) = &figures.growth {
        grow(&mut out, args, growth);
    }
    for warning in &figures.tolerance.warnings {
        let _ = writeln!(out, "\n  {warning}");
    }
    out
}

fn may_fail(out: &mut String, args: &PlanArgs, figures: &Figures) {
    let Tolerance { drives_for_writes, nodes_for_writes, zones_for_writes, .. } = figures.tolerance;
    let reads = &figures.reads_survive;
    let _ = writeln!(
        out,
        "may fail    drives: {drives_for_writes} for writes, {} for reads; nodes: {nodes_for_writes} for writes, {} \
         for reads",
        reads.drives, reads.nodes
    );
    if args.zones > 1 {
        let _ = writeln!(out, "            zones: {zones_for_writes} for writes, {} for reads", reads.zones);
    }
}

fn durability(out: &mut String, args: &PlanArgs, figures: &Figures) {
    let _ = writeln!(
        out,
        "durability  {:.1} nines a year for an object, {:.1} that nothing at all is lost",
        nines(figures.object_loss_per_year),
        nines(figures.any_loss_per_year)
    );
    let _ = writeln!(
        out,
        "            if {} % of drives fail in a year, independently, and each is whole again after {} ({} until it is \
         replaced)",
        args.failure_rate,
        duration(figures.repair_hours),
        duration(args.replace_hours)
    );
    let _ =
        writeln!(out, "            fire, theft, a bad batch of drives and mistakes are not in this figure");
}

fn grow(out: &mut String, args: &PlanArgs, growth: &Growth) {
    let _ = writeln!(
        out,
        "growth      {} node(s) more: {:.2} % of the data moves ({:.2} % must), drives then differ by {:.1} % from \
         their share",
        args.add,
        100.0 * growth.moved,
        100.0 * growth.optimum,
        100.0 * growth.imbalance
    );
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        plan: PlanArgs,
    }

    fn args(line: &str) -> PlanArgs {
        Line::parse_from(std::iter::once("plan").chain(line.split(' '))).plan
    }

    fn figures(line: &str) -> Figures {
        let args = args(line);
        let standard = args.parity.as_deref().map(|text| ParitySettings::parse(text).unwrap());
        Figures::of(&args, standard).unwrap()
    }

    #[test]
    fn a_known_shape_gives_known_figures() {
        let args = args("--nodes 6 --drives 2 --size 10TB --parity EC:4");
        let figures = Figures::of(&args, Some(4)).unwrap();
        assert_eq!((figures.data_shards, figures.parity_shards), (8, 4));
        assert_eq!(figures.tolerance.capacity_bytes, 120_000_000_000_000);
        // 8 of 12, less what uneven loads leave.
        let share = figures.data_bytes as f64 / 120e12;
        assert!((0.63..=0.667).contains(&share), "{share}");
        // Two drives of a node hold two slots of each partition: two nodes take four.
        assert_eq!((figures.reads_survive.drives, figures.reads_survive.nodes), (4, 2));
        // 10 TB at 50 MB/s.
        assert!((figures.rebuild_hours - 10e12 / 50e6 / 3600.0).abs() < 1.0);
        let screen = screen(&args, &figures);
        for wanted in ["8 data + 4 parity", "rebuild", "nines", "growth"] {
            assert!(screen.contains(wanted), "{wanted} is not in\n{screen}");
        }
    }

    #[test]
    fn more_parity_costs_room_and_gives_nines() {
        let [few, many] =
            ["EC:2", "EC:6"].map(|parity| figures(&format!("--nodes 6 --drives 2 --parity {parity}")));
        assert!(few.data_bytes > many.data_bytes);
        assert!(nines(few.object_loss_per_year) + 3.0 < nines(many.object_loss_per_year));
        // All partitions on the same twelve drives are lost together, those on different ones one by one.
        assert!((few.any_loss_per_year / few.object_loss_per_year - 1.0).abs() < 1e-6);
        let spread = figures("--nodes 24 --drives 2 --parity EC:2");
        assert!(spread.any_loss_per_year > 1000.0 * spread.object_loss_per_year);
    }

    #[test]
    fn a_thousand_drives_grow_with_hardly_more_movement_than_must_be() {
        let growth = figures("--nodes 100 --drives 10 --add 1").growth.unwrap();
        assert!(growth.moved <= 1.1 * growth.optimum, "{growth:?}");
        assert!(growth.imbalance <= 0.05, "{growth:?}");
    }

    #[test]
    fn one_drive_has_no_parity_and_says_so() {
        let (args, figures) = (args("--nodes 1 --drives 1"), figures("--nodes 1 --drives 1"));
        assert_eq!((figures.data_shards, figures.parity_shards), (1, 0));
        assert!(screen(&args, &figures).contains("data is lost if it fails"));
    }
}
