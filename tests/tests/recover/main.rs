//! Etcd loses everything, and `coffer recover` brings it back from the drives: while nodes and gateways run, after they were
//! stopped, and after they were started again without an etcd. `coffer debug drive` shows what is on a drive meanwhile.

mod drive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::client::{refusal, refused};
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::{binary, wait_for};
use serde_json::Value;

const NODES: usize = 4;
const LARGE: usize = 600_000;

/// Runs `coffer <arguments>` to its end.
fn coffer(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()).args(arguments).output()?)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What should be there: buckets, and in each of them objects by key.
type World = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

struct Arena {
    cluster: Daemons,
    folder: tempfile::TempDir,
    world: World,
}

impl Arena {
    async fn start() -> Result<Self> {
        let cluster = Daemons::start(NODES, 1, 1).await?;
        Ok(Self { cluster, folder: tempfile::TempDir::new()?, world: World::new() })
    }

    fn client(&self) -> Client {
        self.cluster.gateways[0].client()
    }

    fn drives(&self) -> Vec<PathBuf> {
        (0..NODES).map(|node| self.cluster.drive(node, 1)).collect()
    }

    /// A new bucket with objects of both sizes; some are overwritten, some deleted.
    async fn fill(&mut self, name: &str) -> Result<()> {
        let bucket = Bucket::create(self.client(), name).await?;
        let mut objects = BTreeMap::new();
        for number in 0..12 {
            let key = format!("key/{number}");
            for round in 0..=number % 2 {
                let size = if number % 4 == 3 { LARGE } else { 300 };
                let written = body(&key, round, size);
                let put = bucket.put(&key, written.clone()).await;
                ensure!(put.is_ok(), "PUT {name}/{key}: {put:?}");
                objects.insert(key.clone(), written);
            }
            if number % 5 == 4 {
                ensure!(bucket.delete(&key).await.is_ok(), "DELETE {name}/{key}");
                objects.remove(&key);
            }
        }
        self.world.insert(name.to_owned(), objects);
        Ok(())
    }

    /// Every bucket and every byte, and nothing else.
    async fn assert_world(&self) -> Result<()> {
        let client = self.client();
        let listed = client.list_buckets().send().await?;
        let names: Vec<_> = listed.buckets().iter().filter_map(|bucket| bucket.name()).collect();
        ensure!(names == self.world.keys().collect::<Vec<_>>(), "buckets: {names:?}");
        for (name, objects) in &self.world {
            let bucket = Bucket::new(client.clone(), name);
            let keys = bucket.keys().await;
            ensure!(keys == Ok(objects.keys().cloned().collect()), "LIST {name}: {keys:?}");
            for (key, value) in objects {
                let got = bucket.get(key).await;
                ensure!(got.as_ref() == Ok(value), "GET {name}/{key}: {:?}", got.map(|bytes| bytes.len()));
            }
            ensure!(bucket.get("key/4").await == Err(404), "a deleted object of {name} is back");
        }
        Ok(())
    }

    /// Conditional and plain writes, deletes, new and deleted buckets.
    async fn assert_works(&mut self, name: &str) -> Result<()> {
        let client = self.client();
        let locked = || async {
            let sent = client.put_object().bucket("photos").key(name).if_none_match("*");
            sent.body(ByteStream::from_static(b"once")).send().await.is_ok()
        };
        wait_for("a conditional write", Duration::from_secs(90), locked).await?;
        self.world.get_mut("photos").context("photos")?.insert(name.to_owned(), b"once".to_vec());
        let again = client.put_object().bucket("photos").key(name).if_none_match("*");
        let again = again.body(ByteStream::from_static(b"twice")).send().await;
        assert_eq!(refusal(again), refused("PreconditionFailed", 412));
        self.fill(name).await?;
        // A bucket that is not empty stays; that it was closed for a moment is known to the slots.
        let kept = client.delete_bucket().bucket("photos").send().await;
        assert_eq!(refusal(kept), refused("BucketNotEmpty", 409));
        let gone = format!("gone-{name}");
        client.create_bucket().bucket(&gone).send().await?;
        client.delete_bucket().bucket(&gone).send().await?;
        self.assert_world().await
    }

    /// What `coffer recover export` writes on one node.
    fn export(&self, node: usize) -> Result<PathBuf> {
        let drive = self.cluster.drive(node, 1);
        let output = coffer(&["recover", "export", &drive.display().to_string()])?;
        ensure!(output.status.success(), "{}", text(&output));
        let file = self.folder.path().join(format!("node-{node}.jsonl"));
        std::fs::write(&file, &output.stdout)?;
        Ok(file)
    }

