//! What every node client must do, whatever lies between the caller and the drives: one suite for the local node, the
//! remote one and decorators. Each check takes registers of its own in a bucket of its own, so that the suite may run
//! several times on one drive, and side by side.
//!
//! It panics where the client does not conform; it is for tests only.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    ListItem, ListRequest, NodeClient, NodeError, PrepareShard, ReadShard, ShardPiece, SlotAddress, SlotCall,
    Snapshot, SnapshotKind, partition_of,
};
use crate::protocol::message::{
    Refusal, RegisterView, SlotReply, SlotRequest, Version, VersionKind, VersionState,
};
use crate::shard::{ShardHeader, ShardId};
use crate::types::{
    BucketId, ClusterId, DriveId, Epoch, Fence, Incarnation, ObjectKey, OpId, RegisterKey, RegisterKind,
    SlotIndex, SlotSet, Tag,
};

const BUCKET_REVISION: u64 = 3;
const BLOCK_LEN_BYTES: u32 = 64 * 1024;

/// A client and a slot behind it that it may use.
#[derive(Clone)]
pub struct Fixture {
    /// The client.
    pub client: Arc<dyn NodeClient>,
    /// The cluster.
    pub cluster: ClusterId,
    /// A drive of the node.
    pub drive: DriveId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The slot's place.
    pub slot: SlotIndex,
    /// The epoch of all its partitions.
    pub epoch: Epoch,
}

/// Runs every check.
///
/// # Panics
/// If the client does not conform.
pub async fn run(fixture: &Fixture) {
    let bench =
        || Bench { fixture: fixture.clone(), bucket: BucketId::random(), session: crate::random::random() };
    bench().small_version_goes_through_its_life().await;
    bench().fences_hold_back_older_tags().await;
    bench().large_shard_comes_back_by_blocks().await;
    bench().broken_shards_leave_nothing_behind().await;
    bench().damaged_shards_are_refused().await;
    bench().wrong_addresses_are_refused().await;
    bench().large_metadata_passes().await;
    bench().calls_run_side_by_side().await;
    bench().listing_is_ordered_rolled_up_and_paged().await;
    bench().old_bucket_revisions_are_refused().await;
    bench().node_tells_of_itself_and_keeps_snapshots().await;
}

struct Bench {
    fixture: Fixture,
    bucket: BucketId,
    session: u64,
}

impl Bench {
    fn register(&self, key: &str) -> RegisterKey {
        RegisterKey::object(self.bucket, ObjectKey::new(key.to_owned()).expect("keys of the suite are valid"))
    }

    fn address(&self, register: &RegisterKey) -> SlotAddress {
        let Fixture { cluster, drive, incarnation, slot, epoch, .. } = self.fixture;
        let partition = partition_of(cluster, self.bucket, &register.key);
        SlotAddress { cluster, drive, incarnation, partition, slot, epoch }
    }

    fn op(&self, counter: u64) -> OpId {
        OpId { session: self.session, counter }
    }

    fn tag(&self, revision: u64, seq: u64, counter: u64) -> Tag {
        Tag { fence: Fence { generation: 0, revision }, seq, writer: self.op(counter) }
    }

    fn version(&self, counter: u64, shard_len: usize) -> Version {
        Version {
            op: self.op(counter),
            kind: VersionKind::Data,
            k: u8::from(shard_len > 0),
            shard_len_bytes: shard_len as u64,
            block_len_bytes: BLOCK_LEN_BYTES,
            null_version: true,
            metadata: Bytes::from(format!("metadata {counter}")),
        }
    }

    fn shard_header(&self, version: &Version) -> ShardHeader {
        ShardHeader {
            cluster: self.fixture.cluster,
            op: version.op,
            slot: self.fixture.slot,
            k: 1,
            m: 1,
            block_len_bytes: version.block_len_bytes,
            len_bytes: version.shard_len_bytes,
        }
    }

    fn slot_call(&self, key: &str, request: SlotRequest) -> SlotCall {
        let register = self.register(key);
        SlotCall { address: self.address(&register), register, bucket_revision: BUCKET_REVISION, request }
    }

    async fn try_call(&self, key: &str, request: SlotRequest) -> Result<SlotReply, NodeError> {
        self.fixture.client.call(self.slot_call(key, request)).await
    }

    async fn call(&self, key: &str, request: SlotRequest) -> SlotReply {
        match self.try_call(key, request.clone()).await {
            Ok(reply) => reply,
            Err(error) => panic!("{request:?} of `{key}` failed: {error}"),
        }
    }

    async fn view(&self, key: &str, request: SlotRequest) -> (RegisterView, Option<Bytes>) {
        match self.call(key, request).await {
            SlotReply::View(view, shard) => (view, shard),
            other => panic!("a view was expected, not {other:?}"),
        }
    }

