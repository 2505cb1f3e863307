use super::*;

fn object() -> ObjectMeta {
    ObjectMeta {
        size: 5,
        etag: "5d41402abc4b2a76b9719d911017c592".into(),
        last_modified: UnixMillis(1_700_000_000_123),
        owner: Owner { id: "o".into(), display_name: "d".into() },
        attributes: Attributes {
            content_type: Some("text/plain".into()),
            user_metadata: [("a".to_owned(), "b".to_owned())].into(),
            tags: [("t".to_owned(), "u".to_owned())].into(),
            storage_class: StorageClass::ReducedRedundancy,
            retention: Some(Retention { mode: RetentionMode::Compliance, until: UnixMillis(9) }),
            legal_hold: true,
            ..Attributes::default()
        },
        checksums: vec![Checksum {
            algorithm: ChecksumAlgorithm::Crc32c,
            scope: ChecksumScope::FullObject,
            value: Bytes::from_static(&[1, 2, 3, 4]),
        }],
        coding: Coding { codec: 0, k: 2, m: 2, block_len_bytes: 131_072 },
        parts: Some(PartTable {
            upload: UploadId(7),
            parts: vec![ObjectPart {
                number: 1,
                size: 5,
                md5: [9; 16],
                checksums: vec![],
                op: OpId { session: 1, counter: 2 },
                coding: Coding { codec: 0, k: 1, m: 3, block_len_bytes: 4096 },
            }],
        }),
        version: Some(OpId { session: 3, counter: 4 }),
        delete_marker: false,
        encryption: None,
        history: None,
    }
}

fn kept() -> ObjectMeta {
    let version = |ordinal| crate::types::VersionRef { ordinal, op: OpId { session: 8, counter: ordinal } };
    let history = History {
        ordinal: 3,
        edits: 2,
        high: 4,
        null: Some(NullVersion { at: version(1), has_shards: true }),
        removing: vec![version(4), version(2)],
    };
    ObjectMeta { history: Some(history), ..object() }
}

fn encryption(scheme: EncryptionScheme, key_id: &str) -> Option<Encryption> {
    Some(Encryption { scheme, key_id: key_id.into(), sealed_key: Bytes::from_static(b"sealed") })
}

fn encrypted(scheme: EncryptionScheme, key_id: &str) -> ObjectMeta {
    ObjectMeta { encryption: encryption(scheme, key_id), ..kept() }
}

fn upload(state: UploadState) -> UploadMeta {
    UploadMeta {
        initiated: UnixMillis(1),
        owner: Owner::default(),
        initiator: None,
        attributes: Attributes::default(),
        checksum: Some((ChecksumAlgorithm::Sha256, ChecksumScope::Composite)),
        encryption: None,
        state,
    }
}

fn all() -> Vec<RegisterMeta> {
    let completed = |taken_over: bool| UploadState::Completed {
        op: OpId { session: 5, counter: 6 },
        object: Box::new(object()),
        decided: UnixMillis(2),
        request_digest: 77,
        before: Tag {
            fence: crate::types::Fence { generation: 1, revision: 2 },
            seq: 3,
            writer: OpId { session: 4, counter: 5 },
        },
        applied: !taken_over,
        taken_over,
    };
    let part = |replaces| PartMeta {
        size: 1,
        md5: [1; 16],
        checksums: vec![],
        coding: Coding { codec: 0, k: 2, m: 2, block_len_bytes: 65_536 },
        last_modified: UnixMillis(3),
        replaces,
    };
    vec![
        RegisterMeta::Object(Box::new(object())),
        RegisterMeta::Object(Box::new(ObjectMeta { delete_marker: true, ..ObjectMeta::default() })),
        RegisterMeta::Upload(Box::new(upload(UploadState::Open))),
        RegisterMeta::Upload(Box::new(upload(completed(false)))),
        RegisterMeta::Part(part(false)),
        RegisterMeta::Upload(Box::new(upload(completed(true)))),
        RegisterMeta::Part(part(true)),
        RegisterMeta::Object(Box::new(kept())),
        RegisterMeta::Object(Box::new(encrypted(EncryptionScheme::Customer, ""))),
        RegisterMeta::Object(Box::new(encrypted(EncryptionScheme::Managed, "k"))),
        RegisterMeta::Object(Box::new(encrypted(EncryptionScheme::Named, "k"))),
        RegisterMeta::Upload(Box::new(UploadMeta {
            encryption: encryption(EncryptionScheme::Named, "k"),
            ..upload(UploadState::Open)
        })),
        RegisterMeta::Upload(Box::new(UploadMeta {
            initiator: Some(Owner { id: "i".into(), display_name: "j".into() }),
            ..upload(UploadState::Open)
        })),
    ]
}

#[test]
fn metadata_round_trips() {
    for meta in all() {
        assert_eq!(RegisterMeta::decode(meta.encode()), Ok(meta));
    }
}

#[test]
fn cut_or_newer_metadata_is_refused() {
    for meta in all() {
        let bytes = meta.encode();
        for cut in 0..bytes.len() {
            assert!(RegisterMeta::decode(bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
    assert_eq!(RegisterMeta::decode(Bytes::from_static(&[0x08, 0x04])), Err(DecodeError::Newer(4)));
}

#[test]
fn encrypted_bytes_are_unreadable_to_who_does_not_know_of_them() {
    let format = |meta: RegisterMeta| meta.encode()[..2].to_vec();
    for object in [
        encrypted(EncryptionScheme::Customer, ""),
        ObjectMeta { history: None, ..encrypted(EncryptionScheme::Managed, "k") },
    ] {
        let upload = upload(UploadState::Completed {
            op: OpId::default(),
            object: Box::new(object.clone()),
            decided: UnixMillis(2),
            request_digest: 7,
            before: Tag::default(),
            applied: false,
            taken_over: false,
        });
        assert_eq!(format(RegisterMeta::Object(Box::new(object))), [0x08, 0x03]);
        assert_eq!(format(RegisterMeta::Upload(Box::new(upload))), [0x08, 0x03]);
    }
    let open =
        UploadMeta { encryption: encryption(EncryptionScheme::Managed, "k"), ..upload(UploadState::Open) };
    assert_eq!(format(RegisterMeta::Upload(Box::new(open))), [0x08, 0x03]);
}

#[test]
fn golden_bytes_of_every_record() {
    let encoded: Vec<String> = all().iter().map(|meta| hex::encode(meta.encode())).collect();
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(encoded, golden);
}
