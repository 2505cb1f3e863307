//! What must be true of the recorded histories and of the cluster, once all is quiet.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use aws_sdk_s3::Client;
use coffer_common::linearizability::{Contradiction, Operation, Return, check};

use super::load::{check_log, log_key};
use super::recorder::Recorder;
use crate::harness::daemons::Daemons;
use crate::harness::{census, wait_for};

/// However slow the machine is, after quiet there is an answer by then.
const READABLE: Duration = Duration::from_secs(60);

/// What was recorded, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys.
    pub keys: usize,
    /// Operations.
    pub operations: usize,
    /// Mutations whose outcome is unknown.
    pub unknown: usize,
    /// Conditions that did not hold.
    pub rejected: usize,
}

/// Reads every key through every gateway, then judges all histories.
///
/// # Errors
/// If a key cannot be read, or a history contradicts itself.
pub async fn read_and_judge(recorder: &Recorder, gateways: &[Client]) -> Result<Summary> {
    for key in recorder.histories().keys() {
        for gateway in gateways {
            let read = || async { recorder.get(gateway, key).await.is_some() };
            wait_for(&format!("`{key}` to be readable"), READABLE, read).await?;
        }
    }
    judge(recorder)
}

/// Every history is linearizable, and every answer was one that S3 knows.
///
/// # Errors
/// The operations about the first contradiction.
pub fn judge(recorder: &Recorder) -> Result<Summary> {
    let mut summary = Summary::default();
    for (key, history) in recorder.histories() {
        if let Err(Contradiction(at)) = check(&history) {
            bail!("`{key}` is not linearizable:\n{}", about(&history, at));
        }
        let count = |returned| history.iter().filter(|operation| operation.returned == returned).count();
        summary.keys += 1;
        summary.operations += history.len();
        summary.unknown += count(Return::Unknown);
        summary.rejected += count(Return::Rejected);
    }
    let violations = recorder.violations();
    ensure!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    Ok(summary)
}

/// The operations near one, in the order in which they began.
fn about(history: &[Operation], at: usize) -> String {
    let mut sorted = history.to_vec();
    sorted.sort_by_key(|operation| operation.begin);
    let middle = sorted.partition_point(|operation| operation.begin < history[at].begin);
    let mut text = String::new();
    for operation in &sorted[middle.saturating_sub(30)..(middle + 20).min(sorted.len())] {
        let mark = if *operation == history[at] { ">" } else { " " };
        let Operation { call, returned, begin, end } = operation;
        let _ = writeln!(text, "{mark} {begin:>12} .. {end:>12} µs {call:?} -> {returned:?}");
    }
    text
}

/// Listings show exactly what is there, through every gateway.
///
/// # Errors
/// If one does not answer or differs.
pub async fn check_listings(recorder: &Recorder, gateways: &[Client], prefix: &str) -> Result<()> {
    let mut there = Vec::new();
    for key in recorder.histories().into_keys().filter(|key| key.starts_with(prefix)) {
        if get_patiently(recorder, &gateways[0], &key).await? > 0 {
            there.push(key);
        }
    }
    for gateway in gateways {
        let listed = list_patiently(recorder, gateway, prefix).await?;
        ensure!(listed == there, "LIST {prefix} shows {listed:?}, there are {there:?}");
    }
    Ok(())
}

/// What is read of a key. No answer says nothing: a gateway may still take a node for dead that has just come back.
async fn get_patiently(recorder: &Recorder, gateway: &Client, key: &str) -> Result<u32> {
    let begun = Instant::now();
    loop {
        match recorder.get(gateway, key).await {
            Some(value) => return Ok(value),
            None => ensure!(begun.elapsed() < READABLE, "`{key}` cannot be read after quiet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The same of a listing.
async fn list_patiently(recorder: &Recorder, gateway: &Client, prefix: &str) -> Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        match recorder.list(gateway, prefix).await {
            Some(keys) => return Ok(keys),
            None => ensure!(begun.elapsed() < READABLE, "`{prefix}` cannot be listed after quiet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The log is whole: listed, and readable byte by byte.
///
/// # Errors
/// If a key is missing.
pub async fn check_whole_log(recorder: &Recorder, gateways: &[Client], acknowledged: usize) -> Result<()> {
    for gateway in gateways {
        let keys = list_patiently(recorder, gateway, "log/").await?;
        check_log(recorder, &keys, acknowledged);
    }
    for at in 0..acknowledged {
        let value = get_patiently(recorder, &gateways[at % gateways.len()], &log_key(at)).await?;
        ensure!(value > 0, "{} was acknowledged, and is not there", log_key(at));
    }
    Ok(())
}

/// A census finds every object readable and hears every slot. Its sum.
///
/// # Errors
/// If it stays otherwise.
pub async fn check_census(cluster: &Daemons) -> Result<serde_json::Value> {
    let etcd = ["--etcd".to_owned(), cluster.etcd.url()];
    let sound = || async {
        census(&etcd)
            .is_ok_and(|census| matches!(census.exit_code, Some(0 | 4)) && census.sum["silent_slots"] == 0)
    };
    wait_for("a census without a silent slot and an unreadable object", Duration::from_secs(120), sound)
        .await?;
    Ok(census(&etcd)?.sum)
}
