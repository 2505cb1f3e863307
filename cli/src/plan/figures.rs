//! The figures of a plan.

use std::collections::BTreeSet;

use anyhow::Context;
use coffer_common::layout::{
    DriveReliability, Layout, LayoutDrive, ParitySettings, StorageClass, Tolerance, stripe_width,
};
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::types::{DriveId, NodeId, PartitionId};
use serde::Serialize;

use super::PlanArgs;

/// What a shape gives.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) data_shards: u8,
    pub(super) parity_shards: u8,
    /// What objects may fill, parity not included.
    pub(super) data_bytes: u64,
    /// Capacity, and what may fail with the default parity.
    pub(super) tolerance: Tolerance,
    /// What may fail while everything stays readable, with the parity asked for.
    pub(super) reads_survive: Survives,
    pub(super) rebuild_hours: f64,
    /// What each other drive reads for it.
    pub(super) rebuild_read_bytes: u64,
    /// From a failure until the drive is whole again.
    pub(super) repair_hours: f64,
    pub(super) object_loss_per_year: f64,
    pub(super) any_loss_per_year: f64,
    pub(super) growth: Option<Growth>,
}

/// How many of each may fail.
#[derive(Debug, Serialize)]
pub(super) struct Survives {
    pub(super) drives: usize,
    pub(super) nodes: usize,
    pub(super) zones: usize,
}

/// What adding nodes costs; parts of 1.
#[derive(Debug, Serialize)]
pub(super) struct Growth {
    /// Of all slots, those that move.
    pub(super) moved: f64,
    /// Of all slots, the share of the new nodes.
    pub(super) optimum: f64,
    /// How far the drive that is furthest from its share is from it.
    pub(super) imbalance: f64,
}

impl Figures {
    pub(super) fn of(args: &PlanArgs, standard: Option<u8>) -> anyhow::Result<Self> {
        let n = stripe_width(&vec![usize::from(args.drives); usize::from(args.nodes)]);
        let settings = ParitySettings { standard, reduced: None };
        settings.check(n)?;
        let split = settings.split(StorageClass::Standard, n);
        let layout = Layout::assign(drives(args, args.nodes), n, None)?;
        let tolerance = layout.tolerance();
        let spare = usize::from(split.m);
        let others = (layout.drives().len() - 1).max(1) as f64;
        let read = args.size as f64 * f64::from(split.k) / others;
        let rebuild_hours = (args.size as f64).max(read) / args.heal_rate as f64 / 3600.0;
        let repair_hours = rebuild_hours + args.replace_hours;
        let reliability = DriveReliability { annual_failure_rate: args.failure_rate / 100.0, repair_hours };
        let object_loss = reliability.annual_loss(split);
        let stripes = distinct_stripes(&layout) as f64;
        Ok(Self {
            data_shards: split.k,
            parity_shards: split.m,
            data_bytes: (tolerance.usable_bytes as f64 * f64::from(split.k) / f64::from(n)) as u64,
            reads_survive: Survives {
                drives: spare,
                nodes: layout.nodes_that_may_fail(spare),
                zones: layout.zones_that_may_fail(spare),
            },
            tolerance,
            rebuild_hours,
            rebuild_read_bytes: read as u64,
            repair_hours,
            object_loss_per_year: object_loss,
            any_loss_per_year: -(stripes * (-object_loss).ln_1p()).exp_m1(),
            growth: (args.add > 0).then(|| growth(args, &layout)).transpose().context("after growth")?,
        })
    }
}

/// Drives of equal size, the nodes dealt to the zones in turn.
fn drives(args: &PlanArgs, nodes: u16) -> Vec<LayoutDrive> {
    let of_node = |node: u16| {
        (0..args.drives).map(move |drive| LayoutDrive {
            id: DriveId((u128::from(node) << 16) | (u128::from(drive) + 1)),
            node: NodeId(format!("node-{node:05}")),
            zone: format!("zone-{}", node % args.zones),
            capacity_bytes: args.size,
        })
    };
    (0..nodes).flat_map(of_node).collect()
}

/// Partitions on the same drives are lost together.
fn distinct_stripes(layout: &Layout) -> usize {
    let sets: BTreeSet<Vec<u16>> = (0..PARTITION_COUNT)
        .map(|partition| {
            let mut drives = layout.slots_of(PartitionId(partition)).to_vec();
            drives.sort_unstable();
            drives
        })
        .collect();
    sets.len()
}

fn growth(args: &PlanArgs, before: &Layout) -> anyhow::Result<Growth> {
    let after = Layout::assign(drives(args, args.nodes + args.add), before.n(), Some(before))?;
    let slots = f64::from(PARTITION_COUNT) * f64::from(after.n());
    let share = slots / after.drives().len() as f64;
    let furthest = after.loads().iter().map(|load| (f64::from(*load) - share).abs()).fold(0.0, f64::max);
    Ok(Growth {
        moved: after.moves_from(before).len() as f64 / slots,
        optimum: f64::from(args.add) / f64::from(args.nodes + args.add),
        imbalance: furthest / share,
    })
}
