use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::cluster::recovery::PartitionReport;
use coffer_common::layout::SlotRole;
use coffer_common::node::ShardPiece;
use coffer_common::node::conformance::{self, Fixture};
use coffer_common::node::{ListItem, SlotAddress, partition_of};
use coffer_common::protocol::message::{Refusal, SlotRequest, Version, VersionKind, VersionState};
use coffer_common::shard::ShardHeader;
use coffer_common::types::RegisterKind;
use coffer_common::types::{
    Epoch, Fence, Incarnation, ObjectKey, OpId, RegisterKey, SlotIndex, SlotSet, Tag,
};

use super::open::open_blocking;
use super::*;
use crate::SimulatedDrive;
use crate::inspect::{Depth, inspect};
use crate::store::tests::format_small;

const CLUSTER: ClusterId = ClusterId(0xC0FFE4);
const BUCKET: BucketId = BucketId(0xB);

/// A node on temporary drives, and the requests a gateway would send it.
struct Bench {
    dir: tempfile::TempDir,
    drives: Vec<DriveId>,
    node: Option<Arc<StorageNode>>,
}

fn config(dir: &Path, count: usize) -> NodeConfig {
    NodeConfig {
        node: NodeId("n1".to_owned()),
        drives: (0..count).map(|index| dir.join(format!("d{index}"))).collect(),
        cluster: None,
        replace: Vec::new(),
    }
}

impl Bench {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut drives = Vec::new();
        for path in config(dir.path(), count).drives {
            drives.push(format_small(&path, 1 << 20));
        }
        let mut bench = Self { dir, drives, node: None };
        bench.reopen();
        bench
    }

    fn reopen(&mut self) {
        self.node = None;
        let node = open_blocking(&config(self.dir.path(), self.drives.len())).unwrap();
        node.drives().for_each(|drive| drive.record_boot().unwrap());
        self.node = Some(node);
    }

    fn node(&self) -> &StorageNode {
        self.node.as_ref().unwrap()
    }

    fn address(&self, key: &RegisterKey, drive: usize) -> SlotAddress {
        SlotAddress {
            cluster: CLUSTER,
            drive: self.drives[drive],
            incarnation: Incarnation(0),
            partition: partition_of(CLUSTER, key.bucket, &key.key),
            slot: SlotIndex(drive as u8),
            epoch: Epoch(0),
        }
    }

    async fn call(&self, key: &RegisterKey, drive: usize, request: SlotRequest) -> SlotReply {
        let call = SlotCall {
            address: self.address(key, drive),
            register: key.clone(),
            bucket_revision: 1,
            request,
        };
        self.node().call(call).await.unwrap()
    }

    /// Puts a version on one drive: PREPARE, COMMIT and, if asked, STABLE.
    async fn put(&self, key: &RegisterKey, drive: usize, counter: u64, shard: Option<&[u8]>, stable: bool) {
        let version = version(counter, shard.map_or(0, <[u8]>::len) as u64);
        let encoded = shard.map(|data| header(drive, &version).encode_shard(data)).unwrap_or_default();
        let reply = self.call(key, drive, SlotRequest::Prepare { op: version.op, shard: encoded }).await;
        assert!(matches!(reply, SlotReply::View(..)), "{reply:?}");
        let tag = tag(counter, version.op);
        let reply = self.call(key, drive, SlotRequest::Commit { version: version.clone(), tag }).await;
        assert!(matches!(reply, SlotReply::Committed { superseded: false }), "{reply:?}");
        if stable {
            let acknowledged = SlotSet(1);
            let request = SlotRequest::Stable { version, tag, acknowledged };
            assert_eq!(self.call(key, drive, request).await, SlotReply::Done);
        }
    }

    async fn read(
        &self,
        key: &RegisterKey,
        drive: usize,
        op: OpId,
        blocks: (u64, u64),
    ) -> Result<Vec<u8>, NodeError> {
        let request = ReadShard {
            address: self.address(key, drive),
            register: key.clone(),
            op,
            first_block: blocks.0,
            block_count: blocks.1,
        };
        let mut blocks = self.node().read_shard(request).await?;
        let mut data = Vec::new();
        while let Some(block) = blocks.recv().await {
            data.extend_from_slice(&block?.data);
        }
        Ok(data)
    }
}

