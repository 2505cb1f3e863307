//! Who is expected to answer. Pure: the caller tells the time.
//!
//! A node is alive if its last call succeeded and either its lease is held, or leases cannot be seen now (the
//! coordinator is away), or it answered in the last 10 s. One failed call takes it out until a probe succeeds, so that
//! writes raise their parity at once instead of waiting for a lease to end. It decides nothing: a wrong view costs speed
//! or spare parity, never correctness.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::node::{DriveState, NodeError, NodeInfo};
use crate::types::{DriveId, NodeId};

/// An answer counts as a sign of life for this long after a lease ended.
const ANSWER_COUNTS: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
struct Calls {
    failed: bool,
    answered: Option<Instant>,
    info: Option<NodeInfo>,
    clock_ahead_ms: i64,
}

/// What is known of the nodes' health.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    leases: BTreeSet<NodeId>,
    leases_visible: bool,
    calls: BTreeMap<NodeId, Calls>,
}

impl Liveness {
    pub(super) fn set_leases(&mut self, leases: BTreeSet<NodeId>) {
        self.leases = leases;
    }

    pub(super) fn set_leases_visible(&mut self, visible: bool) {
        self.leases_visible = visible;
    }

    pub(super) fn report(&mut self, node: &NodeId, result: Result<(), &NodeError>, now: Instant) {
        if !self.calls.contains_key(node) {
            self.calls.insert(node.clone(), Calls::default());
        }
        let Some(calls) = self.calls.get_mut(node) else { return };
        match result {
            // One that refuses us is no use, however alive it is: it may be of another cluster.
            Err(NodeError::Unreachable { .. } | NodeError::Timeout { .. } | NodeError::Denied(_)) => {
                calls.failed = true;
            }
            // An answer about one drive or shard, or an overload, is a sign of life all the same.
            Ok(()) | Err(_) => {
                calls.failed = false;
                calls.answered = Some(now);
            }
        }
    }

    pub(super) fn set_info(&mut self, node: &NodeId, info: NodeInfo, clock_ahead_ms: i64) {
        let calls = self.calls.entry(node.clone()).or_default();
        calls.info = Some(info);
        calls.clock_ahead_ms = clock_ahead_ms;
    }

    pub(super) fn info(&self, node: &NodeId) -> Option<(&NodeInfo, i64)> {
        let calls = self.calls.get(node)?;
        calls.info.as_ref().map(|info| (info, calls.clock_ahead_ms))
    }

    pub(super) fn failed(&self, node: &NodeId) -> bool {
        self.calls.get(node).is_some_and(|calls| calls.failed)
    }

    pub(super) fn node_alive(&self, node: &NodeId, now: Instant) -> bool {
        let calls = self.calls.get(node);
        if calls.is_some_and(|calls| calls.failed) {
            return false;
        }
        let answered = calls.and_then(|calls| calls.answered);
        !self.leases_visible
            || self.leases.contains(node)
            || answered.is_some_and(|at| now.saturating_duration_since(at) < ANSWER_COUNTS)
    }

    /// Whether the drive is alive and not known to be full.
    pub(super) fn drive_has_room(&self, node: &NodeId, drive: &DriveId, now: Instant) -> bool {
        let info = self.calls.get(node).and_then(|calls| calls.info.as_ref());
        let known = info.and_then(|info| info.drives.iter().find(|known| known.id == *drive));
        known.is_none_or(|known| known.state != DriveState::ReadOnly) && self.drive_alive(node, drive, now)
    }

    pub(super) fn drive_alive(&self, node: &NodeId, drive: &DriveId, now: Instant) -> bool {
        let info = self.calls.get(node).and_then(|calls| calls.info.as_ref());
        let drive_serves = info.is_none_or(|info| {
            let state = info.drives.iter().find(|known| known.id == *drive).map(|known| known.state);
            matches!(state, Some(DriveState::Online | DriveState::Suspect | DriveState::ReadOnly))
        });
        drive_serves && self.node_alive(node, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_takes_a_node_out_and_one_answer_brings_it_back() {
        let (node, start) = (NodeId("a".to_owned()), Instant::now());
        let mut view = Liveness::default();
        view.set_leases_visible(true);
        assert!(!view.node_alive(&node, start), "no lease, no answer");
        view.set_leases([node.clone()].into());
        assert!(view.node_alive(&node, start));
        let lost = NodeError::Timeout { node: "a".to_owned() };
        view.report(&node, Err(&lost), start);
        assert!(!view.node_alive(&node, start), "a held lease does not outweigh a lost call");
        view.report(&node, Err(&NodeError::Overloaded), start);
        assert!(view.node_alive(&node, start));
    }

    #[test]
    fn nodes_count_as_alive_while_leases_cannot_be_seen() {
        let (node, start) = (NodeId("a".to_owned()), Instant::now());
        let mut view = Liveness::default();
        view.report(&node, Ok(()), start);
        view.set_leases_visible(true);
        assert!(view.node_alive(&node, start + Duration::from_secs(9)));
        assert!(!view.node_alive(&node, start + Duration::from_secs(11)));
        view.set_leases_visible(false);
        assert!(view.node_alive(&node, start + Duration::from_secs(11)));
    }
}
