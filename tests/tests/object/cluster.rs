//! An object layer over real storage nodes in this process, with a gate before each node that lets faults in.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use coffer_common::cluster::{Cluster, ClusterOptions, DriveRecord, NodeRecord, first_layout, node_key};
use coffer_common::coordination::{Coordinator, Expected, LocalCoordinator, SnapshotStore};
use coffer_common::node::{
    HandOverPage, HandOverRequest, ListItem, ListPage, ListRequest, NodeClient, NodeError, NodeInfo,
    OwedPage, OwedRequest, PrepareShard, PurgeRequest, ReadShard, ShardBlocks, ShardPieces, SlotCall,
    Snapshot, SnapshotKind, SnapshotLog,
};
use coffer_common::protocol::message::{SlotReply, SlotRequest};
use coffer_common::protocol::purge::Evidence;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::{
    BucketId, ClusterId, DriveId, NodeId, ObjectKey, OpId, RegisterKey, RegisterKind, SlotSet,
};
use coffer_gateway::object::{ObjectStore, StoreSettings};
use coffer_storage_node::{NodeConfig, StorageNode, format, settle};

/// What a slow node takes for a block.
pub(crate) const SLOW_BLOCK: Duration = Duration::from_secs(20);
/// However slow the machine is, what comes by itself has come by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node behind switches.
pub(crate) struct Gate {
    pub(crate) id: NodeId,
    pub(crate) inner: Arc<StorageNode>,
    /// Answers nothing.
    pub(crate) down: AtomicBool,
    /// Answers nothing to COMMIT and STABLE.
    pub(crate) loses_commits: AtomicBool,
    /// Answers nothing to STABLE.
    pub(crate) loses_stable: AtomicBool,
    /// Holds the COMMITs of the op that commits this key first, as long as it is named.
    pub(crate) holds_first_of: Mutex<Option<String>>,
    /// That op.
    pub(crate) held: Mutex<Option<OpId>>,
    /// Requests to registers that came through.
    pub(crate) calls: AtomicUsize,
    /// Requests that the node has not answered yet.
    running: AtomicUsize,
    /// The slots that the last STABLE has named.
    pub(crate) acknowledged: Mutex<Option<SlotSet>>,
    /// Takes half a second for each piece of a shard that is written.
    pub(crate) slow_writes: AtomicBool,
    /// Takes [`SLOW_BLOCK`] for each block.
    pub(crate) slow_reads: AtomicBool,
    /// Sends blocks with a flipped bit.
    pub(crate) damages_reads: AtomicBool,
    /// Breaks off after the first block.
    pub(crate) cuts_reads: AtomicBool,
    /// Does not answer reads of objects' registers as long as this is set.
    pub(crate) holds_object_reads: AtomicBool,
    /// Adopts no revision of a bucket.
    pub(crate) adopts_nothing: AtomicBool,
    /// Answers no listing.
    pub(crate) lists_nothing: AtomicBool,
    /// Stops a listing's page at one of the next of these keys, as if it had looked for too long.
    pub(crate) stops_at: Mutex<BTreeSet<ObjectKey>>,
    /// Pages that were stopped.
    pub(crate) stopped: AtomicUsize,
    /// Leaves out one of its drives from what it stops, another one each time.
    pub(crate) leaves_drives_out: AtomicBool,
    /// Most objects that a page below a prefix was to have.
    pub(crate) longest_below: AtomicU32,
    /// How far its clock is ahead.
    pub(crate) clock_ahead_ms: AtomicI64,
}