fn op(counter: u64) -> OpId {
    OpId { session: 9, counter }
}

fn tag(seq: u64, writer: OpId) -> Tag {
    Tag { fence: Fence::default(), seq, writer }
}

fn version(counter: u64, shard_len_bytes: u64) -> Version {
    Version {
        op: op(counter),
        kind: VersionKind::Data,
        null_version: true,
        k: 1,
        shard_len_bytes,
        block_len_bytes: 4096,
        metadata: Bytes::from(format!("metadata of {counter}")),
    }
}

fn header(drive: usize, version: &Version) -> ShardHeader {
    ShardHeader {
        cluster: CLUSTER,
        op: version.op,
        slot: SlotIndex(drive as u8),
        k: 2,
        m: 2,
        block_len_bytes: version.block_len_bytes,
        len_bytes: version.shard_len_bytes,
    }
}

fn object(key: &str) -> RegisterKey {
    RegisterKey::object(BUCKET, ObjectKey::new(key.to_owned()).unwrap())
}

#[tokio::test]
async fn an_inline_version_is_read_back_before_and_after_a_restart() {
    let mut bench = Bench::new(1);
    let key = object("a/b");
    let data: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
    bench.put(&key, 0, 1, Some(&data), true).await;
    for _ in 0..3 {
        let reply = bench.call(&key, 0, SlotRequest::Query { inline_data: true }).await;
        let SlotReply::View(view, Some(encoded)) = reply else { panic!("{reply:?}") };
        let current = view.current.unwrap();
        assert_eq!((current.version, current.state), (version(1, 10_000), VersionState::Stable));
        assert_eq!(encoded, header(0, &version(1, 10_000)).encode_shard(&data));
        assert_eq!(bench.read(&key, 0, op(1), (0, 99)).await.unwrap(), data);
        assert_eq!(bench.read(&key, 0, op(1), (1, 1)).await.unwrap(), data[4096..8192]);
        bench.reopen();
    }
    let info = bench.node().info().await.unwrap();
    assert_eq!((info.drives[0].registers, info.drives[0].unstable, info.drives[0].boot_count), (1, 0, 4));
}

#[tokio::test]
async fn a_drive_that_is_read_tells_which_slot_it_took_and_when() {
    let bench = Bench::new(2);
    let key = object("key");
    let partition = bench.address(&key, 1).partition;
    let told = || {
        let path = bench.dir.path().join("d1");
        inspect(&path, Depth::Records).unwrap().report.partitions
    };
    bench.put(&key, 1, 1, Some(b"data"), true).await;
    let store = bench.node().drives().nth(1).unwrap();
    assert_eq!((store.id(), told()), (bench.drives[1], Vec::new()));
    assert!(store.begin_to_take((partition, SlotIndex(1)), Epoch(5)).await.unwrap());
    let joining = PartitionReport {
        partition,
        epoch: Epoch(5),
        role: SlotRole::Joining,
        slots: Some(vec![SlotIndex(1)]),
        taken: Epoch(5),
        purge_epoch: Epoch(0),
    };
    assert_eq!(told(), std::slice::from_ref(&joining), "its shards are still there");
    store.vote(partition, Epoch(6), store.takes(partition)).await.unwrap();
    assert_eq!(told(), [PartitionReport { epoch: Epoch(6), role: SlotRole::Voter, ..joining }]);
}