    async fn query(&self, key: &str) -> RegisterView {
        self.view(key, SlotRequest::Query { inline_data: false }).await.0
    }

    async fn commit(&self, key: &str, version: &Version, tag: Tag) -> SlotReply {
        self.call(key, SlotRequest::Commit { version: version.clone(), tag }).await
    }

    async fn send_shard(
        &self,
        key: &str,
        op: OpId,
        pieces: Vec<Bytes>,
        complete: bool,
    ) -> Result<SlotReply, NodeError> {
        let register = self.register(key);
        let header =
            PrepareShard { address: self.address(&register), register, bucket_revision: BUCKET_REVISION, op };
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        let send = async move {
            for piece in pieces {
                if sender.send(ShardPiece::Data(piece)).await.is_err() {
                    return;
                }
            }
            if complete {
                let _ = sender.send(ShardPiece::End).await;
            }
        };
        futures_util::future::join(self.fixture.client.prepare_shard(header, receiver), send).await.0
    }

    async fn read(&self, key: &str, op: OpId, blocks: (u64, u64)) -> Result<Vec<(u128, Bytes)>, NodeError> {
        let register = self.register(key);
        let request = ReadShard {
            address: self.address(&register),
            register,
            op,
            first_block: blocks.0,
            block_count: blocks.1,
        };
        let mut stream = self.fixture.client.read_shard(request).await?;
        let mut read = Vec::new();
        while let Some(block) = stream.recv().await {
            let block = block?;
            read.push((block.checksum, block.data));
        }
        Ok(read)
    }

    fn check_blocks(&self, op: OpId, first: u64, blocks: &[(u128, Bytes)], data: &[u8]) {
        let id = ShardId { cluster: self.fixture.cluster, op, slot: self.fixture.slot };
        let mut joined = Vec::new();
        for (block_no, (checksum, block)) in (first..).zip(blocks) {
            assert_eq!(crate::shard::block_checksum(id, block_no, block), *checksum, "block {block_no}");
            joined.extend_from_slice(block);
        }
        assert!(joined == data, "{} bytes read are not the {} bytes written", joined.len(), data.len());
    }

    async fn small_version_goes_through_its_life(&self) {
        let nothing = self.query("small").await;
        assert!(nothing.current.is_none() && nothing.unstable.is_empty(), "{nothing:?}");

        let data: Vec<u8> = (0..100_000_u32).map(|i| (i / 3) as u8).collect();
        let version = self.version(1, data.len());
        let shard = self.shard_header(&version).encode_shard(&data);
        let prepare = SlotRequest::Prepare { op: version.op, shard: shard.clone() };
        assert!(self.view("small", prepare).await.0.current.is_none(), "a prepared op is invisible");
        let tag = self.tag(0, 1, 1);
        for _ in 0..2 {
            let committed = self.commit("small", &version, tag).await;
            assert_eq!(committed, SlotReply::Committed { superseded: false });
        }
        let (view, inline) = self.view("small", SlotRequest::Query { inline_data: true }).await;
        let current = view.current.expect("it is committed");
        assert_eq!((&current.version, current.tag, current.state), (&version, tag, VersionState::Committed));
        assert!(current.shard_present);
        assert_eq!(inline, Some(shard));
        assert_eq!(view.learn, tag);

        let acknowledged = SlotSet(0b111);
        let stable = SlotRequest::Stable { version: version.clone(), tag, acknowledged };
        assert_eq!(self.call("small", stable).await, SlotReply::Done);
        let current = self.query("small").await.current.expect("it is stable");
        assert_eq!(current.state, VersionState::Stable);
        let blocks = self.read("small", version.op, (0, 9)).await.expect("an inline shard can be read");
        self.check_blocks(version.op, 0, &blocks, &data);

        let newer = self.tag(0, 2, 2);
        let tombstone = Version { kind: VersionKind::Tombstone, ..self.version(2, 0) };
        self.call("small", SlotRequest::Prepare { op: tombstone.op, shard: Bytes::new() }).await;
        assert_eq!(self.commit("small", &tombstone, newer).await, SlotReply::Committed { superseded: false });
        assert_eq!(self.commit("small", &version, tag).await, SlotReply::Committed { superseded: true });
        let current = self.query("small").await.current.expect("a tombstone is a version");
        assert_eq!(current.version.kind, VersionKind::Tombstone);
        assert_eq!(
            self.call("small", SlotRequest::Abandon { op: self.op(99) }).await,
            SlotReply::Done,
            "an op that never was"
        );
    }

