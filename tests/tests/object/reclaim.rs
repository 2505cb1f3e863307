//! The data of parts goes when no object can be made of it any more, and not before.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coffer_common::limits::READ_GRACE;
use coffer_common::time::UnixMillis;
use coffer_common::types::RegisterKey;
use coffer_gateway::object::{
    Access, Body, BodyError, ByteSource, ChosenPart, CompleteError, CopyAttributes, CopyObject, CopySource,
    Encrypt, GetObject, Owner, PartError, ReadCondition, Reclaimed, Select, StorageClass, Unlock, UploadPart,
    UploadRef, WriteCondition,
};

use crate::body::*;
use crate::cluster::Bench;
use crate::multipart::{begin, complete, die_after_the_record, hold_lock, part};

/// Large enough for shards in files of their own.
const PART: usize = 400_000;
const DAY: Duration = Duration::from_secs(25 * 3600);

pub(crate) fn after(time: Duration) -> UnixMillis {
    UnixMillis(UnixMillis::now().0 + time.as_millis() as u64)
}

/// Longer than the read grace.
pub(crate) fn grace() -> Duration {
    READ_GRACE + Duration::from_secs(60)
}

async fn bench() -> Bench {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    bench
}

/// Waits until this many shard files are left after the grace.
pub(crate) async fn frees_down_to(bench: &Bench, files: usize) {
    for _ in 0..300 {
        bench.free(grace()).await;
        if bench.census().0 == files {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?} are left, not {files}", bench.census());
}

/// Nothing goes, although everything has time to.
pub(crate) async fn frees_nothing(bench: &Bench) {
    let before = bench.census_at_rest().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    bench.store.reclaim(UnixMillis::now()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    bench.free(grace()).await;
    assert_eq!(bench.census(), before);
}

/// An object of one part.
pub(crate) async fn object(bench: &Bench, k: &str, data: &Bytes) -> (UploadRef, ChosenPart) {
    let upload = begin(&bench.store, k).await;
    let chosen = part(&bench.store, &upload, 3, data).await.unwrap();
    bench.store.complete_upload(complete(&upload, std::slice::from_ref(&chosen))).await.unwrap();
    (upload, chosen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abort_frees_the_parts_after_the_grace() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let kept = begin(&bench.store, "k").await;
    for number in 1..4 {
        part(&bench.store, &upload, number, &bytes(PART, number.into())).await.unwrap();
    }
    let chosen = part(&bench.store, &kept, 1, &bytes(PART, 9)).await.unwrap();
    frees_nothing(&bench).await;
    assert_eq!(bench.census().0, 16);
    bench.store.abort_upload(&upload).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    bench.free(READ_GRACE / 2).await;
    assert_eq!(bench.census().0, 16, "the grace is not over");
    frees_down_to(&bench, 4).await;
    bench.store.complete_upload(complete(&kept, &[chosen])).await.unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_written_again_frees_its_earlier_attempts() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let mut chosen = Vec::new();
    for seed in 1..4 {
        chosen.push(part(&bench.store, &upload, 1, &bytes(PART, seed)).await.unwrap());
        frees_down_to(&bench, 4).await;
    }
    let stale = bench.store.complete_upload(complete(&upload, &chosen[..1])).await;
    assert!(matches!(stale, Err(CompleteError::InvalidPart { number: 1 })), "{stale:?}");
    bench.store.complete_upload(complete(&upload, &chosen[2..])).await.unwrap();
    frees_nothing(&bench).await;
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 3));
    delete(&bench.store, "k").await;
    frees_down_to(&bench, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_that_looked_before_a_part_was_written_again_looks_again() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let earlier = part(&bench.store, &upload, 1, &bytes(PART, 1)).await.unwrap();
    bench.hold_object_reads(true);
    let (store, request, before) = (bench.store.clone(), complete(&upload, &[earlier]), bench.calls());
    let completing = tokio::spawn(async move { store.complete_upload(request).await });
    bench.quiet(before).await;
    let later = part(&bench.store, &upload, 1, &bytes(PART, 2)).await.unwrap();
    frees_down_to(&bench, 4).await;
    bench.hold_object_reads(false);
    let stale = completing.await.unwrap();
    assert!(matches!(stale, Err(CompleteError::InvalidPart { number: 1 })), "{stale:?}");
    bench.store.complete_upload(complete(&upload, &[later])).await.unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_written_again_while_complete_records_its_choice_frees_nothing() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let earlier = part(&bench.store, &upload, 1, &bytes(PART, 1)).await.unwrap();
    let id = upload.upload;
    let lock = hold_lock(&bench, |bucket| RegisterKey::upload(bucket, key("k"), id)).await;
    let (store, request, before) = (bench.store.clone(), complete(&upload, &[earlier]), bench.calls());
    let completing = tokio::spawn(async move { store.complete_upload(request).await });
    bench.quiet(before).await;
    part(&bench.store, &upload, 1, &bytes(PART, 2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    bench.free(grace()).await;
    drop(lock);
    completing.await.unwrap().unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 1));
    frees_down_to(&bench, 4).await;
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn complete_frees_what_it_did_not_choose() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let (first, last) = (bytes(5 << 20, 1), bytes(PART, 2));
    let mut chosen = Vec::new();
    for (number, data) in [(1, &first), (4, &last)] {
        chosen.push(part(&bench.store, &upload, number, data).await.unwrap());
    }
    for number in [2, 3, 5] {
        part(&bench.store, &upload, number, &bytes(PART, 7)).await.unwrap();
    }
    let info = bench.store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    frees_down_to(&bench, 8).await;
    frees_nothing(&bench).await;
    let whole: Bytes = [first, last].concat().into();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), whole);
    let again = bench.store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    assert_eq!(stored(again), stored(info));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replaces_an_object_of_parts_frees_them_and_a_copy_shares_none() {
    let bench = bench().await;
    let data = bytes(PART, 1);
    for k in ["put", "delete", "complete", "copied"] {
        object(&bench, k, &data).await;
    }
    let copy = CopyObject {
        source: CopySource {
            bucket: name("bucket"),
            key: key("copied"),
            version: None,
            condition: ReadCondition::default(),
            customer_key: None,
        },
        bucket: name("bucket"),
        key: key("copy"),
        attributes: CopyAttributes::FromSource {
            storage_class: StorageClass::Standard,
            tags: None,
            access: Access::Private,
            retention: None,
            legal_hold: false,
            website_redirect: None,
        },
        owner: Owner::default(),
        condition: WriteCondition::Always,
        encrypt: Encrypt::No,
        digester: Box::new(|_, _| Ok(digester())),
    };
    bench.store.copy_object(copy).await.unwrap();
    frees_nothing(&bench).await;
    assert_eq!(bench.census().0, 20);
    put(&bench.store, "bucket", "put", &bytes(10, 1)).await.unwrap();
    frees_down_to(&bench, 16).await;
    delete(&bench.store, "delete").await;
    frees_down_to(&bench, 12).await;
    object(&bench, "complete", &bytes(PART, 2)).await;
    frees_down_to(&bench, 12).await;
    delete(&bench.store, "copied").await;
    frees_down_to(&bench, 8).await;
    assert_eq!(get(&bench.store, "bucket", "put").await.unwrap(), bytes(10, 1));
    assert_eq!(get(&bench.store, "bucket", "complete").await.unwrap(), bytes(PART, 2));
    assert_eq!(get(&bench.store, "bucket", "copy").await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_begun_reads_to_the_end() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let (first, last) = (bytes(5 << 20, 1), bytes(5 << 20, 2));
    let chosen = [
        part(&bench.store, &upload, 1, &first).await.unwrap(),
        part(&bench.store, &upload, 2, &last).await.unwrap(),
    ];
    bench.store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    let (select, condition) = (Select::All, ReadCondition::default());
    let request = GetObject {
        bucket: name("bucket"),
        key: key("k"),
        version: None,
        select,
        condition,
        unlock: Unlock::default(),
    };
    let mut read = bench.store.get_object(request).await.unwrap();
    let mut seen = read.bytes.next().await.unwrap().unwrap().to_vec();
    delete(&bench.store, "k").await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    bench.store.reclaim(UnixMillis::now()).await.unwrap();
    bench.free(READ_GRACE / 2).await;
    while let Some(piece) = read.bytes.next().await.unwrap() {
        seen.extend_from_slice(&piece);
    }
    assert_eq!(seen, [first, last].concat());
    frees_down_to(&bench, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_that_died_after_its_record_is_finished_by_a_sweep() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let chosen = [part(&bench.store, &upload, 1, &bytes(PART, 1)).await.unwrap()];
    die_after_the_record(&bench, &upload, &chosen).await;
    frees_nothing(&bench).await;
    assert!(get(&bench.store, "bucket", "k").await.is_err(), "it may still be at work");
    let other = bench.gateway().await;
    other.reclaim(after(Duration::from_secs(120))).await.unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 1));
    frees_nothing(&bench).await;
    put(&bench.store, "bucket", "k", &bytes(10, 2)).await.unwrap();
    bench.store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(10, 2));
    frees_down_to(&bench, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_complete_whose_key_moved_on_keeps_its_parts_for_a_day() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let chosen = [part(&bench.store, &upload, 1, &bytes(PART, 1)).await.unwrap()];
    die_after_the_record(&bench, &upload, &chosen).await;
    put(&bench.store, "bucket", "k", &bytes(10, 2)).await.unwrap();
    bench.store.reclaim(after(Duration::from_secs(120))).await.unwrap();
    frees_nothing(&bench).await;
    let conflict = bench.store.complete_upload(complete(&upload, &chosen)).await;
    assert!(matches!(conflict, Err(CompleteError::Conflict)), "{conflict:?}");
    assert_eq!(
        bench.store.reclaim(after(DAY)).await.unwrap(),
        Reclaimed { uploads: 1, parts: 1, versions: 0 }
    );
    frees_down_to(&bench, 0).await;
    let gone = bench.store.complete_upload(complete(&upload, &chosen)).await;
    assert!(matches!(gone, Err(CompleteError::NoSuchUpload)), "{gone:?}");
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(10, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_ends_after_a_day_and_its_object_stays() {
    let bench = bench().await;
    let (upload, chosen) = object(&bench, "k", &bytes(PART, 1)).await;
    assert_eq!(bench.store.reclaim(UnixMillis::now()).await.unwrap(), Reclaimed::default());
    assert_eq!(
        bench.store.reclaim(after(DAY)).await.unwrap(),
        Reclaimed { uploads: 1, parts: 0, versions: 0 }
    );
    assert_eq!(bench.store.reclaim(after(DAY)).await.unwrap(), Reclaimed::default());
    let gone = bench.store.complete_upload(complete(&upload, &[chosen])).await;
    assert!(matches!(gone, Err(CompleteError::NoSuchUpload)), "{gone:?}");
    frees_nothing(&bench).await;
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 1));
    delete(&bench.store, "k").await;
    frees_down_to(&bench, 0).await;
}

/// Sends its bytes once it is told to.
struct Held {
    wait: tokio::sync::oneshot::Receiver<()>,
    bytes: Option<Bytes>,
    /// Told when somebody asks for them.
    asked: Option<tokio::sync::oneshot::Sender<()>>,
}

#[async_trait]
impl ByteSource for Held {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(asked) = self.asked.take() {
            asked.send(()).unwrap();
        }
        if self.bytes.is_some() {
            (&mut self.wait).await.unwrap();
        }
        Ok(self.bytes.take())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_comes_after_complete_goes_and_the_chosen_one_stays() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let chosen = [part(&bench.store, &upload, 1, &bytes(PART, 1)).await.unwrap()];
    let mut late = Vec::new();
    for number in [1, 2] {
        let (go, wait) = tokio::sync::oneshot::channel();
        let (tell, begun) = tokio::sync::oneshot::channel();
        let source = Box::new(Held { wait, bytes: Some(bytes(PART, 10)), asked: Some(tell) });
        let body = Body { length: PART as u64, source, digester: digester() };
        let (store, request) =
            (bench.store.clone(), UploadPart { upload: upload.clone(), number, customer_key: None, body });
        late.push((go, tokio::spawn(async move { store.upload_part(request).await })));
        begun.await.unwrap();
    }
    bench.store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    for (go, writing) in late {
        go.send(()).unwrap();
        let refused = writing.await.unwrap();
        assert!(matches!(refused, Err(PartError::NoSuchUpload)), "{refused:?}");
    }
    assert_eq!(bench.census_at_rest().await.0, 12);
    frees_down_to(&bench, 4).await;
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(PART, 1));
    frees_nothing(&bench).await;
    delete(&bench.store, "k").await;
    frees_down_to(&bench, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_gateway_left_is_found_by_another_ones_sweep() {
    let bench = bench().await;
    object(&bench, "k", &bytes(PART, 1)).await;
    let upload = begin(&bench.store, "open").await;
    part(&bench.store, &upload, 1, &bytes(PART, 2)).await.unwrap();
    bench.settled().await;
    let other = bench.gateway().await;
    bench.shutdown.tell();
    delete(&bench.store, "k").await;
    bench.store.abort_upload(&upload).await.unwrap();
    assert_eq!(
        other.reclaim(UnixMillis::now()).await.unwrap(),
        Reclaimed { uploads: 0, parts: 2, versions: 0 }
    );
    assert_eq!(other.reclaim(UnixMillis::now()).await.unwrap(), Reclaimed::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_gateways_one_sweeps_and_another_takes_over() {
    let bench = bench().await;
    let mut stops = Vec::new();
    for _ in 0..2 {
        let (sweeper, stop) = bench.gateway_of_its_own().await;
        tokio::spawn(async move { sweeper.reclaim_every(Duration::from_millis(50)).await });
        stops.push(stop);
        // So that the first one has the lock.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for stop in stops {
        let (store, lost) = bench.gateway_of_its_own().await;
        let upload = begin(&store, "k").await;
        part(&store, &upload, 1, &bytes(PART, 1)).await.unwrap();
        bench.settled().await;
        lost.tell();
        store.abort_upload(&upload).await.unwrap();
        frees_down_to(&bench, 0).await;
        stop.tell();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_bucket_leaves_no_parts() {
    let bench = bench().await;
    object(&bench, "k", &bytes(PART, 1)).await;
    let upload = begin(&bench.store, "open").await;
    part(&bench.store, &upload, 1, &bytes(PART, 2)).await.unwrap();
    bench.store.abort_upload(&upload).await.unwrap();
    delete(&bench.store, "k").await;
    bench.store.delete_bucket(&name("bucket")).await.unwrap();
    frees_down_to(&bench, 0).await;
}

/// A Complete that always came after plain writes of a hot key has had no effect: the upload is open again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_that_lost_against_plain_writes_leaves_the_upload_open() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let chosen = [part(&bench.store, &upload, 1, &bytes(1_000, 1)).await.unwrap()];
    let hold = || hold_lock(&bench, |bucket| RegisterKey::object(bucket, key("k")));
    let mut lock = hold().await;
    let (store, request) = (bench.store.clone(), complete(&upload, &chosen));
    let losing = tokio::spawn(async move { store.complete_upload(request).await });
    // Each time it has recorded its op and waits for the key's lock, a plain write comes first.
    while !losing.is_finished() {
        bench.quiet(0).await;
        put(&bench.store, "bucket", "k", &bytes(10, 2)).await.unwrap();
        let release = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(lock);
        };
        (lock, _) = tokio::join!(hold(), release);
    }
    drop(lock);
    let lost = losing.await.unwrap();
    assert!(matches!(lost, Err(CompleteError::Conflict)), "{lost:?}");
    bench.store.complete_upload(complete(&upload, &chosen)).await.unwrap();
    assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), bytes(1_000, 1));
}

/// A bucket is deleted while a dead Complete is younger than a minute: nobody will ever find the parts' data again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_with_a_complete_that_just_died_leaves_no_parts_when_it_is_deleted() {
    let bench = bench().await;
    let upload = begin(&bench.store, "k").await;
    let chosen = [part(&bench.store, &upload, 1, &bytes(PART, 1)).await.unwrap()];
    die_after_the_record(&bench, &upload, &chosen).await;
    // Refused because of what may yet become an object, or the parts go.
    if bench.store.delete_bucket(&name("bucket")).await.is_ok() {
        frees_down_to(&bench, 0).await;
    }
}
