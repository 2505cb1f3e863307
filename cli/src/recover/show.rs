//! What was found on the drives, for the operator who is about to write it.

use std::fmt::Write as _;

use coffer_common::cluster::recovery::{BucketFinding, CopySource, DriveSight, Recovery};
use coffer_common::time::UnixMillis;

use crate::table::table;
use crate::units::duration;

/// Buckets that are shown by name.
const SHOWN: usize = 50;

pub(super) fn as_text(recovery: &Recovery) -> String {
    let Recovery { record, layout_version, drives, epochs, .. } = recovery;
    let mut out = String::new();
    let read = drives.iter().filter(|drive| drive.sight == DriveSight::Read).count();
    let _ = writeln!(
        out,
        "cluster {}, {} drives, {} slots a partition, layout version {layout_version}",
        record.id,
        drives.len(),
        record.n
    );
    let _ = writeln!(out, "drives: {read} of {} were read", drives.len());
    let absent: Vec<_> = drives
        .iter()
        .filter(|drive| drive.sight != DriveSight::Read)
        .map(|drive| {
            let why = match &drive.sight {
                DriveSight::Damaged(damage) => format!("damaged: {damage}"),
                DriveSight::Replaced => "an older copy, another drive is in its place".to_owned(),
                DriveSight::Missing | DriveSight::Read => "not read".to_owned(),
            };
            [format!("  {}", drive.node), drive.path.clone(), drive.drive.to_string(), why]
        })
        .collect();
    out.push_str(&table(&absent));
    let _ = writeln!(out, "layout, nodes and partitions: {}", copy(&recovery.layout_copy));
    match &recovery.bucket_copy {
        Some(source) => drop(writeln!(out, "buckets: {}", copy(source))),
        None => out.push_str("buckets: no drive has a copy of their records\n"),
    }
    let _ = writeln!(
        out,
        "generation {} instead of {}; epochs from {} instead of up to {}",
        record.generation,
        record.generation - 1,
        epochs.1.0,
        epochs.0.0
    );
    let (left, under_way) = recovery.moves;
    if left + under_way > 0 {
        let _ = writeln!(out, "{left} slots have yet to move, {under_way} are on their way: they go on");
    }
    if !recovery.behind.is_empty() {
        let _ = writeln!(
            out,
            "{} partitions had changed after that copy was made: their nodes take the change up again. {} of their slots are \
             written as their drives tell, or as shown below, the others as the copy has them",
            recovery.behind.len(),
            recovery.moved.len()
        );
    }
    out.push_str(&decided(&recovery.decided));
    out.push_str(&buckets(&recovery.buckets));
    out.push_str(&unnamed(&recovery.unnamed));
    out
}

fn decided(places: &[String]) -> String {
    if places.is_empty() {
        return String::new();
    }
    format!(
        "WARNING: of {} slots drives do not tell who has them. As half is to be enough (`--accept-half`), and others are gone:\n{}\n",
        places.len(),
        places.join("\n")
    )
}

fn copy(source: &CopySource) -> String {
    let age = source.taken.map_or_else(
        || "at an unknown time".to_owned(),
        |taken| {
            let seconds = UnixMillis::now().0.saturating_sub(taken.0) / 1000;
            format!("{} ago", duration(seconds as f64 / 3600.0))
        },
    );
    format!(
        "the copy on {} (drive {}), generation {}, revision {}, last changed {age}",
        source.path, source.drive, source.generation, source.revision
    )
}

fn buckets(found: &[BucketFinding]) -> String {
    let mut out = format!("{} buckets:\n", found.len());
    let rows: Vec<_> = found
        .iter()
        .take(SHOWN)
        .map(|bucket| {
            let note = if bucket.changed_since { "its deletion had begun" } else { "" };
            let name = bucket.name.as_deref().unwrap_or_default();
            [format!("  {name}"), format!("about {} objects", bucket.objects), note.to_owned()]
        })
        .collect();
    out.push_str(&table(&rows));
    if found.len() > SHOWN {
        let _ = writeln!(out, "  and {} more", found.len() - SHOWN);
    }
    out
}

fn unnamed(found: &[BucketFinding]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "WARNING: {} buckets hold objects, and no drive's copy has their names: they were made right before the loss. Their data \
         stays on the drives; they are NOT brought back unless you name them (`--bucket ID=NAME`), now or never:\n",
        found.len()
    );
    let rows: Vec<_> = found
        .iter()
        .map(|bucket| [format!("  bucket {}", bucket.id), format!("about {} objects", bucket.objects)])
        .collect();
    out.push_str(&table(&rows));
    out
}