    async fn fences_hold_back_older_tags(&self) {
        let fence = Fence { generation: 0, revision: 7 };
        let (view, _) = self.view("fenced", SlotRequest::Fence { fence, op: self.op(1) }).await;
        assert!(view.current.is_none());
        let plain = self.version(2, 0);
        let refused = self.commit("fenced", &plain, self.tag(0, 1, 2)).await;
        assert_eq!(refused, SlotReply::Refused(Refusal::Fenced(fence)));
        let refused = self.commit("fenced", &plain, self.tag(7, 1, 2)).await;
        assert_eq!(refused, SlotReply::Refused(Refusal::Exclusive(fence, self.op(1))));
        let owner = self.version(1, 0);
        let committed = self.commit("fenced", &owner, self.tag(7, 1, 1)).await;
        assert_eq!(committed, SlotReply::Committed { superseded: false });
        assert_eq!(self.call("fenced", SlotRequest::Release { fence }).await, SlotReply::Done);
    }

    async fn large_shard_comes_back_by_blocks(&self) {
        let data: Vec<u8> = (0..2_500_000_u32).map(|i| (i / 7) as u8).collect();
        let version = self.version(1, data.len());
        let encoded = self.shard_header(&version).encode_shard(&data);
        let mut pieces = Vec::new();
        let mut rest = encoded;
        for len in [1, 63, 16, 70_000, 3, 1_000_000, 0, 500_000].into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            pieces.push(rest.split_to(len.min(rest.len())));
        }
        let reply = self.send_shard("large", version.op, pieces, true).await.expect("it is whole");
        assert!(matches!(reply, SlotReply::View(..)), "{reply:?}");
        self.commit("large", &version, self.tag(0, 1, 1)).await;

