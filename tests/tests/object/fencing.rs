//! A lock that has run out protects nothing: what its holder does late is refused by the slots (F-46).
//!
//! The holder is held between FENCE and COMMIT, where no signal sent from outside is sure to find it, and its rival gets
//! the lock as if the lease had ended. The holder itself believes to the end that its lock is good.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use coffer_gateway::object::{ObjectInfo, ObjectStore, PutError, WriteCondition};

use crate::body::*;
use crate::cluster::Bench;
use crate::coordinator::Switched;

async fn create(store: &ObjectStore, k: &str, data: &Bytes) -> Result<ObjectInfo, PutError> {
    let mut request = put_request("bucket", k, body(data));
    request.condition = WriteCondition::Absent;
    store.put_object(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_lease_ends_between_fence_and_commit_is_refused_by_the_slots() {
    let bench = Bench::start(1, 4).await;
    make_bucket(&bench.store, "bucket").await;
    let coordinator = Switched::new(bench.cluster.coordinator());
    coordinator.expires_locks.store(true, Ordering::SeqCst);
    let rival = bench.gateway_with(Arc::new(coordinator)).await;
    let gate = &bench.gates[0];
    for len in [100, 1_000_000] {
        let (k, late, first) = (format!("k{len}"), bytes(len, 1), bytes(len, 2));
        *gate.held.lock().unwrap() = None;
        *gate.holds_first_of.lock().unwrap() = Some(k.clone());
        let holder = tokio::spawn({
            let (store, k, late) = (bench.store.clone(), k.clone(), late.clone());
            async move { create(&store, &k, &late).await }
        });
        while gate.held.lock().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        create(&rival, &k, &first).await.unwrap();
        *gate.holds_first_of.lock().unwrap() = None;
        let outcome = holder.await.unwrap();
        assert!(matches!(outcome, Err(PutError::Conflict | PutError::Unavailable(_))), "{outcome:?}");
        for store in [&bench.store, &rival] {
            assert_eq!(get(store, "bucket", &k).await.unwrap(), first);
        }
    }
}
