//! System calls of a running process that fail or take long: fault injection by `strace`, which must be installed and
//! allowed to trace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::process::Process;
use super::wait_for;

/// What is injected, until this is dropped.
#[derive(Debug)]
pub struct Injection {
    strace: Process,
}

impl Injection {
    /// Injects `fault` (such as `error=EIO:when=1`) into these calls (such as `pwrite64,fdatasync`) of a process, those
    /// that concern one of the paths if any is given. `None`, with a word why, where that is not possible.
    ///
    /// # Errors
    /// If `strace` neither attaches nor says why it does not.
    pub async fn attach(
        process: u32,
        calls: &str,
        fault: &str,
        paths: &[PathBuf],
        folder: &Path,
    ) -> Result<Option<Self>> {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-p", &process.to_string()]);
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{fault}")]);
        paths.iter().for_each(|path| {
            command.arg("-P").arg(path);
        });
        // Several may come one after the other: each has a log of its own.
        let name = format!("strace-{}", coffer_common::random::random::<u32>());
        let Ok(mut strace) = Process::start(&name, folder, &mut command) else {
            println!("skipped: there is no strace");
            return Ok(None);
        };
        for _ in 0..1_200 {
            let log = strace.log();
            if log.contains("attached") {
                return Ok(Some(Self { strace }));
            }
            if !strace.is_running() {
                println!("skipped: strace does not attach: {log}");
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("strace does not attach: {}", strace.log_tail())
    }

    /// Ends it; calls that are held up go on.
    ///
    /// # Errors
    /// If `strace` does not end.
    pub async fn end(mut self) -> Result<()> {
        self.strace.stop(Duration::from_secs(10));
        let ended = !self.strace.is_running();
        wait_for("strace to let go", Duration::from_secs(10), || async { ended }).await
    }
}
