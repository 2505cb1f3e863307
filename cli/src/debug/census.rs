//! `coffer debug census`: every shard read and verified, object by object.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use coffer_gateway::object::{Holding, SlotFinding};
use serde_json::json;

use super::store::StoreArgs;
use crate::exit::DEGRADED;

/// Read every shard of every object and of every part of an open upload, and show which slots hold one that verifies.
///
/// Of a cluster, while it serves:
///   coffer debug census --etcd http://10.0.0.1:2379
///
/// Of a store on this machine's folders, while its server is stopped:
///   coffer debug census /data{1...4}
///
/// One column per slot: + verified, - lacking, ? no answer. Exit code 0 if every slot holds what it should, 4 if some
/// object can lose fewer drives than it should, 1 if one cannot be read or not everything could be looked at.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct CensusArgs {
    /// The folders of a standalone store.
    #[arg(value_name = "FOLDER")]
    folders: Vec<String>,

    /// Show only what lacks a shard.
    #[arg(long)]
    incomplete: bool,

    /// Print one JSON object a line, the sum last.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// The sum of a census.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    /// Objects and parts.
    total: u64,
    /// Those whose every slot verified.
    complete: u64,
    /// The others, by how many more shards they can lose: none, one, two or more.
    spare: [u64; 3],
    /// Those of which too few shards verified.
    unreadable: u64,
    /// Slots that gave no answer.
    silent: u64,
}

impl Sum {
    fn add(&mut self, holding: &Holding) {
        self.total += 1;
        self.silent +=
            holding.slots.iter().filter(|slot| matches!(slot, SlotFinding::Silent(_))).count() as u64;
        match holding.spare() {
            _ if holding.is_complete() => self.complete += 1,
            spare if spare < 0 => self.unreadable += 1,
            spare => self.spare[spare.min(2) as usize] += 1,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self { unreadable: 1.., .. } => ExitCode::FAILURE,
            sum if sum.complete < sum.total => ExitCode::from(DEGRADED),
            _ => ExitCode::SUCCESS,
        }
    }
}

pub(crate) async fn run(args: CensusArgs) -> anyhow::Result<ExitCode> {
    let opened = args.store.open(&args.folders).await?;
    let mut sum = Sum::default();
    let walked = opened
        .store
        .census(&mut |holding| {
            sum.add(&holding);
            if !(args.incomplete && holding.is_complete()) {
                println!("{}", if args.json { as_json(&holding) } else { as_line(&holding) });
            }
        })
        .await;
    println!("{}", if args.json { sum_as_json(&sum, walked.is_ok()) } else { sum_as_text(&sum) });
    opened.close().await;
    walked.map_err(|error| anyhow::anyhow!("not everything could be looked at: {error}"))?;
    Ok(sum.exit_code())
}

/// `++-+  needs 2, 1 to spare  bucket/key part 3  op 1f…; slot 2: its shard is not here`.
fn as_line(holding: &Holding) -> String {
    let marks: String = holding.slots.iter().map(mark).collect();
    let part = holding.part.map(|number| format!(" part {number}")).unwrap_or_default();
    let spare = match holding.spare() {
        spare if spare < 0 => "UNREADABLE".to_owned(),
        spare => format!("{spare} to spare"),
    };
    let (k, bucket, key, op) = (holding.k, &holding.bucket, &holding.key, holding.op);
    let mut line =
        format!("{marks}  needs {k}, {spare}  {bucket}/{}{part}  op {op}", key.as_str().escape_debug());
    for (slot, finding) in holding.slots.iter().enumerate() {
        if let SlotFinding::Lacking(reason) | SlotFinding::Silent(reason) = finding {
            let _ = write!(line, "; slot {slot}: {reason}");
        }
    }
    line
}

pub(super) fn mark(finding: &SlotFinding) -> char {
    match finding {
        SlotFinding::Verified => '+',
        SlotFinding::Lacking(_) => '-',
        SlotFinding::Silent(_) => '?',
    }
}

fn as_json(holding: &Holding) -> String {
    let slots = holding.slots.iter().map(|finding| match finding {
        SlotFinding::Verified => json!({ "state": "verified" }),
        SlotFinding::Lacking(reason) => json!({ "state": "lacking", "reason": reason }),
        SlotFinding::Silent(reason) => json!({ "state": "silent", "reason": reason }),
    });
    json!({
        "bucket": holding.bucket.as_str(),
        "key": holding.key.as_str(),
        "part": holding.part,
        "op": holding.op.to_string(),
        "needs": holding.k,
        "verified": holding.verified(),
        "spare": holding.spare(),
        "slots": slots.collect::<Vec<_>>(),
    })
    .to_string()
}

fn sum_as_text(sum: &Sum) -> String {
    let [none, one, more] = sum.spare;
    format!(
        "{} objects and parts: {} complete; of the others {more} can lose 2 or more shards, {one} can lose 1, {none} can \
         lose none, {} cannot be read; {} slots gave no answer",
        sum.total, sum.complete, sum.unreadable, sum.silent
    )
}

fn sum_as_json(sum: &Sum, walked_all: bool) -> String {
    let [none, one, more] = sum.spare;
    json!({
        "total": sum.total,
        "complete": sum.complete,
        "can_lose_2_or_more": more,
        "can_lose_1": one,
        "can_lose_0": none,
        "unreadable": sum.unreadable,
        "silent_slots": sum.silent,
        "walked_all": walked_all,
    })
    .to_string()
}
