use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coffer_common::limits::SETTLE_AFTER;
use coffer_common::node::{
    DriveState, NodeError, PrepareShard, ReadShard, ShardPiece, ShardPieces, SlotAddress, SlotCall, Snapshot,
    SnapshotChange, SnapshotKind, SnapshotLog, partition_of,
};
use coffer_common::protocol::catch_up::Install;
use coffer_common::protocol::message::{Refusal, SlotReply, SlotRequest, Version, VersionKind};
use coffer_common::protocol::register::{PartitionState, Register};
use coffer_common::shard::ShardHeader;
use coffer_common::time::UnixMillis;
use coffer_common::types::{
    BucketId, ClusterId, DriveId, Epoch, Fence, ObjectKey, OpId, PartitionId, RegisterKey, RegisterKind,
    SlotIndex, SlotSet, Tag,
};
use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;

use self::copies::{added, revisions_in, whole};
use self::model::data;
use super::background::Background;
use super::mutate::bound_superseded;
use super::{DriveStore, RebuiltShard, Task};
use crate::drive::{Call, Effect, Fault, OpenDrive, SimulatedDrive, Threads, When};
use crate::image::{Entry, ShardLocation, StoredShard, decode_entry};
use crate::journal::RecordKind;

mod copies;
mod crashes;
mod damage;
mod forgets;
mod hand_over;
mod heal;
mod house;
mod leave;
mod listing;
mod model;
mod owed;
mod purge;
mod races;
mod restarts;
mod scrub;
mod view;

/// Threads of a drive's pool.
const IO_THREADS: usize = 4;
const CLUSTER: ClusterId = ClusterId(0xC0FFE4);
const BUCKET: BucketId = BucketId(2);
const SEGMENT: u32 = 256 << 10;

/// Formats a drive with small segments.
pub(crate) fn format_small(path: &Path, segment_bytes: u32) -> DriveId {
    let identity = crate::format(path, CLUSTER, DriveId::random()).unwrap();
    let identity = crate::DriveIdentity { segment_bytes, ..identity };
    std::fs::write(path.join("coffer.json"), serde_json::to_vec(&identity).unwrap()).unwrap();
    identity.drive
}

