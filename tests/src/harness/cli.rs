//! `coffer` as an operator types it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{CLUSTER_SECRET, binary};

/// What a command printed.
#[derive(Debug)]
pub struct Printed {
    /// On its standard output.
    pub out: String,
    /// On its standard error.
    pub err: String,
    /// Its exit code.
    pub code: Option<i32>,
}

impl Printed {
    /// Its output as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }
}

/// Runs `coffer` with these words and `answer` on its standard input; without a coordinator if `etcd` is empty.
///
/// # Errors
/// If it cannot be run.
pub fn coffer(etcd: &str, words: &str, answer: &str) -> Result<Printed> {
    let mut command = Command::new(binary());
    command.args(words.split_whitespace()).env("COFFER_CLUSTER_SECRET", CLUSTER_SECRET);
    if !etcd.is_empty() {
        command.env("COFFER_ETCD", etcd);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("a pipe")?.write_all(answer.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Printed { out: text(&output.stdout), err: text(&output.stderr), code: output.status.code() })
}

/// Runs it, and fails with what it printed if the exit code is another one.
///
/// # Errors
/// If it cannot be run or ends with another code.
pub fn expect(etcd: &str, words: &str, code: i32) -> Result<Printed> {
    let printed = coffer(etcd, words, "")?;
    ensure!(printed.code == Some(code), "{words}: {printed:?}");
    Ok(printed)
}

/// The slots that a node that is alive holds now.
///
/// # Errors
/// If the nodes cannot be listed.
pub fn slots_of(etcd: &str, node: &str) -> Result<Option<u64>> {
    let nodes = expect(etcd, "node list --json", 0)?.json()?;
    let row = nodes.as_array().into_iter().flatten().find(|row| row["id"] == node);
    Ok(row.filter(|row| row["alive"] == true).and_then(|row| row["slots"].as_u64()))
}