impl Gate {
    fn check(&self) -> Result<(), NodeError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(NodeError::Unreachable { node: self.id.to_string(), reason: "gate is shut".into() });
        }
        Ok(())
    }

    fn holds(&self, register: &RegisterKey, op: OpId) -> bool {
        let named = self.holds_first_of.lock().unwrap();
        let same = named.as_deref().is_some_and(|key| register.key.as_bytes() == key.as_bytes());
        same && *self.held.lock().unwrap().get_or_insert(op) == op
    }

    /// What is told of a page by a node that stops looking at one of [`Self::stops_at`].
    fn stop(&self, request: &ListRequest, mut page: ListPage) -> ListPage {
        let stops = self.stops_at.lock().unwrap();
        let below = |key: &&ObjectKey| key.as_bytes().starts_with(&request.prefix);
        let encoded = |key: &ObjectKey| RegisterKey::object(request.bucket, key.clone()).encode();
        let ahead = |stop: &Vec<u8>| stop.as_slice() > &request.after[..];
        let turn = self.stopped.load(Ordering::SeqCst) % 4;
        let mut next = stops.iter().filter(below).map(encoded).filter(ahead);
        let Some(stop) = next.nth(turn).filter(|_| request.resumes && request.kind == RegisterKind::Object)
        else {
            return page;
        };
        let seen = |item: &&ListItem| match item {
            ListItem::Entry(entry) | ListItem::CommonPrefix { witness: entry, .. } => {
                entry.register.encode() <= stop
            }
        };
        let seen = page.items.iter().take_while(seen).count();
        if seen == page.items.len() && page.truncated {
            // It ended before that.
            return page;
        }
        page.items.truncate(seen);
        let end = match page.items.last() {
            Some(ListItem::Entry(entry)) => entry.register.encode(),
            Some(ListItem::CommonPrefix { prefix, .. }) => {
                let prefix = RegisterKey::encode_prefix(request.bucket, request.kind, prefix);
                [prefix.as_slice(), &[0xFF]].concat()
            }
            None => Vec::new(),
        };
        page.truncated = true;
        page.walked = if stop > end { stop.into() } else { Bytes::new() };
        let stopped = self.stopped.fetch_add(1, Ordering::SeqCst);
        if self.leaves_drives_out.load(Ordering::SeqCst) {
            page.drives.remove(stopped % page.drives.len());
        }
        page
    }
}

#[async_trait]
impl NodeClient for Gate {
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError> {
        self.check()?;
        if self.loses_commits.load(Ordering::SeqCst)
            && matches!(call.request, SlotRequest::Commit { .. } | SlotRequest::Stable { .. })
        {
            return Err(NodeError::Timeout { node: self.id.to_string() });
        }
        if self.loses_stable.load(Ordering::SeqCst) && matches!(call.request, SlotRequest::Stable { .. }) {
            return Err(NodeError::Timeout { node: self.id.to_string() });
        }
        if let SlotRequest::Commit { version, .. } = &call.request {
            while self.holds(&call.register, version.op) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        if let SlotRequest::Stable { acknowledged, .. } = &call.request {
            *self.acknowledged.lock().unwrap() = Some(*acknowledged);
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        let reads_object =
            call.register.kind == RegisterKind::Object && matches!(call.request, SlotRequest::Query { .. });
        while reads_object && self.holds_object_reads.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _running = Running::begin(&self.running);
        self.inner.call(call).await
    }

    async fn prepare_shard(&self, header: PrepareShard, pieces: ShardPieces) -> Result<SlotReply, NodeError> {
        self.check()?;
        let pieces = if self.slow_writes.load(Ordering::SeqCst) { held_up(pieces) } else { pieces };
        let _running = Running::begin(&self.running);
        self.inner.prepare_shard(header, pieces).await
    }

    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        self.check()?;
        let mut blocks = self.inner.read_shard(request).await?;
        let (slow, damages, cuts) = (
            self.slow_reads.load(Ordering::SeqCst),
            self.damages_reads.load(Ordering::SeqCst),
            self.cuts_reads.load(Ordering::SeqCst),
        );
        if !slow && !damages && !cuts {
            return Ok(blocks);
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut sent = 0;
            while let Some(mut block) = blocks.recv().await {
                if slow {
                    tokio::time::sleep(SLOW_BLOCK).await;
                }
                if damages && let Ok(block) = &mut block {
                    let mut bytes = block.data.to_vec();
                    bytes[0] ^= 1;
                    block.data = bytes.into();
                }
                if (cuts && sent == 1) || sender.send(block).await.is_err() {
                    return;
                }
                sent += 1;
            }
        });
        Ok(receiver)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, NodeError> {
        self.check()?;
        if self.lists_nothing.load(Ordering::SeqCst) {
            return Err(NodeError::Timeout { node: self.id.to_string() });
        }
        let all = request.delimiter.is_empty() && request.kind == RegisterKind::Object;
        if all && !request.prefix.is_empty() {
            self.longest_below.fetch_max(request.limit, Ordering::SeqCst);
        }
        let page = self.inner.list(request.clone()).await?;
        Ok(self.stop(&request, page))
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.check()?;
        let info = self.inner.info().await?;
        let clock_ms = info.clock_ms.saturating_add_signed(self.clock_ahead_ms.load(Ordering::SeqCst));
        Ok(NodeInfo { clock_ms, ..info })
    }

    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        self.check()?;
        self.inner.snapshot(kind).await
    }

    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError> {
        self.check()?;
        self.inner.store_snapshot(snapshot).await
    }

