//! `coffer debug object`: one key, slot by slot.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use coffer_common::protocol::message::{SlotVersion, VersionKind};
use coffer_common::types::{BucketName, ObjectKey, Tag};
use coffer_gateway::object::{HeadBucketError, KeyLook, SlotFinding, SlotLook};
use serde_json::{Value, json};

use super::census::mark;
use super::store::StoreArgs;
use crate::exit::{DEGRADED, NOT_FOUND};
use crate::table::table;

/// Show what each slot of an object's partition says of it: drive, version, tag, state, fence; and which slots hold a shard that
/// verifies. Settles and repairs nothing.
///
/// Of a cluster, while it serves:
///   coffer debug object photos 2026/cat.jpg --etcd http://10.0.0.1:2379
///
/// Of a store on this machine's folders, while its server is stopped:
///   coffer debug object photos 2026/cat.jpg /data{1...4}
///
/// Exit code 0 if every slot holds what it should, 3 if no slot knows the key, 4 if a slot lacks something or is silent, 1 if
/// the object cannot be read as it is.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct ObjectArgs {
    /// The bucket.
    #[arg(value_name = "BUCKET")]
    bucket: String,

    /// The key.
    #[arg(value_name = "KEY")]
    key: String,

    /// The folders of a standalone store.
    #[arg(value_name = "FOLDER")]
    folders: Vec<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) async fn run(args: ObjectArgs) -> anyhow::Result<ExitCode> {
    let bucket = BucketName::new(&args.bucket).with_context(|| format!("`{}`", args.bucket))?;
    let key = ObjectKey::new(args.key.clone()).with_context(|| format!("`{}`", args.key))?;
    let opened = args.store.open(&args.folders).await?;
    let looked = opened.store.look(&bucket, key).await;
    opened.close().await;
    let look = match looked {
        Ok(look) => look,
        Err(HeadBucketError::NoSuchBucket) => {
            eprintln!("coffer: there is no bucket `{}`", args.bucket);
            return Ok(ExitCode::from(NOT_FOUND));
        }
        Err(error) => return Err(error.into()),
    };
    print!("{}", if args.json { as_json(&look) + "\n" } else { as_text(&look) });
    Ok(exit_code(&look))
}

fn exit_code(look: &KeyLook) -> ExitCode {
    let silent = look.slots.iter().any(|slot| slot.register.is_err());
    let unreadable = look.holdings.iter().any(|holding| holding.spare() < 0);
    let incomplete = look.holdings.iter().any(|holding| !holding.is_complete());
    match &look.newest {
        _ if unreadable => ExitCode::FAILURE,
        _ if silent || incomplete => ExitCode::from(DEGRADED),
        None => ExitCode::from(NOT_FOUND),
        Some(_) => ExitCode::SUCCESS,
    }
}

fn as_text(look: &KeyLook) -> String {
    let mut out = format!(
        "partition {}, epoch {}, bucket {} (revision {})\n",
        look.partition.0, look.epoch.0, look.bucket, look.bucket_revision
    );
    let rows: Vec<_> = look.slots.iter().enumerate().map(|(index, slot)| row(index, slot)).collect();
    out.push_str(&table(&rows));
    for holding in &look.holdings {
        let marks: String = holding.slots.iter().map(mark).collect();
        let part = holding.part.map(|number| format!("part {number}, ")).unwrap_or_default();
        let (k, op, spare) = (holding.k, holding.op, holding.spare());
        let _ = writeln!(out, "{marks}  {part}op {op}, needs {k}, {spare} to spare");
        for (index, finding) in holding.slots.iter().enumerate() {
            if let SlotFinding::Lacking(reason) | SlotFinding::Silent(reason) = finding {
                let _ = writeln!(out, "  slot {index}: {reason}");
            }
        }
    }
    if look.newest.as_ref().is_some_and(|version| version.kind == VersionKind::Tombstone) {
        out.push_str("it is deleted\n");
    }
    out
}

fn row(index: usize, slot: &SlotLook) -> [String; 5] {
    let place = slot.path.as_deref().unwrap_or("?");
    let told = match &slot.register {
        Err(reason) => [reason.clone(), String::new()],
        Ok(view) => {
            let fence = format!("fence {}.{}", view.fence.generation, view.fence.revision);
            [view.current.as_ref().map_or_else(|| "nothing".to_owned(), version), fence]
        }
    };
    let [version, fence] = told;
    let drive = format!("drive {} incarnation {}", slot.drive, slot.incarnation.0);
    [format!("slot {index}"), format!("{}:{place}", slot.node), drive, version, fence]
}

fn version(held: &SlotVersion) -> String {
    let kind = match held.version.kind {
        VersionKind::Data => "data",
        VersionKind::Tombstone => "tombstone",
    };
    let shard = if held.shard_present { "" } else { ", shard missing" };
    format!("{kind} {} {:?} at {}{shard}", held.version.op, held.state, tag(held.tag))
}

/// `generation.revision.seq.writer`.
fn tag(tag: Tag) -> String {
    format!("{}.{}.{}.{}", tag.fence.generation, tag.fence.revision, tag.seq, tag.writer)
}

fn as_json(look: &KeyLook) -> String {
    let slots = look.slots.iter().map(|slot| {
        let register = match &slot.register {
            Ok(view) => json!({
                "fence": [view.fence.generation, view.fence.revision],
                "exclusive": view.exclusive.map(|(_, op)| op.to_string()),
                "current": view.current.as_ref().map(version_json),
            }),
            Err(reason) => json!({ "silent": reason }),
        };
        json!({
            "node": slot.node,
            "drive": slot.drive,
            "incarnation": slot.incarnation.0,
            "path": slot.path,
            "register": register,
        })
    });
    let holdings = look.holdings.iter().map(|holding| {
        let slots = holding.slots.iter().map(|finding| match finding {
            SlotFinding::Verified => json!({ "state": "verified" }),
            SlotFinding::Lacking(reason) => json!({ "state": "lacking", "reason": reason }),
            SlotFinding::Silent(reason) => json!({ "state": "silent", "reason": reason }),
        });
        json!({
            "part": holding.part,
            "op": holding.op.to_string(),
            "needs": holding.k,
            "verified": holding.verified(),
            "slots": slots.collect::<Vec<_>>(),
        })
    });
    json!({
        "bucket": look.bucket,
        "bucket_revision": look.bucket_revision,
        "partition": look.partition.0,
        "epoch": look.epoch.0,
        "slots": slots.collect::<Vec<_>>(),
        "shards": holdings.collect::<Vec<_>>(),
    })
    .to_string()
}

fn version_json(held: &SlotVersion) -> Value {
    json!({
        "op": held.version.op.to_string(),
        "tombstone": held.version.kind == VersionKind::Tombstone,
        "tag": tag(held.tag),
        "state": format!("{:?}", held.state).to_lowercase(),
        "needs": held.version.k,
        "shard_present": held.shard_present,
        "acknowledged_by": held.acknowledged.iter().map(|slot| slot.0).collect::<Vec<_>>(),
    })
}
