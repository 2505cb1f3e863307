//! Uploads.

use coffer_gateway::object::{
    Attributes, ChosenPart, CompleteError, CompleteUpload, CreateUpload, Encrypt, GetError, ListParts,
    ListUploads, ObjectStore, Owner, PartError, Select, UploadError, UploadPart, UploadRef, WriteCondition,
};

use coffer_common::types::RegisterKey;
use sha2::Digest as _;

use crate::body::*;
use crate::cluster::Bench;

const MIB: usize = 1024 * 1024;

pub(crate) async fn begin(store: &ObjectStore, k: &str) -> UploadRef {
    let request = CreateUpload {
        bucket: name("bucket"),
        key: key(k),
        attributes: Attributes { content_type: Some("a/b".into()), ..Attributes::default() },
        owner: Owner::default(),
        initiator: Owner::default(),
        checksum: None,
        encrypt: Encrypt::No,
    };
    let upload = store.create_upload(request).await.unwrap();
    UploadRef { bucket: name("bucket"), key: key(k), upload }
}

pub(crate) async fn part(
    store: &ObjectStore,
    upload: &UploadRef,
    number: u16,
    data: &bytes::Bytes,
) -> Result<ChosenPart, PartError> {
    let request = UploadPart { upload: upload.clone(), number, customer_key: None, body: body(data) };
    let info = store.upload_part(request).await?;
    Ok(ChosenPart { number, etag: info.etag, checksums: Vec::new() })
}

pub(crate) fn complete(upload: &UploadRef, parts: &[ChosenPart]) -> CompleteUpload {
    CompleteUpload {
        upload: upload.clone(),
        parts: parts.to_vec(),
        condition: WriteCondition::Always,
        expected_size: None,
        customer_key: None,
        expected_checksum: None,
        combine: combine(),
    }
}

