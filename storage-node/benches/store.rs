//! Speed of a node on a real drive, called directly: durable records, large shards, listing. `node_rpc` has the
//! transport in front of it.
//!
//! The figures depend on the drive below the folder for temporary files (`TMPDIR`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coffer_common::node::{
    ListItem, ListRequest, NodeClient, PrepareShard, ReadShard, ShardPiece, SlotAddress, SlotCall,
    partition_of,
};
use coffer_common::protocol::message::{SlotReply, SlotRequest, Version, VersionKind};
use coffer_common::shard::ShardHeader;
use coffer_common::types::{
    BucketId, ClusterId, DriveId, Epoch, Fence, Incarnation, NodeId, ObjectKey, OpId, RegisterKey,
    RegisterKind, SlotIndex, Tag,
};
use coffer_storage_node::{NodeConfig, StorageNode};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const CLUSTER: ClusterId = ClusterId(0xC0FFE4);
const BUCKET: BucketId = BucketId(7);
const BLOCK: u32 = 512 * 1024;
const SHARD: u64 = 64 * 1024 * 1024;
const LISTED: u64 = 200_000;

struct Bench {
    runtime: Runtime,
    node: Arc<StorageNode>,
    drive: DriveId,
    counter: AtomicU64,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Arc<Self> {
        let runtime = Runtime::new().expect("a runtime starts");
        let dir = tempfile::tempdir().expect("there is a temporary folder");
        let path = dir.path().join("drive");
        let drive = coffer_storage_node::format(&path, CLUSTER, DriveId::random())
            .expect("the folder is fresh")
            .drive;
        let config = NodeConfig {
            node: NodeId("bench".to_owned()),
            drives: vec![path],
            cluster: None,
            replace: Vec::new(),
        };
        let node = runtime.block_on(StorageNode::open(config)).expect("the drive opens");
        Arc::new(Self { runtime, node, drive, counter: AtomicU64::new(0), _dir: dir })
    }

