//! Whatever the domain can say survives the wire, through encoded bytes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::node::*;
use crate::proto::storage_v1 as wire;
use crate::protocol::message::*;
use crate::protocol::purge::{Candidate, Evidence, Held};
use crate::protocol::register::{Register, Role};
use crate::types::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn op()(session: u64, counter: u64) -> OpId { OpId { session, counter } }
}
prop_compose! {
    fn fence()(generation: u32, revision: u64) -> Fence { Fence { generation, revision } }
}
prop_compose! {
    fn tag()(fence in fence(), seq: u64, writer in op()) -> Tag { Tag { fence, seq, writer } }
}
prop_compose! {
    fn partition()(id in 0..4096_u16) -> PartitionId { PartitionId(id) }
}
prop_compose! {
    fn slot()(index in 0..16_u8) -> SlotIndex { SlotIndex(index) }
}
prop_compose! {
    fn address()(cluster: u128, drive: u128, incarnation: u32, partition in partition(), slot in slot(), epoch: u64)
        -> SlotAddress {
        SlotAddress {
            cluster: ClusterId(cluster),
            drive: DriveId(drive),
            incarnation: Incarnation(incarnation),
            partition,
            slot,
            epoch: Epoch(epoch),
        }
    }
}
prop_compose! {
    fn register()(bucket: u128, kind in 0..4_usize, key in "[a-z/\u{0}\u{1}é]{1,12}", sub in bytes()) -> RegisterKey {
        let kinds = [RegisterKind::Object, RegisterKind::Version, RegisterKind::Upload, RegisterKind::Part];
        RegisterKey { bucket: BucketId(bucket), kind: kinds[kind], key: ObjectKey::new(key).unwrap(), sub }
    }
}
prop_compose! {
    fn version()(op in op(), tombstone: bool, k: u8, shard_len_bytes: u64, block_len_bytes: u32, null_version: bool,
                 metadata in bytes()) -> Version {
        let kind = if tombstone { VersionKind::Tombstone } else { VersionKind::Data };
        Version { op, kind, k, shard_len_bytes, block_len_bytes, null_version, metadata }
    }
}
prop_compose! {
    fn held()(version in version(), tag in tag(), state in 0..3_usize, shard_present: bool, acknowledged: u16)
        -> SlotVersion {
        let state = [VersionState::Learned, VersionState::Committed, VersionState::Stable][state];
        SlotVersion { version, tag, state, shard_present, acknowledged: SlotSet(acknowledged) }
    }
}
prop_compose! {
    fn view()(fence in fence(), exclusive in option::of((self::fence(), op())), current in option::of(held()),
              learn in tag(), unstable in vec(held(), 0..3)) -> RegisterView {
        RegisterView { fence, exclusive, current, learn, unstable }
    }
}

fn request() -> impl Strategy<Value = SlotRequest> {
    prop_oneof![
        any::<bool>().prop_map(|inline_data| SlotRequest::Query { inline_data }),
        (op(), bytes()).prop_map(|(op, shard)| SlotRequest::Prepare { op, shard }),
        (version(), tag()).prop_map(|(version, tag)| SlotRequest::Commit { version, tag }),
        (fence(), op()).prop_map(|(fence, op)| SlotRequest::Fence { fence, op }),
        fence().prop_map(|fence| SlotRequest::Release { fence }),
        (version(), tag(), any::<u16>()).prop_map(|(version, tag, set)| SlotRequest::Stable {
            version,
            tag,
            acknowledged: SlotSet(set)
        }),
        (version(), tag(), any::<bool>(), bytes()).prop_map(|(version, tag, source_stable, shard)| {
            SlotRequest::Install { version, tag, source_stable, shard }
        }),
        op().prop_map(|op| SlotRequest::Abandon { op }),
    ]
}

