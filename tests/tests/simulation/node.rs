//! A storage node on simulated drives: what survives it, and the process that comes and goes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coffer_common::cluster::{Cluster, ClusterOptions, DriveRecord, NodeRecord, live_key, node_key};
use coffer_common::coordination::Coordinator;
use coffer_common::coordination::Expected;
use coffer_common::coordination::simulated::SimulatedCoordinator;
use coffer_common::node::{
    Door, HandOverPage, HandOverRequest, ListPage, ListRequest, NodeClient, NodeError, NodeInfo, OwedPage,
    OwedRequest, PrepareShard, PurgeRequest, ReadShard, ShardBlocks, ShardPieces, SlotCall, Snapshot,
    SnapshotKind, Stand,
};
use coffer_common::protocol::message::{SlotReply, SlotRequest, VersionState};
use coffer_common::protocol::purge::Evidence;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{BucketId, DriveId, NodeId};
use coffer_storage_node::{
    Call, Effect, Fault, SimulatedDrive, StorageNode, When, heal, join, purge, settle,
};
use parking_lot::Mutex;

use crate::network::Place;
use crate::plan::Broken;
use crate::trace::{Trace, note};
use crate::world::World;

/// Between two rounds of a drive's background work.
const STEP: Duration = Duration::from_secs(1);
/// Between two tries at something that needs etcd.
const RETRY: Duration = Duration::from_millis(500);
/// How long a start waits for a map before it says so.
const MAP_PATIENCE: Duration = Duration::from_secs(600);
/// How often partitions are purged: orphans are young here.
const PURGE_PERIOD: Duration = Duration::from_secs(3);

/// Where a node is found: whichever process runs there now answers.
pub(crate) struct Host {
    id: NodeId,
    door: Arc<Door>,
    trace: Arc<Trace>,
    broken: Option<Broken>,
    /// The process, and how many there were.
    running: Mutex<(u64, Option<Arc<StorageNode>>)>,
}

impl Host {
    pub(crate) fn new(id: NodeId, trace: &Arc<Trace>, broken: Option<Broken>) -> Arc<Self> {
        let (door, trace, running) = (Arc::default(), Arc::clone(trace), Mutex::default());
        Arc::new(Self { id, door, trace, broken, running })
    }

    /// What a broken node makes of a request.
    fn distort(&self, request: SlotRequest) -> SlotRequest {
        match (self.broken, request) {
            (Some(Broken::UnkeptFences), SlotRequest::Fence { .. }) => {
                SlotRequest::Query { inline_data: false }
            }
            (_, request) => request,
        }
    }

    /// What a broken node makes of an answer.
    fn distorted(&self, mut reply: SlotReply) -> SlotReply {
        if let (Some(Broken::AllStable), SlotReply::View(view, _)) = (self.broken, &mut reply)
            && let Some(current) = &mut view.current
        {
            current.state = VersionState::Stable;
        }
        reply
    }

    pub(crate) fn id(&self) -> &NodeId {
        &self.id
    }

    /// What everything to and from it passes.
    pub(crate) fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// The process that runs there.
    pub(crate) fn running(&self) -> Option<Arc<StorageNode>> {
        self.running.lock().1.clone()
    }

    fn replace(&self, node: Option<Arc<StorageNode>>) {
        let mut running = self.running.lock();
        *running = (running.0 + 1, node);
    }

    /// Has the process do something; if it dies meanwhile, nobody hears what.
    async fn ask<T, F>(&self, ask: impl FnOnce(Arc<StorageNode>) -> F) -> Result<T, NodeError>
    where
        F: Future<Output = Result<T, NodeError>>,
    {
        let gone = || NodeError::Unreachable { node: self.id.to_string(), reason: "it is dead".into() };
        let (life, node) = self.running.lock().clone();
        let done = ask(node.ok_or_else(gone)?).await;
        if self.running.lock().0 == life { done } else { Err(gone()) }
    }
}