#[tokio::test]
async fn a_streamed_shard_is_verified_recorded_and_read_by_blocks() {
    let mut bench = Bench::new(1);
    let key = object("large");
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7) as u8).collect();
    let large = Version { block_len_bytes: 256 << 10, ..version(1, data.len() as u64) };
    let encoded = header(0, &large).encode_shard(&data);
    let prepare =
        |op| PrepareShard { address: bench.address(&key, 0), register: key.clone(), bucket_revision: 1, op };

    // Broken off: nothing stays.
    let (sender, pieces) = tokio::sync::mpsc::channel(64);
    sender.send(ShardPiece::Data(encoded.slice(..1000))).await.unwrap();
    drop(sender);
    let refused = bench.node().prepare_shard(prepare(large.op), pieces).await;
    assert!(matches!(refused, Err(NodeError::Invalid(_))), "{refused:?}");

    // Damaged: refused.
    let (sender, pieces) = tokio::sync::mpsc::channel(64);
    let mut damaged = encoded.to_vec();
    damaged[2_000_000] ^= 1;
    sender.send(ShardPiece::Data(damaged.into())).await.unwrap();
    sender.send(ShardPiece::End).await.unwrap();
    let refused = bench.node().prepare_shard(prepare(large.op), pieces).await;
    assert!(matches!(refused, Err(NodeError::Invalid(_))), "{refused:?}");

    let (sender, pieces) = tokio::sync::mpsc::channel(64);
    for piece in encoded.chunks(100_000) {
        sender.send(ShardPiece::Data(Bytes::copy_from_slice(piece))).await.unwrap();
    }
    sender.send(ShardPiece::End).await.unwrap();
    let reply = bench.node().prepare_shard(prepare(large.op), pieces).await.unwrap();
    assert!(matches!(reply, SlotReply::View(..)));
    let commit = SlotRequest::Commit { version: large.clone(), tag: tag(1, large.op) };
    bench.call(&key, 0, commit).await;
    for _ in 0..2 {
        let SlotReply::View(view, None) = bench.call(&key, 0, SlotRequest::Query { inline_data: true }).await
        else {
            panic!()
        };
        assert!(view.current.unwrap().shard_present);
        assert_eq!(bench.read(&key, 0, large.op, (0, 100)).await.unwrap(), data);
        assert_eq!(bench.read(&key, 0, large.op, (3, 2)).await.unwrap(), data[3 << 18..5 << 18]);
        bench.reopen();
    }
}

#[tokio::test]
async fn callers_that_mean_another_slot_are_refused() {
    let bench = Bench::new(1);
    let key = object("k");
    let good = SlotCall {
        address: bench.address(&key, 0),
        register: key.clone(),
        bucket_revision: 3,
        request: SlotRequest::Prepare { op: op(1), shard: Bytes::new() },
    };
    let call = |change: &dyn Fn(&mut SlotCall)| {
        let mut call = good.clone();
        change(&mut call);
        bench.node().call(call)
    };
    let denied = call(&|call| call.address.cluster = ClusterId(1)).await;
    assert!(matches!(denied, Err(NodeError::Denied(_))));
    for change in
        [(&|call: &mut SlotCall| call.address.drive = DriveId(1)) as &dyn Fn(&mut SlotCall), &|call| {
            call.address.incarnation = Incarnation(1)
        }]
    {
        assert!(matches!(call(change).await, Err(NodeError::DriveUnavailable { .. })));
    }
    let invalid = call(&|call| call.address.partition.0 ^= 1).await;
    assert!(matches!(invalid, Err(NodeError::Invalid(_))));

    assert_eq!(bench.node().adopt_bucket(BUCKET, 4).await.unwrap(), bench.drives);
    let changed = call(&|_| {}).await.unwrap();
    assert_eq!(changed, SlotReply::Refused(Refusal::BucketChanged(4)));
    let newer = call(&|call| (call.bucket_revision, call.address.epoch) = (4, Epoch(2))).await.unwrap();
    assert!(matches!(newer, SlotReply::View(..)));
    let older = call(&|call| (call.bucket_revision, call.address.epoch) = (4, Epoch(1))).await.unwrap();
    assert_eq!(older, SlotReply::Refused(Refusal::WrongEpoch(Epoch(2))));
}

#[tokio::test]
async fn snapshots_keep_the_highest_revision_over_restarts() {
    let mut bench = Bench::new(2);
    let snapshot = |revision, data: &'static str| Snapshot {
        kind: SnapshotKind::Layout,
        generation: 1,
        revision,
        data: Bytes::from_static(data.as_bytes()),
    };
    bench.node().store_snapshot(snapshot(2, "two")).await.unwrap();
    bench.node().store_snapshot(snapshot(1, "one")).await.unwrap();
    bench.reopen();
    bench.node().store_snapshot(snapshot(1, "one")).await.unwrap();
    let found = bench.node().snapshot(SnapshotKind::Layout).await.unwrap();
    assert_eq!(found, Some(snapshot(2, "two")));
    assert_eq!(bench.node().snapshot(SnapshotKind::Buckets).await.unwrap(), None);
}