    fn apply(&self, files: &[PathBuf], more: &[&str]) -> Result<(Option<i32>, String)> {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        let url = self.cluster.etcd.url();
        let mut arguments = vec!["recover", "apply", "--etcd", &url];
        arguments.extend(more);
        arguments.extend(files.iter().map(String::as_str));
        let output = coffer(&arguments)?;
        Ok((output.status.code(), text(&output)))
    }

    /// Waits until every drive has a copy of all buckets; a node makes it within a second.
    async fn wait_for_copies(&self) -> Result<()> {
        let buckets: Vec<String> = self.world.keys().map(|name| format!("buckets/{name}\\\"")).collect();
        let copied = || async {
            (0..NODES).all(|node| {
                let file = self.export(node).and_then(|file| Ok(std::fs::read_to_string(file)?));
                file.is_ok_and(|file| {
                    buckets.iter().all(|bucket| file.contains(bucket)) && !file.contains("buckets/gone")
                })
            })
        };
        wait_for("copies of the buckets on every drive", Duration::from_secs(60), copied).await
    }

    async fn lose_etcd(&mut self) -> Result<()> {
        self.cluster.etcd.kill();
        self.cluster.etcd.wipe()?;
        self.cluster.etcd.launch().await
    }

    fn recover(&self) -> Result<String> {
        let files = (0..NODES).map(|node| self.export(node)).collect::<Result<Vec<_>>>()?;
        let (code, said) = self.apply(&files, &["--yes"])?;
        ensure!(code == Some(0), "{code:?}: {said}");
        Ok(said)
    }

    fn kill_all(&mut self) {
        let daemons = self.cluster.nodes.iter_mut().chain(&mut self.cluster.gateways);
        daemons.for_each(|daemon| daemon.process().kill());
    }
}

/// The copies in an export of one drive.
fn copies(file: &Path) -> Result<Value> {
    let report: Value = serde_json::from_str(std::fs::read_to_string(file)?.trim())?;
    Ok(report["copies"].clone())
}

/// An export as it were if the drive's copies had been made earlier.
fn replace_copies(file: &Path, copies: &Value) -> Result<()> {
    let mut report: Value = serde_json::from_str(std::fs::read_to_string(file)?.trim())?;
    report["copies"] = copies.clone();
    Ok(std::fs::write(file, report.to_string())?)
}

