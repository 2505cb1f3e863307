use coffer_common::node::{Snapshot, SnapshotChange, SnapshotKind};
use coffer_common::protocol::message::{SlotVersion, Version, VersionKind};
use coffer_common::protocol::register::{PartitionState, Role};
use coffer_common::types::{BucketId, Epoch, Fence, SlotSet, Tag};
use proptest::prelude::*;

use super::*;

fn op() -> impl Strategy<Value = OpId> {
    (any::<u64>(), any::<u64>()).prop_map(|(session, counter)| OpId { session, counter })
}

fn fence() -> impl Strategy<Value = Fence> {
    (any::<u32>(), any::<u64>()).prop_map(|(generation, revision)| Fence { generation, revision })
}

fn tag() -> impl Strategy<Value = Tag> {
    (fence(), any::<u64>(), op()).prop_map(|(fence, seq, writer)| Tag { fence, seq, writer })
}

prop_compose! {
    fn version()(
        (op, tag, state) in (op(), tag(), 2..5_u8),
        (tombstone, null_version, shard_present) in any::<(bool, bool, bool)>(),
        (k, shard_len_bytes, block_len_bytes, acknowledged) in any::<(u8, u64, u32, u16)>(),
        metadata in proptest::collection::vec(any::<u8>(), 0..50),
    ) -> SlotVersion {
        SlotVersion {
            version: Version {
                op,
                kind: if tombstone { VersionKind::Tombstone } else { VersionKind::Data },
                null_version,
                k,
                shard_len_bytes,
                block_len_bytes,
                metadata: metadata.into(),
            },
            tag,
            state: match state {
                2 => VersionState::Learned,
                3 => VersionState::Committed,
                _ => VersionState::Stable,
            },
            shard_present,
            acknowledged: SlotSet(acknowledged),
        }
    }
}

fn shard() -> impl Strategy<Value = StoredShard> {
    let inline = (1..u64::MAX, any::<(u32, u32)>())
        .prop_map(|(segment, (offset, len))| ShardLocation::Inline(Place { segment, offset, len }));
    let file = any::<u64>().prop_map(|len| ShardLocation::File { len });
    (op(), prop_oneof![inline, file]).prop_map(|(op, location)| StoredShard { op, location })
}

prop_compose! {
    fn entry()(
        key in proptest::collection::vec(any::<u8>(), 0..40),
        (partition, slot, since) in any::<(u16, u8, u64)>(),
        fence in fence(),
        exclusive in proptest::option::of((fence(), op())),
        learn in proptest::option::of(tag()),
        versions in proptest::collection::vec(version(), 0..3),
        prepared in proptest::collection::vec(op(), 0..3),
        shards in proptest::collection::vec(shard(), 0..3),
        waiting in proptest::collection::vec(op(), 0..3),
    ) -> Entry {
        Entry {
            key: key.into(),
            partition: PartitionId(partition),
            slot: SlotIndex(slot),
            register: Register { fence, exclusive, learn, versions, prepared },
            shards,
            waiting: waiting.into_iter().map(|op| Waiting { op, since: UnixMillis(since) }).collect(),
            sequence: 7,
            place: Place { segment: 1, offset: 2, len: 3 },
        }
    }
}

