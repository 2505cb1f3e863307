//! Has every bucket with rules gone over once a round, by the gateway that it falls to.
//!
//! 1. A bucket is due if it has had no pass since the round began ([`super::rounds`]). Only when some are is the coordinator asked who
//!    takes part, and for the locks of buckets that fall to this gateway ([`super::share`]) and that it does not hold already: a lock is kept from pass
//!    to pass. Buckets without rules cost nothing.
//! 2. Each pass is a task of its own ([`super::pass`]), and they take turns page by page: a bucket that is large, slow or fails puts off
//!    no other by more than that.
//! 3. A bucket that has become another gateway's is let go in the next round. Who does not get a lock, or loses it, tries again some seconds later.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::Cluster;
use coffer_common::coordination::LockGuard;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::BucketId;
use tokio::sync::Semaphore;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;

use super::pass::pass;
use super::rounds::Rounds;
use super::rules::DAY_MS;
use super::share::Share;
use crate::notify::Notifier;
use crate::object::ObjectStore;

/// Pages that a gateway works on at the same time, of as many buckets.
const PAGES: usize = 4;

pub(super) const FAILED: &str = "coffer_lifecycle_failures_total";

/// What passes work with.
pub(super) struct Worker {
    /// Where objects are.
    pub(super) store: ObjectStore,
    /// Where their events go.
    pub(super) notifier: Notifier,
    /// Where the locks of buckets are.
    pub(super) cluster: Cluster,
    /// A day, shorter in tests.
    pub(super) day_ms: u64,
    /// Turns for pages: whoever has waited longest is next.
    pub(super) turns: Semaphore,
}

/// Begins to carry out rules, until the stop is told. `day` is shorter than a day in tests.
pub(crate) fn start(
    (store, notifier): (ObjectStore, Notifier),
    cluster: Cluster,
    day: Option<Duration>,
    shutdown: &Shutdown,
) {
    let day_ms = day.map_or(DAY_MS, |day| u64::try_from(day.as_millis()).unwrap_or(DAY_MS));
    let worker = Worker { store, notifier, cluster, day_ms, turns: Semaphore::new(PAGES) };
    shutdown.spawn_until_told(go_round(Arc::new(worker)));
}

async fn go_round(worker: Arc<Worker>) {
    let rounds = Rounds::new(worker.day_ms);
    let (mut passes, mut share) = (Passes::new(rounds), Share::new());
    let mut next = Instant::now() + rounds.until_next(UnixMillis::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                passes.begin(&worker, &mut share).await;
                next = Instant::now() + rounds.until_look(UnixMillis::now());
            }
            Some(ended) = passes.tasks.join_next_with_id() => passes.end(ended, UnixMillis::now()),
        }
    }
}

/// What this gateway knows of a bucket with rules.
enum Turn {
    /// No pass goes on.
    Rests {
        /// Its lock, if it is this gateway's.
        lock: Option<LockGuard>,
        /// The round in which it was done with; `None` if it is due.
        done: Option<u64>,
    },
    /// This task goes over it.
    Runs(task::Id),
}

impl Turn {
    fn is_due(&self, round: u64) -> bool {
        matches!(self, Self::Rests { done, .. } if *done != Some(round))
    }

    fn lock(self) -> Option<LockGuard> {
        match self {
            Self::Rests { lock, .. } => lock,
            Self::Runs(_) => None,
        }
    }
}

/// The passes that go on, and when the next ones are due.
struct Passes {
    rounds: Rounds,
    turns: HashMap<BucketId, Turn>,
    /// They end with this.
    tasks: JoinSet<Option<LockGuard>>,
    buckets: HashMap<task::Id, BucketId>,
}

impl Passes {
    fn new(rounds: Rounds) -> Self {
        Self { rounds, turns: HashMap::new(), tasks: JoinSet::new(), buckets: HashMap::new() }
    }