/// The highest epoch of each partition that any of these exports tells.
fn epochs(files: &[PathBuf]) -> Result<BTreeMap<u64, u64>> {
    let mut highest = BTreeMap::new();
    for line in files.iter().map(std::fs::read_to_string) {
        let report: Value = serde_json::from_str(line?.trim())?;
        for slot in report["partitions"].as_array().into_iter().flatten() {
            let (partition, epoch) = (slot["partition"].as_u64(), slot["epoch"].as_u64());
            let known = highest.entry(partition.context("a partition")?).or_default();
            *known = epoch.context("an epoch")?.max(*known);
        }
    }
    Ok(highest)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bucket_and_object_is_back_after_etcd_has_lost_everything() -> Result<()> {
    let mut arena = Arena::start().await?;
    arena.fill("photos").await?;
    arena.assert_works("first").await?;
    arena.wait_for_copies().await?;

    // Nodes and gateway run throughout, and serve.
    arena.lose_etcd().await?;
    arena.assert_refusals().await?;
    let photos = Bucket::new(arena.client(), "photos");
    let late = body("late", 0, 300);
    ensure!(photos.put("late", late.clone()).await.is_ok(), "a plain write needs no etcd");
    arena.world.get_mut("photos").context("photos")?.insert("late".to_owned(), late);
    let said = arena.recover()?;
    ensure!(said.contains("generation 2 instead of 1") && said.contains("photos"), "{said}");
    arena.assert_works("second").await?;
    arena.assert_world().await?;
    arena.wait_for_copies().await?;
    let files = (0..NODES).map(|node| arena.export(node)).collect::<Result<Vec<_>>>()?;
    let (code, said) = arena.apply(&files, &["--yes"])?;
    ensure!(code == Some(1) && said.contains("in generation 2"), "a cluster is not overwritten: {said}");
    let (before, old_copies) = (epochs(&files)?, copies(&files[0])?);

    // Everything is down, and no drive has heard of the last bucket.
    arena.fill("unheard").await?;
    arena.kill_all();
    arena.lose_etcd().await?;
    arena.cluster.nodes[0].spawn()?;
    let refused = arena.cluster.nodes[0].process().wait(Duration::from_secs(90));
    ensure!(refused.is_some_and(|status| !status.success()), "a node must not found a new cluster");
    ensure!(arena.cluster.nodes[0].process().log().contains("coffer recover"));
    let files = (0..NODES).map(|node| arena.export(node)).collect::<Result<Vec<_>>>()?;
    for file in &files {
        replace_copies(file, &old_copies)?;
    }
    let (code, said) = arena.apply(&files, &["--dry-run"])?;
    ensure!(code == Some(0) && said.contains("NOT brought back"), "{said}");
    let id = said.lines().find_map(|line| line.strip_prefix("  bucket ")).context("an id")?;
    let named = format!("{}=unheard", id.split_whitespace().next().context("an id")?);
    let (code, said) = arena.apply(&files, &["--yes", "--bucket", &named])?;
    ensure!(code == Some(0) && said.contains("generation 3 instead of 2"), "{said}");
    ensure!(!said.contains("NOT brought back"), "{said}");
    for node in &mut arena.cluster.nodes {
        node.spawn()?;
    }
    arena.cluster.gateways[0].spawn()?;
    arena.cluster.gateways[0].wait_ready().await?;
    arena.assert_works("third").await?;
    arena.wait_for_copies().await?;
    let files = (0..NODES).map(|node| arena.export(node)).collect::<Result<Vec<_>>>()?;
    for (partition, epoch) in epochs(&files)? {
        ensure!(
            epoch >= before.get(&partition).copied().unwrap_or_default(),
            "partition {partition}: {epoch}"
        );
    }

    started_without_etcd(&mut arena).await
}

/// Nodes are started without an etcd, which then is there and knows nothing: nobody takes it for the cluster's.
async fn started_without_etcd(arena: &mut Arena) -> Result<()> {
    arena.kill_all();
    arena.cluster.etcd.kill();
    for node in &mut arena.cluster.nodes {
        node.spawn()?;
    }
    for node in &arena.cluster.nodes {
        node.wait_ready().await?;
    }
    arena.cluster.etcd.wipe()?;
    arena.cluster.etcd.launch().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let registered = arena.cluster.etcd.etcdctl(&["get", "--prefix", "--keys-only", "coffer/"])?;
    ensure!(
        registered.trim().is_empty(),
        "a node wrote into an etcd that has lost its cluster: {registered}"
    );
    let said = arena.recover()?;
    ensure!(said.contains("generation 4 instead of 3"), "{said}");
    arena.cluster.gateways[0].restart().await?;
    arena.assert_works("fourth").await
}

impl Arena {
    /// Too few drives, and an etcd that somebody uses, are refused, and nothing is written.
    async fn assert_refusals(&self) -> Result<()> {
        let files = (0..NODES).map(|node| self.export(node)).collect::<Result<Vec<_>>>()?;
        let (code, said) = self.apply(&files[..2], &["--yes"])?;
        ensure!(code == Some(1) && said.contains("too few drives"), "{said}");
        for (node, named) in [(2, true), (3, true), (0, false)] {
            let path = self.cluster.drive(node, 1).display().to_string();
            ensure!(said.contains(&path) == named, "{path} in {said}");
        }
        let (code, said) = self.apply(&files, &["--dry-run"])?;
        ensure!(code == Some(0) && said.contains("4 of 4 were read"), "{said}");
        let (code, said) = self.apply(&files, &[])?;
        ensure!(code == Some(1) && said.contains("nothing was changed"), "no answer is no: {said}");
        let etcd = &self.cluster.etcd;
        etcd.etcdctl(&["put", "coffer/default/buckets/theirs", "x"])?;
        let (code, said) = self.apply(&files, &["--yes"])?;
        ensure!(
            code == Some(1) && said.contains("buckets/theirs") && said.contains("coffer/default/"),
            "{said}"
        );
        etcd.etcdctl(&["del", "coffer/default/buckets/theirs"])?;
        let keys = etcd.etcdctl(&["get", "--prefix", "--keys-only", "coffer/"])?;
        ensure!(keys.trim().is_empty(), "{keys}");
        let missing = self.folder.path().join("missing.jsonl");
        let (code, said) = self.apply(&[missing], &["--yes"])?;
        ensure!(code == Some(1) && said.contains("missing.jsonl"), "{said}");
        Ok(())
    }
}

/// What `coffer debug drive --json` prints about a drive, and its exit code.
fn debug_drive(drive: &Path) -> Result<(Option<i32>, Value)> {
    let output = coffer(&["debug", "drive", "--json", &drive.display().to_string()])?;
    let found = serde_json::from_slice(&output.stdout).with_context(|| text(&output))?;
    Ok((output.status.code(), found))
}
