use coffer_common::meta::{Coding, PartTable};
use coffer_common::types::OpId;

use super::*;

fn op(counter: u64) -> OpId {
    OpId { session: 1, counter }
}

const CODING: Coding = Coding { codec: 0, k: 2, m: 2, block_len_bytes: 65_536 };

fn attempt(counter: u64, replaces: bool) -> Version {
    let meta = PartMeta {
        size: 100,
        md5: [7; 16],
        checksums: Vec::new(),
        coding: CODING,
        last_modified: UnixMillis(5),
        replaces,
    };
    Version {
        op: op(counter),
        kind: VersionKind::Data,
        k: 2,
        shard_len_bytes: stripes(CODING, 100).unwrap().shard_len_bytes(),
        block_len_bytes: 65_536,
        null_version: false,
        metadata: RegisterMeta::Part(meta).encode(),
    }
}

/// An object of part 1, written by op 3.
fn live() -> Fate {
    let part =
        ObjectPart { number: 1, size: 100, md5: [7; 16], checksums: Vec::new(), op: op(3), coding: CODING };
    let parts = Some(PartTable { upload: UploadId(9), parts: vec![part] });
    Fate::Live(Box::new(ObjectMeta { parts, last_modified: UnixMillis(5), ..ObjectMeta::default() }))
}

#[test]
fn only_what_no_object_is_made_of_is_ended() {
    let tombstone = Version { kind: VersionKind::Tombstone, null_version: true, ..attempt(3, false) };
    let pinned = pinned(&attempt(3, true)).unwrap();
    for (fate, number, current, expected) in [
        (Fate::Kept, 1, attempt(3, true), Act::Keep),
        (Fate::Over, 1, attempt(3, true), Act::End),
        (Fate::Over, 1, pinned.clone(), Act::End),
        (Fate::Over, 1, tombstone.clone(), Act::Keep),
        (live(), 1, tombstone, Act::Keep),
        (live(), 2, attempt(3, false), Act::End),
        (live(), 1, attempt(3, false), Act::Keep),
        (live(), 1, attempt(3, true), Act::Pin(pinned.clone())),
        (live(), 1, pinned.clone(), Act::Keep),
        // From the part table alone the same version is made.
        (live(), 1, attempt(4, true), Act::Pin(pinned)),
    ] {
        assert_eq!(judge(&fate, number, &current).unwrap(), expected, "{fate:?} {number} {current:?}");
    }
}