#[async_trait]
impl NodeClient for Host {
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError> {
        let (address, request) = (call.address, call.request.name());
        let call = SlotCall { request: self.distort(call.request), ..call };
        let reply = self.ask(|node| async move { node.call(call).await }).await;
        let reply = reply.map(|reply| self.distorted(reply));
        let told = match &reply {
            Ok(SlotReply::View(..)) => "view",
            Ok(SlotReply::Committed { .. }) => "committed",
            Ok(SlotReply::Done) => "done",
            Ok(SlotReply::Refused(_)) => "refused",
            Err(_) => "error",
        };
        note!(self.trace, "{}/{}.{} {request} {told}", self.id, address.partition.0, address.slot.0);
        reply
    }

    async fn prepare_shard(&self, header: PrepareShard, pieces: ShardPieces) -> Result<SlotReply, NodeError> {
        let address = header.address;
        let reply = self.ask(|node| async move { node.prepare_shard(header, pieces).await }).await;
        note!(self.trace, "{}/{} shard {}", self.id, address.partition.0, reply.is_ok());
        reply
    }

    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        self.ask(|node| async move { node.read_shard(request).await }).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, NodeError> {
        let page = self.ask(|node| async move { node.list(request).await }).await;
        note!(self.trace, "{} list {:?}", self.id, page.as_ref().map(|page| page.items.len()).ok());
        page
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.ask(|node| async move { node.info().await }).await
    }

    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        self.ask(|node| async move { node.snapshot(kind).await }).await
    }

    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError> {
        self.ask(|node| async move { node.store_snapshot(snapshot).await }).await
    }

    async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError> {
        self.ask(|node| async move { node.adopt_bucket(bucket, revision).await }).await
    }

    async fn hand_over(&self, request: HandOverRequest) -> Result<HandOverPage, NodeError> {
        self.ask(|node| async move { node.hand_over(request).await }).await
    }

    async fn owed(&self, request: OwedRequest) -> Result<OwedPage, NodeError> {
        self.ask(|node| async move { node.owed(request).await }).await
    }

    async fn purge(&self, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        let (partition, step) = (request.address.partition.0, request.step);
        let told = self.ask(|node| async move { node.purge(request).await }).await;
        note!(
            self.trace,
            "{}/{partition} {step:?} of a purge {:?}",
            self.id,
            told.as_ref().map(|told| told.iter().map(|evidence| evidence.held).collect::<Vec<_>>()).ok()
        );
        told
    }
}

/// The process of a node.
struct Process {
    life: Arc<Door>,
    stop: Shutdown,
    coordinator: Arc<Mutex<Option<Arc<SimulatedCoordinator>>>>,
}

/// See the module.
pub(crate) struct Node {
    index: usize,
    pub(crate) host: Arc<Host>,
    pub(crate) drives: Vec<SimulatedDrive>,
    process: Mutex<Option<Process>>,
}

impl Node {
    pub(crate) fn new(index: usize, host: &Arc<Host>, drives: Vec<SimulatedDrive>) -> Arc<Self> {
        Arc::new(Self { index, host: Arc::clone(host), drives, process: Mutex::default() })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.lock().is_some()
    }

    /// The handle on etcd, once the process has a session.
    pub(crate) fn coordinator(&self) -> Option<Arc<SimulatedCoordinator>> {
        self.process.lock().as_ref()?.coordinator.lock().clone()
    }

    /// The drives take whoever opens them.
    pub(crate) fn open(&self) {
        if self.host.broken == Some(Broken::LyingSyncs) {
            for call in [Call::Sync, Call::SyncFolder] {
                let lie = Fault::new(call, "", When::Always, Effect::Lost);
                self.drives.iter().for_each(|drive| drive.inject(lie.clone()));
            }
        }
        let node = StorageNode::open_simulated(self.host.id.clone(), &self.drives);
        self.host.replace(Some(node.expect("a node opens on drives that only lost power")));
    }