fn reply() -> impl Strategy<Value = SlotReply> {
    let refusal = prop_oneof![
        fence().prop_map(Refusal::Fenced),
        (fence(), op()).prop_map(|(fence, op)| Refusal::Exclusive(fence, op)),
        any::<u64>().prop_map(|epoch| Refusal::WrongEpoch(Epoch(epoch))),
        any::<u64>().prop_map(Refusal::BucketChanged),
        Just(Refusal::NotVoter),
        Just(Refusal::Full),
    ];
    prop_oneof![
        (view(), option::of(bytes())).prop_map(|(view, shard)| SlotReply::View(view, shard)),
        any::<bool>().prop_map(|superseded| SlotReply::Committed { superseded }),
        Just(SlotReply::Done),
        refusal.prop_map(SlotReply::Refused),
    ]
}

fn error() -> impl Strategy<Value = NodeError> {
    let text = "[a-z ]{0,8}";
    prop_oneof![
        (text, text).prop_map(|(node, reason)| NodeError::Unreachable { node, reason }),
        text.prop_map(|node| NodeError::Timeout { node }),
        text.prop_map(NodeError::Denied),
        (any::<u128>(), text)
            .prop_map(|(drive, reason)| NodeError::DriveUnavailable { drive: DriveId(drive), reason }),
        (op(), text).prop_map(|(op, reason)| NodeError::ShardUnavailable { op, reason }),
        text.prop_map(NodeError::Invalid),
        Just(NodeError::Overloaded),
    ]
}

prop_compose! {
    fn entry()(register in register(), partition in partition(), slots in vec((slot(), held()), 0..3)) -> ListEntry {
        ListEntry { register, partition, slots }
    }
}

fn page() -> impl Strategy<Value = ListPage> {
    let item = prop_oneof![
        entry().prop_map(ListItem::Entry),
        (bytes(), entry()).prop_map(|(prefix, witness)| ListItem::CommonPrefix { prefix, witness }),
    ];
    let drive = || any::<u128>().prop_map(DriveId);
    (
        vec(item, 0..3),
        (any::<bool>(), bytes()),
        vec((drive(), any::<u32>().prop_map(Incarnation)), 0..3),
        vec((drive(), partition()), 0..3),
        vec((drive(), partition(), any::<u64>().prop_map(Epoch)), 0..3),
        any::<u64>(),
    )
        .prop_map(|(items, (truncated, walked), drives, not_voting, epochs, newer_bucket)| ListPage {
            items,
            truncated,
            walked,
            drives,
            not_voting,
            epochs,
            newer_bucket,
        })
}

fn info() -> impl Strategy<Value = NodeInfo> {
    let states = [
        DriveState::Online,
        DriveState::Suspect,
        DriveState::ReadOnly,
        DriveState::Failed,
        DriveState::Offline,
    ];
    let drive = (any::<u128>(), any::<u32>(), "[a-z/]{0,8}", 0..5_usize, "[a-z]{0,8}", any::<[u64; 12]>())
        .prop_map(move |(id, incarnation, path, state, reason, n)| DriveInfo {
            id: DriveId(id),
            incarnation: Incarnation(incarnation),
            path,
            state: states[state],
            reason,
            capacity_bytes: n[0],
            free_bytes: n[1],
            file_system: n[11],
            registers: n[2],
            unstable: n[3],
            missing_shards: n[4],
            boot_count: n[5],
            journal_sequence: n[6],
            join: DriveJoin { partitions: incarnation, waiting: incarnation / 2 },
            heal: DriveHeal {
                missing: n[7],
                owed: n[8],
                complete: n[9] % 2 == 0,
                rebuilt_shards: n[9],
                rebuilt_bytes: n[10],
                shards_per_minute: n[11],
            },
            lacking: match n[9] % 3 {
                0 => Lacking::Unknown,
                _ => Lacking::In(n[..3].iter().map(|at| PartitionId((at % 4096) as u16)).collect()),
            },
            most_data_shards: (n[10] % 2 == 0).then_some((n[10] % 17) as u8),
            scrub: DriveScrub {
                period_seconds: n[0],
                paused: n[1] % 2 == 0,
                began_ms: n[2],
                shards: n[3],
                bytes: n[4],
                expected_bytes: n[5],
                finished_ms: n[6],
                damaged_shards: n[7],
                damaged_segments: n[8],
                unrepaired_segments: n[9],
            },
        });
    ("[a-z]{1,8}", option::of(any::<u128>()), "[0-9.]{5}", any::<(u32, u64)>(), vec(drive, 0..3)).prop_map(
        |(id, cluster, version, (protocol, clock_ms), drives)| NodeInfo {
            id: NodeId(id),
            cluster: cluster.map(ClusterId),
            version,
            protocol,
            clock_ms,
            drives,
        },
    )
}