    /// Begins what is due and falls to this gateway.
    async fn begin(&mut self, worker: &Arc<Worker>, share: &mut Share) {
        let mut buckets = worker.store.buckets_with(super::DOCUMENT);
        let known: HashSet<BucketId> = buckets.iter().map(|bucket| bucket.id).collect();
        self.turns.retain(|bucket, _| known.contains(bucket));
        let round = self.rounds.at(UnixMillis::now());
        buckets.retain(|bucket| self.turns.get(&bucket.id).is_none_or(|turn| turn.is_due(round)));
        if buckets.is_empty() {
            return;
        }
        let members = match share.members(&*worker.cluster.coordinator()).await {
            Ok(members) => members,
            Err(error) => return tracing::debug!(%error, "nothing expires: who takes part is not known"),
        };
        for bucket in buckets {
            let (id, before) = (bucket.id, self.turns.remove(&bucket.id));
            let turn = if members.is_ours(id) {
                let lock = before.and_then(Turn::lock);
                let task = self.tasks.spawn(pass(Arc::clone(worker), bucket, lock)).id();
                self.buckets.insert(task, id);
                Turn::Runs(task)
            } else {
                Turn::Rests { lock: None, done: Some(round) }
            };
            self.turns.insert(id, turn);
        }
    }

    /// Notes that a pass has ended.
    fn end(&mut self, ended: Result<(task::Id, Option<LockGuard>), JoinError>, now: UnixMillis) {
        let round = self.rounds.at(now);
        let (task, lock, done) = match ended {
            Ok((task, lock)) => {
                let done = lock.is_some().then_some(round);
                (task, lock, done)
            }
            Err(error) => {
                tracing::error!(%error, "a pass over a bucket's lifecycle rules failed");
                (error.id(), None, Some(round))
            }
        };
        let turn = self.buckets.remove(&task).and_then(|bucket| self.turns.get_mut(&bucket));
        // The bucket may have lost its rules meanwhile, and have got others.
        if let Some(turn) = turn.filter(|turn| matches!(turn, Turn::Runs(id) if *id == task)) {
            *turn = Turn::Rests { lock, done };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(1);

    /// A pass over the bucket that ends like this, and whether the bucket is due in the same round and in the next one.
    async fn due_after(pass: impl Future<Output = Option<LockGuard>> + Send + 'static) -> (bool, bool) {
        let rounds = Rounds::new(DAY_MS);
        let mut passes = Passes::new(rounds);
        let task = passes.tasks.spawn(pass).id();
        passes.buckets.insert(task, BUCKET);
        passes.turns.insert(BUCKET, Turn::Runs(task));
        let now = UnixMillis(12_345_678);
        let round = rounds.at(now);
        assert!(!passes.turns[&BUCKET].is_due(round + 1), "it is gone over once at a time");
        let ended = passes.tasks.join_next_with_id().await.unwrap();
        passes.end(ended, now);
        assert!(passes.buckets.is_empty());
        (passes.turns[&BUCKET].is_due(round), passes.turns[&BUCKET].is_due(round + 1))
    }

    async fn fails() -> Option<LockGuard> {
        panic!("a defect")
    }

    #[tokio::test]
    async fn a_pass_without_a_lock_is_tried_again_and_one_that_panics_only_in_the_next_round() {
        assert_eq!(due_after(async { None }).await, (true, true));
        assert_eq!(due_after(fails()).await, (false, true));
        let done = Turn::Rests { lock: None, done: Some(7) };
        assert!(!done.is_due(7) && done.is_due(8) && done.is_due(6), "also if the clock goes back");
    }

    #[tokio::test]
    async fn a_pass_over_rules_that_are_gone_says_nothing_of_those_that_came_after() {
        let mut passes = Passes::new(Rounds::new(DAY_MS));
        let [old, new] = [(); 2].map(|()| passes.tasks.spawn(async { None }).id());
        passes.buckets.extend([(old, BUCKET), (new, BUCKET)]);
        passes.turns.insert(BUCKET, Turn::Runs(new));
        passes.end(Ok((old, None)), UnixMillis(0));
        assert!(matches!(passes.turns[&BUCKET], Turn::Runs(id) if id == new));
        passes.turns.clear();
        passes.end(Ok((new, None)), UnixMillis(0));
        assert!(passes.turns.is_empty());
    }
}
