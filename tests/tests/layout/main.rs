//! Slots move to another layout while clients read and write: real nodes, gateways and etcd, and every client's history.
//! `tests/chaos` runs what CI does not.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test, all of it")]

mod data;
mod faults;
mod grow;
mod shrink;
mod steps;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use coffer_tests::chaos::impatient;
use coffer_tests::chaos::load::{Load, Plan};
use coffer_tests::chaos::recorder::Recorder;
use coffer_tests::chaos::verdict::{Summary, check_listings, check_whole_log, read_and_judge};
use coffer_tests::harness::cli::{expect, slots_of};
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::{census, wait_for};
use serde_json::Value;

/// One cluster at a time: many processes share few cores here.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// A client waits longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// However slow the machine is, all slots are there by then.
const MOVED: Duration = Duration::from_secs(400);
const BUCKET: &str = "layout";

/// Nodes of as many drives each, two gateways, and a bucket whose keys are recorded.
struct Arena {
    cluster: Daemons,
    drives: usize,
    etcd: String,
    gateways: Vec<Client>,
    recorder: Arc<Recorder>,
}

impl Arena {
    /// Nodes of one drive each.
    async fn start(nodes: usize) -> Result<Self> {
        Self::start_with(nodes, 1).await
    }

    async fn start_with(nodes: usize, drives: usize) -> Result<Self> {
        let cluster = Daemons::start(nodes, drives, 2).await?;
        let gateways: Vec<_> =
            cluster.gateways.iter().map(|gateway| impatient(&gateway.client(), PATIENCE)).collect();
        gateways[0].create_bucket().bucket(BUCKET).send().await?;
        let etcd = cluster.etcd.url();
        Ok(Self { cluster, drives, etcd, gateways, recorder: Arc::new(Recorder::new(BUCKET)) })
    }

    async fn load(&self, seed: u64) -> Result<Load> {
        let plan = Plan { seed, keys: 48, clients: 5, rest: Duration::from_millis(150) };
        Load::start(&self.recorder, &self.gateways, plan).await
    }

    /// One more node, which holds nothing yet.
    async fn add_node(&mut self) -> Result<String> {
        let name = format!("node-{}", self.cluster.nodes.len());
        self.cluster.add_node(self.drives).await?;
        let etcd = &self.etcd;
        let registered = || async { slots_of(etcd, &name).is_ok_and(|slots| slots == Some(0)) };
        wait_for("the new node to register", Duration::from_secs(60), registered).await?;
        Ok(name)
    }

    /// Applies what is staged; how many slots have to move.
    fn apply(&self) -> Result<u64> {
        let plan = expect(&self.etcd, "layout plan --json", 0)?.json()?;
        let (version, moving) = (plan["version"].as_u64().context("version")?, plan["moving"].as_u64());
        expect(&self.etcd, &format!("layout apply --version {version} --yes"), 0)?;
        moving.context("moving")
    }

    fn moves(&self) -> Result<Value> {
        Ok(expect(&self.etcd, "layout show --json", 0)?.json()?["moves"].clone())
    }

    /// Waits until at least so many slots have moved.
    async fn wait_for_moved(&self, count: u64) -> Result<()> {
        let moved = || async {
            self.moves().is_ok_and(|moves| moves.is_null() || moves["moved"].as_u64() >= Some(count))
        };
        wait_for(&format!("{count} slots to have moved"), MOVED, moved).await
    }

    /// Waits until no slot is on its way and the target has become the layout; how long that took.
    async fn wait_until_moved(&self) -> Result<Duration> {
        let begun = Instant::now();
        let there = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.moves().is_ok_and(|moves| moves.is_null())
        };
        let waited = wait_for("all slots to be where the layout has them", MOVED, there).await;
        waited.with_context(|| format!("{:?}", self.moves()))?;
        Ok(begun.elapsed())
    }

    /// Mutations that the gateways refused: those that met another one of their key, which any load brings about, and
    /// the reasons of all others.
    fn refused(&self) -> Result<(usize, Vec<String>)> {
        let drive = self.cluster.drive(0, 1);
        let folder = drive.ancestors().nth(2).context("the cluster's folder")?;
        let (mut met, mut others) = (0, Vec::new());
        for gateway in &self.cluster.gateways {
            let log = std::fs::read_to_string(folder.join(format!("{}.log", gateway.name)))?;
            for line in log.lines().filter(|line| line.contains("no quorum for a request")) {
                match line.contains("another operation holds the key") {
                    true => met += 1,
                    false => others.push(line.to_owned()),
                }
            }
        }
        Ok((met, others))
    }

    /// After quiet: histories are linearizable, listings and log complete, every shard is there.
    async fn judge(&self, load: Load) -> Result<Summary> {
        let acknowledged = load.stop().await?;
        let unanswered = self.recorder.unanswered();
        check_whole_log(&self.recorder, &self.gateways, acknowledged).await?;
        check_listings(&self.recorder, &self.gateways, "key/").await?;
        let summary = read_and_judge(&self.recorder, &self.gateways).await?;
        println!("{summary:?}, {unanswered} reads unanswered, {acknowledged} keys in the log");
        ensure!(acknowledged > 0 && summary.operations > 300, "hardly anything happened");
        let arguments = ["--etcd".to_owned(), self.etcd.clone()];
        let whole = || async { census(&arguments).is_ok_and(|census| census.exit_code == Some(0)) };
        let waited = wait_for("every shard to be there", Duration::from_secs(240), whole).await;
        waited.with_context(|| format!("{:#?}", census(&arguments).map(|census| census.sum)))?;
        Ok(summary)
    }
}
