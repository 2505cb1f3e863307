//! A node that fails as networks and machines do: a decorator around any other node client, for tests.
//!
//! For every request, in this order, by a seeded random generator:
//! 1. **drop**: it never arrives, the caller is told that the node does not answer;
//! 2. **error**: the node answers that it is overloaded, nothing is done;
//! 3. **stall**: it neither arrives nor fails, until the caller's patience (the plan's) is over;
//! 4. **delay**: it arrives late;
//! 5. **lose**: it is done, and the reply is lost: the case that tells careful callers from careless ones.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{
    ListPage, ListRequest, NodeClient, NodeError, NodeInfo, PrepareShard, ReadShard, ShardBlocks,
    ShardPieces, SlotCall, Snapshot, SnapshotKind,
};
use crate::protocol::message::SlotReply;
use crate::types::{BucketId, DriveId};

/// How often which fault happens; the default is none.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultPlan {
    /// Share of requests that never arrive, 0 to 1.
    pub drop: f64,
    /// Share of requests that are answered with an error.
    pub error: f64,
    /// Share of requests that hang until `patience` is over.
    pub stall: f64,
    /// Share of requests whose reply is lost.
    pub lose: f64,
    /// How late the others arrive.
    pub delay: Range<Duration>,
    /// How long a stalled request takes to fail.
    pub patience: Duration,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self {
            drop: 0.0,
            error: 0.0,
            stall: 0.0,
            lose: 0.0,
            delay: Duration::ZERO..Duration::ZERO,
            patience: Duration::from_secs(1),
        }
    }
}

impl FaultPlan {
    /// A node that is gone: nothing arrives.
    pub fn gone() -> Self {
        Self { drop: 1.0, ..Self::default() }
    }
}

/// What happens to one request.
#[derive(Debug)]
struct Fate {
    before: Option<Fault>,
    delay: Duration,
    lost: bool,
}

#[derive(Debug)]
enum Fault {
    Drop,
    Error,
    Stall(Duration),
}

/// See the module's head.
pub struct FaultyNode {
    inner: Arc<dyn NodeClient>,
    name: String,
    state: Mutex<(FaultPlan, StdRng)>,
}

impl FaultyNode {
    /// Decorates a node; `name` stands in its errors. The same seed gives the same faults to the same sequence of
    /// requests.
    pub fn new(inner: Arc<dyn NodeClient>, name: &str, plan: FaultPlan, seed: u64) -> Self {
        let state = Mutex::new((plan, StdRng::seed_from_u64(seed)));
        Self { inner, name: name.to_owned(), state }
    }

    /// Changes the plan for requests from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.state.lock().0 = plan;
    }

    fn fate(&self) -> Fate {
        let (plan, random) = &mut *self.state.lock();
        let mut happens = |share: f64| share > 0.0 && random.random::<f64>() < share;
        let before = if happens(plan.drop) {
            Some(Fault::Drop)
        } else if happens(plan.error) {
            Some(Fault::Error)
        } else if happens(plan.stall) {
            Some(Fault::Stall(plan.patience))
        } else {
            None
        };
        let lost = happens(plan.lose);
        let span = plan.delay.end.saturating_sub(plan.delay.start);
        let delay = plan.delay.start + span.mul_f64(random.random::<f64>());
        Fate { before, delay, lost }
    }

    fn unreachable(&self, reason: &str) -> NodeError {
        NodeError::Unreachable { node: self.name.clone(), reason: reason.to_owned() }
    }

    async fn suffer<T>(&self, request: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
        let Fate { before, delay, lost } = self.fate();
        match before {
            Some(Fault::Drop) => return Err(self.unreachable("the request was dropped")),
            Some(Fault::Error) => return Err(NodeError::Overloaded),
            Some(Fault::Stall(patience)) => {
                tokio::time::sleep(patience).await;
                return Err(NodeError::Timeout { node: self.name.clone() });
            }
            None => {}
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let reply = request.await;
        if lost { Err(self.unreachable("the reply was lost")) } else { reply }
    }
}

#[async_trait]
impl NodeClient for FaultyNode {
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError> {
        self.suffer(self.inner.call(call)).await
    }

    async fn prepare_shard(&self, header: PrepareShard, pieces: ShardPieces) -> Result<SlotReply, NodeError> {
        self.suffer(self.inner.prepare_shard(header, pieces)).await
    }

    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        self.suffer(self.inner.read_shard(request)).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, NodeError> {
        self.suffer(self.inner.list(request)).await
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.suffer(self.inner.info()).await
    }

    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        self.suffer(self.inner.snapshot(kind)).await
    }

    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError> {
        self.suffer(self.inner.store_snapshot(snapshot)).await
    }

    async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError> {
        self.suffer(self.inner.adopt_bucket(bucket, revision)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Empty;

    #[async_trait]
    impl NodeClient for Empty {
        async fn call(&self, _: SlotCall) -> Result<SlotReply, NodeError> {
            Ok(SlotReply::Done)
        }
        async fn prepare_shard(&self, _: PrepareShard, _: ShardPieces) -> Result<SlotReply, NodeError> {
            Ok(SlotReply::Done)
        }
        async fn read_shard(&self, _: ReadShard) -> Result<ShardBlocks, NodeError> {
            Err(NodeError::Overloaded)
        }
        async fn list(&self, _: ListRequest) -> Result<ListPage, NodeError> {
            Ok(ListPage::default())
        }
        async fn info(&self) -> Result<NodeInfo, NodeError> {
            Err(NodeError::Overloaded)
        }
        async fn snapshot(&self, _: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
            Ok(None)
        }
        async fn store_snapshot(&self, _: Snapshot) -> Result<(), NodeError> {
            Ok(())
        }
        async fn adopt_bucket(&self, _: BucketId, _: u64) -> Result<Vec<DriveId>, NodeError> {
            Ok(vec![])
        }
    }

    async fn outcomes(node: &FaultyNode, count: usize) -> Vec<Result<Option<Snapshot>, NodeError>> {
        let mut outcomes = Vec::new();
        for _ in 0..count {
            outcomes.push(node.snapshot(SnapshotKind::Layout).await);
        }
        outcomes
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_faults() {
        let plan = FaultPlan { drop: 0.3, error: 0.2, lose: 0.3, ..FaultPlan::default() };
        let node = |seed| FaultyNode::new(Arc::new(Empty), "n", plan.clone(), seed);
        let first = outcomes(&node(7), 200).await;
        assert_eq!(first, outcomes(&node(7), 200).await);
        assert_ne!(first, outcomes(&node(8), 200).await);
        for expected in [Ok(None), Err(NodeError::Overloaded)] {
            assert!(first.contains(&expected));
        }
    }

    #[tokio::test]
    async fn a_stalled_request_fails_when_the_patience_is_over() {
        let patience = Duration::from_millis(50);
        let node = FaultyNode::new(
            Arc::new(Empty),
            "n",
            FaultPlan { stall: 1.0, patience, ..FaultPlan::default() },
            1,
        );
        let begun = tokio::time::Instant::now();
        assert_eq!(
            node.snapshot(SnapshotKind::Layout).await,
            Err(NodeError::Timeout { node: "n".to_owned() })
        );
        assert!(begun.elapsed() >= patience);
        node.set_plan(FaultPlan::gone());
        assert!(matches!(node.snapshot(SnapshotKind::Layout).await, Err(NodeError::Unreachable { .. })));
    }
}
