//! The transport between gateway and node, without drives: a node that drops what it gets, in this process, over
//! loopback TCP with a cluster secret.
//!
//! Criterion tells wall time; each case also prints processor time of both sides together, per GB or per call, which
//! is what a machine that runs everything has to pay. Other load on the machine moves the first more than the second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use coffer_common::node::{
    HandOverPage, HandOverRequest, ListPage, ListRequest, NodeClient, NodeError, NodeInfo, OwedPage,
    OwedRequest, PrepareShard, PurgeRequest, ReadShard, ShardBlock, ShardBlocks, ShardPiece, ShardPieces,
    SlotAddress, SlotCall, Snapshot, SnapshotKind, partition_of,
};
use coffer_common::protocol::message::{RegisterView, SlotReply, SlotRequest, Version, VersionKind};
use coffer_common::protocol::purge::Evidence;
use coffer_common::rpc::{ClusterSecret, NodeSecurity, RemoteNode};
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{
    BucketId, ClusterId, DriveId, Epoch, Incarnation, NodeId, ObjectKey, OpId, RegisterKey, SlotIndex, Tag,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const CLUSTER: ClusterId = ClusterId(1);
const SHARD_BYTES: usize = 64 << 20;

/// Answers at once and keeps nothing.
struct Sink;

#[async_trait]
impl NodeClient for Sink {
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError> {
        Ok(match call.request {
            SlotRequest::Query { .. } | SlotRequest::Prepare { .. } => {
                SlotReply::View(RegisterView::default(), None)
            }
            _ => SlotReply::Committed { superseded: false },
        })
    }

    async fn prepare_shard(&self, _: PrepareShard, mut pieces: ShardPieces) -> Result<SlotReply, NodeError> {
        while let Some(piece) = pieces.recv().await {
            if piece == ShardPiece::End {
                return Ok(SlotReply::Done);
            }
        }
        Err(NodeError::Invalid("aborted".to_owned()))
    }

    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            let data = Bytes::from(vec![7; 1 << 20]);
            for _ in 0..request.block_count {
                if sender.send(Ok(ShardBlock { checksum: 1, data: data.clone() })).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn list(&self, _: ListRequest) -> Result<ListPage, NodeError> {
        Ok(ListPage::default())
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        Ok(NodeInfo {
            id: NodeId("sink".to_owned()),
            cluster: Some(CLUSTER),
            version: String::new(),
            protocol: 1,
            clock_ms: 0,
            drives: Vec::new(),
        })
    }

    async fn snapshot(&self, _: SnapshotKind) -> Result<Option<Snapshot>, NodeError> {
        Ok(None)
    }

    async fn store_snapshot(&self, _: Snapshot) -> Result<(), NodeError> {
        Ok(())
    }

    async fn adopt_bucket(&self, _: BucketId, _: u64) -> Result<Vec<DriveId>, NodeError> {
        Ok(Vec::new())
    }

    async fn hand_over(&self, _: HandOverRequest) -> Result<HandOverPage, NodeError> {
        Err(NodeError::Overloaded)
    }

    async fn owed(&self, _: OwedRequest) -> Result<OwedPage, NodeError> {
        Ok(OwedPage::default())
    }

    async fn purge(&self, _: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        Ok(Vec::new())
    }
}

fn register() -> RegisterKey {
    RegisterKey::object(BucketId(2), ObjectKey::new("photos/2026/11/24/some-name.jpg").expect("a valid key"))
}

fn address() -> SlotAddress {
    SlotAddress {
        cluster: CLUSTER,
        drive: DriveId(3),
        incarnation: Incarnation(0),
        partition: partition_of(CLUSTER, BucketId(2), &register().key),
        slot: SlotIndex(0),
        epoch: Epoch(0),
    }
}

fn commit() -> SlotCall {
    let version = Version {
        op: OpId::default(),
        kind: VersionKind::Data,
        k: 2,
        shard_len_bytes: 2048,
        block_len_bytes: 131_072,
        null_version: true,
        metadata: Bytes::from(vec![1; 300]),
    };
    let request = SlotRequest::Commit { version, tag: Tag::default() };
    SlotCall { address: address(), register: register(), bucket_revision: 1, request }
}

async fn put(node: &RemoteNode, piece: Bytes) {
    let header =
        PrepareShard { address: address(), register: register(), bucket_revision: 1, op: OpId::default() };
    let (sender, pieces) = tokio::sync::mpsc::channel(4);
    let send = async {
        for _ in 0..SHARD_BYTES / piece.len() {
            let _ = sender.send(ShardPiece::Data(piece.clone())).await;
        }
        let _ = sender.send(ShardPiece::End).await;
    };
    let (reply, ()) = futures_util::future::join(node.prepare_shard(header, pieces), send).await;
    assert_eq!(reply, Ok(SlotReply::Done));
}

async fn get(node: &RemoteNode) {
    let request = ReadShard {
        address: address(),
        register: register(),
        op: OpId::default(),
        first_block: 0,
        block_count: (SHARD_BYTES >> 20) as u64,
    };
    let mut blocks = node.read_shard(request).await.expect("the sink answers");
    let mut len = 0;
    while let Some(block) = blocks.recv().await {
        len += block.expect("the sink sends no errors").data.len();
    }
    assert_eq!(len, SHARD_BYTES);
}

async fn calls(node: &Arc<RemoteNode>, each: u64, callers: u64) {
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    let reply = node.call(commit()).await;
                    assert_eq!(reply, Ok(SlotReply::Committed { superseded: false }));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("callers do not panic");
    }
}

/// Processor time of this process, from `/proc/self/stat` (fields 14 and 15, in hundredths of a second).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Sums wall and processor time over all rounds of a case.
#[derive(Default)]
struct Meter {
    wall: Duration,
    processor: Duration,
    units: f64,
}

impl Meter {
    fn run(&mut self, runtime: &Runtime, units: f64, work: impl Future<Output = ()>) -> Duration {
        let (processor, wall) = (processor_time(), Instant::now());
        runtime.block_on(work);
        let elapsed = wall.elapsed();
        self.wall += elapsed;
        self.processor += processor_time().saturating_sub(processor);
        self.units += units;
        elapsed
    }

    fn bulk(&self, name: &str) {
        println!(
            "{name}: {:.2} GB/s, {:.3} cpu-s/GB client + server",
            self.units / self.wall.as_secs_f64(),
            self.processor.as_secs_f64() / self.units
        );
    }

    fn small(&self, name: &str) {
        println!(
            "{name}: {:.0} calls/s, {:.1} us of processor per call client + server",
            self.units / self.wall.as_secs_f64(),
            self.processor.as_secs_f64() * 1e6 / self.units
        );
    }
}

fn node_rpc(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let secret = ClusterSecret::new("a secret for the bench").expect("long enough");
    let security = NodeSecurity::ClusterSecret(secret);
    let shutdown = Shutdown::new();
    let remote = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let serve =
            coffer_storage_node::rpc::serve(Arc::new(Sink), listener, security.clone(), shutdown.clone());
        tokio::spawn(serve);
        Arc::new(RemoteNode::connect_lazy(address, security))
    });

    let gigabytes = SHARD_BYTES as f64 / 1e9;
    let mut group = criterion.benchmark_group("node_rpc");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(4))
        .throughput(Throughput::Bytes(SHARD_BYTES as u64));
    for (name, len) in [("write_1MiB", 1 << 20), ("write_128KiB", 128 << 10)] {
        let piece = Bytes::from(vec![7; len]);
        let mut meter = Meter::default();
        group.bench_function(name, |bench| {
            bench.iter_custom(|rounds| {
                (0..rounds).map(|_| meter.run(&runtime, gigabytes, put(&remote, piece.clone()))).sum()
            });
        });
        meter.bulk(name);
    }
    let mut meter = Meter::default();
    group.bench_function("read_1MiB", |bench| {
        bench.iter_custom(|rounds| (0..rounds).map(|_| meter.run(&runtime, gigabytes, get(&remote))).sum());
    });
    meter.bulk("read_1MiB");

    for callers in [1, 16, 64, 256] {
        let each = 8192 / callers;
        group.throughput(Throughput::Elements(each * callers));
        let name = format!("commit_{callers}_callers");
        let mut meter = Meter::default();
        group.bench_function(&name, |bench| {
            bench.iter_custom(|rounds| {
                let units = (each * callers) as f64;
                (0..rounds).map(|_| meter.run(&runtime, units, calls(&remote, each, callers))).sum()
            });
        });
        meter.small(&name);
    }
    group.finish();
    shutdown.tell();
}

criterion_group!(benches, node_rpc);
criterion_main!(benches);
