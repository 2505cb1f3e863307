//! What all long-running commands share: ports that are free, signals, word to systemd, the end.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use coffer_common::shutdown::Shutdown;
use sd_notify::NotifyState;

/// How long a stop may take.
const DRAIN: Duration = Duration::from_secs(30);

/// Refuses a port that is taken before anything is started or formatted. Each address comes with its purpose and
/// the option that changes it.
pub(crate) fn refuse_taken(ports: &[(SocketAddr, &str, &str)]) -> anyhow::Result<()> {
    for (address, purpose, option) in ports {
        let bound = std::net::TcpListener::bind(address);
        bound.with_context(|| {
            format!("cannot listen on `{address}` for {purpose}; choose another with `{option}`")
        })?;
    }
    Ok(())
}

/// Tells the service manager, if there is one that asked for it.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

/// Listens for signals, starts, serves until told to stop, and drains. A stop that is told while `start` still runs
/// ends it there. The code says whether it was asked to stop, or failed.
pub(crate) async fn serve<T, L>(
    start: impl AsyncFnOnce(Shutdown) -> anyhow::Result<T>,
    leave: impl FnOnce(T) -> L,
) -> anyhow::Result<ExitCode>
where
    L: Future<Output = ()>,
{
    let shutdown = Shutdown::new();
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    let running = tokio::select! {
        biased;
        started = start(shutdown.clone()) => started?,
        () = shutdown.told() => return Ok(ExitCode::SUCCESS),
    };
    notify(NotifyState::Ready);
    shutdown.told().await;
    notify(NotifyState::Stopping);
    let drained = shutdown.wait(DRAIN).await;
    leave(running).await;
    match drained {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::warn!(%error, "stopped without them"),
    }
    Ok(if shutdown.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
