//! Encrypted bytes over real storage nodes: what drives keep is not what was written, no keystream is used twice, and other gateways
//! read what one has written, if they have the key.

use coffer_common::types::UploadId;
use coffer_gateway::object::{
    BucketVersioning, CompleteUpload, CreateUpload, CustomerKey, Encrypt, Encrypted, EncryptionError,
    GetError, GetObject, Keyring, ObjectStore, PutObject, ReadCondition, Select, StoreSettings, Unlock,
    UploadPart, UploadRef,
};

use crate::body::*;
use crate::cluster::Bench;
use crate::multipart::complete;

const FIRST: &str = "first:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const SECOND: &str = "second:HxEeHRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgE=";

fn customer(byte: u8) -> CustomerKey {
    CustomerKey::new(&[byte; 32]).unwrap()
}

fn settings(lines: &[&str]) -> StoreSettings {
    StoreSettings { keys: Keyring::parse(&lines.join("\n")).unwrap(), ..StoreSettings::default() }
}

async fn read(
    store: &ObjectStore,
    k: &str,
    select: Select,
    with: Option<CustomerKey>,
) -> Result<bytes::Bytes, GetError> {
    let (condition, unlock) = (ReadCondition::default(), Unlock::With(with));
    let request = GetObject { bucket: name("bucket"), key: key(k), version: None, select, condition, unlock };
    let mut read = store.get_object(request).await?;
    let mut out = Vec::new();
    while let Some(piece) = read.bytes.next().await.unwrap() {
        out.extend_from_slice(&piece);
    }
    Ok(out.into())
}