fn check<D, W>(value: D)
where
    D: Clone + PartialEq + std::fmt::Debug + TryFrom<W, Error = Malformed>,
    W: From<D> + Message + Default,
{
    let bytes = W::from(value.clone()).encode_to_vec();
    assert_eq!(D::try_from(W::decode(bytes.as_slice()).unwrap()), Ok(value));
}

proptest! {
    #[test]
    fn calls_survive_the_wire(address in address(), register in register(), bucket_revision: u64,
                              request in request()) {
        check::<_, wire::SlotCall>(SlotCall { address, register, bucket_revision, request });
    }

    #[test]
    fn replies_and_errors_survive_the_wire(reply in reply(), error in error()) {
        check::<_, wire::SlotReply>(reply);
        check::<_, wire::NodeError>(error);
    }

    #[test]
    fn shards_survive_the_wire(address in address(), register in register(), numbers: [u64; 3], op in op(),
                               data in bytes(), checksum: u128) {
        let [bucket_revision, first_block, block_count] = numbers;
        check::<_, wire::PrepareShard>(PrepareShard { address, register: register.clone(), bucket_revision, op });
        check::<_, wire::ReadShardRequest>(ReadShard { address, register, op, first_block, block_count });
        check::<_, wire::ShardBlock>(ShardBlock { checksum, data });
    }

    #[test]
    fn listings_survive_the_wire(page in page(), ids: (u128, u128), texts in (bytes(), bytes(), bytes()),
                                 limit: u32, bucket_revision: u64, resumes: bool) {
        let ((cluster, bucket), (prefix, after, delimiter)) = (ids, texts);
        check::<_, wire::ListResponse>(page);
        check::<_, wire::ListRequest>(ListRequest {
            cluster: ClusterId(cluster), bucket: BucketId(bucket), bucket_revision, kind: RegisterKind::Upload,
            prefix, after, delimiter, limit, resumes,
        });
    }

    #[test]
    fn what_is_handed_over_survives_the_wire(address in address(), error in error(), numbers: [u64; 4], floor in tag(), key in register(),
                                             promise in (fence(), option::of((fence(), op())), option::of(tag())),
                                             mut versions in vec(held(), 0..3), complete: bool, bucket: u128) {
        let [after, buckets_after, epoch, purge_epoch] = numbers;
        check::<_, wire::HandOverRequest>(HandOverRequest { address, after, buckets_after });
        versions.sort_by_key(|version| version.tag);
        versions.dedup_by_key(|version| version.tag);
        let (fence, exclusive, learn) = promise;
        let register = Register { fence, exclusive, learn, versions, prepared: Vec::new() };
        let page = HandOverPage {
            epoch: Epoch(epoch), purge_epoch: Epoch(purge_epoch), floor, registers: std::vec![(key, register)],
            position: after, complete, buckets: std::vec![(BucketId(bucket), epoch)], buckets_position: buckets_after,
        };
        check::<_, wire::HandOverResponse>(page.clone());
        let (request, answers) = (HandOverRequest { address, after, buckets_after }, std::vec![Ok(page), Err(error)]);
        let wired = hand_over_answers(&[request.clone(), request], answers.clone());
        assert_eq!(HandOverAnswers::try_from(wired).unwrap(), answers);
    }

    #[test]
    fn purges_survive_the_wire(address in address(), key in register(), tag in tag(), op in op(), numbers: [u64; 3],
                               which in 0..5_usize) {
        let [grace_ms, epoch, purge_epoch] = numbers;
        let step = [PurgeStep::Look, PurgeStep::Adopt, PurgeStep::Drop][which % 3];
        let candidates = std::vec![(key.clone(), Candidate::Tombstone(tag)), (key, Candidate::Orphan(op))];
        check::<_, wire::PurgeRequest>(PurgeRequest { address, step, candidates, grace_ms });
        let held = [Held::Nothing, Held::Prepared, Held::Waited, Held::Alone, Held::Other][which];
        let role = [Role::Voter, Role::Joining, Role::Out][which % 3];
        let (epoch, purge_epoch) = (Epoch(epoch), Epoch(purge_epoch));
        check::<_, wire::PurgeResponse>(std::vec![Evidence { role, epoch, purge_epoch, held }]);
    }

    #[test]
    fn node_state_survives_the_wire(info in info(), kind in 0..4_usize, generation: u32, revision: u64,
                                    data in bytes()) {
        let kinds =
            [SnapshotKind::Layout, SnapshotKind::Buckets, SnapshotKind::Coordinator, SnapshotKind::Identity];
        check::<_, wire::InfoResponse>(info);
        check::<_, wire::Snapshot>(Snapshot { kind: kinds[kind], generation, revision, data });
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(call) = wire::SlotCall::decode(bytes.as_slice()) {
            let _ = SlotCall::try_from(call);
        }
        if let Ok(page) = wire::ListResponse::decode(bytes.as_slice()) {
            let _ = ListPage::try_from(page);
        }
    }
}

