//! Drives that fill up: small file systems in memory, which needs the right to mount.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::{http_get, http_status, shard_files, status, wait_for};

use super::{bytes, get, keys};

const DRIVE: &str = "size=64m";
const LARGE: usize = 4 << 20;

/// File systems that are unmounted when the test ends.
struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// One at each path; `None`, with a word why, where this is not permitted.
    fn new(paths: Vec<PathBuf>) -> Result<Option<Self>> {
        let mut mounts = Self(Vec::new());
        for path in paths {
            std::fs::create_dir_all(&path)?;
            if !run("mount", &["-t", "tmpfs", "-o", DRIVE, "coffer-test"], &path) {
                println!("skipped: no file system can be mounted at {}", path.display());
                return Ok(None);
            }
            mounts.0.push(path);
        }
        Ok(Some(mounts))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in &self.0 {
            run("umount", &["-l"], path);
        }
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
    Command::new(program).args(arguments).arg(path).status().is_ok_and(|status| status.success())
}

/// The S3 code and status of the refusal, if it was refused.
async fn put(client: &Client, key: &str, body: Vec<u8>) -> Result<(), (String, u16)> {
    let sent = client.put_object().bucket("limits").key(key).body(body.into()).send().await;
    sent.map(|_| ()).map_err(|error| {
        let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
        (error.code().unwrap_or_default().to_owned(), status)
    })
}

fn full() -> Result<(), (String, u16)> {
    Err(("InsufficientStorage".to_owned(), 507))
}

async fn assert_stored(client: &Client, stored: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    assert_eq!(keys(client).await?, stored.keys().cloned().collect::<Vec<_>>());
    for (key, body) in stored {
        assert!(get(client, key).await.as_ref() == Ok(body), "{key} differs");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn full_drives_refuse_writes_keep_what_they_have_and_take_writes_again_after_deletes() -> Result<()> {
    let mut server = Standalone::prepare(4)?;
    let Some(_mounts) = Mounts::new(server.drives())? else { return Ok(()) };
    server.launch().await?;
    let client = server.client();
    client.create_bucket().bucket("limits").send().await?;
    let mut stored = BTreeMap::new();
    for (number, size) in [0, 700, 90_000, 400_000].into_iter().enumerate() {
        let (key, body) = (format!("before/{number}"), bytes(size, 9));
        assert_eq!(put(&client, &key, body.clone()).await, Ok(()));
        stored.insert(key, body);
    }
    for number in 0.. {
        assert!(number < 64, "it never fills");
        let (key, body) = (format!("large/{number:02}"), bytes(LARGE, number));
        match put(&client, &key, body.clone()).await {
            Ok(()) => stored.insert(key, body),
            refused => {
                assert_eq!(refused, full(), "{}", server.process().log_tail());
                assert_eq!(get(&client, &key).await, Err(404));
                break;
            }
        };
    }
    assert_eq!(put(&client, "large/late", bytes(LARGE, 1)).await, full());
    assert_eq!(put(&client, "small", bytes(700, 1)).await, full());
    // Nothing half-stored: files of stored objects only, where "before/3" is one.
    let large = stored.values().filter(|body| body.len() >= 400_000).count();
    let drives = server.drives();
    let swept = || async { shard_files(&drives) <= 4 * large };
    wait_for("pieces of refused objects to go", Duration::from_secs(60), swept).await?;
    assert_stored(&client, &stored).await?;

    // What operators see.
    assert_eq!(http_status(&server.admin_url("/health/live")).await, Some(200));
    assert_eq!(http_status(&server.admin_url("/health/ready")).await, Some(200), "it can serve reads");
    let cluster = server.admin_url("/health/cluster");
    let unhealthy = || async { http_status(&cluster).await == Some(503) };
    wait_for("/health/cluster to say it", Duration::from_secs(60), unhealthy).await?;
    let (screen, code) = status(&server.admin_url(""))?;
    assert!(screen.starts_with("READ-ONLY") && screen.contains("is full"), "{screen}");
    assert_eq!(code, Some(4));
    let (_, metrics) = http_get(&server.admin_url("/metrics")).await.unwrap_or_default();
    assert!(metrics.contains("coffer_cluster_partitions_writable 0"), "{metrics}");

    // Full drives start again, with everything that was on them.
    server.process_mut().stop(Duration::from_secs(60));
    server.launch().await?;
    assert_stored(&client, &stored).await?;

    let doomed: Vec<String> = stored.keys().filter(|key| key.starts_with("large/")).cloned().collect();
    for key in &doomed[1..] {
        client.delete_object().bucket("limits").key(key).send().await?;
        stored.remove(key);
    }
    assert_stored(&client, &stored).await?;
    let writable = || async { put(&client, "after", bytes(LARGE, 5)).await.is_ok() };
    wait_for("room for writes after deletes", Duration::from_secs(60), writable).await?;
    stored.insert("after".to_owned(), bytes(LARGE, 5));
    assert_stored(&client, &stored).await?;
    let healthy = || async { http_status(&cluster).await == Some(200) };
    wait_for("/health/cluster to be well again", Duration::from_secs(60), healthy).await?;
    assert!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