#[tokio::test]
async fn a_listing_merges_drives_rolls_up_and_pages() {
    let mut bench = Bench::new(2);
    let keys = ["a", "a/b", "a/c", "b/1", "b/2", "c", "d//e", "d/f", "e\u{0}f", "z/"];
    for (index, key) in keys.iter().enumerate() {
        for drive in 0..2 {
            if (index + drive) % 3 != 0 {
                bench.put(&object(key), drive, index as u64 + 1, None, true).await;
            }
        }
    }
    for restart in [false, true] {
        if restart {
            bench.reopen();
        }
        for limit in [1, 2, 100] {
            let (flat, _) = list_all(&bench, "", "", limit).await;
            assert_eq!(flat, keys, "limit {limit}");
            let (rolled, prefixes) = list_all(&bench, "", "/", limit).await;
            assert_eq!(rolled, ["a", "c", "e\u{0}f"]);
            assert_eq!(prefixes, ["a/", "b/", "d/", "z/"]);
            let (below, prefixes) = list_all(&bench, "d/", "/", limit).await;
            assert_eq!((below, prefixes), (vec!["d/f".to_owned()], vec!["d//".to_owned()]));
        }
    }
}

#[tokio::test]
async fn background_work_gives_way_to_what_reads_what_writes_and_what_lists() {
    let bench = Bench::new(1);
    bench.put(&object("k"), 0, 1, Some(b"a shard"), true).await;
    bench.call(&object("k"), 0, SlotRequest::Query { inline_data: true }).await;
    bench.read(&object("k"), 0, op(1), (0, 1)).await.unwrap();
    bench.node().list(list_request("", "", 10)).await.unwrap();
    let counts = [Kind::Write, Kind::Read, Kind::List].map(|kind| bench.node().pace.count(kind));
    assert_eq!(counts, [2, 2, 1]);
}

#[tokio::test]
async fn the_key_behind_a_prefix_of_deleted_keys_is_listed() {
    let mut bench = Bench::new(2);
    // "b0" is the first key that can follow everything below "b/".
    for (counter, key) in [(1, "a"), (2, "b/1"), (3, "b/2"), (4, "b0"), (5, "c/1"), (6, "c/2")] {
        bench.put(&object(key), 0, counter, None, true).await;
    }
    for (counter, key) in [(7, "b/1"), (8, "b/2"), (9, "c/1")] {
        let tombstone = Version { kind: VersionKind::Tombstone, k: 0, ..version(counter, 0) };
        let request = SlotRequest::Commit { tag: tag(counter, tombstone.op), version: tombstone };
        bench.call(&object(key), 0, request).await;
    }
    for restart in [false, true] {
        if restart {
            bench.reopen();
        }
        for limit in [1, 2, 3, 100] {
            let (keys, prefixes) = list_all(&bench, "", "/", limit).await;
            assert_eq!((keys, prefixes), (vec!["a".to_owned(), "b0".to_owned()], vec!["c/".to_owned()]));
        }
    }
}