pub(crate) struct Bench {
    drive: SimulatedDrive,
    store: Option<Arc<DriveStore>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::seeded(0)
    }

    /// A drive with threads of its own.
    pub(crate) fn threaded() -> Self {
        let drive = SimulatedDrive::format(CLUSTER, DriveId(0xD), SEGMENT, 0);
        let mut open = OpenDrive::simulated(&drive).unwrap();
        open.threads = Threads::Own;
        Self { drive, store: Some(DriveStore::open(open).unwrap()) }
    }

    /// The drive's threads get to nothing else until what this returns is called; whoever asks is turned away.
    pub(crate) fn occupy(&self) -> impl FnOnce() {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (done, ended) = std::sync::mpsc::channel();
        // A thread that is about to end another job has one, too, by the pool's account.
        let (mut jobs, begun) = (0, Arc::new(AtomicUsize::new(0)));
        while begun.load(Ordering::SeqCst) < IO_THREADS || !self.store().pool.is_stuffed() {
            let (gate, done, begun) = (Arc::clone(&gate), done.clone(), Arc::clone(&begun));
            let job = move || {
                begun.fetch_add(1, Ordering::SeqCst);
                gate.1.wait_while(&mut gate.0.lock(), |open| !*open);
                done.send(()).unwrap();
            };
            match self.store().pool.submit(job) {
                Ok(()) => jobs += 1,
                Err(_) => std::thread::yield_now(),
            }
        }
        move || {
            *gate.0.lock() = true;
            gate.1.notify_all();
            (0..jobs).for_each(|_| ended.recv().unwrap());
        }
    }

    /// The seed decides what faults do.
    fn seeded(seed: u64) -> Self {
        Self::on(SimulatedDrive::format(CLUSTER, DriveId(0xD), SEGMENT, seed))
    }

    fn on(drive: SimulatedDrive) -> Self {
        let mut bench = Self { drive, store: None };
        bench.reopen();
        bench
    }

    fn reopen(&mut self) {
        self.store = None;
        self.try_open().unwrap();
    }

    fn try_open(&mut self) -> Result<(), String> {
        let drive = OpenDrive::simulated(&self.drive).map_err(|error| error.to_string())?;
        self.store = Some(DriveStore::open(drive).map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Stops the store in order: what it has in memory is applied and synced.
    fn close(&mut self) {
        let store = self.store.take();
        drop(store.map(|store| Background::start(store).unwrap()));
    }

    /// The next start finds no index.
    fn lose_index(&mut self) {
        self.store = None;
        self.drive.lose("index");
    }

    pub(crate) fn store(&self) -> &Arc<DriveStore> {
        self.store.as_ref().unwrap()
    }

    fn address(&self, key: &RegisterKey) -> SlotAddress {
        SlotAddress {
            cluster: CLUSTER,
            drive: self.store().id(),
            incarnation: self.store().incarnation(),
            partition: partition_of(CLUSTER, key.bucket, &key.key),
            slot: SlotIndex(0),
            epoch: self.store().partition(partition_of(CLUSTER, key.bucket, &key.key)).epoch,
        }
    }

    /// The revision that a caller with the bucket's present record knows.
    fn bucket_revision(&self, key: &RegisterKey) -> u64 {
        self.store().slots.read().bucket(key.bucket).0.revision
    }

    async fn call(&self, key: &RegisterKey, request: SlotRequest) -> Result<SlotReply, NodeError> {
        let address = self.address(key);
        let bucket_revision = self.bucket_revision(key);
        self.store().call(SlotCall { address, register: key.clone(), bucket_revision, request }).await
    }

    pub(crate) async fn put(
        &self,
        key: &RegisterKey,
        counter: u64,
        data: &[u8],
    ) -> Result<SlotReply, NodeError> {
        let version = version(counter, data.len());
        let shard = encode(&version, data);
        self.call(key, SlotRequest::Prepare { op: version.op, shard }).await?;
        self.commit(key, version).await
    }

    /// Commits what is prepared, and tells that it is STABLE.
    async fn commit(&self, key: &RegisterKey, version: Version) -> Result<SlotReply, NodeError> {
        let tag = tag(version.op.counter);
        self.call(key, SlotRequest::Commit { version: version.clone(), tag }).await?;
        self.call(key, SlotRequest::Stable { version, tag, acknowledged: SlotSet(1) }).await
    }

    async fn inline(&self, key: &RegisterKey) -> Option<Bytes> {
        match self.call(key, SlotRequest::Query { inline_data: true }).await.unwrap() {
            SlotReply::View(_, data) => data,
            other => panic!("{other:?}"),
        }
    }

    fn segments(&self) -> usize {
        self.drive.paths().iter().filter(|path| path.starts_with("journal/")).count()
    }

    fn shard_files(&self) -> usize {
        let mut count = 0;
        self.store()
            .files
            .visit(&mut || true, |_| {
                count += 1;
                Ok(())
            })
            .unwrap();
        count
    }

    /// Whether the drive has to be opened again.
    fn is_down(&self) -> bool {
        !self.drive.has_power() || self.store().health.poisoned().is_some()
    }

    /// Reads the data of a whole shard.
    async fn read_shard(&self, key: &RegisterKey, op: OpId) -> Result<Vec<u8>, NodeError> {
        let (address, register) = (self.address(key), key.clone());
        let request = ReadShard { address, register, op, first_block: 0, block_count: u64::MAX };
        let mut blocks = self.store().read_shard(request).await?;
        let mut bytes = Vec::new();
        while let Some(block) = blocks.recv().await {
            bytes.extend_from_slice(&block?.data);
        }
        Ok(bytes)
    }

    async fn prepare_file(
        &self,
        key: &RegisterKey,
        counter: u64,
        data: &[u8],
    ) -> Result<SlotReply, NodeError> {
        let version = version(counter, data.len());
        self.stream(key, version.op, encode(&version, data)).await
    }

    /// Prepares a shard that comes in pieces.
    async fn stream(&self, key: &RegisterKey, op: OpId, shard: Bytes) -> Result<SlotReply, NodeError> {
        let header = PrepareShard {
            address: self.address(key),
            register: key.clone(),
            bucket_revision: self.bucket_revision(key),
            op,
        };
        self.store().prepare_shard(header, pieces_of(shard)).await
    }

    /// Installs a rebuilt shard that comes in pieces.
    async fn install(
        &self,
        key: &RegisterKey,
        install: &Install,
        shard: Bytes,
    ) -> Result<SlotReply, NodeError> {
        let shard = RebuiltShard::Stream(pieces_of(shard));
        self.store().install((self.address(key), key), install, shard).await
    }
}

fn pieces_of(shard: Bytes) -> ShardPieces {
    let (sender, pieces) = tokio::sync::mpsc::channel(4);
    let half = shard.len() / 2;
    let parts =
        [ShardPiece::Data(shard.slice(..half)), ShardPiece::Data(shard.slice(half..)), ShardPiece::End];
    parts.into_iter().for_each(|part| sender.try_send(part).unwrap());
    pieces
}

pub(crate) fn object(key: &str) -> RegisterKey {
    RegisterKey::object(BucketId(1), ObjectKey::new(key.to_owned()).unwrap())
}

fn op(counter: u64) -> OpId {
    OpId { session: 3, counter }
}

fn tag(counter: u64) -> Tag {
    Tag { fence: Fence::default(), seq: counter, writer: op(counter) }
}

fn version(counter: u64, len: usize) -> Version {
    Version {
        op: op(counter),
        kind: if len == 0 { VersionKind::Tombstone } else { VersionKind::Data },
        null_version: true,
        k: u8::from(len > 0),
        shard_len_bytes: len as u64,
        block_len_bytes: 4096,
        metadata: Bytes::from(format!("m{counter}")),
    }
}

fn encode(version: &Version, data: &[u8]) -> Bytes {
    if data.is_empty() {
        return Bytes::new();
    }
    let header = ShardHeader {
        cluster: CLUSTER,
        op: version.op,
        slot: SlotIndex(0),
        k: 1,
        m: 1,
        block_len_bytes: version.block_len_bytes,
        len_bytes: data.len() as u64,
    };
    header.encode_shard(data)
}

#[tokio::test]
async fn unsettled_registers_are_known_again_after_a_start_and_due_once_at_a_time() {
    let mut bench = Bench::new();
    for (key, counter, stable) in
        [("open", 1, false), ("over", 2, false), ("over", 3, true), ("done", 4, true)]
    {
        let version = version(counter, 0);
        let tag = tag(counter);
        bench.call(&object(key), SlotRequest::Commit { version: version.clone(), tag }).await.unwrap();
        if stable {
            let request = SlotRequest::Stable { version, tag, acknowledged: SlotSet(1) };
            bench.call(&object(key), request).await.unwrap();
        }
    }
    for applied in [false, true] {
        assert_eq!(bench.store().info().unstable, 1);
        if applied {
            bench.store().apply(true);
        }
        bench.reopen();
        assert!(bench.store().misses_unfinished(Task::Settle));
        bench.store().find_unfinished(Task::Settle).await.unwrap();
        assert!(!bench.store().misses_unfinished(Task::Settle));
        assert_eq!(bench.store().due(Task::Settle, 10).await.unwrap(), []);
        tokio::time::sleep(SETTLE_AFTER + Duration::from_millis(50)).await;
        let due = bench.store().due(Task::Settle, 10).await.unwrap();
        assert_eq!(
            due.iter().map(|due| (&due.register, due.op)).collect::<Vec<_>>(),
            [(&object("open"), op(1))]
        );
        assert!(bench.store().is_unfinished(Task::Settle, &due[0]));
        assert_eq!(bench.store().due(Task::Settle, 10).await.unwrap(), []);
    }
    let (version, tag) = (version(1, 0), tag(1));
    bench
        .call(&object("open"), SlotRequest::Stable { version, tag, acknowledged: SlotSet(1) })
        .await
        .unwrap();
    assert_eq!(bench.store().info().unstable, 0);
    let left = bench.store().due(Task::Settle, 10).await.unwrap();
    assert_eq!(left, []);
}

/// How many superseded versions of a key are left that was put so often, each time this long after the last, in a file or
/// inline.
async fn superseded(count: u64, gap_ms: u64, in_file: bool) -> usize {
    let (bench, key, began) = (Bench::new(), object("hot"), UnixMillis::now());
    for counter in 1..=count {
        if in_file {
            bench.prepare_file(&key, counter, &data(counter, 1000)).await.unwrap();
            bench.commit(&key, version(counter, 1000)).await.unwrap();
        } else {
            bench.put(&key, counter, &data(counter, 1000)).await.unwrap();
        }
    }
    let loaded = bench.store().load_blocking(&Bytes::from(key.encode())).unwrap();
    let mut entry = Entry::clone(loaded.entry().unwrap());
    entry.waiting.iter_mut().zip(1..).for_each(|(waiting, at)| waiting.since.0 = began.0 + at * gap_ms);
    bound_superseded(&mut entry, UnixMillis(began.0 + count * gap_ms));
    entry.register.freeable(entry.kind()).count()
}

#[tokio::test]
async fn a_hot_key_keeps_few_superseded_versions_and_fewer_of_those_that_lie_in_the_journal() {
    assert_eq!(superseded(40, 20_000, false).await, 2, "all others have waited longer than 10 s");
    assert_eq!(superseded(40, 500, false).await, 19, "those of the last 10 s");
    assert_eq!(superseded(40, 20_000, true).await, 16);
}

#[tokio::test]
async fn compaction_records_a_register_once_for_all_its_shards() {
    let bench = Bench::new();
    for counter in 1..=12 {
        bench.put(&object("hot"), counter, &data(counter, 500)).await.unwrap();
    }
    let mut fillers = 13..;
    while bench.store().journal.sealed().is_empty() {
        let counter = fillers.next().unwrap();
        bench.put(&object(&format!("cold{counter}")), counter, &data(counter, 2000)).await.unwrap();
    }
    let store = bench.store();
    let segment = store.journal.sealed()[0];
    let mut registers = BTreeSet::new();
    let read = store.journal.read_sealed(segment, &mut |record| {
        if record.kind == RecordKind::Register {
            let payload = Bytes::copy_from_slice(record.payload);
            registers.insert(decode_entry(payload, 0, record.place).unwrap().key);
        }
        Ok(())
    });
    read.unwrap();
    let entry = |key| Entry::clone(store.load_blocking(key).unwrap().entry().unwrap());
    let here =
        |shard: &StoredShard| matches!(shard.location, ShardLocation::Inline(at) if at.segment == segment);
    let shards = registers.iter().map(|key| entry(key).shards.into_iter().filter(here).count());
    let shards: usize = shards.sum();
    assert!(shards > registers.len() + 10, "{shards} in {}", registers.len());
    let before = store.journal.last_sequence();
    store.compact_segment(segment, &mut || {}).unwrap();
    let carried = store.journal.last_sequence() - before;
    assert!(carried <= (registers.len() + shards) as u64, "{carried}: {} and {shards}", registers.len());
    let expected = encode(&version(12, 500), &data(12, 500));
    assert_eq!(bench.inline(&object("hot")).await, Some(expected));
}

#[tokio::test]
async fn compaction_gives_back_the_room_of_what_was_overwritten() {
    let mut bench = Bench::new();
    for counter in 1..200_u64 {
        bench.put(&object(&format!("k{}", counter % 4)), counter, &data(counter, 5000)).await.unwrap();
    }
    let before = bench.segments();
    assert!(before > 4, "{before}");
    bench.store().apply(true);
    bench.store().free_superseded(UnixMillis(u64::MAX), Vec::new()).unwrap();
    bench.store().apply(true);
    let (mut breaths, mut waiting) = (0, Vec::new());
    let mut breathe = |segments| {
        breaths += 1;
        waiting.push(segments);
    };
    while bench.store().compact(&mut breathe).unwrap() {}
    assert!(breaths > before && waiting.is_sorted_by(|one, next| one >= next), "{breaths}: {waiting:?}");
    assert!(bench.segments() <= 3, "{} of {before}", bench.segments());
    for _ in 0..2 {
        for counter in 196..200_u64 {
            let expected = encode(&version(counter, 5000), &data(counter, 5000));
            assert_eq!(bench.inline(&object(&format!("k{}", counter % 4))).await, Some(expected));
        }
        bench.reopen();
    }
}

#[tokio::test]
async fn a_damaged_segment_keeps_no_other_from_being_compacted() {
    let mut bench = Bench::new();
    let snapshot =
        Snapshot { kind: SnapshotKind::Layout, generation: 1, revision: 1, data: data(1, 5000).into() };
    bench.store().store_snapshot(&snapshot).await.unwrap();
    for counter in 1..200_u64 {
        bench.put(&object(&format!("k{}", counter % 4)), counter, &data(counter, 5000)).await.unwrap();
    }
    let before = bench.segments();
    bench.store().apply(true);
    bench.store().free_superseded(UnixMillis(u64::MAX), Vec::new()).unwrap();
    bench.store().apply(true);
    // The copy of the layout in the first segment cannot be replaced; all that is in the second can.
    assert!(bench.drive.damage("journal/0000000000000001", |bytes| bytes[2000] ^= 1));
    assert!(bench.drive.damage("journal/0000000000000002", |bytes| *bytes.last_mut().unwrap() ^= 1));
    while bench.store().compact(&mut |_| {}).unwrap() {}
    let left = |bench: &Bench| bench.store().journal.sealed();
    assert_eq!(left(&bench), [1, 2], "of {before}: nothing is replaced before what is older");
    bench.store().store_snapshot(&snapshot).await.unwrap();
    bench.store().stuck.lock().clear();
    while bench.store().compact(&mut |_| {}).unwrap() {}
    assert!(bench.segments() <= 3, "{:?}", left(&bench));
    for _ in 0..2 {
        for counter in 196..200_u64 {
            let expected = encode(&version(counter, 5000), &data(counter, 5000));
            assert_eq!(bench.inline(&object(&format!("k{}", counter % 4))).await, Some(expected));
        }
        bench.lose_index();
        bench.reopen();
    }
}

#[tokio::test]
async fn a_failed_sync_fails_the_drive_and_nothing_is_acknowledged() {
    let mut bench = Bench::new();
    bench.put(&object("a"), 1, b"one").await.unwrap();
    bench.drive.inject(Fault::new(Call::Sync, "", When::Always, Effect::Error));
    let refused = bench.put(&object("a"), 2, b"two").await;
    assert!(matches!(refused, Err(NodeError::DriveUnavailable { .. })), "{refused:?}");
    bench.drive.clear_faults();
    // It stays failed, for reads too: what is in memory may be more than what is on the drive.
    let refused = bench.call(&object("a"), SlotRequest::Query { inline_data: false }).await;
    assert!(matches!(refused, Err(NodeError::DriveUnavailable { .. })), "{refused:?}");
    assert_eq!(bench.store().info().state, DriveState::Failed);
    bench.reopen();
    assert_eq!(bench.store().info().state, DriveState::Online);
    let SlotReply::View(view, _) =
        bench.call(&object("a"), SlotRequest::Query { inline_data: false }).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(view.current.unwrap().version.op, op(1));
}

#[tokio::test]
async fn a_full_drive_refuses_data_keeps_what_it_has_and_still_deletes() {
    let bench = Bench::new();
    bench.put(&object("kept"), 1, &data(1, 3000)).await.unwrap();
    // The spare segment is there; nothing more will fit.
    bench.drive.set_room(0);
    let mut counter = 1;
    let refused = loop {
        counter += 1;
        let key = object(&format!("k{counter}"));
        let version = version(counter, 20_000);
        let shard = encode(&version, &data(counter, 20_000));
        match bench.call(&key, SlotRequest::Prepare { op: version.op, shard }).await.unwrap() {
            SlotReply::View(..) => assert!(counter < 100, "it never fills"),
            refused => break refused,
        }
    };
    assert_eq!(refused, SlotReply::Refused(Refusal::Full));
    assert_eq!(bench.store().info().state, DriveState::ReadOnly);
    let large = bench.prepare_file(&object("large"), 500, &[7; 300_000]).await.unwrap();
    assert_eq!(large, SlotReply::Refused(Refusal::Full));
    assert_eq!(bench.shard_files(), 0);
    // Deletes go on.
    for delete in 1..counter {
        let reply = bench.put(&object(&format!("k{delete}")), delete + 1000, b"").await.unwrap();
        assert_eq!(reply, SlotReply::Done);
    }
}

#[tokio::test]
async fn a_full_file_system_in_the_middle_of_a_large_shard_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.drive.set_room(100_000);
    let refused = bench.prepare_file(&object("large"), 1, &[7; 300_000]).await.unwrap();
    assert_eq!((refused, bench.shard_files()), (SlotReply::Refused(Refusal::Full), 0));
    bench.drive.set_room(1 << 40);
    bench.store().health.set_space(bench.store().drive.io.space().unwrap());
    assert!(matches!(bench.prepare_file(&object("large"), 1, &[7; 300_000]).await, Ok(SlotReply::View(..))));
}

