//! Buckets that keep versions: none is lost, none comes back, and what a version is made of goes with it and not before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coffer_common::coordination::Coordinator;
use coffer_common::time::UnixMillis;
use coffer_gateway::object::{
    AmendObject, Attributes, BucketVersioning, ConfigureError, CreateBucket, DefaultRetention, DeleteError,
    DeleteObject, Deleted, GetError, GetObject, ListVersions, ListedVersion, NamedVersion, ObjectInfo,
    ObjectLock, ObjectStore, PutError, ReadCondition, Retention, RetentionMode, RetentionPeriod, Select,
    Unlock, VersionId, WriteCondition,
};

use crate::body::*;
use crate::cluster::Bench;
use crate::coordinator::Switched;
use crate::multipart::{begin, complete, part};
use crate::reclaim::{frees_down_to, frees_nothing, object};

/// Large enough for shards in files of their own.
const LARGE: usize = 400_000;

async fn bench(nodes: usize, drives: usize) -> Bench {
    let bench = Bench::start(nodes, drives).await;
    make_bucket(&bench.store, "bucket").await;
    bench
}

async fn keep(store: &ObjectStore, enabled: bool) {
    store.set_versioning(&name("bucket"), enabled).await.unwrap();
}

async fn write(store: &ObjectStore, k: &str, data: &Bytes) -> VersionId {
    put(store, "bucket", k, data).await.unwrap().version
}

async fn read(store: &ObjectStore, k: &str, version: VersionId) -> Result<Bytes, GetError> {
    let (select, condition) = (Select::All, ReadCondition::default());
    let request = GetObject {
        bucket: name("bucket"),
        key: key(k),
        version: Some(version),
        select,
        condition,
        unlock: Unlock::default(),
    };
    let mut read = store.get_object(request).await?;
    let mut out = Vec::new();
    while let Some(piece) = read.bytes.next().await.unwrap() {
        out.extend_from_slice(&piece);
    }
    Ok(out.into())
}

fn deletion(k: &str, version: Option<VersionId>) -> DeleteObject {
    let (condition, bypass_governance) = (WriteCondition::Always, false);
    DeleteObject { bucket: name("bucket"), key: key(k), version, condition, bypass_governance }
}

async fn delete(store: &ObjectStore, k: &str, version: Option<VersionId>) -> Deleted {
    store.delete_object(deletion(k, version)).await.unwrap()
}

/// All pages together.
async fn versions(store: &ObjectStore, limit: u32) -> Vec<ListedVersion> {
    let mut request = ListVersions {
        bucket: name("bucket"),
        prefix: String::new(),
        delimiter: String::new(),
        after_key: String::new(),
        after_version: None,
        limit,
    };
    let mut all = Vec::new();
    loop {
        let page = store.list_versions(request.clone()).await.unwrap();
        assert!(page.versions.len() <= limit as usize);
        all.extend(page.versions);
        match page.next {
            Some((key, version)) => (request.after_key, request.after_version) = (key, version),
            None => return all,
        }
    }
}