/// Deleted keys on both drives, on one, and beside a live one that only the other drive has.
#[tokio::test(start_paused = true)]
async fn drives_that_look_at_deleted_keys_for_long_stop_and_go_on_from_there() {
    let drives = [1, 2].map(|id| SimulatedDrive::format(CLUSTER, DriveId(id), 16 << 20, 0));
    let node = StorageNode::open_simulated(NodeId("n1".to_owned()), &drives).unwrap();
    let bench =
        Bench { dir: tempfile::tempdir().unwrap(), drives: vec![DriveId(1), DriveId(2)], node: Some(node) };
    let dead = |folder: &'static str, drive: usize, count: usize| {
        (0..count).map(move |number| (format!("{folder}/{number:03}"), drive, VersionKind::Tombstone))
    };
    let mut registers: Vec<(String, usize, VersionKind)> =
        dead("a", 0, 120).chain(dead("a", 1, 120)).collect();
    registers.extend(dead("b", 0, 100).chain(dead("e", 1, 60)).chain(dead("g", 1, 100)));
    for (key, drive) in [("a/120", 1), ("c/1", 0), ("d", 0), ("d", 1), ("f/x", 1), ("g/", 0), ("h", 1)] {
        registers.push((key.to_owned(), drive, VersionKind::Data));
    }
    for (counter, (key, drive, kind)) in (1..).zip(registers) {
        let k = u8::from(kind == VersionKind::Data);
        let version = Version { kind, k, ..version(counter, 0) };
        let request = SlotRequest::Commit { tag: tag(counter, version.op), version };
        let reply = bench.call(&object(&key), drive, request).await;
        assert_eq!(reply, SlotReply::Committed { superseded: false });
    }
    let whole = (vec!["d".to_owned(), "h".to_owned()], ["a/", "c/", "f/", "g/"].map(str::to_owned).to_vec());
    assert_eq!(list_all(&bench, "", "/", 100).await, whole);
    // One stops behind three pieces, the other behind two.
    drives[0].set_latency(Duration::from_millis(1_000));
    drives[1].set_latency(Duration::from_millis(1_700));
    let page = bench.node().list(list_request("", "/", 100)).await.unwrap();
    assert!(page.items.is_empty() && page.truncated, "{page:?}");
    assert_eq!((page.walked, page.drives.len()), (object("a/031").encode().into(), 2));
    // To a gateway that would not go on from there they have not answered.
    let request = ListRequest { resumes: false, ..list_request("", "/", 100) };
    let page = bench.node().list(request).await.unwrap();
    assert_eq!((page.walked, page.drives), (Bytes::new(), Vec::new()));
    for limit in [1, 2, 100] {
        assert_eq!(list_all(&bench, "", "/", limit).await, whole, "limit {limit}");
    }
}

/// A page of large objects of many parts would be longer than a message may be.
#[tokio::test]
async fn a_page_of_long_metadata_is_cut_before_it_is_too_long() {
    let bench = Bench::new(2);
    let keys: Vec<_> = (0..120).map(|number| format!("p{}/{number:03}", number / 40)).collect();
    for (counter, key) in keys.iter().enumerate() {
        for drive in 0..2 {
            let version = Version { metadata: vec![7; 200_000].into(), ..version(counter as u64 + 1, 0) };
            let commit = SlotRequest::Commit { tag: tag(counter as u64 + 1, version.op), version };
            assert_eq!(
                bench.call(&object(key), drive, commit).await,
                SlotReply::Committed { superseded: false }
            );
        }
    }
    let page = bench.node().list(list_request("", "", 1_000)).await.unwrap();
    let slots = page.items.iter().map(|item| match item {
        ListItem::Entry(entry) | ListItem::CommonPrefix { witness: entry, .. } => entry.slots.len(),
    });
    let long = slots.sum::<usize>() * 200_000;
    assert!(page.truncated && (8 << 20..20 << 20).contains(&long), "{} items, {long}", page.items.len());
    assert_eq!(list_all(&bench, "", "", 1_000).await.0, keys);
    assert_eq!(list_all(&bench, "", "/", 1_000).await.1, ["p0/", "p1/", "p2/"]);
}

fn list_request(prefix: &str, delimiter: &str, limit: u32) -> ListRequest {
    ListRequest {
        cluster: CLUSTER,
        bucket: BUCKET,
        bucket_revision: 0,
        kind: RegisterKind::Object,
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        after: Bytes::new(),
        delimiter: Bytes::copy_from_slice(delimiter.as_bytes()),
        limit,
        resumes: true,
    }
}

