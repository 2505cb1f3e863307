//! `coffer layout add`, `remove`, `set`.

use std::process::ExitCode;

use coffer_common::cluster::staged::{LayoutEdit, LayoutPlan};
use serde_json::json;

use super::show::staged_lines;
use super::{AddArgs, RemoveArgs, SetArgs};
use crate::reach::{ClusterArgs, on_layout};

pub(super) async fn add(args: AddArgs) -> anyhow::Result<ExitCode> {
    stage(&args.cluster, LayoutEdit::Add(args.drives)).await
}

pub(super) async fn remove(args: RemoveArgs) -> anyhow::Result<ExitCode> {
    stage(&args.cluster, LayoutEdit::Remove(args.drives)).await
}

pub(super) async fn set(args: SetArgs) -> anyhow::Result<ExitCode> {
    let SetArgs { drives, capacity, zone, cluster } = args;
    stage(&cluster, LayoutEdit::Set { drives, capacity_bytes: capacity, zone }).await
}

/// Stages one request. What cannot work is refused here, before anybody plans with it.
pub(crate) async fn stage(args: &ClusterArgs, edit: LayoutEdit) -> anyhow::Result<ExitCode> {
    on_layout(args, async |coordinator, state| {
        let (state, layout, skipped) = state.edited(&edit)?;
        state.store(coordinator).await?;
        let plan = LayoutPlan::new(&state.map, &layout);
        if args.json {
            let (staged, moving, slots) = (&state.staged, plan.moving, plan.slots);
            println!("{}", json!({ "staged": staged, "moving": moving, "slots": slots, "skipped": skipped }));
        } else {
            println!("staged as version {}; nothing moves yet:", state.staged.version);
            staged_lines(&state).iter().for_each(|line| println!("  {line}"));
            skipped.iter().for_each(|drive| println!("left out: {drive}"));
            let part = 100.0 * plan.moving as f64 / plan.slots as f64;
            println!("{} of {} slots would move ({part:.1} %)\n", plan.moving, plan.slots);
            println!("  coffer layout plan       shows what that means\n  coffer layout revert     drops it");
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}