    fn next_op(&self) -> OpId {
        OpId { session: 1, counter: self.counter.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    fn register(number: u64) -> RegisterKey {
        let key = ObjectKey::new(format!("photos/{:03}/{number:010}.jpg", number / 1000))
            .expect("the key is valid");
        RegisterKey::object(BUCKET, key)
    }

    fn address(&self, register: &RegisterKey) -> SlotAddress {
        SlotAddress {
            cluster: CLUSTER,
            drive: self.drive,
            incarnation: Incarnation(0),
            partition: partition_of(CLUSTER, BUCKET, &register.key),
            slot: SlotIndex(0),
            epoch: Epoch(0),
        }
    }

    async fn call(&self, number: u64, request: SlotRequest) -> SlotReply {
        let register = Self::register(number);
        let call = SlotCall { address: self.address(&register), register, bucket_revision: 0, request };
        self.node.call(call).await.expect("the node answers")
    }

    /// The time that `count` calls take, `width` at a time.
    fn time_calls<F, R>(self: &Arc<Self>, count: u64, width: u64, call: F) -> Duration
    where
        F: Fn(Arc<Self>, u64) -> R + Send + Sync + Clone + 'static,
        R: Future<Output = ()> + Send,
    {
        let next = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        self.runtime.block_on(async {
            let workers: Vec<_> = (0..width)
                .map(|_| {
                    let (bench, next, call) = (self.clone(), next.clone(), call.clone());
                    tokio::spawn(async move {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= count {
                                break;
                            }
                            call(bench.clone(), number).await;
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.await.expect("no call fails");
            }
        });
        start.elapsed()
    }

    fn shard_header(&self, op: OpId, len_bytes: u64, block_len_bytes: u32) -> ShardHeader {
        ShardHeader { cluster: CLUSTER, op, slot: SlotIndex(0), k: 1, m: 1, block_len_bytes, len_bytes }
    }

    /// A durable record of about 512 bytes: a small shard, prepared.
    async fn prepare_small(&self) {
        let op = self.next_op();
        let shard = self.shard_header(op, 300, BLOCK).encode_shard(&[7; 300]);
        let reply = self.call(op.counter, SlotRequest::Prepare { op, shard }).await;
        assert!(matches!(reply, SlotReply::View(..)), "{reply:?}");
    }

    async fn commit(&self, number: u64) {
        let op = self.next_op();
        let version = Version {
            op,
            kind: VersionKind::Data,
            k: 0,
            shard_len_bytes: 0,
            block_len_bytes: 0,
            null_version: true,
            metadata: Bytes::from(vec![5; 200]),
        };
        let tag = Tag { fence: Fence::default(), seq: 1, writer: op };
        let reply = self.call(number, SlotRequest::Commit { version, tag }).await;
        assert!(matches!(reply, SlotReply::Committed { .. }), "{reply:?}");
    }

    /// Streams a large shard in pieces of 1 MiB.
    async fn write_large(&self, data: &Bytes) -> OpId {
        let op = self.next_op();
        let register = Self::register(op.counter);
        let header = self.shard_header(op, SHARD, BLOCK);
        let announce = PrepareShard { address: self.address(&register), register, bucket_revision: 0, op };
        let (sender, pieces) = tokio::sync::mpsc::channel(4);
        let data = data.clone();
        let send = async move {
            sender.send(ShardPiece::Data(Bytes::copy_from_slice(&header.encode()))).await.ok()?;
            for block in 0..header.block_count() {
                let at = (block * u64::from(BLOCK)) as usize % data.len();
                let bytes = data.slice(at..at + BLOCK as usize);
                let seal = header.seal(block, &bytes);
                sender.send(ShardPiece::Data(Bytes::copy_from_slice(&seal))).await.ok()?;
                sender.send(ShardPiece::Data(bytes)).await.ok()?;
            }
            sender.send(ShardPiece::End).await.ok()
        };
        let (reply, _) = tokio::join!(self.node.prepare_shard(announce, pieces), send);
        reply.expect("the shard is stored");
        op
    }

    async fn read_large(&self, op: OpId) {
        let register = Self::register(op.counter);
        let block_count = SHARD / u64::from(BLOCK);
        let request =
            ReadShard { address: self.address(&register), register, op, first_block: 0, block_count };
        let mut blocks = self.node.read_shard(request).await.expect("the shard is there");
        let mut read = 0;
        while let Some(block) = blocks.recv().await {
            read += block.expect("the block is whole").data.len() as u64;
        }
        assert_eq!(read, SHARD);
    }
}

/// The goal is 40,000 durable 512-byte records a second of 64 writers on one drive.
fn durable_records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable 512-byte records");
    group.sample_size(10).throughput(Throughput::Elements(1));
    for width in [1, 64] {
        let bench = Bench::new();
        group.bench_function(BenchmarkId::new("writers", width), |bencher| {
            bencher.iter_custom(|count| {
                bench.time_calls(count, width, |bench, _| async move { bench.prepare_small().await })
            });
        });
    }
    group.finish();
}

/// The goal is 1,000,000 keys a second.
fn list(criterion: &mut Criterion) {
    let bench = Bench::new();
    bench.time_calls(LISTED, 64, |bench, number| async move { bench.commit(number).await });
    let mut group = criterion.benchmark_group("list");
    group.sample_size(10);
    for (name, delimiter, items) in
        [("keys, pages of 1,000", "", LISTED), ("rolled up at /", "/", LISTED / 1000)]
    {
        group.throughput(Throughput::Elements(items));
        group.bench_function(name, |bencher| {
            bencher.iter(|| bench.runtime.block_on(list_all(&bench, delimiter, items)));
        });
    }
    group.finish();
}

async fn list_all(bench: &Bench, delimiter: &'static str, expected: u64) {
    let mut after = Bytes::new();
    let mut seen = 0;
    loop {
        let request = ListRequest {
            cluster: CLUSTER,
            bucket: BUCKET,
            bucket_revision: 0,
            kind: RegisterKind::Object,
            prefix: Bytes::from_static(b"photos/"),
            after,
            delimiter: Bytes::from_static(delimiter.as_bytes()),
            limit: 1000,
            resumes: false,
        };
        let page = bench.node.list(request).await.expect("the node lists");
        seen += page.items.len() as u64;
        let Some(last) = page.items.last().filter(|_| page.truncated) else { break };
        after = after_item(last);
    }
    assert_eq!(seen, expected);
}

/// Where the page after this item begins.
fn after_item(item: &ListItem) -> Bytes {
    match item {
        ListItem::Entry(entry) => entry.register.encode().into(),
        ListItem::CommonPrefix { prefix, .. } => {
            let mut after = RegisterKey::encode_prefix(BUCKET, RegisterKind::Object, prefix);
            after.push(0xFF);
            after.into()
        }
    }
}

fn large_shards(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("shard of 64 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(SHARD));
    let data = Bytes::from(vec![9; 8 * BLOCK as usize]);
    group.bench_function("write, durable", |bencher| {
        bencher.iter(|| bench.runtime.block_on(bench.write_large(&data)));
    });
    let op = bench.runtime.block_on(bench.write_large(&data));
    group.bench_function("read", |bencher| bencher.iter(|| bench.runtime.block_on(bench.read_large(op))));
    group.finish();
}

criterion_group!(benches, durable_records, large_shards, list);
criterion_main!(benches);
