//! PROTOCOL §9: a gateway that has not heard of a bucket that was deleted and made again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coffer_common::coordination::{Coordinator, Expected};
use coffer_gateway::object::{
    AmendError, AmendObject, Attributes, DeleteError, DeleteObject, GetError, ListError, ObjectStore,
    PutError, WriteCondition,
};

use crate::body::{ReadFailure, bytes, delete, get, key, list_all, list_request, make_bucket, name, put};
use crate::cluster::Bench;
use crate::coordinator::Switched;
use crate::multipart::{begin, uploads};
use crate::reclaim::after;

/// Deletes the bucket with what is in it, through a gateway that knows it well.
async fn delete_bucket(store: &ObjectStore) {
    delete(store, "k").await;
    store.delete_bucket(&name("bucket")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_has_not_heard_of_a_new_bucket_of_the_name_reads_nothing_of_the_old_one() {
    let bench = Bench::start(1, 4).await;
    let store = &bench.store;
    make_bucket(store, "bucket").await;
    let coordinator = Arc::new(Switched::new(bench.cluster.coordinator()));
    let late = bench.gateway_with(Arc::clone(&coordinator) as Arc<dyn Coordinator>).await;
    put(&late, "bucket", "k", &bytes(5, 1)).await.unwrap();
    coordinator.tells_nothing.store(true, Ordering::SeqCst);

    for round in 2..5 {
        delete_bucket(store).await;
        make_bucket(store, "bucket").await;
        let data = bytes(900, round);
        put(store, "bucket", "k", &data).await.unwrap();
        let upload = begin(store, "k").await;
        // The first request was meant for the bucket that is gone, and is answered by neither.
        match round {
            2 => {
                let read = get(&late, "bucket", "k").await;
                assert!(matches!(read, Err(ReadFailure::Get(GetError::Unavailable(_)))), "{read:?}");
            }
            3 => {
                let listed = late.list_objects(list_request("bucket", "", "", 10)).await;
                assert!(matches!(listed, Err(ListError::Unavailable(_))), "{listed:?}");
            }
            _ => {
                let listed = late.list_uploads(uploads()).await;
                assert!(matches!(listed, Err(ListError::Unavailable(_))), "{listed:?}");
            }
        }
        match round {
            2 => assert_eq!(get(&late, "bucket", "k").await.unwrap(), data),
            3 => assert_eq!(list_all(&late, "bucket", "", "", 10).await.0, ["k"]),
            _ => assert_eq!(late.list_uploads(uploads()).await.unwrap().uploads.len(), 1),
        }
        late.head_upload(&upload).await.unwrap();
        late.abort_upload(&upload).await.unwrap();
    }

    delete_bucket(store).await;
    make_bucket(store, "bucket").await;
    put(store, "bucket", "k", &bytes(900, 9)).await.unwrap();
    coordinator.is_away.store(true, Ordering::SeqCst);
    let read = get(&late, "bucket", "k").await;
    assert!(matches!(read, Err(ReadFailure::Get(GetError::Unavailable(_)))), "{read:?}");
    let listed = late.list_objects(list_request("bucket", "", "", 10)).await;
    assert!(matches!(listed, Err(ListError::Unavailable(_))), "{listed:?}");
    let listed = late.list_uploads(uploads()).await;
    assert!(matches!(listed, Err(ListError::Unavailable(_))), "{listed:?}");

    delete_bucket(store).await;
    coordinator.is_away.store(false, Ordering::SeqCst);
    let read = get(&late, "bucket", "k").await;
    assert!(matches!(read, Err(ReadFailure::Get(GetError::NoSuchBucket))), "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_began_in_a_bucket_does_not_end_in_another_of_its_name() {
    for keeps_versions in [true, false] {
        let bench = Bench::start(1, 4).await;
        let store = &bench.store;
        make_bucket(store, "bucket").await;
        store.set_versioning(&name("bucket"), true).await.unwrap();
        // Its bytes are written then, and it is about to look at the key.
        bench.hold_object_reads(true);
        let (writer, data, before) = (store.clone(), bytes(900, 1), bench.calls());
        let writing = tokio::spawn(async move { put(&writer, "bucket", "k", &data).await });
        bench.quiet(before).await;
        store.delete_bucket(&name("bucket")).await.unwrap();
        make_bucket(store, "bucket").await;
        if keeps_versions {
            store.set_versioning(&name("bucket"), true).await.unwrap();
        }
        bench.hold_object_reads(false);
        let written = writing.await.unwrap();
        assert!(matches!(written, Err(PutError::Unavailable(_))), "{written:?}");
        assert!(list_all(store, "bucket", "", "", 10).await.0.is_empty());
        let data = bytes(900, 2);
        put(store, "bucket", "k", &data).await.unwrap();
        assert_eq!(get(store, "bucket", "k").await.unwrap(), data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_of_a_bucket_is_not_done_in_another_of_its_name() {
    let bench = Bench::start(1, 4).await;
    let store = &bench.store;
    make_bucket(store, "bucket").await;
    store.set_versioning(&name("bucket"), true).await.unwrap();
    let coordinator = Arc::new(Switched::new(bench.cluster.coordinator()));
    let late = bench.gateway_with(Arc::clone(&coordinator) as Arc<dyn Coordinator>).await;
    coordinator.tells_nothing.store(true, Ordering::SeqCst);
    for round in 0..2 {
        store.delete_bucket(&name("bucket")).await.unwrap();
        make_bucket(store, "bucket").await;
        let data = bytes(900, round);
        put(store, "bucket", "k", &data).await.unwrap();
        let (bucket, key, version) = (name("bucket"), key("k"), None);
        if round == 0 {
            let (condition, bypass_governance) = (WriteCondition::Always, false);
            let request = DeleteObject { bucket, key, version, condition, bypass_governance };
            let refused = late.delete_object(request).await;
            assert!(matches!(refused, Err(DeleteError::Unavailable(_))), "{refused:?}");
        } else {
            let change = Arc::new(|attributes: &mut Attributes| {
                attributes.tags.insert("t".to_owned(), "1".to_owned());
            });
            let request = AmendObject { bucket, key, version, owner: None, change };
            let refused = late.amend_object(request).await;
            assert!(matches!(refused, Err(AmendError::Get(GetError::Unavailable(_)))), "{refused:?}");
        }
        assert_eq!(get(store, "bucket", "k").await.unwrap(), data);
        // Who asks again asks the new one.
        delete(&late, "k").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_being_deleted_is_not_said_to_be_gone() {
    let bench = Bench::start(1, 4).await;
    let late = closed_half_way(&bench).await;
    // Another deletion finds the object and opens the bucket again.
    assert!(late.delete_bucket(&name("bucket")).await.is_err());
    assert_eq!(get(&late, "bucket", "k").await.unwrap(), bytes(5, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_whose_deletion_died_is_open_again_after_a_while() {
    let bench = Bench::start(1, 4).await;
    let late = closed_half_way(&bench).await;
    for minutes in [0, 9] {
        late.reclaim(after(Duration::from_secs(minutes * 60))).await.unwrap();
        assert!(get(&late, "bucket", "k").await.is_err(), "{minutes}");
    }
    late.reclaim(after(Duration::from_secs(11 * 60))).await.unwrap();
    assert_eq!(get(&late, "bucket", "k").await.unwrap(), bytes(5, 1));
    put(&bench.store, "bucket", "k", &bytes(5, 2)).await.unwrap();
}

/// A bucket with an object, whose deletion died after it had closed the record, and a gateway that came later.
async fn closed_half_way(bench: &Bench) -> ObjectStore {
    make_bucket(&bench.store, "bucket").await;
    put(&bench.store, "bucket", "k", &bytes(5, 1)).await.unwrap();
    let coordinator = bench.cluster.coordinator();
    let entry = coordinator.get("buckets/bucket").await.unwrap().unwrap();
    let closed = String::from_utf8_lossy(&entry.value).replace("\"active\"", "\"deleting\"");
    let expected = Expected::Revision(entry.revision);
    coordinator.put(&entry.key, closed.into(), expected, false).await.unwrap();
    let late = bench.gateway().await;
    let read = get(&late, "bucket", "k").await;
    assert!(matches!(read, Err(ReadFailure::Get(GetError::Unavailable(_)))), "{read:?}");
    late
}