#[test]
fn an_older_node_that_lacks_nothing_is_believed_and_else_not_known() {
    let told = |complete, missing, tells_lacking| {
        let here = DriveInfo::unknown(DriveId(1), Incarnation(0), String::new(), DriveState::Online);
        let heal = DriveHeal { complete, missing, ..DriveHeal::default() };
        let wire = wire::DriveInfo::from(DriveInfo { heal, lacking: Lacking::Unknown, ..here });
        DriveInfo::try_from(wire::DriveInfo { tells_lacking, ..wire }).unwrap().lacking
    };
    assert_eq!(told(true, 0, false), Lacking::nothing());
    assert_eq!(
        [told(true, 1, false), told(false, 0, false), told(true, 0, true)],
        [const { Lacking::Unknown }; 3]
    );
}

#[test]
fn what_is_missing_unknown_or_out_of_range_is_named() {
    let refused = |call: wire::SlotCall| SlotCall::try_from(call).unwrap_err().0;
    let address = wire::SlotAddress {
        cluster: Some(1_u128.into()),
        drive: Some(2_u128.into()),
        ..wire::SlotAddress::default()
    };
    assert_eq!(refused(wire::SlotCall::default()), "call.address");
    let wide = wire::SlotAddress { partition: 4096, ..address };
    assert_eq!(refused(wire::SlotCall { address: Some(wide), ..Default::default() }), "partition");
    let wide = wire::SlotAddress { slot: 16, ..address };
    assert_eq!(refused(wire::SlotCall { address: Some(wide), ..Default::default() }), "slot");
    assert_eq!(refused(wire::SlotCall { address: Some(address), ..Default::default() }), "register");
    let register = RegisterKey::object(BucketId(1), ObjectKey::new("k").unwrap()).encode().into();
    let call = wire::SlotCall { address: Some(address), register, ..Default::default() };
    assert_eq!(refused(call), "call.request");
    let state = wire::SlotVersion {
        version: Some(wire::Version { op: Some(wire::OpId::default()), kind: 1, ..Default::default() }),
        tag: Some(Tag::default().into()),
        state: 9,
        ..Default::default()
    };
    assert_eq!(SlotVersion::try_from(state), Err(Malformed("version.state")));
}