    /// What the node says of itself to the cluster.
    pub(crate) async fn record(&self) -> NodeRecord {
        let info = self.host.info().await.expect("a node that runs says what it is");
        NodeRecord {
            address: format!("{}:9100", info.id),
            zone: String::new(),
            drives: info.drives.iter().map(DriveRecord::from).collect(),
            version: info.version,
            protocol: info.protocol,
            endpoints: Vec::new(),
            id: info.id,
        }
    }

    /// Starts the process on an open node.
    pub(crate) fn start(self: &Arc<Self>, world: &Arc<World>) {
        let (life, stop) = (Arc::<Door>::default(), Shutdown::new());
        let coordinator = Arc::default();
        let process =
            Process { life: Arc::clone(&life), stop: stop.clone(), coordinator: Arc::clone(&coordinator) };
        *self.process.lock() = Some(process);
        let (node, world) = (Arc::clone(self), Arc::clone(world));
        tokio::spawn(async move {
            let work = node.work(&world, &life, &stop, &coordinator);
            tokio::select! {
                biased;
                () = stop.told() => {}
                () = work => {}
            }
        });
    }

    async fn work(
        &self,
        world: &Arc<World>,
        life: &Arc<Door>,
        stop: &Shutdown,
        place: &Mutex<Option<Arc<SimulatedCoordinator>>>,
    ) {
        let here = Place::Node(self.index);
        let doors = vec![Arc::clone(life), Arc::clone(&self.host.door), world.network.way(here, Place::Etcd)];
        let coordinator = world.etcd.connect(doors).await;
        *place.lock() = Some(Arc::clone(&coordinator));
        let record = self.record().await;
        let value: bytes::Bytes = serde_json::to_vec(&record).expect("plain data is always JSON").into();
        while coordinator.put(&node_key(&record.id), value.clone(), Expected::Any, false).await.is_err()
            || coordinator.put(&live_key(&record.id), bytes::Bytes::new(), Expected::Any, true).await.is_err()
        {
            tokio::time::sleep(RETRY).await;
        }
        let Some(node) = self.host.running() else { return };
        let options = ClusterOptions {
            coordinator,
            clients: world.network.clients(here, life),
            seeds: Vec::new(),
            local: Some(Arc::clone(&node) as Arc<dyn NodeClient>),
        };
        let cluster = Cluster::start(options, MAP_PATIENCE).await.expect("there is a map");
        join::start(&node, &cluster, stop);
        settle::start(&node, &cluster, stop);
        if self.host.broken != Some(Broken::NoCatchUp) {
            heal::start(&node, &cluster, stop);
        }
        purge::start(&node, &cluster, PURGE_PERIOD, stop);
        note!(world.trace, "{} serves", self.host.id);
        loop {
            tokio::time::sleep(STEP).await;
            node.step();
        }
    }

    /// The node loses power: of what its drives had not synced some is kept, by the seed.
    pub(crate) fn kill(&self, seed: u64) {
        let Some(process) = self.process.lock().take() else { return };
        process.life.set(Stand::Shut);
        self.host.door.set(Stand::Shut);
        for (drive, nth) in self.drives.iter().zip(0..) {
            drive.clear_faults();
            drive.crash(seed + nth);
        }
        self.host.replace(None);
        process.stop.tell();
        if let Some(coordinator) = process.coordinator.lock().take() {
            coordinator.kill();
        }
    }

    /// The node comes back after [`Self::kill`].
    pub(crate) fn restart(self: &Arc<Self>, world: &Arc<World>) {
        if !self.is_running() {
            self.open();
            self.host.door.set(Stand::Open);
            self.start(world);
        }
    }

    /// Stops or continues the process.
    pub(crate) fn hold(&self, stand: Stand) {
        if let Some(process) = &*self.process.lock() {
            process.life.set(stand);
            self.host.door.set(stand);
        }
    }
}
