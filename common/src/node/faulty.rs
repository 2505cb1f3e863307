//! A node that fails as networks and machines do: a decorator around any other node client, for tests and simulation.
//!
//! For every request, in this order, by a seeded random generator:
//! 1. **drop**: it never arrives, the caller is told that the node does not answer;
//! 2. **error**: the node answers that it is overloaded, nothing is done;
//! 3. **stall**: it neither arrives nor fails, until the caller's patience (the plan's) is over;
//! 4. **delay**: it arrives late, whether or not the caller still waits, through the link's [`Door`]s; small requests may
//!    arrive **twice**, the second time late and with nobody to answer;
//! 5. **lose**: it is done, and the reply is lost: the case that tells careful callers from careless ones. A reply takes
//!    the doors of the way back, and the blocks of a shard take them one by one.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};

use super::door::Door;
use super::{
    HandOverPage, HandOverRequest, ListPage, ListRequest, NodeClient, NodeError, NodeInfo, OwedPage,
    OwedRequest, PrepareShard, PurgeRequest, ReadShard, ShardBlocks, ShardPieces, SlotCall, Snapshot,
    SnapshotKind,
};
use crate::protocol::message::SlotReply;
use crate::protocol::purge::Evidence;
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
    /// Share of small requests that arrive a second time.
    pub duplicate: f64,
    /// How late the others arrive.
    pub delay: Range<Duration>,
    /// How late their replies arrive.
    pub reply_delay: Range<Duration>,
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
            duplicate: 0.0,
            delay: Duration::ZERO..Duration::ZERO,
            reply_delay: Duration::ZERO..Duration::ZERO,
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

/// The doors between a caller and a node.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    /// On the way there.
    pub there: Vec<Arc<Door>>,
    /// On the way back.
    pub back: Vec<Arc<Door>>,
}

/// What happens to one request.
#[derive(Debug)]
struct Fate {
    before: Option<Fault>,
    there: Duration,
    back: Duration,
    lost: bool,
    again: Option<Duration>,
    patience: Duration,
}

#[derive(Debug)]
enum Fault {
    Drop,
    Error,
    Stall,
}

/// See the module's head.
pub struct FaultyNode {
    inner: Arc<dyn NodeClient>,
    name: String,
    doors: Doors,
    state: Mutex<(FaultPlan, StdRng)>,
}

impl FaultyNode {
    /// Decorates a node; `name` stands in its errors. The same seed gives the same faults to the same sequence of
    /// requests.
    pub fn new(inner: Arc<dyn NodeClient>, name: &str, plan: FaultPlan, seed: u64) -> Self {
        let state = Mutex::new((plan, StdRng::seed_from_u64(seed)));
        Self { inner, name: name.to_owned(), doors: Doors::default(), state }
    }

    /// The same behind doors.
    #[must_use]
    pub fn behind(self, doors: Doors) -> Self {
        Self { doors, ..self }
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
            Some(Fault::Stall)
        } else {
            None
        };
        let (lost, twice) = (happens(plan.lose), happens(plan.duplicate));
        let mut within = |range: &Range<Duration>| {
            range.start + range.end.saturating_sub(range.start).mul_f64(random.random::<f64>())
        };
        let (there, back) = (within(&plan.delay), within(&plan.reply_delay));
        // Late enough to come after what the caller does next.
        let again = twice.then(|| there + within(&plan.delay) * 20);
        Fate { before, there, back, lost, again, patience: plan.patience }
    }

    fn unreachable(&self, reason: &str) -> NodeError {
        NodeError::Unreachable { node: self.name.clone(), reason: reason.to_owned() }
    }

    /// A request that can be sent once.
    async fn suffer<T, F>(&self, request: F) -> Result<T, NodeError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        self.send(self.fate(), request).await
    }

    /// A small request, which may arrive twice.
    async fn suffer_twice<T, F>(&self, request: impl Fn(Arc<dyn NodeClient>) -> F) -> Result<T, NodeError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        let fate = self.fate();
        if let (Some(again), None) = (fate.again, &fate.before) {
            let (second, doors) = (request(Arc::clone(&self.inner)), self.doors.clone());
            tokio::spawn(async move {
                tokio::time::sleep(again).await;
                if Door::pass_all(&doors.there).await {
                    let _ = second.await;
                }
            });
        }
        self.send(fate, request(Arc::clone(&self.inner))).await
    }

    async fn send<T, F>(&self, fate: Fate, request: F) -> Result<T, NodeError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        match fate.before {
            Some(Fault::Drop) => return Err(self.unreachable("the request was dropped")),
            Some(Fault::Error) => return Err(NodeError::Overloaded),
            Some(Fault::Stall) => {
                tokio::time::sleep(fate.patience).await;
                return Err(NodeError::Timeout { node: self.name.clone() });
            }
            None => {}
        }
        let (sender, reply) = oneshot::channel();
        let doors = self.doors.clone();
        // What was sent arrives, though its caller may have left.
        tokio::spawn(async move {
            pause(fate.there).await;
            if !Door::pass_all(&doors.there).await {
                return;
            }
            let done = request.await;
            pause(fate.back).await;
            if !fate.lost && Door::pass_all(&doors.back).await {
                let _ = sender.send(done);
            }
        });
        match reply.await {
            Ok(done) => done,
            Err(_) if fate.lost => Err(self.unreachable("the reply was lost")),
            Err(_) => {
                tokio::time::sleep(fate.patience).await;
                Err(NodeError::Timeout { node: self.name.clone() })
            }
        }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Carries a stream through doors; a shut one breaks it off.
