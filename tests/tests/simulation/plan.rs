//! What a seed stands for: the shape of the cluster, how bad the network is, which troubles come, how much is done.
//!
//! Every seed leaves out some of it: a run with everything at once rarely gets far enough to go wrong in a subtle way.

use std::time::Duration;

use coffer_common::limits::INLINE_SHARD_BYTES;
use coffer_common::node::FaultPlan;
use coffer_common::protocol::flaw::Flaw;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What can be the matter besides the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// A node loses power and comes back.
    KillNode,
    /// A node's drive loses power at one of its next calls.
    PowerCut,
    /// A node stops for a while, and goes on.
    PauseNode,
    /// A gateway stops for a while, and goes on.
    PauseGateway,
    /// A gateway dies and another one starts.
    KillGateway,
    /// Some links carry nothing, in one direction or both.
    Partition,
    /// A process does not reach etcd.
    CutFromEtcd,
    /// Etcd stops for a while.
    PauseEtcd,
    /// Etcd forgets the session of a process that is alive.
    LoseLease,
    /// A process hears of changes late or not at all.
    DisturbWatches,
    /// Wall clocks jump.
    Jump,
    /// Etcd goes back to an earlier state, under a new generation.
    RestoreEtcd,
    /// Shard files of one drive rot or vanish.
    Rot,
    /// A node loses power, and comes back with one of its drives empty. Once only: what is missing is not rebuilt in time.
    LoseDrive,
}

const TROUBLES: [Trouble; 13] = [
    Trouble::KillNode,
    Trouble::PowerCut,
    Trouble::PauseNode,
    Trouble::PauseGateway,
    Trouble::KillGateway,
    Trouble::Partition,
    Trouble::CutFromEtcd,
    Trouble::PauseEtcd,
    Trouble::LoseLease,
    Trouble::DisturbWatches,
    Trouble::Jump,
    Trouble::RestoreEtcd,
    Trouble::Rot,
];

/// A product that is broken on purpose, to show that it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A client machine does not keep a rule.
    Rule(Flaw),
    /// Drives say that they have synced what they have not: nodes answer before anything is durable.
    LyingSyncs,
    /// Nodes promise fences and do not keep them: whoever believes to hold a lock may commit.
    UnkeptFences,
    /// Nodes forget which versions are COMMITTED: they say STABLE of whatever they have.
    AllStable,
    /// A drive that was replaced votes at once, with nothing.
    VotesEmpty,
    /// Nodes do not catch up: what a slot missed or lost stays away.
    NoCatchUp,
}

/// The shape of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    pub(crate) drives: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) gateways: usize,
    pub(crate) clients: usize,
    /// Clients that make and delete a bucket.
    pub(crate) keepers: usize,
    /// Operations of each client.
    pub(crate) operations: usize,
    pub(crate) keys: usize,
    /// The share of requests that read, besides those of the usual mix.
    pub(crate) reads: f64,
    pub(crate) network: FaultPlan,
    pub(crate) troubles: Vec<Trouble>,
    /// The mean time between two of them.
    pub(crate) calm: Duration,
    /// The longest time that a client does nothing.
    pub(crate) think: Duration,
    /// What is broken; nothing, as a rule.
    pub(crate) broken: Option<Broken>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        let shape = if random.random_bool(0.5) {
            Shape { nodes: 6, drives: 2 }
        } else {
            Shape { nodes: random.random_range(3..=5), drives: 1 }
        };
        let slowest = [2, 10, 50, 400][random.random_range(0..4)];
        let wanted = random.random_range(0.1..0.7);
        let troubles: Vec<_> = TROUBLES.into_iter().filter(|_| random.random_bool(wanted)).collect();
        // After a restore buckets come back that were deleted since the snapshot: that is the operator's to mend.
        let restored = troubles.contains(&Trouble::RestoreEtcd);
        let plan = Self {
            seed,
            shape,
            gateways: 3,
            clients: random.random_range(2..=5),
            keepers: if restored || random.random_bool(0.7) { 0 } else { 2 },
            operations: 25,
            keys: random.random_range(1..=5),
            reads: 0.0,
            network: network(random, slowest),
            troubles,
            calm: Duration::from_millis(random.random_range(300..4_000)),
            think: Duration::from_millis([0, 50, 500, 2_000][random.random_range(0..4)]),
            broken: None,
        };
        let plan = if random.random_bool(0.3) { plan.torn(random) } else { plan };
        if random.random_bool(0.05) { plan.losing() } else { plan }
    }

    /// A drive is lost among the rest. Not beside rot, which takes shards from another one; nor beside an etcd that goes
    /// back, which is the operator's to mend.
    pub(crate) fn losing(mut self) -> Self {
        self.troubles.retain(|trouble| !matches!(trouble, Trouble::Rot | Trouble::RestoreEtcd));
        self.troubles.push(Trouble::LoseDrive);
        self
    }

    /// One key of few slots, and COMMITs that are torn again and again: gateways die in the middle of them, many requests
    /// get lost, and every gateway believes other slots to be alive.
    fn torn(self, random: &mut StdRng) -> Self {
        let tear = [Trouble::KillGateway, Trouble::Partition, Trouble::PauseGateway, Trouble::KillNode];
        Self {
            shape: Shape { nodes: random.random_range(3..=5), drives: 1 },
            clients: 4,
            keepers: 0,
            keys: 1,
            reads: 0.6,
            network: FaultPlan {
                drop: random.random_range(0.0..0.4),
                patience: Duration::from_millis(random.random_range(50..1_000)),
                ..network(random, 400)
            },
            troubles: tear.into_iter().filter(|_| random.random_bool(0.6)).collect(),
            calm: Duration::from_millis(random.random_range(100..800)),
            think: Duration::ZERO,
            ..self
        }
    }

    /// The same with something broken.
    pub(crate) fn with(self, broken: Broken) -> Self {
        let plan = if broken == Broken::VotesEmpty { self.losing() } else { self };
        Self { broken: Some(broken), ..plan }
    }

    /// A body whose shards are files, with every parity of this shape.
    pub(crate) fn file_bytes(&self) -> usize {
        let most_data = (self.shape.nodes * self.shape.drives).div_ceil(2);
        most_data * INLINE_SHARD_BYTES as usize + 10_000
    }

    /// A network that loses nothing, for the quiet at the end.
    pub(crate) fn quiet_network() -> FaultPlan {
        let delay = Duration::from_micros(100)..Duration::from_millis(2);
        FaultPlan { delay: delay.clone(), reply_delay: delay, ..FaultPlan::default() }
    }
}

/// A network on which messages take up to so many milliseconds.
fn network(random: &mut StdRng, slowest: u64) -> FaultPlan {
    let share = |random: &mut StdRng, most: f64| {
        if random.random_bool(0.5) { 0.0 } else { random.random_range(0.0..most) }
    };
    let delay = Duration::from_micros(100)..Duration::from_millis(slowest);
    FaultPlan {
        drop: share(random, 0.05),
        stall: share(random, 0.02),
        lose: share(random, 0.05),
        duplicate: share(random, 0.1),
        error: share(random, 0.01),
        delay: delay.clone(),
        reply_delay: delay,
        patience: Duration::from_millis(random.random_range(100..12_000)),
    }
}