/// `key version latest marker` of each.
async fn listed(store: &ObjectStore, limit: u32) -> Vec<(String, VersionId, bool, bool)> {
    let all = versions(store, limit).await.into_iter();
    all.map(|v| (v.key.as_str().to_owned(), v.info.version, v.latest, v.delete_marker)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_makes_a_version_and_half_of_the_nodes_have_them_all() {
    let bench = bench(4, 1).await;
    let store = &bench.store;
    keep(store, true).await;
    let mut expected = Vec::new();
    for (seed, len) in [(1, 10), (2, 0), (3, LARGE), (4, 3_000_000)] {
        let data = bytes(len, seed);
        expected.insert(0, (write(store, "k", &data).await, data));
    }
    let marker = delete(store, "k", None).await;
    assert!(marker.delete_marker);
    let second = delete(store, "k", None).await;
    let (marker, second) = (marker.version.unwrap(), second.version.unwrap());
    assert_ne!(marker, second, "a delete marker goes on top of a delete marker");
    assert!(list_all(store, "bucket", "", "", 10).await.0.is_empty());
    write(store, "k2", &bytes(5, 5)).await;

    bench.settled().await;
    for down in 0..2 {
        bench.gates[down].down.store(true, Ordering::SeqCst);
    }
    for limit in [1, 2, 3, 1000] {
        let all = listed(store, limit).await;
        let ids: Vec<_> = all.iter().filter(|v| v.0 == "k").map(|v| v.1).collect();
        let known: Vec<_> = [second, marker].into_iter().chain(expected.iter().map(|(id, _)| *id)).collect();
        assert_eq!(ids, known, "pages of {limit}");
        assert_eq!(all.iter().filter(|v| v.2).count(), 2, "each key has one that is the latest");
        assert_eq!(all.iter().filter(|v| v.3).map(|v| v.1).collect::<Vec<_>>(), [second, marker]);
    }
    for (id, data) in &expected {
        assert_eq!(read(store, "k", *id).await.unwrap(), *data);
    }
    let gone = store.get_object(current("k")).await.map(|_| ());
    assert!(matches!(gone, Err(GetError::DeleteMarker(id)) if id == second), "{gone:?}");
    let named = read(store, "k", marker).await;
    assert!(matches!(named, Err(GetError::IsDeleteMarker { version, .. }) if version == marker), "{named:?}");
}

fn current(k: &str) -> GetObject {
    let (select, condition) = (Select::All, ReadCondition::default());
    GetObject {
        bucket: name("bucket"),
        key: key(k),
        version: None,
        select,
        condition,
        unlock: Unlock::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_for_good_uncovers_what_lies_below() {
    let bench = bench(1, 4).await;
    let store = &bench.store;
    keep(store, true).await;
    let data: Vec<Bytes> = (0..4).map(|seed| bytes(900 + seed as usize, seed)).collect();
    let mut ids = Vec::new();
    for data in &data {
        ids.push(write(store, "k", data).await);
    }
    delete(store, "k", Some(ids[3])).await;
    assert_eq!(get(store, "bucket", "k").await.unwrap(), data[2]);
    delete(store, "k", Some(ids[1])).await;
    let marker = delete(store, "k", None).await.version.unwrap();
    let removed = delete(store, "k", Some(marker)).await;
    assert_eq!((removed.version, removed.delete_marker), (Some(marker), true));
    delete(store, "k", Some(ids[2])).await;
    assert_eq!(get(store, "bucket", "k").await.unwrap(), data[0]);
    for gone in [ids[1], ids[2], ids[3]] {
        assert!(matches!(read(store, "k", gone).await, Err(GetError::NoSuchVersion)));
        delete(store, "k", Some(gone)).await;
    }
    assert!(
        matches!(store.delete_bucket(&name("bucket")).await, Err(error) if error.to_string().contains("empty"))
    );
    delete(store, "k", Some(ids[0])).await;
    assert!(matches!(store.get_object(current("k")).await.map(|_| ()), Err(GetError::NoSuchKey)));
    assert_eq!(listed(store, 10).await, []);
    let again = write(store, "k", &data[1]).await;
    assert_eq!(listed(store, 10).await.iter().map(|v| v.1).collect::<Vec<_>>(), [again]);
    delete(store, "k", Some(again)).await;
    store.delete_bucket(&name("bucket")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_stays_until_it_is_deleted_or_replaced() {
    let bench = bench(1, 4).await;
    let store = &bench.store;
    let (old, other) = (bytes(LARGE, 1), bytes(LARGE, 2));
    write(store, "deleted", &old).await;
    write(store, "replaced", &old).await;
    let (upload, _) = object(&bench, "parts", &other).await;
    keep(store, true).await;
    for k in ["deleted", "replaced", "parts"] {
        let id = write(store, k, &bytes(7, 7)).await;
        assert_ne!(id, VersionId::Null);
        write(store, k, &bytes(8, 8)).await;
    }
    frees_nothing(&bench).await;
    assert_eq!(bench.census().0, 12);
    for (k, data) in [("deleted", &old), ("replaced", &old), ("parts", &other)] {
        assert_eq!(read(store, k, VersionId::Null).await.unwrap(), *data);
    }
    delete(store, "deleted", Some(VersionId::Null)).await;
    frees_down_to(&bench, 8).await;
    keep(store, false).await;
    assert_eq!(store.head_bucket(&name("bucket")).await.unwrap().versioning, BucketVersioning::Suspended);
    assert_eq!(write(store, "replaced", &bytes(9, 9)).await, VersionId::Null);
    frees_down_to(&bench, 4).await;
    let marker = delete(store, "parts", None).await;
    assert_eq!((marker.version, marker.delete_marker), (Some(VersionId::Null), true));
    store.reclaim(UnixMillis::now()).await.unwrap();
    frees_down_to(&bench, 0).await;
    assert_eq!(read(store, "replaced", VersionId::Null).await.unwrap(), bytes(9, 9));
    assert_eq!(listed(store, 100).await.len(), 2 + 3 + 3);
    drop(upload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_uncovered_keeps_its_bytes() {
    let bench = bench(1, 4).await;
    let store = &bench.store;
    let old = bytes(LARGE, 1);
    write(store, "k", &old).await;
    keep(store, true).await;
    let above = write(store, "k", &bytes(LARGE, 2)).await;
    delete(store, "k", Some(above)).await;
    frees_down_to(&bench, 4).await;
    assert_eq!(get(store, "bucket", "k").await.unwrap(), old);
    let again = write(store, "k", &bytes(5, 3)).await;
    frees_nothing(&bench).await;
    delete(store, "k", Some(again)).await;
    frees_nothing(&bench).await;
    assert_eq!(get(store, "bucket", "k").await.unwrap(), old);
    delete(store, "k", Some(VersionId::Null)).await;
    frees_down_to(&bench, 0).await;
    assert_eq!(listed(store, 10).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_version_is_made_of_is_freed_before_the_version_is_deleted() {
    let bench = bench(1, 4).await;
    let store = &bench.store;
    keep(store, true).await;
    let mut kept = Vec::new();
    for seed in 0..3 {
        let data = bytes(LARGE, seed);
        let upload = begin(store, "k").await;
        let wrong = part(store, &upload, 1, &bytes(LARGE, 90 + seed)).await.unwrap();
        let right = part(store, &upload, 1, &data).await.unwrap();
        assert_ne!(wrong.etag, right.etag);
        let done = store.complete_upload(complete(&upload, &[right])).await.unwrap();
        kept.push((done.version, data));
        let data = bytes(LARGE, 10 + seed);
        kept.push((write(store, "k", &data).await, data));
    }
    frees_down_to(&bench, 24).await;
    frees_nothing(&bench).await;
    // As if the records of the uploads were a day old.
    store.reclaim(UnixMillis(UnixMillis::now().0 + 26 * 3600 * 1000)).await.unwrap();
    frees_nothing(&bench).await;
    for (id, data) in &kept {
        assert_eq!(read(store, "k", *id).await.unwrap(), *data);
    }
    let mut left = 24;
    for (id, _) in kept.iter().rev() {
        delete(store, "k", Some(*id)).await;
        left -= 4;
        frees_down_to(&bench, left).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_cleared_away_is_gone_all_the_same_and_is_cleared_later() {
    let bench = bench(1, 4).await;
    let store = &bench.store;
    keep(store, true).await;
    let upload = begin(store, "k").await;
    let chosen = part(store, &upload, 1, &bytes(LARGE, 1)).await.unwrap();
    let first = store.complete_upload(complete(&upload, &[chosen])).await.unwrap().version;
    let second = write(store, "k", &bytes(5, 2)).await;
    let lists =
        |nothing| bench.gates.iter().for_each(|gate| gate.lists_nothing.store(nothing, Ordering::SeqCst));
    // The parts of an upload are found by a listing.
    lists(true);
    delete(store, "k", Some(first)).await;
    assert!(matches!(read(store, "k", first).await, Err(GetError::NoSuchVersion)));
    lists(false);
    assert_eq!(listed(store, 10).await.iter().map(|v| v.1).collect::<Vec<_>>(), [second]);
    assert_eq!(store.reclaim(UnixMillis::now()).await.unwrap().versions, 1);
    assert_eq!(store.reclaim(UnixMillis::now()).await.unwrap().versions, 0);
    frees_down_to(&bench, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_of_two_gateways_are_all_there_in_one_order() {
    let bench = bench(4, 1).await;
    keep(&bench.store, true).await;
    let stores = [bench.store.clone(), bench.gateway().await];
    let mut writers = Vec::new();
    for writer in 0..6_u64 {
        let store = stores[writer as usize % 2].clone();
        writers.push(tokio::spawn(async move {
            let mut done = Vec::new();
            for round in 0..8 {
                let data = bytes(100, writer * 100 + round);
                let id = write(&store, "k", &data).await;
                if round % 4 == 3 {
                    // Its own, from under the others.
                    delete(&store, "k", Some(id)).await;
                } else {
                    done.push((id, data));
                }
            }
            done
        }));
    }
    let mut written = Vec::new();
    for writer in writers {
        written.push(writer.await.unwrap());
    }
    let all = listed(&stores[1], 7).await;
    let ids: Vec<VersionId> = all.iter().map(|v| v.1).collect();
    assert_eq!(ids.len(), 36);
    assert!(all[0].2 && all[1..].iter().all(|v| !v.2));
    for (id, data) in written.iter().flatten() {
        assert_eq!(read(&stores[0], "k", *id).await.unwrap(), *data);
    }
    for of_one in &written {
        let places: Vec<usize> =
            of_one.iter().map(|(id, _)| ids.iter().position(|other| other == id).unwrap()).collect();
        assert!(
            places.windows(2).all(|pair| pair[0] > pair[1]),
            "a writer's own are in its order: {places:?}"
        );
    }
    let newest = written.iter().flatten().find(|(id, _)| *id == ids[0]).unwrap();
    assert_eq!(get(&stores[0], "bucket", "k").await.unwrap(), newest.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_has_not_heard_of_versions_replaces_none() {
    let bench = bench(4, 1).await;
    let store = &bench.store;
    let coordinator = Arc::new(Switched::new(bench.cluster.coordinator()));
    let late = bench.gateway_with(Arc::clone(&coordinator) as Arc<dyn Coordinator>).await;
    write(&late, "k", &bytes(5, 1)).await;
    coordinator.tells_nothing.store(true, Ordering::SeqCst);
    let before = bytes(600, 2);
    write(store, "k", &before).await;
    let written = Arc::new(AtomicUsize::new(0));
    let writing = tokio::spawn({
        let (late, written) = (late.clone(), Arc::clone(&written));
        async move {
            let mut done: Vec<ObjectInfo> = Vec::new();
            for seed in 100..160 {
                match put(&late, "bucket", "other", &bytes(300, seed)).await {
                    Ok(info) => done.push(info),
                    Err(PutError::Unavailable(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                written.store(done.len(), Ordering::SeqCst);
            }
            done
        }
    });
    // In the middle of them, however long one takes.
    while written.load(Ordering::SeqCst) == 0 && !writing.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    keep(store, true).await;
    let kept = versions(store, 100).await;
    let done = writing.await.unwrap();
    assert!(!done.is_empty() && done.iter().all(|info| info.version == VersionId::Null));
    assert_eq!(versions(store, 100).await, kept, "what was there when it returned was replaced");
    // It has not been told, and finds out by reading.
    let refused = put(&late, "bucket", "k", &bytes(700, 3)).await;
    assert!(matches!(refused, Err(PutError::Unavailable(_))), "{refused:?}");
    assert_eq!(read(&late, "k", VersionId::Null).await.unwrap(), before);
    assert_ne!(write(&late, "k", &bytes(700, 3)).await, VersionId::Null);
    assert_eq!(read(store, "k", VersionId::Null).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_version_can_be_changed_wherever_it_is() {
    let bench = bench(4, 1).await;
    let store = &bench.store;
    let tag = async |version: Option<VersionId>, value: &str| {
        let value = value.to_owned();
        let change = Arc::new(move |attributes: &mut Attributes| {
            attributes.tags.insert("t".to_owned(), value.clone());
        });
        let (bucket, key) = (name("bucket"), key("k"));
        store.amend_object(AmendObject { bucket, key, version, owner: None, change }).await.unwrap();
    };
    let old = bytes(LARGE, 1);
    write(store, "k", &old).await;
    tag(None, "before").await;
    assert_eq!(get(store, "bucket", "k").await.unwrap(), old);
    keep(store, true).await;
    tag(None, "after").await;
    let first = write(store, "k", &bytes(6, 2)).await;
    tag(Some(first), "current").await;
    let second = write(store, "k", &bytes(7, 3)).await;
    tag(Some(VersionId::Null), "null").await;
    tag(Some(first), "archived").await;
    tag(Some(first), "archived again").await;
    delete(store, "k", Some(second)).await;
    let all = versions(store, 10).await;
    let tags: Vec<_> = all.iter().map(|v| v.info.attributes.tags["t"].clone()).collect();
    assert_eq!(tags, ["archived again", "null"]);
    tag(None, "uncovered").await;
    delete(store, "k", Some(first)).await;
    assert_eq!(versions(store, 10).await[0].info.attributes.tags["t"], "null");
    assert_eq!(get(store, "bucket", "k").await.unwrap(), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protected_version_stays() {
    let bench = Bench::start(4, 1).await;
    let store = &bench.store;
    let locked = CreateBucket { object_lock: true, ..new_bucket("bucket") };
    store.create_bucket(locked).await.unwrap();
    let suspended = store.set_versioning(&name("bucket"), false).await;
    assert!(matches!(suspended, Err(ConfigureError::Locked)), "{suspended:?}");
    let first = write(store, "k", &bytes(5, 1)).await;
    let mode = RetentionMode::Governance;
    let default = Some(DefaultRetention { mode, period: RetentionPeriod::Days(1) });
    store.set_object_lock(&name("bucket"), ObjectLock { default }).await.unwrap();
    let second = write(store, "k", &bytes(5, 2)).await;
    let refused = async |version| {
        let result = store.delete_object(deletion("k", Some(version))).await;
        matches!(result, Err(DeleteError::Lock(_)))
    };
    assert!(refused(second).await, "by the default");
    let later = Retention { mode: RetentionMode::Compliance, until: UnixMillis(UnixMillis::now().0 + 6_000) };
    let named = NamedVersion { bucket: name("bucket"), key: key("k"), version: Some(first) };
    store.set_retention(&named, Some(later), false).await.unwrap();
    assert!(refused(first).await, "archived as it is");
    let bypassing = DeleteObject { bypass_governance: true, ..deletion("k", Some(first)) };
    assert!(matches!(store.delete_object(bypassing).await, Err(DeleteError::Lock(_))), "nobody may");
    assert!(store.set_retention(&named, None, true).await.is_err());
    let bypassing = DeleteObject { bypass_governance: true, ..deletion("k", Some(second)) };
    store.delete_object(bypassing).await.unwrap();
    // The one that has come up is protected as it was.
    assert!(refused(first).await);
    delete(store, "k", None).await;
    assert!(
        matches!(store.delete_bucket(&name("bucket")).await, Err(error) if error.to_string().contains("empty"))
    );
    while UnixMillis::now() <= UnixMillis(later.until.0 + 100) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    delete(store, "k", Some(first)).await;
    assert!(matches!(read(store, "k", first).await, Err(GetError::NoSuchVersion)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_ends_after_a_default_retention_is_in_force_is_retained_by_it() {
    let bench = Bench::start(4, 1).await;
    let store = &bench.store;
    store.create_bucket(CreateBucket { object_lock: true, ..new_bucket("bucket") }).await.unwrap();
    bench.hold_object_reads(true);
    let (writer, before) = (store.clone(), bench.calls());
    let writing = tokio::spawn(async move { put(&writer, "bucket", "k", &bytes(5, 1)).await });
    bench.quiet(before).await;
    let mode = RetentionMode::Compliance;
    let default = Some(DefaultRetention { mode, period: RetentionPeriod::Days(1) });
    store.set_object_lock(&name("bucket"), ObjectLock { default }).await.unwrap();
    bench.hold_object_reads(false);
    let info = writing.await.unwrap().unwrap();
    assert!(info.attributes.retention.is_some_and(|retention| retention.mode == mode), "{info:?}");
    let refused = store.delete_object(deletion("k", Some(info.version))).await;
    assert!(matches!(refused, Err(DeleteError::Lock(_))), "{refused:?}");
}

/// Has the nodes' clocks show so much more than this one, and waits until the gateways have seen it.
async fn set_clocks(bench: &Bench, ahead_ms: [i64; 4]) {
    for (gate, ahead) in bench.gates.iter().zip(ahead_ms) {
        gate.clock_ahead_ms.store(ahead, Ordering::SeqCst);
    }
    let seen = || {
        let mut seen: Vec<i64> = bench.cluster.nodes().iter().map(|node| node.clock_ahead_ms).collect();
        seen.sort_unstable();
        let mut wanted = ahead_ms;
        wanted.sort_unstable();
        seen.len() == wanted.len()
            && seen.iter().zip(wanted).all(|(seen, wanted)| (seen - wanted).abs() < 1_000)
    };
    for _ in 0..300 {
        if seen() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the clocks are not seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_clock_that_is_wrong_alone_ends_a_retention_early_or_holds_it_up() {
    const HOUR: i64 = 3_600_000;
    let bench = Bench::start(4, 1).await;
    let store = &bench.store;
    store.create_bucket(CreateBucket { object_lock: true, ..new_bucket("bucket") }).await.unwrap();
    let version = write(store, "k", &bytes(5, 1)).await;
    // That the nodes are behind by an hour is how a gateway's clock looks that has run ahead.
    set_clocks(&bench, [-HOUR; 4]).await;
    let now = || UnixMillis::now().0;
    let retention = Retention { mode: RetentionMode::Compliance, until: UnixMillis(now() + 300) };
    let named = NamedVersion { bucket: name("bucket"), key: key("k"), version: Some(version) };
    store.set_retention(&named, Some(retention), false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let refused = store.delete_object(deletion("k", Some(version))).await;
    assert!(matches!(refused, Err(DeleteError::Lock(_))), "{refused:?}");
    set_clocks(&bench, [0, 0, 0, -HOUR]).await;
    delete(store, "k", Some(version)).await;
    // What is retained from now on is so from the later time on.
    let default =
        Some(DefaultRetention { mode: RetentionMode::Compliance, period: RetentionPeriod::Days(1) });
    store.set_object_lock(&name("bucket"), ObjectLock { default }).await.unwrap();
    set_clocks(&bench, [HOUR; 4]).await;
    let before = now();
    write(store, "k", &bytes(5, 2)).await;
    let (bucket, key, unlock) = (name("bucket"), key("k"), Unlock::Nothing);
    let condition = ReadCondition::default();
    let read = GetObject { bucket, key, version: None, select: Select::All, condition, unlock };
    let (info, _) = store.head_object(read).await.unwrap();
    let until = info.attributes.retention.unwrap().until.0;
    assert!(until >= before + 25 * 3_600_000 - 1_000 && until < now() + 25 * 3_600_000 + 1_000, "{until}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_was_acknowledged_keeps_the_version_from_every_later_delete() {
    let bench = Bench::start(4, 1).await;
    let other = bench.gateway().await;
    let store = &bench.store;
    let locked = CreateBucket { object_lock: true, ..new_bucket("bucket") };
    store.create_bucket(locked).await.unwrap();
    for round in 0..12_u64 {
        let k = format!("k{}", round);
        let id = write(store, &k, &bytes(5, round)).await;
        if round % 2 == 0 {
            write(store, &k, &bytes(6, round)).await;
        }
        let hold = async {
            let (bucket, key, version) = (name("bucket"), key(&k), Some(id));
            let change = Arc::new(|attributes: &mut Attributes| attributes.legal_hold = true);
            store.amend_object(AmendObject { bucket, key, version, owner: None, change }).await
        };
        let remove = async {
            tokio::time::sleep(Duration::from_millis(round / 2 * 3)).await;
            other.delete_object(deletion(&k, Some(id))).await
        };
        let (held, removed) = tokio::join!(hold, remove);
        match (held, removed) {
            (Ok(_), Err(DeleteError::Lock(_))) => assert!(read(store, &k, id).await.is_ok()),
            (Err(_), Ok(_)) => assert!(read(store, &k, id).await.is_err()),
            (held, removed) => panic!("round {round}: held {held:?}, removed {removed:?}"),
        }
    }
}

async fn delete_as_listed(store: &ObjectStore, listed: &ListedVersion) -> Result<Deleted, DeleteError> {
    let condition = WriteCondition::Unchanged(Box::new(listed.clone()));
    let request = DeleteObject { condition, ..deletion(listed.key.as_str(), Some(listed.info.version)) };
    store.delete_object(request).await
}

/// What lifecycle rules rest on: between the listing and the delete anything may happen.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_rests_on_a_listing_takes_nothing_that_has_changed_since() {
    let bench = bench(1, 4).await;
    let store = &bench.store;
    let refused = |result: Result<Deleted, DeleteError>| {
        assert!(matches!(result, Err(DeleteError::ConditionFailed)), "{result:?}");
    };
    keep(store, true).await;
    let old = write(store, "k", &bytes(10, 10)).await;
    let marker = delete(store, "k", None).await.version.unwrap();
    let seen = versions(store, 10).await;
    // The delete marker goes: what was below it is current again, and stays.
    delete(store, "k", Some(marker)).await;
    refused(delete_as_listed(store, &seen[1]).await);
    assert_eq!(read(store, "k", old).await.unwrap(), bytes(10, 10));
    delete_as_listed(store, &seen[0]).await.expect("what is not there any more is deleted");
    // It gets a tag that takes it out of a rule.
    write(store, "k", &bytes(10, 20)).await;
    let seen = versions(store, 10).await;
    let change = Arc::new(|attributes: &mut Attributes| {
        attributes.tags.insert("keep".into(), "1".into());
    });
    let named =
        AmendObject { bucket: name("bucket"), key: key("k"), version: Some(old), owner: None, change };
    store.amend_object(named).await.unwrap();
    refused(delete_as_listed(store, &seen[1]).await);
    let seen = versions(store, 10).await;
    delete_as_listed(store, &seen[1]).await.unwrap();
    assert!(matches!(read(store, "k", old).await, Err(GetError::NoSuchVersion)));
    // The null version is written again: first over the null delete marker, then over itself below another version.
    keep(store, false).await;
    delete(store, "n", None).await;
    let seen = versions(store, 10).await;
    assert!(seen[1].delete_marker && seen[1].info.version == VersionId::Null);
    write(store, "n", &bytes(10, 30)).await;
    refused(delete_as_listed(store, &seen[1]).await);
    keep(store, true).await;
    write(store, "n", &bytes(10, 40)).await;
    let seen = versions(store, 10).await;
    assert!(!seen[2].latest && seen[2].info.version == VersionId::Null);
    keep(store, false).await;
    write(store, "n", &bytes(10, 50)).await;
    refused(delete_as_listed(store, &seen[2]).await);
    assert_eq!(read(store, "n", VersionId::Null).await.unwrap(), bytes(10, 50));
}
