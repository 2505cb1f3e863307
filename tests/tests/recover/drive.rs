//! A drive's journal is readable while its node runs and while it does not, whole and damaged, and is never changed by that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use coffer_tests::harness::{CLUSTER_SECRET, binary, wait_for};
use serde_json::{Value, json};

use super::{Arena, coffer, debug_drive, text};

type Files = BTreeMap<PathBuf, (SystemTime, Vec<u8>)>;

fn files_below(folder: &Path, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, files)?;
        } else {
            files.insert(path.clone(), (fs::metadata(&path)?.modified()?, fs::read(&path)?));
        }
    }
    Ok(())
}

fn content(drive: &Path) -> Result<Files> {
    let mut files = Files::new();
    files_below(drive, &mut files)?;
    Ok(files)
}

/// The last segment of the journal, by its name.
fn last_segment(drive: &Path) -> Result<PathBuf> {
    let names = fs::read_dir(drive.join("journal"))?.flatten().map(|entry| entry.path());
    let segment = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 16);
    names.filter(segment).max().context("a journal has a segment")
}

/// What `coffer debug object --json` prints about a key, and its exit code; `null` if it prints nothing.
fn debug_object(arena: &Arena, bucket: &str, key: &str) -> Result<(Option<i32>, Value)> {
    let mut command = Command::new(binary());
    command.args(["debug", "object", "--json", "--etcd", &arena.cluster.etcd.url(), bucket, key]);
    let output = command.env("COFFER_CLUSTER_SECRET", CLUSTER_SECRET).output()?;
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_shown_slot_by_slot() -> Result<()> {
    let mut arena = Arena::start().await?;
    arena.fill("photos").await?;
    let states = |found: &Value| -> Vec<String> {
        let slots = found["slots"].as_array().cloned().unwrap_or_default();
        slots.iter().map(|slot| slot["register"]["current"]["state"].to_string()).collect()
    };
    let whole = || async {
        debug_object(&arena, "photos", "key/3").is_ok_and(|(code, found)| {
            code == Some(0) && states(&found) == vec!["\"stable\""; 4] && found["shards"][0]["verified"] == 4
        })
    };
    wait_for("all slots to hold key/3", Duration::from_secs(90), whole).await?;
    let (_, found) = debug_object(&arena, "photos", "key/3")?;
    let nodes: Vec<_> = found["slots"].as_array().into_iter().flatten().map(|slot| &slot["node"]).collect();
    ensure!(nodes.len() == 4 && found["shards"][0]["needs"] == 2, "{found:#}");
    for (key, exit, tombstone) in [("key/4", 0, json!(true)), ("never", 3, json!(null))] {
        let (code, found) = debug_object(&arena, "photos", key)?;
        let current = &found["slots"][0]["register"]["current"]["tombstone"];
        assert_eq!((code, current), (Some(exit), &tombstone), "{key}: {found:#}");
    }
    assert_eq!(debug_object(&arena, "no-such-bucket", "key/3")?.0, Some(3));

    arena.cluster.nodes[2].process().kill();
    let (code, found) = debug_object(&arena, "photos", "key/3")?;
    let silent = states(&found).iter().filter(|state| *state == "null").count();
    assert_eq!((code, silent, &found["shards"][0]["verified"]), (Some(4), 1, &json!(3)), "{found:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_is_read_without_touching_it_and_damage_has_a_place() -> Result<()> {
    let mut arena = Arena::start().await?;
    arena.fill("photos").await?;
    let drive = arena.drives().remove(1);
    let settled = || async {
        debug_drive(&drive).is_ok_and(|(_, found)| {
            found["objects"] == 10 && found["unsettled"] == 0 && found["missing_shards"] == 0
        })
    };
    wait_for("the drive to have everything", Duration::from_secs(90), settled).await?;
    let (code, found) = debug_drive(&drive)?;
    assert_eq!((code, &found["in_use"], &found["damage"]), (Some(0), &json!(true), &json!([])), "{found:#}");
    ensure!(found["shard_files"]["count"].as_u64() >= Some(3), "the large ones: {found:#}");

    arena.cluster.nodes[1].process().stop(Duration::from_secs(60));
    let before = content(&drive)?;
    let (code, found) = debug_drive(&drive)?;
    assert_eq!((code, &found["in_use"], &found["torn_tail"]), (Some(0), &json!(false), &json!(null)));
    let output = coffer(&["debug", "drive", &drive.display().to_string()])?;
    ensure!(text(&output).contains("10 objects"), "{}", text(&output));
    ensure!(content(&drive)? == before, "reading changed the drive");

    // A few bytes behind the end: what a crash leaves of a write. Then a flipped bit before it.
    let segment = last_segment(&drive)?;
    let mut bytes = fs::read(&segment)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).context("a segment is not empty")?;
    let end = (used + 1).next_multiple_of(8);
    bytes[end + 8..end + 28].fill(7);
    fs::write(&segment, &bytes)?;
    let (code, found) = debug_drive(&drive)?;
    assert_eq!((code, &found["damage"]), (Some(0), &json!([])), "{found:#}");
    assert_eq!((&found["torn_tail"]["offset"], &found["torn_tail"]["bytes"]), (&json!(end), &json!(28)));

    bytes[400] ^= 1;
    fs::write(&segment, &bytes)?;
    let before = content(&drive)?;
    let (code, found) = debug_drive(&drive)?;
    let damage = found["damage"][0].as_str().unwrap_or_default();
    ensure!(code == Some(4) && damage.contains("corrupt at offset"), "{found:#}");
    ensure!(content(&drive)? == before, "reading changed the drive");

    let none = coffer(&["debug", "drive", &arena.folder.path().display().to_string()])?;
    ensure!(
        none.status.code() == Some(1) && text(&none).contains("has not been formatted"),
        "{}",
        text(&none)
    );
    Ok(())
}
