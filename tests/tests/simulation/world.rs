//! The whole cluster of one seed, on one thread: etcd, network, nodes, gateways, and what clients see.
//!
//! 1. Drives are formatted, nodes opened, the first layout applied; nodes and gateways start.
//! 2. Clients and troubles run until all clients are done.
//! 3. Quiet: every process runs, nothing is lost; what is left undecided has time to settle.
//! 4. The last reads, and the judgement (`check`).

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use coffer_common::cluster::{FirstLayout, NodeRecord, first_layout, node_key};
use coffer_common::coordination::simulated::SimulatedEtcd;
use coffer_common::coordination::{Coordinator, Expected};
use coffer_common::node::{DriveInfo, NodeClient as _, Stand};
use coffer_common::simulated;
use coffer_common::time::UnixMillis;
use coffer_common::types::{ClusterId, DriveId, NodeId};
use coffer_gateway::object::CreateBucketError;
use coffer_storage_node::SimulatedDrive;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::body;
use crate::check;
use crate::client::Client;
use crate::gateway::Gateway;
use crate::history::History;
use crate::keeper::{Keeper, Kept};
use crate::network::Network;
use crate::node::{Host, Node};
use crate::panics;
use crate::plan::{Broken, Plan, Shape};
use crate::trace::Trace;
use crate::trouble;
use crate::upload::Upload;

/// The bucket that all clients use.
pub(crate) const BUCKET: &str = "bucket";
/// The cluster: the same for all seeds, and its drives too, so that a shape has one layout.
const CLUSTER: ClusterId = ClusterId(7);
/// Bytes of a journal segment: the least that an inline shard fits in.
const SEGMENT_BYTES: u32 = 1 << 20;
/// When all seeds begin.
const EPOCH: UnixMillis = UnixMillis(1_700_000_000_000);
/// Long enough for watches to list again, for sessions, and for requests that are still on their way.
const QUIET: Duration = Duration::from_secs(45);
/// What is unfinished is tried again at the longest pauses within this many more looks, a while apart.
const LOOKS: usize = 15;
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) trace: Arc<Trace>,
    pub(crate) etcd: Arc<SimulatedEtcd>,
    pub(crate) network: Arc<Network>,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) gateways: Mutex<Vec<Arc<Gateway>>>,
    pub(crate) history: History,
    pub(crate) uploads: Mutex<Vec<Upload>>,
    pub(crate) kept: Kept,
}

/// What a seed came to.
#[derive(Debug)]
pub(crate) struct Report {
    /// Everything that is wrong; nothing if all is well.
    pub(crate) wrong: Vec<String>,
    /// A digest of all events, and their number.
    pub(crate) digest: (u64, u64),
    /// Requests of clients with a known or unknown effect.
    pub(crate) operations: usize,
}

/// Runs a plan on a runtime of its own.
pub(crate) fn run(plan: Plan, shown: bool) -> Report {
    panics::watch();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let _world = simulated::enter(plan.seed, EPOCH);
        if let Some(Broken::Rule(flaw)) = plan.broken {
            simulated::break_rule(flaw);
        }
        let world = World::start(plan, shown).await;
        world.live().await;
        let mut wrong = check::after_quiet(&world).await;
        wrong.extend(world.history.judge());
        wrong.extend(panics::take());
        world.stop();
        Report { wrong, digest: world.trace.digest(), operations: world.history.len() }
    })
}

