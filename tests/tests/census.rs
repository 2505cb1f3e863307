//! `coffer debug census` tells what is on the drives, whatever anybody believes to be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::{Census, census, wait_for};
use serde_json::json;

const FILE_SIZED: usize = 1_000_000;

async fn put(client: &Client, key: &str, size: usize) -> Result<()> {
    let body = ByteStream::from(vec![7; size]);
    client.put_object().bucket("census").key(key).body(body).send().await?;
    Ok(())
}

/// The census's line about a key.
fn line<'a>(census: &'a Census, key: &str) -> &'a serde_json::Value {
    census.holdings.iter().find(|holding| holding["key"] == key).expect("the key is in the census")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

/// Flips one bit in the middle of the only shard file of a drive.
fn damage(drive: &Path) -> Result<()> {
    let files = files_below(&drive.join("shards"));
    let [file] = &files[..] else { anyhow::bail!("one shard file was expected, not {files:?}") };
    let mut bytes = fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(file, bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_of_folders_finds_every_flipped_bit() -> Result<()> {
    let mut server = Standalone::start(4).await?;
    let client = server.client();
    client.create_bucket().bucket("census").send().await?;
    for (key, size) in [("empty", 0), ("inline", 900), ("file", FILE_SIZED), ("deleted", 100)] {
        put(&client, key, size).await?;
    }
    client.delete_object().bucket("census").key("deleted").send().await?;
    let upload = client.create_multipart_upload().bucket("census").key("open").send().await?;
    client
        .upload_part()
        .bucket("census")
        .key("open")
        .upload_id(upload.upload_id().context("an upload id")?)
        .part_number(3)
        .body(ByteStream::from_static(b"part"))
        .send()
        .await?;
    // Slots that were slower than the quorum get their shards before the server ends.
    server.process_mut().stop(Duration::from_secs(60));
    let folders = server.drives();

    let whole = census(&folders)?;
    assert_eq!(whole.exit_code, Some(0), "{whole:#?}");
    assert_eq!(whole.sum["total"], 4, "a deleted object is not counted: {whole:#?}");
    assert_eq!((&line(&whole, "file")["needs"], &line(&whole, "file")["verified"]), (&json!(2), &json!(4)));
    assert_eq!(line(&whole, "open")["part"], 3);

    damage(&folders[1])?;
    let degraded = census(&folders)?;
    assert_eq!(degraded.exit_code, Some(4), "{degraded:#?}");
    assert_eq!((&degraded.sum["complete"], &degraded.sum["can_lose_1"]), (&json!(3), &json!(1)));
    assert_eq!(line(&degraded, "file")["spare"], 1);

    damage(&folders[2])?;
    damage(&folders[3])?;
    let lost = census(&folders)?;
    assert_eq!((lost.exit_code, &lost.sum["unreadable"]), (Some(1), &json!(1)), "{lost:#?}");
    assert_eq!(line(&lost, "inline")["spare"], 2, "nothing else is touched");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_of_a_cluster_tells_a_silent_slot_from_one_that_lacks_its_shard() -> Result<()> {
    let mut cluster = Daemons::start(4, 1, 1).await?;
    let client = cluster.gateways[0].client();
    client.create_bucket().bucket("census").send().await?;
    put(&client, "before", FILE_SIZED).await?;
    let etcd = ["--etcd".to_owned(), cluster.etcd.url()];
    let complete = || async { census(&etcd).is_ok_and(|census| census.exit_code == Some(0)) };
    wait_for("the slowest slot to get its shard", Duration::from_secs(120), complete).await?;

    cluster.nodes[3].process().kill();
    put(&client, "after", FILE_SIZED).await?;
    let found = census(&etcd)?;
    assert_eq!((found.exit_code, &found.sum["silent_slots"]), (Some(4), &json!(2)), "{found:#?}");
    for key in ["before", "after"] {
        assert_eq!(line(&found, key)["verified"], 3, "{found:#?}");
    }
    Ok(())
}
