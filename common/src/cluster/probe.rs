//! Asks every node for its state: all of them every few seconds, lost ones twice a second, so that a node that
//! returns is used again at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::Inner;
use crate::limits::MAX_CLOCK_SKEW;
use crate::node::{NodeClient, NodeError};
use crate::time::UnixMillis;
use crate::types::NodeId;

const TICK: Duration = Duration::from_millis(500);
const TICKS_PER_ROUND: u32 = 8;
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn run(inner: Arc<Inner>) {
    for tick in 0_u32.. {
        let clients = inner.clients.load_full();
        let due = clients
            .iter()
            .filter(|(node, _)| tick % TICKS_PER_ROUND == 0 || inner.liveness.lock().failed(node));
        join_all(due.map(|(node, client)| probe(&inner, node, client))).await;
        tokio::time::sleep(TICK).await;
    }
}

async fn probe(inner: &Inner, node: &NodeId, client: &Arc<dyn NodeClient>) {
    let asked = Instant::now();
    let sent = UnixMillis::now();
    let answer = timeout(PROBE_TIMEOUT, client.info())
        .await
        .unwrap_or_else(|_| Err(NodeError::Timeout { node: node.0.clone() }));
    let ours = inner.map.load().cluster;
    let answer = answer.and_then(|info| match info.cluster {
        Some(theirs) if theirs != ours => {
            tracing::warn!(%node, %theirs, %ours, "a node of another cluster answers at its address");
            Err(NodeError::Denied(format!("it belongs to cluster {theirs}")))
        }
        _ => Ok(info),
    });
    let mut liveness = inner.liveness.lock();
    liveness.report(node, answer.as_ref().map(|_| ()), Instant::now());
    let Ok(info) = answer else { return };
    let half_ms = u64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(0);
    let ahead_ms = clock_ahead_ms(info.clock_ms, sent.0 + half_ms);
    if ahead_ms.unsigned_abs() > u64::try_from(MAX_CLOCK_SKEW.as_millis()).unwrap_or(u64::MAX) {
        tracing::warn!(%node, ahead_ms, "clocks differ: set both by NTP, or signatures and times will be wrong");
    }
    liveness.set_info(node, info, ahead_ms);
}

/// How far a peer's clock is ahead of ours.
pub(super) fn clock_ahead_ms(theirs: u64, ours: u64) -> i64 {
    let theirs = i64::try_from(theirs).unwrap_or(i64::MAX);
    theirs.saturating_sub(i64::try_from(ours).unwrap_or(i64::MAX))
}
