//! Real processes for the suites. It never talks to the crates under test: only to their binaries, ports and
//! folders, as an operator would.
//!
//! 1. [`binary`] builds `coffer` once and names it.
//! 2. [`process::Process`] is one child: kill, pause, resume, stop, its log.
//! 3. [`standalone::Standalone`], [`distributed::Distributed`] and [`daemons::Daemons`] are clusters of them.
//! 4. [`cli`] types commands at them.
//! 5. [`image::ImageDrive`] is a drive that breaks, [`strace::Injection`] makes the system calls of a process fail.

pub mod certificates;
pub mod cli;
pub mod daemons;
pub mod distributed;
pub mod etcd;
pub mod image;
pub mod ports;
pub mod process;
pub mod standalone;
pub mod strace;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The `coffer` binary of this profile: built now if sources changed, or the one named by `COFFER_BIN`.
pub fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build().unwrap_or_else(|error| panic!("cannot build coffer: {error:#}")))
}

#[expect(clippy::disallowed_methods, reason = "the harness is configured by its caller's environment")]
fn build() -> Result<PathBuf> {
    if let Ok(path) = std::env::var("COFFER_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let deps = test.parent().context("the test binary has a folder")?;
    let profile = if deps.ends_with("deps") { deps.parent().context("deps has a parent")? } else { deps };
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.args(["build", "--quiet", "--package", "coffer"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if !cargo.status().context("run cargo")?.success() {
        bail!("cargo build failed");
    }
    Ok(profile.join("coffer"))
}

/// Waits until `check` is true, asking every 50 ms.
///
/// # Errors
/// After `limit`, naming `what` was awaited.
pub async fn wait_for<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> F,
) -> Result<()> {
    let start = Instant::now();
    while !check().await {
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The shard files on the drive at this path.
pub fn shard_paths(drive: &Path) -> Vec<PathBuf> {
    fn below(path: PathBuf) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&path) else { return vec![path] };
        entries.flatten().flat_map(|entry| below(entry.path())).collect()
    }
    let shards = drive.join("shards");
    if shards.is_dir() { below(shards) } else { Vec::new() }
}

/// How many damaged shard files were set aside on the drive at this path.
pub fn set_aside(drive: &Path) -> usize {
    let is_damaged = |path: &PathBuf| path.extension().is_some_and(|end| end == "damaged");
    shard_paths(drive).iter().filter(|path| is_damaged(path)).count()
}

/// How many shard files lie on the drives at these paths.
pub fn shard_files(drives: &[PathBuf]) -> usize {
    drives.iter().map(|drive| shard_paths(drive).len()).sum()
}

/// What `coffer status` prints about the gateway whose admin address this is, and its exit code.
///
/// # Errors
/// If it cannot be run.
pub fn status(endpoint: &str) -> Result<(String, Option<i32>)> {
    let output = Command::new(binary()).args(["status", "--endpoint", endpoint]).output()?;
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code()))
}

/// What the storage nodes and gateways of a test's cluster know each other by.
pub const CLUSTER_SECRET: &str = "a secret that only the tests know";

/// What `coffer debug census --json` found: of what (`--etcd URL` or folders) is in `arguments`.
///
/// # Errors
/// If it cannot be run or prints no JSON.
pub fn census<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<Census> {
    let mut command = Command::new(binary());
    command.args(["debug", "census", "--json"]).args(arguments).env("COFFER_CLUSTER_SECRET", CLUSTER_SECRET);
    let output = command.output()?;
    let (printed, log) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    let mut lines = printed.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>()?;
    let sum = lines.pop().with_context(|| format!("the census printed nothing: {log}"))?;
    Ok(Census { holdings: lines, sum, exit_code: output.status.code() })
}

/// A census as it was printed.
#[derive(Debug)]
pub struct Census {
    /// One per object or part.
    pub holdings: Vec<serde_json::Value>,
    /// The sum.
    pub sum: serde_json::Value,
    /// 0 complete, 4 degraded, 1 unreadable or not walked through.
    pub exit_code: Option<i32>,
}

/// Whether the storage node with this page of metrics says that all its versions are STABLE and no shard is missing. It
/// counts when it is asked; what a gateway shows of it is some seconds old.
pub async fn is_settled(metrics: &str) -> bool {
    const NAMES: [&str; 2] = ["coffer_drive_unstable_versions{", "coffer_heal_missing_shards{"];
    let Some((200, page)) = http_get(metrics).await else { return false };
    NAMES.iter().all(|name| {
        let mut drives = page.lines().filter(|line| line.starts_with(name)).peekable();
        drives.peek().is_some() && drives.all(|line| line.ends_with(" 0"))
    })
}

/// The status code of a plain GET, or `None` if nobody answers.
pub async fn http_status(url: &str) -> Option<u16> {
    http_get(url).await.map(|(status, _)| status)
}

/// Status code and body of a plain GET, or `None` if nobody answers.
pub async fn http_get(url: &str) -> Option<(u16, String)> {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let answer =
        tokio::time::timeout(Duration::from_secs(15), client.get(url.parse().ok()?)).await.ok()?.ok()?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}