pub(crate) fn uploads() -> ListUploads {
    ListUploads {
        bucket: name("bucket"),
        prefix: String::new(),
        delimiter: String::new(),
        after_key: String::new(),
        after_upload: None,
        limit: 100,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_becomes_an_object_of_its_chosen_parts() {
    let bench = Bench::start(4, 1).await;
    let store = &bench.store;
    make_bucket(store, "bucket").await;
    let upload = begin(store, "k").await;
    let longer_key = begin(store, "k2").await;
    part(store, &longer_key, 1, &bytes(10, 9)).await.unwrap();
    let data = [bytes(5 * MIB, 1), bytes(6 * MIB + 7, 2), bytes(3, 3)];
    part(store, &upload, 2, &bytes(5 * MIB, 77)).await.unwrap();
    let mut chosen = Vec::new();
    for (number, data) in [(1, &data[0]), (2, &data[1]), (7, &data[2])] {
        chosen.push(part(store, &upload, number, data).await.unwrap());
    }
    part(store, &upload, 9, &bytes(50, 4)).await.unwrap();
    let page = store.list_parts(ListParts { upload: upload.clone(), after: 0, limit: 3 }).await.unwrap();
    assert_eq!(page.parts.iter().map(|part| part.number).collect::<Vec<_>>(), [1, 2, 7]);
    assert_eq!(page.next, Some(7));
    let page = store.list_parts(ListParts { upload: upload.clone(), after: 7, limit: 3 }).await.unwrap();
    assert_eq!((page.parts.len(), page.next), (1, None));
    assert_eq!(store.list_uploads(uploads()).await.unwrap().uploads.len(), 2);

    let info = store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    assert!(info.etag.ends_with("-3") && info.attributes.content_type.as_deref() == Some("a/b"));
    let whole: bytes::Bytes = data.concat().into();
    assert_eq!(get(store, "bucket", "k").await.unwrap(), whole);
    let select = Select::Range { first: 5 * MIB as u64 - 10, last: Some(5 * MIB as u64 + 10) };
    let range = get_part(store, "bucket", "k", select).await.unwrap();
    assert_eq!(range, whole.slice(5 * MIB - 10..=5 * MIB + 10));
    assert_eq!(get_part(store, "bucket", "k", Select::Part(7)).await.unwrap(), data[2]);
    let missing = get_part(store, "bucket", "k", Select::Part(3)).await;
    assert!(matches!(missing, Err(ReadFailure::Get(GetError::NoSuchPart { .. }))));

    let again = store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    assert_eq!(stored(again), stored(info.clone()));
    let other = store.complete_upload(complete(&upload, &chosen[..2])).await;
    assert!(matches!(other, Err(CompleteError::NoSuchUpload)), "{other:?}");
    let late = part(store, &upload, 1, &bytes(5, 5)).await;
    assert!(matches!(late, Err(PartError::NoSuchUpload)), "{late:?}");
    assert_eq!(store.list_uploads(uploads()).await.unwrap().uploads.len(), 1);
    let gone = store.abort_upload(&upload).await;
    assert!(matches!(gone, Err(UploadError::NoSuchUpload)));
    // Until STABLE is told, M slots are needed.
    bench.settled().await;
    for down in [[0, 1], [2, 3]] {
        bench.down(&down);
        assert_eq!(get(store, "bucket", "k").await.unwrap(), whole, "{down:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_complete_does_not_come_back_over_a_later_write() {
    let bench = Bench::start(1, 4).await;
    let store = &bench.store;
    make_bucket(store, "bucket").await;
    let upload = begin(store, "k").await;
    let chosen = [part(store, &upload, 1, &bytes(100, 1)).await.unwrap()];
    let first = store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    let later = bytes(200, 2);
    put(store, "bucket", "k", &later).await.unwrap();
    let again = store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    assert_eq!(stored(again), stored(first));
    assert_eq!(get(store, "bucket", "k").await.unwrap(), later);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_parts_and_conditions_leave_the_upload_open() {
    let bench = Bench::start(1, 4).await;
    let store = &bench.store;
    make_bucket(store, "bucket").await;
    put(store, "bucket", "k", &bytes(1, 1)).await.unwrap();
    let upload = begin(store, "k").await;
    let small = part(store, &upload, 1, &bytes(100, 1)).await.unwrap();
    let last = part(store, &upload, 2, &bytes(100, 2)).await.unwrap();
    let result = store.complete_upload(complete(&upload, &[small.clone(), last.clone()])).await;
    assert!(matches!(result, Err(CompleteError::PartTooSmall { number: 1, .. })), "{result:?}");
    let result = store.complete_upload(complete(&upload, &[last.clone(), small.clone()])).await;
    assert!(matches!(result, Err(CompleteError::InvalidPartOrder)));
    let wrong = ChosenPart { etag: "x".into(), ..small.clone() };
    let result = store.complete_upload(complete(&upload, &[wrong])).await;
    assert!(matches!(result, Err(CompleteError::InvalidPart { number: 1 })));
    let mut absent = complete(&upload, std::slice::from_ref(&small));
    absent.condition = WriteCondition::Absent;
    let result = store.complete_upload(absent).await;
    assert!(matches!(result, Err(CompleteError::ConditionFailed)), "{result:?}");
    store.complete_upload(complete(&upload, &[small])).await.unwrap();
    assert_eq!(get(store, "bucket", "k").await.unwrap(), bytes(100, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_upload_is_gone() {
    let bench = Bench::start(1, 4).await;
    let store = &bench.store;
    make_bucket(store, "bucket").await;
    let upload = begin(store, "k").await;
    let chosen = [part(store, &upload, 1, &bytes(100, 1)).await.unwrap()];
    store.abort_upload(&upload).await.unwrap();
    let result = store.complete_upload(complete(&upload, &chosen)).await;
    assert!(matches!(result, Err(CompleteError::NoSuchUpload)), "{result:?}");
    assert!(matches!(store.abort_upload(&upload).await, Err(UploadError::NoSuchUpload)));
    assert!(store.list_uploads(uploads()).await.unwrap().uploads.is_empty());
    store.delete_bucket(&name("bucket")).await.unwrap();
}

/// Holds the lock of a register, as another gateway would.
pub(crate) async fn hold_lock(
    bench: &Bench,
    register: impl FnOnce(coffer_common::types::BucketId) -> RegisterKey,
) -> coffer_common::coordination::LockGuard {
    let register = register(bench.bucket_id("bucket").await).encode();
    let lock = format!("objects/{}", hex::encode(&sha2::Sha256::digest(register)[..16]));
    bench.cluster.coordinator().lock(&lock, std::time::Duration::from_secs(5)).await.unwrap()
}

/// A Complete that dies between its record and its op: it waits for the key's lock then.
pub(crate) async fn die_after_the_record(bench: &Bench, upload: &UploadRef, chosen: &[ChosenPart]) {
    let lock = hold_lock(bench, |bucket| RegisterKey::object(bucket, upload.key.clone())).await;
    let (store, request, before) = (bench.store.clone(), complete(upload, chosen), bench.calls());
    let dying = tokio::spawn(async move { store.complete_upload(request).await });
    bench.quiet(before).await;
    dying.abort();
    drop(lock);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_that_died_after_its_record_is_driven_again_unless_the_key_moved_on() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    for overwritten in [false, true] {
        let k = format!("k{overwritten}");
        let upload = begin(&bench.store, &k).await;
        let chosen = [part(&bench.store, &upload, 1, &bytes(100, 1)).await.unwrap()];
        die_after_the_record(&bench, &upload, &chosen).await;
        assert!(get(&bench.store, "bucket", &k).await.is_err());
        let late = part(&bench.store, &upload, 1, &bytes(5, 5)).await;
        assert!(matches!(late, Err(PartError::NoSuchUpload)), "{late:?}");
        let later = bytes(200, 2);
        if overwritten {
            put(&bench.store, "bucket", &k, &later).await.unwrap();
        }
        let again = bench.store.complete_upload(complete(&upload, &chosen)).await;
        let now = get(&bench.store, "bucket", &k).await.unwrap();
        if overwritten {
            assert!(matches!(again, Err(CompleteError::Conflict)), "{again:?}");
            assert_eq!(now, later);
        } else {
            again.unwrap();
            assert_eq!(now, bytes(100, 1));
        }
    }
}