#[tokio::test]
async fn superseded_files_are_removed_and_strays_swept() {
    let mut bench = Bench::new();
    let key = object("large");
    for counter in 1..4 {
        bench.prepare_file(&key, counter, &[counter as u8; 300_000]).await.unwrap();
        bench.put(&key, counter, &[]).await.unwrap();
    }
    assert_eq!(bench.shard_files(), 3);
    bench.store().apply(true);
    bench.store().free_superseded(UnixMillis(0), Vec::new()).unwrap();
    assert_eq!(bench.shard_files(), 3, "the grace is not over");
    bench.store().free_superseded(UnixMillis(u64::MAX), Vec::new()).unwrap();
    assert_eq!(bench.shard_files(), 1);
    let stray = bench.store().files.create(op(77), SlotIndex(0)).unwrap();
    stray.write_at(b"x", 0).unwrap();
    bench.store().sweep_files(Duration::from_secs(60));
    assert_eq!(bench.shard_files(), 2, "it may be on its way");
    bench.store().sweep_files(Duration::ZERO);
    assert_eq!(bench.shard_files(), 1);
    bench.reopen();
    assert_eq!(bench.store().info().registers, 1);
}

#[tokio::test]
async fn a_damaged_shard_is_not_served_and_is_reported_missing() {
    let bench = Bench::new();
    let key = object("k");
    bench.put(&key, 1, &data(1, 9000)).await.unwrap();
    assert!(bench.drive.damage("journal/0000000000000001", |bytes| {
        let needle = &data(1, 9000)[..4096];
        let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        bytes[at + 17] ^= 1;
    }));
    assert_eq!(bench.inline(&key).await, None);
    assert_eq!(bench.store().info().missing_shards, 1);
}
