//! `coffer debug census`: every shard read and verified, object by object.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use coffer_common::config::{EtcdArgs, SecurityArgs};
use coffer_common::coordination::Coordinator;
use coffer_common::endpoints::Endpoints;
use coffer_common::layout::ParitySettings;
use coffer_common::shutdown::Shutdown;
use coffer_gateway::object::{Holding, ObjectStore, SlotFinding};
use coffer_gateway::process;
use serde_json::json;

use crate::standalone;

/// Some object can lose fewer drives than it should.
const DEGRADED: u8 = 4;
/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(10);

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

    /// Storage nodes to ask for the cluster's map when etcd is away, separated by commas.
    #[arg(long, env = "COFFER_NODES", value_name = "HOST:PORT,…", value_delimiter = ',')]
    node: Vec<String>,

    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    security: SecurityArgs,
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
    let shutdown = Shutdown::new();
    let (coordinator, cluster): (Arc<dyn Coordinator>, _) = match (&args.folders[..], &args.etcd.etcd[..]) {
        ([], []) => {
            bail!("census of what? Give `--etcd http://HOST:2379`, or the folders of a standalone store")
        }
        ([], _) => {
            let (etcd, security) = (args.etcd.options()?, args.security.security()?);
            process::join(etcd, (security, args.node.clone()), &shutdown).await?
        }
        (folders, []) => {
            let (coordinator, cluster) = standalone::open_existing(&local(folders)?).await?;
            (coordinator, cluster)
        }
        _ => bail!("a standalone store has no etcd: give either folders or `--etcd`"),
    };
    let store = ObjectStore::start(cluster, ParitySettings::default(), shutdown.clone()).await;
    let mut sum = Sum::default();
    let walked = store
        .census(&mut |holding| {
            sum.add(&holding);
            if !(args.incomplete && holding.is_complete()) {
                println!("{}", if args.json { as_json(&holding) } else { as_line(&holding) });
            }
        })
        .await;
    println!("{}", if args.json { sum_as_json(&sum, walked.is_ok()) } else { sum_as_text(&sum) });
    shutdown.tell();
    drop(store);
    // A census has nothing to finish.
    let _ = shutdown.wait(DRAIN).await;
    coordinator.close().await;
    walked.map_err(|error| anyhow::anyhow!("not everything could be looked at: {error}"))?;
    Ok(sum.exit_code())
}

fn local(folders: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    match Endpoints::parse(folders)? {
        Endpoints::Standalone(drives) => Ok(drives),
        Endpoints::Distributed(_) => {
            bail!("a cluster is reached through `--etcd`, not through its nodes' URLs")
        }
    }
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

fn mark(finding: &SlotFinding) -> char {
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