    async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError> {
        self.check()?;
        if self.adopts_nothing.load(Ordering::SeqCst) {
            return Err(NodeError::Timeout { node: self.id.to_string() });
        }
        self.inner.adopt_bucket(bucket, revision).await
    }

    async fn hand_over(&self, request: HandOverRequest) -> Result<HandOverPage, NodeError> {
        self.check()?;
        self.inner.hand_over(request).await
    }

    async fn owed(&self, request: OwedRequest) -> Result<OwedPage, NodeError> {
        self.check()?;
        self.inner.owed(request).await
    }

    async fn purge(&self, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        self.check()?;
        self.inner.purge(request).await
    }
}

/// A request that counts as long as it is there.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The same pieces, but each one half a second late.
fn held_up(mut pieces: ShardPieces) -> ShardPieces {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The cluster behind these gates.
async fn follow(gates: &[Arc<Gate>], coordinator: Arc<dyn Coordinator>) -> Cluster {
    let by_id: HashMap<NodeId, Arc<dyn NodeClient>> =
        gates.iter().map(|gate| (gate.id.clone(), Arc::clone(gate) as Arc<dyn NodeClient>)).collect();
    let options = ClusterOptions {
        coordinator,
        clients: Arc::new(move |record| Arc::clone(&by_id[&record.id])),
        seeds: Vec::new(),
        local: None,
    };
    Cluster::start(options, PATIENCE).await.unwrap()
}

/// The coordinator's image, in memory.
#[derive(Default)]
struct Image(Mutex<Option<Snapshot>>);

#[async_trait]
impl SnapshotStore for Image {
    fn copies(&self) -> usize {
        1
    }

    async fn load(&self) -> Vec<Option<SnapshotLog>> {
        vec![self.0.lock().unwrap().clone().map(SnapshotLog::from)]
    }

    async fn store(&self, snapshot: Snapshot) -> usize {
        *self.0.lock().unwrap() = Some(snapshot);
        1
    }
}

/// A running cluster.
pub(crate) struct Bench {
    pub(crate) store: ObjectStore,
    pub(crate) gates: Vec<Arc<Gate>>,
    pub(crate) cluster: Cluster,
    pub(crate) shutdown: Shutdown,
    dirs: Vec<tempfile::TempDir>,
}

impl Bench {
    /// `nodes` nodes with `drives` drives each.
    pub(crate) async fn start(nodes: usize, drives: usize) -> Self {
        let cluster_id = ClusterId::random();
        let coordinator = LocalCoordinator::start(Arc::new(Image::default())).await.unwrap();
        let (mut gates, mut records, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..nodes {
            let dir = tempfile::tempdir().unwrap();
            let id = NodeId(format!("n{index}"));
            let paths: Vec<_> = (0..drives).map(|drive| dir.path().join(format!("d{drive}"))).collect();
            for path in &paths {
                format(path, cluster_id, DriveId::random()).unwrap();
            }
            let config = NodeConfig { node: id.clone(), drives: paths, cluster: None, replace: Vec::new() };
            let node = StorageNode::open(config).await.unwrap();
            let info = node.info().await.unwrap();
            records.push(NodeRecord {
                id: id.clone(),
                address: format!("{id}:9100"),
                zone: String::new(),
                drives: info.drives.iter().map(DriveRecord::from).collect(),
                version: info.version,
                protocol: info.protocol,
                endpoints: Vec::new(),
            });
            gates.push(Arc::new(Gate {
                id,
                inner: node,
                down: AtomicBool::default(),
                loses_commits: AtomicBool::default(),
                loses_stable: AtomicBool::default(),
                holds_first_of: Mutex::default(),
                held: Mutex::default(),
                calls: AtomicUsize::default(),
                running: AtomicUsize::default(),
                acknowledged: Mutex::default(),
                slow_writes: AtomicBool::default(),
                slow_reads: AtomicBool::default(),
                damages_reads: AtomicBool::default(),
                cuts_reads: AtomicBool::default(),
                holds_object_reads: AtomicBool::default(),
                adopts_nothing: AtomicBool::default(),
                lists_nothing: AtomicBool::default(),
                stops_at: Mutex::default(),
                stopped: AtomicUsize::default(),
                leaves_drives_out: AtomicBool::default(),
                longest_below: AtomicU32::default(),
                clock_ahead_ms: AtomicI64::default(),
            }));
            dirs.push(dir);
        }
        for record in &records {
            let value = serde_json::to_vec(record).unwrap();
            coordinator.put(&node_key(&record.id), value.into(), Expected::Any, false).await.unwrap();
        }
        assert!(first_layout(&records, cluster_id).unwrap().apply(&*coordinator).await.unwrap());
        let cluster = follow(&gates, coordinator).await;
        let shutdown = Shutdown::new();
        gates.iter().for_each(|gate| settle::start(&gate.inner, &cluster, &shutdown));
        let store = ObjectStore::start(cluster.clone(), StoreSettings::default(), shutdown.clone()).await;
        Self { store, gates, cluster, shutdown, dirs }
    }

    /// Another gateway on the same cluster.
    pub(crate) async fn gateway(&self) -> ObjectStore {
        ObjectStore::start(self.cluster.clone(), StoreSettings::default(), self.shutdown.clone()).await
    }

    /// Another gateway with these settings.
    pub(crate) async fn gateway_of(&self, settings: StoreSettings) -> ObjectStore {
        ObjectStore::start(self.cluster.clone(), settings, self.shutdown.clone()).await
    }

    /// Another gateway with this view of the coordinator.
    pub(crate) async fn gateway_with(&self, coordinator: Arc<dyn Coordinator>) -> ObjectStore {
        let cluster = follow(&self.gates, coordinator).await;
        ObjectStore::start(cluster, StoreSettings::default(), self.shutdown.clone()).await
    }

    /// A bucket's id, as the coordinator has it.
    pub(crate) async fn bucket_id(&self, bucket: &str) -> BucketId {
        let entry = self.cluster.coordinator().get(&format!("buckets/{bucket}")).await.unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
        serde_json::from_value(record["id"].clone()).unwrap()
    }

    /// Another gateway, and what stops it.
    pub(crate) async fn gateway_of_its_own(&self) -> (ObjectStore, Shutdown) {
        let stop = self.shutdown.child();
        let store = ObjectStore::start(self.cluster.clone(), StoreSettings::default(), stop.clone());
        (store.await, stop)
    }

    /// Has all drives free what is due after this time.
    pub(crate) async fn free(&self, after: Duration) {
        let now = UnixMillis(UnixMillis::now().0 + after.as_millis() as u64);
        for drive in self.gates.iter().flat_map(|gate| gate.inner.drives()) {
            drive.free_now(now).await.unwrap();
        }
    }

    /// What the shard files on all drives hold.
    pub(crate) fn shard_files(&self) -> Vec<Vec<u8>> {
        fn visit(path: &std::path::Path, files: &mut Vec<Vec<u8>>) {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    visit(&entry.path(), files);
                } else {
                    files.push(std::fs::read(entry.path()).unwrap());
                }
            }
        }
        let mut files = Vec::new();
        for dir in &self.dirs {
            for drive in std::fs::read_dir(dir.path()).unwrap() {
                visit(&drive.unwrap().path().join("shards"), &mut files);
            }
        }
        files
    }

    /// Shard files on all drives, and their bytes.
    pub(crate) fn census(&self) -> (usize, u64) {
        fn visit(path: &std::path::Path, sum: &mut (usize, u64)) {
            for entry in std::fs::read_dir(path).into_iter().flatten() {
                // A file that is removed meanwhile is not counted.
                let Ok(entry) = entry else { continue };
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    visit(&entry.path(), sum);
                } else {
                    *sum = (sum.0 + 1, sum.1 + metadata.len());
                }
            }
        }
        let mut sum = (0, 0);
        for dir in &self.dirs {
            for drive in std::fs::read_dir(dir.path()).unwrap() {
                visit(&drive.unwrap().path().join("shards"), &mut sum);
            }
        }
        sum
    }

    /// Versions that slots hold COMMITTED, and nobody has told them yet that they are STABLE.
    pub(crate) fn unstable(&self) -> u64 {
        let drives = self.gates.iter().flat_map(|gate| gate.inner.drive_infos());
        drives.map(|drive| drive.unstable).sum()
    }

    /// Waits until all is STABLE: fewer than M slots can tell what is current only then.
    pub(crate) async fn settled(&self) {
        let begun = Instant::now();
        while self.unstable() > 0 {
            assert!(begun.elapsed() < PATIENCE, "{} versions do not settle", self.unstable());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // A slot that is slower than the quorum gets what it was sent after the answer; nothing heals here what it does not get.
        let begun = Instant::now();
        while !self.drives_are_alike() && begun.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether all drives hold as many registers, and no shard is missing.
    fn drives_are_alike(&self) -> bool {
        let drives: Vec<_> = self.gates.iter().flat_map(|gate| gate.inner.drive_infos()).collect();
        drives.iter().all(|drive| drive.registers == drives[0].registers && drive.heal.missing == 0)
    }

    /// The census once no file has come or gone for a while: slots that are slower than the quorum write after the answer.
    pub(crate) async fn census_at_rest(&self) -> (usize, u64) {
        let begun = Instant::now();
        loop {
            let before = self.census();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if self.census() == before {
                return before;
            }
            assert!(begun.elapsed() < PATIENCE, "files come and go");
        }
    }

    /// Has no reads of objects' registers answered, or has them answered again.
    pub(crate) fn hold_object_reads(&self, held: bool) {
        self.gates.iter().for_each(|gate| gate.holds_object_reads.store(held, Ordering::SeqCst));
    }

    /// Requests to registers so far.
    pub(crate) fn calls(&self) -> usize {
        self.gates.iter().map(|gate| gate.calls.load(Ordering::SeqCst)).sum()
    }

    /// Waits until registers were asked something since there were so many calls, and are left alone again: whoever asked
    /// waits for something else then, or has ended.
    pub(crate) async fn quiet(&self, since: usize) {
        let begun = Instant::now();
        loop {
            let before = self.calls();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let idle = self.gates.iter().all(|gate| gate.running.load(Ordering::SeqCst) == 0);
            if idle && before > since && self.calls() == before {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "registers are never left alone");
        }
    }

    /// Shuts the gates of these nodes, opens all others.
    pub(crate) fn down(&self, nodes: &[usize]) {
        for (index, gate) in self.gates.iter().enumerate() {
            gate.down.store(nodes.contains(&index), Ordering::SeqCst);
        }
    }
}