fn carry<T: Send + 'static>(mut from: mpsc::Receiver<T>, doors: &[Arc<Door>]) -> mpsc::Receiver<T> {
    if doors.is_empty() {
        return from;
    }
    let (sender, carried) = mpsc::channel(1);
    let doors = doors.to_vec();
    tokio::spawn(async move {
        while let Some(item) = from.recv().await {
            if !Door::pass_all(&doors).await || sender.send(item).await.is_err() {
                return;
            }
        }
    });
    carried
}

#[async_trait]
impl NodeClient for FaultyNode {
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError> {
        self.suffer_twice(|node| {
            let call = call.clone();
            async move { node.call(call).await }
        })
        .await
    }

    async fn prepare_shard(&self, header: PrepareShard, pieces: ShardPieces) -> Result<SlotReply, NodeError> {
        let (node, pieces) = (Arc::clone(&self.inner), carry(pieces, &self.doors.there));
        self.suffer(async move { node.prepare_shard(header, pieces).await }).await
    }

    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        let node = Arc::clone(&self.inner);
        let blocks = self.suffer(async move { node.read_shard(request).await }).await?;
        Ok(carry(blocks, &self.doors.back))
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, NodeError> {
        let node = Arc::clone(&self.inner);
        self.suffer(async move { node.list(request).await }).await
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        let node = Arc::clone(&self.inner);
        self.suffer(async move { node.info().await }).await
    }

    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        let node = Arc::clone(&self.inner);
        self.suffer(async move { node.snapshot(kind).await }).await
    }

    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError> {
        self.suffer_twice(|node| {
            let snapshot = snapshot.clone();
            async move { node.store_snapshot(snapshot).await }
        })
        .await
    }

    async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError> {
        self.suffer_twice(|node| async move { node.adopt_bucket(bucket, revision).await }).await
    }

    async fn hand_over(&self, request: HandOverRequest) -> Result<HandOverPage, NodeError> {
        self.suffer_twice(|node| {
            let request = request.clone();
            async move { node.hand_over(request).await }
        })
        .await
    }

    async fn owed(&self, request: OwedRequest) -> Result<OwedPage, NodeError> {
        self.suffer_twice(|node| {
            let request = request.clone();
            async move { node.owed(request).await }
        })
        .await
    }

    async fn purge(&self, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        self.suffer_twice(|node| {
            let request = request.clone();
            async move { node.purge(request).await }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::door::Stand;
    use super::*;

    #[derive(Default)]
    struct Empty {
        adopted: Mutex<Vec<u64>>,
    }

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
        async fn adopt_bucket(&self, _: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError> {
            self.adopted.lock().push(revision);
            Ok(vec![])
        }
        async fn hand_over(&self, _: HandOverRequest) -> Result<HandOverPage, NodeError> {
            unreachable!()
        }
        async fn owed(&self, _: OwedRequest) -> Result<OwedPage, NodeError> {
            unreachable!()
        }
        async fn purge(&self, _: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
            unreachable!()
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
        let node = |seed| FaultyNode::new(Arc::new(Empty::default()), "n", plan.clone(), seed);
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
            Arc::new(Empty::default()),
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

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_arrives_when_the_door_opens_though_its_caller_has_left() {
        let (inner, there, back) =
            (Arc::new(Empty::default()), Arc::<Door>::default(), Arc::<Door>::default());
        let doors = Doors { there: vec![there.clone()], back: vec![back.clone()] };
        let node = FaultyNode::new(inner.clone(), "n", FaultPlan::default(), 1).behind(doors);
        let patience = Duration::from_secs(5);
        there.set(Stand::Held);
        assert!(tokio::time::timeout(patience, node.adopt_bucket(BucketId(1), 1)).await.is_err());
        assert!(inner.adopted.lock().is_empty());
        there.set(Stand::Open);
        assert!(node.adopt_bucket(BucketId(1), 2).await.is_ok());
        back.set(Stand::Shut);
        assert!(matches!(node.adopt_bucket(BucketId(1), 3).await, Err(NodeError::Timeout { .. })));
        there.set(Stand::Shut);
        assert!(matches!(node.adopt_bucket(BucketId(1), 4).await, Err(NodeError::Timeout { .. })));
        assert_eq!(*inner.adopted.lock(), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_request_may_arrive_twice() {
        let inner = Arc::new(Empty::default());
        let delay = Duration::from_millis(1)..Duration::from_millis(2);
        let plan = FaultPlan { duplicate: 1.0, delay, ..FaultPlan::default() };
        let node = FaultyNode::new(inner.clone(), "n", plan, 1);
        node.adopt_bucket(BucketId(1), 7).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*inner.adopted.lock(), [7, 7]);
    }
}
