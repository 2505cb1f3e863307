//! What holds while nodes are away, slow or lying.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use coffer_gateway::object::{DeleteBucketError, GetError, ListError, PutError};
use coffer_tests::harness::wait_for;

use crate::body::*;
use crate::cluster::{Bench, SLOW_BLOCK};
use crate::settling::wait_until_held;

fn unavailable<T: std::fmt::Debug>(result: &Result<T, ReadFailure>) -> bool {
    matches!(result, Err(ReadFailure::Get(GetError::Unavailable(_)) | ReadFailure::Broken(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_nodes_may_be_gone_for_reads_and_one_less_for_writes() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let (small, large) = (bytes(1_000, 1), bytes(5_000_000, 2));
    put(&bench.store, "bucket", "small", &small).await.unwrap();
    put(&bench.store, "bucket", "large", &large).await.unwrap();
    bench.settled().await;
    for down in [[0, 1], [0, 2], [2, 3], [1, 3]] {
        bench.down(&down);
        assert_eq!(get(&bench.store, "bucket", "small").await.unwrap(), small, "{down:?}");
        assert_eq!(get(&bench.store, "bucket", "large").await.unwrap(), large, "{down:?}");
        assert_eq!(list_all(&bench.store, "bucket", "", "", 10).await.0, ["large", "small"]);
        for data in [&small, &large] {
            let refused = put(&bench.store, "bucket", "new", data).await;
            assert!(matches!(refused, Err(PutError::Unavailable(_))), "{refused:?}");
        }
    }
    bench.down(&[0]);
    put(&bench.store, "bucket", "new", &large).await.unwrap();
    bench.down(&[3]);
    assert_eq!(get(&bench.store, "bucket", "new").await.unwrap(), large);
    bench.down(&[]);
    assert_eq!(get(&bench.store, "bucket", "new").await.unwrap(), large);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_late_still_gets_its_shard() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let data = bytes(300_000, 7);
    bench.gates[1].slow_writes.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    put(&bench.store, "bucket", "k", &data).await.unwrap();
    let took = begun.elapsed();
    wait_until_held(&bench, "k").await;
    // Without the late shard two of these three would be too few.
    for down in [[0, 2], [0, 3], [2, 3]] {
        bench.down(&down);
        assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), data, "down {down:?}, PUT took {took:?}");
    }
}

/// STABLE is told up to 200 ms after a write has ended: most of them wait long enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_answers_a_commit_before_stable_is_told_is_named_in_it() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let named = || *bench.gates[0].acknowledged.lock().unwrap();
    let mut all = 0;
    for number in 0..50 {
        let key = format!("k{number}");
        bench.gates[0].acknowledged.lock().unwrap().take();
        bench.gates[1].held.lock().unwrap().take();
        *bench.gates[1].holds_first_of.lock().unwrap() = Some(key.clone());
        put(&bench.store, "bucket", &key, &bytes(1_000, 1)).await.unwrap();
        bench.gates[1].holds_first_of.lock().unwrap().take();
        wait_for("STABLE", Duration::from_secs(60), || async { named().is_some() }).await.unwrap();
        all += usize::from(named().is_some_and(|slots| slots.len() == 4));
        if all == 10 {
            return;
        }
    }
    panic!("{all} of 50 writes have named the slot that was late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_more_than_half_gone_nothing_is_said_to_be_missing() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    put(&bench.store, "bucket", "k", &bytes(1_000, 1)).await.unwrap();
    bench.settled().await;
    bench.down(&[0, 1, 2]);
    assert!(unavailable(&get(&bench.store, "bucket", "k").await));
    assert!(unavailable(&get(&bench.store, "bucket", "none").await));
    let listed = bench.store.list_objects(list_request("bucket", "", "", 10)).await;
    assert!(matches!(listed, Err(ListError::Unavailable(_))), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_cut_and_slow_shards_are_replaced_in_the_middle_of_a_read() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let data = bytes(6_000_000, 5);
    put(&bench.store, "bucket", "k", &data).await.unwrap();
    for gate in &bench.gates {
        for fault in [&gate.damages_reads, &gate.cuts_reads, &gate.slow_reads] {
            fault.store(true, Ordering::SeqCst);
            let started = Instant::now();
            assert_eq!(get(&bench.store, "bucket", "k").await.unwrap(), data);
            assert!(started.elapsed() < SLOW_BLOCK, "the read has waited for the slow one");
            fault.store(false, Ordering::SeqCst);
        }
    }
    bench.gates.iter().for_each(|gate| gate.damages_reads.store(true, Ordering::SeqCst));
    assert!(matches!(get(&bench.store, "bucket", "k").await, Err(ReadFailure::Broken(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_reached_one_slot_is_settled_by_the_next_reader() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    let (old, new) = (bytes(1_000, 1), bytes(1_000, 2));
    put(&bench.store, "bucket", "k", &old).await.unwrap();
    bench.settled().await;
    for gate in &bench.gates[1..] {
        gate.loses_commits.store(true, Ordering::SeqCst);
    }
    let unknown = put(&bench.store, "bucket", "k", &new).await;
    assert!(matches!(unknown, Err(PutError::Unavailable(_))), "{unknown:?}");
    bench.gates.iter().for_each(|gate| gate.loses_commits.store(false, Ordering::SeqCst));
    let first = get(&bench.store, "bucket", "k").await.unwrap();
    let listed = bench.store.list_objects(list_request("bucket", "", "", 10)).await.unwrap();
    assert_eq!(listed.objects.len(), 1);
    for down in [[0, 1], [2, 3]] {
        bench.settled().await;
        bench.down(&down);
        let again = get(&bench.store, "bucket", "k").await.unwrap();
        assert!(again == new || first == old, "what was seen once must stay");
        bench.down(&[]);
    }
}

/// Half of the slots would stop old gateways, until one of that half loses its state; and a slot that knows nothing of the
/// deletion may still be about to get what another has acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_deleted_only_on_the_word_of_nodes_that_know_of_it() {
    let bench = Bench::start(4, 1).await;
    make_bucket(&bench.store, "bucket").await;
    // Nodes that adopt no revision, and nodes that answer no listing.
    for (deaf, mute) in [(&[2, 3][..], &[][..]), (&[3][..], &[1, 2][..])] {
        for (index, gate) in bench.gates.iter().enumerate() {
            gate.adopts_nothing.store(deaf.contains(&index), Ordering::SeqCst);
            gate.lists_nothing.store(mute.contains(&index), Ordering::SeqCst);
        }
        let refused = bench.store.delete_bucket(&name("bucket")).await;
        assert!(matches!(refused, Err(DeleteBucketError::Unavailable(_))), "{deaf:?} {mute:?}: {refused:?}");
    }
    for gate in &bench.gates {
        gate.adopts_nothing.store(false, Ordering::SeqCst);
        gate.lists_nothing.store(false, Ordering::SeqCst);
    }
    bench.store.delete_bucket(&name("bucket")).await.unwrap();
}