proptest! {
    #[test]
    fn a_register_survives_its_record(entry in entry()) {
        let decoded = decode_entry(encode_entry(&entry).into(), entry.sequence, entry.place);
        prop_assert_eq!(decoded, Ok(entry.clone()));
        let listed = entry.register.current().map(|current| Listed {
            partition: entry.partition,
            slot: entry.slot,
            current: current.clone(),
        });
        prop_assert_eq!(decode_listed(&encode_entry(&entry), Bytes::copy_from_slice), Ok(listed));
    }

    #[test]
    fn damaged_records_are_errors_not_panics(entry in entry(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = encode_entry(&entry);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let _ = decode_listed(&bytes, Bytes::copy_from_slice);
        let _ = decode_entry(bytes.clone().into(), 0, Place::default());
        bytes.truncate(at);
        let _ = decode_entry(bytes.into(), 0, Place::default());
    }
}

#[test]
fn golden_bytes_of_records() {
    let op = OpId { session: 1, counter: 2 };
    let tag = Tag { fence: Fence { generation: 1, revision: 5 }, seq: 3, writer: op };
    let entry = Entry {
        key: Bytes::from_static(b"key"),
        partition: PartitionId(9),
        slot: SlotIndex(2),
        register: Register {
            fence: tag.fence,
            exclusive: Some((tag.fence, op)),
            learn: Some(Tag::default()),
            versions: vec![SlotVersion {
                version: Version {
                    op,
                    kind: VersionKind::Data,
                    null_version: true,
                    k: 2,
                    shard_len_bytes: 100,
                    block_len_bytes: 4096,
                    metadata: Bytes::from_static(b"meta"),
                },
                tag,
                state: VersionState::Stable,
                shard_present: true,
                acknowledged: SlotSet(7),
            }],
            prepared: vec![op],
        },
        shards: vec![StoredShard {
            op,
            location: ShardLocation::Inline(Place { segment: 4, offset: 64, len: 180 }),
        }],
        waiting: vec![Waiting { op, since: UnixMillis(1000) }],
        sequence: 0,
        place: Place::default(),
    };
    let state = PartitionState { epoch: Epoch(4), purge_epoch: Epoch(3), floor: tag, role: Role::Joining };
    let snapshot =
        Snapshot { kind: SnapshotKind::Buckets, generation: 1, revision: 9, data: Bytes::from_static(b"d") };
    let change = SnapshotChange {
        kind: SnapshotKind::Coordinator,
        previous: 9,
        generation: 1,
        revision: 10,
        data: Bytes::from_static(b"d"),
    };
    let golden = [
        encode_entry(&entry),
        encode_partition(PartitionId(9), &state, Epoch(4)),
        encode_bucket(BucketId(5), 6),
        encode_snapshot(&snapshot),
        encode_change(&change),
        encode_boot(3),
        encode_forget(&Bytes::from_static(b"key")),
    ]
    .map(hex::encode)
    .join("\n");
    assert_eq!(golden, include_str!("golden.txt").trim_end());
    // An older version tells of no epoch in which a slot was JOINING, but by its role.
    let voter = PartitionState { role: Role::Voter, ..state };
    for (state, told, taken) in [(state, 4, 4), (state, 0, 4), (voter, 2, 2), (voter, 0, 0)] {
        let encoded = encode_partition(PartitionId(9), &state, Epoch(told));
        assert_eq!(decode_partition(encoded.into()), Ok((PartitionId(9), state, Epoch(taken))));
    }
    assert_eq!(decode_copy(encode_snapshot(&snapshot).into()), Ok(CopyRecord::Whole(snapshot)));
    assert_eq!(decode_copy(encode_change(&change).into()), Ok(CopyRecord::Change(change)));
}

#[test]
fn snapshot_records_of_unknown_kinds_are_refused() {
    let of_kind = |kind: u8| decode_copy(Bytes::from(vec![8, kind]));
    for kind in [0, 5, 15, 16, 21, 32, 33, 35, 127] {
        assert!(of_kind(kind).is_err(), "{kind}");
    }
    assert!((1..5).chain(17..21).all(|kind| of_kind(kind).is_ok()));
}

#[test]
fn names_of_drive_state_survive_the_index() {
    let keys = [
        StateKey::Boot,
        StateKey::Partition(PartitionId(0x0102)),
        StateKey::Bucket(BucketId(7)),
        StateKey::Snapshot(3),
        StateKey::Change(3, u64::MAX - 1),
    ];
    for key in keys {
        assert_eq!(StateKey::from_bytes(&key.to_bytes()), Some(key));
    }
    assert_eq!(StateKey::from_bytes(b"c\x03short"), None);
}
