//! Troubles: one after the other, some at the same time, each over after a while.
//!
//! Owns: which come when, by the seed. Never breaks more than the product promises to survive: nothing that was synced
//! is taken from more than one drive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::coordination::Entry;
use coffer_common::coordination::simulated::{EtcdSnapshot, SimulatedCoordinator};
use coffer_common::layout::PartitionRecord;
use coffer_common::node::{Door, Stand};
use coffer_common::simulated;
use coffer_storage_node::Fault;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinHandle, JoinSet};

use crate::gateway::Gateway;
use crate::network::Place;
use crate::plan::{Broken, Plan, Trouble};
use crate::trace::note;
use crate::world::World;

/// How often a node whose drive may have lost power is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The running troubles.
pub(crate) struct Troubles {
    task: Option<JoinHandle<JoinSet<()>>>,
    stop: Arc<Door>,
}

struct Source {
    world: Arc<World>,
    random: StdRng,
    /// What is over later.
    recoveries: JoinSet<()>,
    snapshot: Option<EtcdSnapshot>,
    /// The one drive whose shards rot.
    rotten: usize,
    /// Whether a drive was lost already.
    lost: bool,
}

impl Troubles {
    pub(crate) fn start(world: &Arc<World>) -> Self {
        let stop = Arc::<Door>::default();
        let random = StdRng::seed_from_u64(world.plan.seed.wrapping_add(0x7261_6e64));
        let mut source = Source {
            world: Arc::clone(world),
            random,
            recoveries: JoinSet::new(),
            snapshot: None,
            rotten: 0,
            lost: false,
        };
        source.rotten = source.random.random_range(0..world.nodes.len());
        let stopped = Arc::clone(&stop);
        let task = (!world.plan.troubles.is_empty()).then(|| {
            tokio::spawn(async move {
                while stopped.stand() == Stand::Open {
                    let calm = source.world.plan.calm.mul_f64(source.random.random_range(0.0..2.0));
                    tokio::time::sleep(calm).await;
                    let troubles = &source.world.plan.troubles;
                    let trouble = troubles[source.random.random_range(0..troubles.len())];
                    source.cause(trouble);
                }
                source.recoveries
            })
        });
        Self { task, stop }
    }

    /// No more come; those that have begun come to their end.
    pub(crate) async fn end(self) {
        self.stop.set(Stand::Shut);
        if let Some(task) = self.task {
            let mut recoveries = task.await.expect("troubles do not panic");
            while let Some(recovered) = recoveries.join_next().await {
                recovered.expect("a recovery does not panic");
            }
        }
    }
}

impl Source {
    fn cause(&mut self, trouble: Trouble) {
        let node = self.random.random_range(0..self.world.nodes.len());
        let gateway = self.random.random_range(0..self.world.plan.gateways);
        let long = Duration::from_millis(self.random.random_range(50..15_000));
        note!(self.world.trace, "TROUBLE {trouble:?} node {node} gateway {gateway} for {long:?}");
        match trouble {
            Trouble::KillNode => self.kill_node(node, long),
            Trouble::PowerCut => self.cut_power(node, long),
            Trouble::PauseNode => {
                self.world.nodes[node].hold(Stand::Held);
                self.after(long, move |world| world.nodes[node].hold(Stand::Open));
            }
            Trouble::PauseGateway => {
                let held = Arc::clone(&self.world.gateways.lock()[gateway]);
                held.hold(Stand::Held);
                self.after(long, move |_| held.hold(Stand::Open));
            }
            Trouble::KillGateway => self.kill_gateway(gateway, long),
            Trouble::Partition => self.partition(node, long),
            Trouble::CutFromEtcd => {
                let place = self.process(node, gateway).0;
                self.shut(vec![(place, Place::Etcd)], long);
            }
            Trouble::PauseEtcd => {
                self.world.etcd.door().set(Stand::Held);
                self.after(long, |world| world.etcd.door().set(Stand::Open));
            }
            Trouble::LoseLease => {
                if let Some(process) = self.process(node, gateway).1 {
                    process.lose_lease();
                }
            }
            Trouble::DisturbWatches => {
                if let Some(process) = self.process(node, gateway).1 {
                    let deaf = self.random.random_bool(0.3);
                    process.disturb_watches(long / 5, deaf);
                    self.after(long, move |_| process.disturb_watches(Duration::ZERO, false));
                }
            }
            Trouble::Jump => simulated::jump(self.random.random_range(-3_600_000..3_600_000)),
            Trouble::RestoreEtcd => match self.snapshot.take() {
                None => self.snapshot = Some(self.world.etcd.snapshot()),
                Some(snapshot) => self.world.etcd.restore(&snapshot, recovered),
            },
            Trouble::Rot => self.rot(),
            Trouble::LoseDrive if self.lost => {}
            Trouble::LoseDrive => self.lose_drive(node, long),
        }
    }