/// All pages: keys, and common prefixes.
async fn list_all(bench: &Bench, prefix: &str, delimiter: &str, limit: u32) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    let mut after = Bytes::new();
    loop {
        let request = ListRequest { after: after.clone(), ..list_request(prefix, delimiter, limit) };
        let page = bench.node().list(request).await.unwrap();
        assert_eq!(page.drives.len(), 2);
        assert!(page.items.len() <= limit as usize);
        let end: Bytes = match page.items.last() {
            Some(ListItem::Entry(entry)) => entry.register.encode().into(),
            Some(ListItem::CommonPrefix { prefix, .. }) => {
                let encoded = RegisterKey::encode_prefix(BUCKET, RegisterKind::Object, prefix);
                [encoded.as_slice(), &[0xFF]].concat().into()
            }
            None => after.clone(),
        };
        assert!(page.walked.is_empty() || (page.truncated && page.walked > end), "it is behind all items");
        let end = if page.walked.is_empty() { end } else { page.walked };
        assert!(!page.truncated || end > after, "the page gets on");
        after = end;
        for item in page.items {
            match item {
                ListItem::Entry(entry) => {
                    assert!(!entry.slots.is_empty());
                    keys.push(entry.register.key.as_str().to_owned());
                }
                ListItem::CommonPrefix { prefix, witness } => {
                    assert!(witness.register.key.as_bytes().starts_with(&prefix));
                    prefixes.push(String::from_utf8(prefix.to_vec()).unwrap());
                }
            }
        }
        if !page.truncated {
            return (keys, prefixes);
        }
    }
}

/// The writers' machines count a PREPARE that was answered `WrongEpoch` as a durable shard.
#[tokio::test]
async fn a_prepare_under_an_older_epoch_keeps_its_shard() {
    let bench = Bench::new(1);
    let key = object("k");
    let version = version(1, 5000);
    let call = |epoch: u64, request: SlotRequest| {
        let mut address = bench.address(&key, 0);
        address.epoch = Epoch(epoch);
        bench.node().call(SlotCall { address, register: key.clone(), bucket_revision: 1, request })
    };
    let adopted = call(1, SlotRequest::Query { inline_data: false }).await.unwrap();
    assert!(matches!(adopted, SlotReply::View(..)));
    let shard = header(0, &version).encode_shard(&[7; 5000]);
    let prepared = call(0, SlotRequest::Prepare { op: version.op, shard }).await.unwrap();
    assert_eq!(prepared, SlotReply::Refused(Refusal::WrongEpoch(Epoch(1))));
    let commit = SlotRequest::Commit { version: version.clone(), tag: tag(1, version.op) };
    assert_eq!(call(1, commit).await.unwrap(), SlotReply::Committed { superseded: false });
    let SlotReply::View(view, _) = call(1, SlotRequest::Query { inline_data: true }).await.unwrap() else {
        panic!("no view")
    };
    assert!(
        view.current.unwrap().shard_present,
        "the writer counts this slot among the W that have their shard"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_on_simulated_drives_conforms_and_keeps_what_it_answered_over_crashes() {
    let drives = [1, 2].map(|id| SimulatedDrive::format(CLUSTER, DriveId(id), 16 << 20, 0));
    let id = NodeId("n1".to_owned());
    let open = || StorageNode::open_simulated(id.clone(), &drives).unwrap();
    let node = open();
    conformance::run(&Fixture {
        client: node.clone(),
        cluster: CLUSTER,
        drive: DriveId(1),
        incarnation: Incarnation(0),
        slot: SlotIndex(0),
        epoch: Epoch(0),
    })
    .await;
    let mut bench =
        Bench { dir: tempfile::tempdir().unwrap(), drives: vec![DriveId(1), DriveId(2)], node: Some(node) };
    for counter in 1..40_u64 {
        let key = object(&format!("k{counter}"));
        bench.put(&key, (counter % 2) as usize, counter, Some(&[counter as u8; 9000]), true).await;
        if counter % 3 == 0 {
            bench.node().step();
        }
        if counter % 10 == 0 {
            drives.iter().for_each(|drive| drive.crash(counter));
            bench.node = Some(open());
        }
        for earlier in 1..=counter {
            let query = SlotRequest::Query { inline_data: false };
            let reply = bench.call(&object(&format!("k{earlier}")), (earlier % 2) as usize, query).await;
            let SlotReply::View(view, _) = reply else { panic!("{reply:?}") };
            assert_eq!(view.current.map(|current| current.version.op), Some(version(earlier, 9000).op));
        }
    }
}