impl World {
    async fn start(plan: Plan, shown: bool) -> Arc<Self> {
        let trace = Arc::new(Trace::new(shown));
        let etcd = SimulatedEtcd::start(Duration::from_micros(100)..Duration::from_millis(3));
        let hosts: Vec<_> = (0..plan.shape.nodes)
            .map(|index| Host::new(NodeId(format!("n{index}")), &trace, plan.broken))
            .collect();
        let nodes: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(index, host)| Node::new(index, host, drives_of(&plan, index)))
            .collect();
        nodes.iter().for_each(|node| node.open());
        let network = Network::new(hosts, Plan::quiet_network(), plan.seed);
        lay_out(&etcd, &nodes, plan.shape).await;
        let world = Arc::new(Self {
            plan,
            trace,
            etcd,
            network,
            nodes,
            gateways: Mutex::default(),
            history: History::default(),
            uploads: Mutex::default(),
            kept: Kept::default(),
        });
        world.nodes.iter().for_each(|node| node.start(&world));
        for index in 0..world.plan.gateways {
            let gateway = Gateway::start(&world, index).await;
            world.gateways.lock().push(gateway);
        }
        world.make_bucket().await;
        world
    }

    pub(crate) fn any_gateway(&self, random: &mut StdRng) -> Arc<Gateway> {
        let gateways = self.gateways.lock();
        Arc::clone(&gateways[random.random_range(0..gateways.len())])
    }

    async fn make_bucket(&self) {
        let gateway = Arc::clone(&self.gateways.lock()[0]);
        let made = gateway.serve(|store| async move { store.create_bucket(body::new_bucket(BUCKET)).await });
        match made.await.expect("nobody has died yet") {
            Ok(_) | Err(CreateBucketError::Exists(_)) => {}
            Err(error) => panic!("no bucket: {error}"),
        }
    }

    /// Clients work while troubles come; then everything recovers and gets quiet.
    async fn live(self: &Arc<Self>) {
        self.network.calm(&self.plan.network);
        let clients = (0..self.plan.clients).map(|number| Client::new(self, number).run());
        let keepers = (0..self.plan.keepers).map(|number| Keeper::new(self, number).run());
        let clients: Vec<_> = clients.map(tokio::spawn).chain(keepers.map(tokio::spawn)).collect();
        let troubles = trouble::Troubles::start(self);
        for client in join_all(clients).await {
            client.expect("a client does not panic");
        }
        troubles.end().await;
        self.network.calm(&Plan::quiet_network());
        self.etcd.door().set(Stand::Open);
        for node in &self.nodes {
            node.hold(Stand::Open);
            node.restart(self);
        }
        tokio::time::sleep(QUIET).await;
        self.wait_until_finished().await;
    }

    /// Waits until nothing is unfinished that any drive knows of; not for ever.
    pub(crate) async fn wait_until_finished(&self) {
        for _ in 0..LOOKS {
            if self.is_finished().await {
                return;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Whether no drive holds anything that is COMMITTED only, lacks a shard or owes anything.
    async fn is_finished(&self) -> bool {
        let finished = |drive: &DriveInfo| {
            drive.unstable == 0 && drive.heal.complete && (drive.heal.missing, drive.heal.owed) == (0, 0)
        };
        for node in &self.nodes {
            let info = node.host.info().await;
            if !info.is_ok_and(|info| info.drives.iter().all(finished)) {
                return false;
            }
        }
        true
    }

    /// Ends all processes, so that nothing of this world is left on the thread.
    fn stop(&self) {
        self.gateways.lock().drain(..).for_each(|gateway| gateway.kill());
        self.nodes.iter().for_each(|node| node.kill(0));
    }
}

fn drives_of(plan: &Plan, node: usize) -> Vec<SimulatedDrive> {
    let ids = (1..=plan.shape.drives).map(|drive| DriveId((node * plan.shape.drives + drive) as u128));
    ids.map(|id| SimulatedDrive::format(CLUSTER, id, SEGMENT_BYTES, plan.seed ^ id.0 as u64)).collect()
}

/// Writes the nodes' records and the first layout.
async fn lay_out(etcd: &Arc<SimulatedEtcd>, nodes: &[Arc<Node>], shape: Shape) {
    let coordinator = etcd.connect(Vec::new()).await;
    let mut records = Vec::new();
    for node in nodes {
        records.push(node.record().await);
    }
    for record in &records {
        let value = serde_json::to_vec(record).expect("plain data is always JSON");
        coordinator
            .put(&node_key(&record.id), value.into(), Expected::Any, false)
            .await
            .expect("etcd answers");
    }
    let first = layout_of(shape, &records);
    assert!(first.apply(&*coordinator).await.expect("etcd answers"), "an empty etcd takes the first layout");
    coordinator.close().await;
}

/// The layout of a shape, made once.
fn layout_of(shape: Shape, records: &[NodeRecord]) -> FirstLayout {
    static MADE: OnceLock<Mutex<Vec<(Shape, FirstLayout)>>> = OnceLock::new();
    let mut made = MADE.get_or_init(Mutex::default).lock();
    if let Some((_, layout)) = made.iter().find(|(known, _)| *known == shape) {
        return layout.clone();
    }
    let layout = first_layout(records, CLUSTER).expect("these drives have a layout");
    made.push((shape, layout.clone()));
    layout
}