    /// A gateway or a node, with its handle on etcd if it has one.
    fn process(&mut self, node: usize, gateway: usize) -> (Place, Option<Arc<SimulatedCoordinator>>) {
        if self.random.random_bool(0.7) {
            let process = Arc::clone(&self.world.gateways.lock()[gateway]);
            (Place::Gateway(gateway), Some(Arc::clone(&process.coordinator)))
        } else {
            (Place::Node(node), self.world.nodes[node].coordinator())
        }
    }

    fn after(&mut self, time: Duration, recover: impl FnOnce(&Arc<World>) + Send + 'static) {
        let world = Arc::clone(&self.world);
        self.recoveries.spawn(async move {
            tokio::time::sleep(time).await;
            recover(&world);
        });
    }

    fn kill_node(&mut self, node: usize, long: Duration) {
        self.world.nodes[node].kill(self.random.random());
        self.after(long, move |world| world.nodes[node].restart(world));
    }

    fn lose_drive(&mut self, node: usize, long: Duration) {
        self.lost = true;
        let victim = &self.world.nodes[node];
        victim.kill(self.random.random());
        let drive = self.random.random_range(0..victim.drives.len());
        let hidden = self.world.plan.broken == Some(Broken::VotesEmpty);
        victim.drives[drive].replace(u32::from(!hidden));
        self.after(long, move |world| world.nodes[node].restart(world));
    }

    /// Arms a drive; as soon as its power is gone the node is dead.
    fn cut_power(&mut self, node: usize, long: Duration) {
        let victim = Arc::clone(&self.world.nodes[node]);
        let drive = self.random.random_range(0..victim.drives.len());
        victim.drives[drive].inject(Fault::power_cut_after(self.random.random_range(0..200)));
        let (world, seed) = (Arc::clone(&self.world), self.random.random());
        self.recoveries.spawn(async move {
            let armed = async {
                while victim.is_running() && victim.drives[drive].has_power() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(long, armed).await.is_ok() && victim.is_running() {
                note!(world.trace, "node {node} has lost power");
                victim.kill(seed);
                tokio::time::sleep(long / 2).await;
                victim.restart(&world);
            }
            victim.drives[drive].clear_faults();
        });
    }

    fn kill_gateway(&mut self, gateway: usize, long: Duration) {
        self.world.gateways.lock()[gateway].kill();
        let world = Arc::clone(&self.world);
        self.recoveries.spawn(async move {
            tokio::time::sleep(long / 10).await;
            let next = Gateway::start(&world, gateway).await;
            let before = std::mem::replace(&mut world.gateways.lock()[gateway], next);
            before.kill();
        });
    }

    fn shut(&mut self, ways: Vec<(Place, Place)>, long: Duration) {
        let doors: Vec<_> = ways.into_iter().map(|(from, to)| self.world.network.way(from, to)).collect();
        doors.iter().for_each(|door| door.set(Stand::Shut));
        self.after(long, move |_| doors.iter().for_each(|door| door.set(Stand::Open)));
    }

    /// Takes a node off the network, a gateway from some nodes, or one direction of either.
    fn partition(&mut self, node: usize, long: Duration) {
        let Plan { shape, gateways, .. } = self.world.plan;
        let everywhere = (0..shape.nodes).map(Place::Node).chain((0..gateways).map(Place::Gateway));
        let one = if self.random.random_bool(0.5) {
            Place::Node(node)
        } else {
            Place::Gateway(self.random.random_range(0..gateways))
        };
        let (there, back) = [(true, true), (true, false), (false, true)][self.random.random_range(0..3)];
        let reach = self.random.random_range(0.3..1.0);
        let mut ways = Vec::new();
        for other in everywhere {
            if other != one && self.random.random_bool(reach) {
                ways.extend(there.then_some((one, other)));
                ways.extend(back.then_some((other, one)));
            }
        }
        self.shut(ways, long);
    }

    /// Flips a bit in, or loses, some shard files of the one drive.
    fn rot(&mut self) {
        let drive = &self.world.nodes[self.rotten].drives[0];
        for path in drive.paths() {
            if !path.starts_with("shards/") || self.random.random_bool(0.5) {
                continue;
            }
            note!(self.world.trace, "rot of {path}");
            if self.random.random_bool(0.3) {
                drive.lose(&path);
            } else {
                let at = self.random.random::<u32>() as usize;
                drive.damage(&path, |bytes| {
                    if !bytes.is_empty() {
                        let at = at % bytes.len();
                        bytes[at] ^= 1;
                    }
                });
            }
        }
    }
}

/// What drives remember of an etcd that has lost its state, and recovery makes of it: partitions begin a new epoch, above all
/// that slots have adopted, which counts as a purge.
fn recovered(entry: &Entry) -> Option<Bytes> {
    let mut record =
        PartitionRecord::decode(&entry.value).ok().filter(|_| entry.key.starts_with("partitions/"))?;
    record.epoch.0 += 1 << 32;
    (record.purge_epoch, record.sweep_epoch) = (record.epoch.0, record.epoch.0);
    Some(record.encode().into())
}