fn encrypted(k: &str, data: &bytes::Bytes, encrypt: Encrypt) -> PutObject {
    PutObject { encrypt, ..put_request("bucket", k, body(data)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_objects_of_every_size_read_back_with_drives_away_too() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let sizes = [0, 1, 5, 4096, 262_144, 262_145, 1_048_576, 3_000_001];
    for (seed, len) in sizes.into_iter().enumerate() {
        let (data, k) = (bytes(len, seed as u64), format!("k{len}"));
        let info =
            bench.store.put_object(encrypted(&k, &data, Encrypt::Customer(customer(1)))).await.unwrap();
        assert_eq!((info.size, info.etag.as_str()), (len as u64, etag(&data).as_str()));
        assert_eq!(info.encryption, Some(Encrypted::Customer));
    }
    bench.settled().await;
    for down in [&[][..], &[0, 1], &[2, 3]] {
        bench.down(&[]);
        // One that knows nothing of who was away before.
        let other = bench.gateway_with(bench.cluster.coordinator()).await;
        bench.down(down);
        for (seed, len) in sizes.into_iter().enumerate() {
            let (data, k) = (bytes(len, seed as u64), format!("k{len}"));
            assert_eq!(
                read(&other, &k, Select::All, Some(customer(1))).await.unwrap(),
                data,
                "{len} {down:?}"
            );
            for first in [0, 1, 15, 16, 4095, 131_071, 1_048_575].into_iter().filter(|first| *first < len) {
                let last = (first + 200_000).min(len - 1);
                let select = Select::Range { first: first as u64, last: Some(last as u64) };
                let range = read(&other, &k, select, Some(customer(1))).await.unwrap();
                assert_eq!(range, data.slice(first..=last), "{len} {first} {down:?}");
            }
        }
    }
    bench.down(&[]);
    let other = bench.gateway().await;
    for (with, expected) in
        [(None, EncryptionError::KeyNeeded), (Some(customer(2)), EncryptionError::WrongKey)]
    {
        let refused = read(&other, "k5", Select::All, with).await;
        assert!(matches!(&refused, Err(GetError::Encryption(error)) if *error == expected), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_bytes_are_never_equal_on_drives() {
    // One data shard and one of parity, which is the same: a shard file is what was written, behind its header.
    let bench = Bench::start(1, 2).await;
    make_bucket(&bench.store, "bucket").await;
    let data = bytes::Bytes::from(vec![0; 1 << 20]);
    for _ in 0..2 {
        for k in ["a", "b"] {
            bench.store.put_object(encrypted(k, &data, Encrypt::Customer(customer(1)))).await.unwrap();
        }
    }
    let upload = begin(&bench.store, "upload", Encrypt::Customer(customer(1))).await;
    for number in [1, 1, 2] {
        let body = body(&data);
        let request = UploadPart { upload: upload.clone(), number, customer_key: Some(customer(1)), body };
        bench.store.upload_part(request).await.unwrap();
    }
    bench.census_at_rest().await;
    let files = bench.shard_files();
    let mut blocks: Vec<&[u8]> = Vec::new();
    for file in &files {
        assert!(file.len() > 1 << 20);
        // Of each shard a piece from its middle: all of them would be the keystream itself.
        let piece = &file[500_000..500_064];
        assert!(piece.iter().any(|byte| *byte != 0), "zeros were written as they are");
        blocks.push(piece);
    }
    // Each write lies on two drives, which hold the same; what was written over may be freed meanwhile.
    let mut counts = std::collections::BTreeMap::new();
    blocks.iter().for_each(|block| *counts.entry(*block).or_insert(0) += 1);
    assert!(counts.len() >= 4 && counts.values().all(|count| *count <= 2), "{counts:?}");
}

async fn begin(store: &ObjectStore, k: &str, encrypt: Encrypt) -> UploadRef {
    let request = CreateUpload {
        bucket: name("bucket"),
        key: key(k),
        attributes: coffer_gateway::object::Attributes::default(),
        owner: coffer_gateway::object::Owner::default(),
        initiator: coffer_gateway::object::Owner::default(),
        checksum: None,
        encrypt,
    };
    let upload: UploadId = store.create_upload(request).await.unwrap();
    UploadRef { bucket: name("bucket"), key: key(k), upload }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_need_the_same_keys_and_new_ones_go_above() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    let one = bench.gateway_of(settings(&[FIRST])).await;
    let rotated = bench.gateway_of(settings(&[SECOND, FIRST])).await;
    let lost = bench.gateway_of(settings(&[SECOND])).await;
    let data = bytes(400_000, 1);
    one.put_object(encrypted("k", &data, Encrypt::Managed)).await.unwrap();
    let upload = begin(&one, "upload", Encrypt::Named("first".into())).await;
    let mut parts = Vec::new();
    for (number, store) in [(1, &one), (2, &rotated)] {
        let body = body(&bytes(5 << 20, number));
        let number = number as u16;
        let request = UploadPart { upload: upload.clone(), number, customer_key: None, body };
        let info = store.upload_part(request).await.unwrap();
        parts.push(coffer_gateway::object::ChosenPart { number, etag: info.etag, checksums: Vec::new() });
    }
    // Whoever completes it needs no key.
    let done: CompleteUpload = complete(&upload, &parts);
    let info = bench.store.complete_upload(done).await.unwrap();
    assert_eq!(info.encryption, Some(Encrypted::Named("first".into())));
    let whole = [bytes(5 << 20, 1), bytes(5 << 20, 2)].concat();
    for store in [&one, &rotated] {
        assert_eq!(read(store, "k", Select::All, None).await.unwrap(), data);
        assert_eq!(read(store, "upload", Select::All, None).await.unwrap(), whole);
    }
    for store in [&lost, &bench.store] {
        for k in ["k", "upload"] {
            let refused = read(store, k, Select::All, None).await;
            let missing = EncryptionError::MissingKey("first".into());
            assert!(matches!(&refused, Err(GetError::Encryption(error)) if *error == missing), "{refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_archived_and_comes_back_keeps_its_key() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    let data = [bytes(100, 1), bytes(500_000, 2), bytes(7, 3)];
    let put = |data, byte| bench.store.put_object(encrypted("k", data, Encrypt::Customer(customer(byte))));
    put(&data[0], 1).await.unwrap();
    bench.store.set_versioning(&name("bucket"), true).await.unwrap();
    assert_eq!(bench.store.head_bucket(&name("bucket")).await.unwrap().versioning, BucketVersioning::Enabled);
    let second = put(&data[1], 2).await.unwrap().version;
    let third = put(&data[2], 3).await.unwrap().version;
    let delete = |version| coffer_gateway::object::DeleteObject {
        bucket: name("bucket"),
        key: key("k"),
        version: Some(version),
        condition: coffer_gateway::object::WriteCondition::Always,
        bypass_governance: false,
    };
    assert_eq!(read(&bench.store, "k", Select::All, Some(customer(3))).await.unwrap(), data[2]);
    bench.store.delete_object(delete(third)).await.unwrap();
    assert_eq!(read(&bench.store, "k", Select::All, Some(customer(2))).await.unwrap(), data[1]);
    bench.store.delete_object(delete(second)).await.unwrap();
    assert_eq!(read(&bench.store, "k", Select::All, Some(customer(1))).await.unwrap(), data[0]);
}