        let block = BLOCK_LEN_BYTES as usize;
        for (first, count) in [(0, 1000), (0, 1), (3, 20), (38, 1), (30, 1000)] {
            let blocks = self.read("large", version.op, (first, count)).await.expect("it can be read");
            let from = first as usize * block;
            let to = data.len().min(from + count as usize * block);
            self.check_blocks(version.op, first, &blocks, &data[from..to]);
        }
        let missing = self.read("large", self.op(9), (0, 1)).await;
        assert!(matches!(missing, Err(NodeError::ShardUnavailable { .. })), "{missing:?}");
    }

    async fn broken_shards_leave_nothing_behind(&self) {
        let data = vec![5; 1_500_000];
        let version = self.version(1, data.len());
        let encoded = self.shard_header(&version).encode_shard(&data);
        for cut in [0, 64, 1_000_000, encoded.len()] {
            let broken = self.send_shard("broken", version.op, vec![encoded.slice(..cut)], false).await;
            assert!(broken.is_err(), "cut at {cut}: {broken:?}");
        }
        assert!(self.read("broken", version.op, (0, 1)).await.is_err());
        // A node may still clean up after a caller that broke off; the op is free again soon.
        for attempt in 0.. {
            match self.send_shard("broken", version.op, vec![encoded.clone()], true).await {
                Ok(reply) => {
                    assert!(matches!(reply, SlotReply::View(..)), "{reply:?}");
                    return;
                }
                Err(error) => assert!(attempt < 100, "the op is not free again: {error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn damaged_shards_are_refused(&self) {
        for len in [5_000, 1_500_000] {
            let version = self.version(len as u64, len);
            let mut damaged = self.shard_header(&version).encode_shard(&vec![9; len]).to_vec();
            damaged[len / 2] ^= 1;
            let refused = if len < 100_000 {
                let request = SlotRequest::Prepare { op: version.op, shard: damaged.into() };
                self.try_call("damaged", request).await
            } else {
                self.send_shard("damaged", version.op, vec![damaged.into()], true).await
            };
            assert!(matches!(refused, Err(NodeError::Invalid(_))), "{len}: {refused:?}");
        }
    }

    async fn wrong_addresses_are_refused(&self) {
        let query = SlotRequest::Query { inline_data: false };
        let attempt = |change: fn(&mut SlotAddress)| {
            let mut call = self.slot_call("address", query.clone());
            change(&mut call.address);
            self.fixture.client.call(call)
        };
        let cluster = attempt(|address| address.cluster = ClusterId(!address.cluster.0)).await;
        assert!(matches!(cluster, Err(NodeError::Denied(_))), "{cluster:?}");
        let drive = attempt(|address| address.drive = DriveId(!address.drive.0)).await;
        assert!(matches!(drive, Err(NodeError::DriveUnavailable { .. })), "{drive:?}");
        let incarnation = attempt(|address| address.incarnation.0 += 1).await;
        assert!(matches!(incarnation, Err(NodeError::DriveUnavailable { .. })), "{incarnation:?}");
    }

    async fn large_metadata_passes(&self) {
        let metadata = Bytes::from(vec![7; 1_000_000]);
        let version = Version { metadata, ..self.version(1, 0) };
        self.commit("metadata", &version, self.tag(0, 1, 1)).await;
        let current = self.query("metadata").await.current.expect("it is committed");
        assert!(current.version == version);
    }

    async fn calls_run_side_by_side(&self) {
        let put = |index: u64| async move {
            let key = format!("many/{index:03}");
            let version = self.version(1000 + index, 0);
            self.call(&key, SlotRequest::Prepare { op: version.op, shard: Bytes::new() }).await;
            self.commit(&key, &version, self.tag(0, 1, 1000 + index)).await;
            assert_eq!(self.query(&key).await.current.map(|current| current.version), Some(version));
        };
        join_all((0..200).map(put)).await;
    }

    async fn listing_is_ordered_rolled_up_and_paged(&self) {
        for (counter, key) in (1..).zip(["a", "a/b", "a/c", "b/1", "c"]) {
            self.commit(key, &self.version(counter, 0), self.tag(0, 1, counter)).await;
        }
        // To a caller that would not go on where drives have stopped, and to one that does.
        for resumes in [false, true] {
            assert_eq!(self.list_in_twos(resumes).await, ["a", "a/", "b/", "c"]);
        }
    }

    async fn list_in_twos(&self, resumes: bool) -> Vec<String> {
        let mut names = Vec::new();
        let mut after = Bytes::new();
        loop {
            let page = self
                .fixture
                .client
                .list(ListRequest {
                    cluster: self.fixture.cluster,
                    bucket: self.bucket,
                    bucket_revision: BUCKET_REVISION,
                    kind: RegisterKind::Object,
                    prefix: Bytes::new(),
                    after: after.clone(),
                    delimiter: Bytes::from_static(b"/"),
                    limit: 2,
                    resumes,
                })
                .await
                .expect("a listing");
            assert!(page.drives.contains(&(self.fixture.drive, self.fixture.incarnation)));
            for item in &page.items {
                names.push(match item {
                    ListItem::Entry(entry) => {
                        assert_eq!(
                            entry.slots.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(),
                            [self.fixture.slot]
                        );
                        entry.register.key.to_string()
                    }
                    ListItem::CommonPrefix { prefix, .. } => String::from_utf8_lossy(prefix).into_owned(),
                });
            }
            if !page.truncated {
                return names;
            }
            let end: Bytes = match page.items.last() {
                Some(ListItem::Entry(entry)) => entry.register.encode().into(),
                Some(ListItem::CommonPrefix { prefix, .. }) => {
                    let mut end = RegisterKey::encode_prefix(self.bucket, RegisterKind::Object, prefix);
                    end.push(0xFF);
                    end.into()
                }
                None => page.walked,
            };
            assert!(end > after, "the page gets on");
            after = end;
        }
    }

    async fn old_bucket_revisions_are_refused(&self) {
        let drives = self
            .fixture
            .client
            .adopt_bucket(self.bucket, BUCKET_REVISION + 1)
            .await
            .expect("the node adopts");
        assert!(drives.contains(&self.fixture.drive));
        let refused = self.call("old", SlotRequest::Prepare { op: self.op(1), shard: Bytes::new() }).await;
        let changed = SlotReply::Refused(Refusal::BucketChanged(BUCKET_REVISION + 1));
        assert_eq!(refused, changed);
        assert_eq!(self.call("old", SlotRequest::Query { inline_data: false }).await, changed);
        for (bucket_revision, listed) in [(0, true), (BUCKET_REVISION, false), (BUCKET_REVISION + 1, true)] {
            let request = ListRequest {
                cluster: self.fixture.cluster,
                bucket: self.bucket,
                bucket_revision,
                kind: RegisterKind::Object,
                prefix: Bytes::new(),
                after: Bytes::new(),
                delimiter: Bytes::new(),
                limit: 1,
                resumes: false,
            };
            let page = self.fixture.client.list(request).await.expect("a listing");
            assert_eq!(page.drives.iter().any(|(drive, _)| *drive == self.fixture.drive), listed);
            assert_eq!(page.newer_bucket, if listed { 0 } else { BUCKET_REVISION + 1 });
        }
    }

    async fn node_tells_of_itself_and_keeps_snapshots(&self) {
        let client = &self.fixture.client;
        let info = client.info().await.expect("the node tells");
        assert_eq!(info.cluster, Some(self.fixture.cluster));
        assert!(info.drives.iter().any(|drive| drive.id == self.fixture.drive));

        let kind = SnapshotKind::Identity;
        let held = client.snapshot(kind).await.expect("it can be asked for");
        let revision = held.map_or(0, |snapshot| snapshot.revision) + 10;
        let newer = Snapshot { kind, generation: 1, revision, data: Bytes::from(vec![1; 5_000_000]) };
        let older = Snapshot { revision: revision - 1, data: Bytes::new(), ..newer.clone() };
        client.store_snapshot(newer.clone()).await.expect("it is stored");
        client.store_snapshot(older).await.expect("an older one changes nothing");
        assert!(client.snapshot(kind).await.expect("it can be asked for") == Some(newer));
    }
}
