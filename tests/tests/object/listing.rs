//! Listings against a model.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coffer_gateway::object::{ListError, ListObjects, ObjectStore};

use crate::body::*;
use crate::cluster::Bench;

/// What a listing of these keys should say.
fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str) -> (Vec<String>, Vec<String>) {
    let (mut plain, mut rolled_up) = (Vec::new(), BTreeSet::new());
    for key in keys {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        match (!delimiter.is_empty()).then(|| rest.find(delimiter)).flatten() {
            Some(at) => {
                rolled_up.insert(format!("{prefix}{}", &rest[..at + delimiter.len()]));
            }
            None => plain.push(key.clone()),
        }
    }
    (plain, rolled_up.into_iter().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_any_size_agree_with_the_model() {
    let bench = Bench::start(3, 2).await;
    make_bucket(&bench.store, "bucket").await;
    let all = [
        "a", "a/", "a//b", "a/b", "a/b/c", "a/c", "ab", "b/1", "b/2", "b0", "c", "d/", "d/d/d", "é/x", "é/y",
        "z", "\u{1}", "a\u{0}b", "../x", ".",
    ];
    let mut keys: BTreeSet<String> = BTreeSet::new();
    for k in all {
        put(&bench.store, "bucket", k, &bytes(10, 1)).await.unwrap();
        keys.insert(k.to_owned());
    }
    for gone in ["b/1", "b/2", "a/c", "z"] {
        delete(&bench.store, gone).await;
        keys.remove(gone);
    }
    for prefix in ["", "a", "a/", "b/", "d/", "é", "none"] {
        for delimiter in ["", "/", "//", "b"] {
            for limit in [1, 2, 3, 100] {
                let (listed, rolled_up, pages) =
                    list_all(&bench.store, "bucket", prefix, delimiter, limit).await;
                let case = format!("prefix {prefix:?} delimiter {delimiter:?} limit {limit}");
                assert_eq!((listed, rolled_up), model(&keys, prefix, delimiter), "{case}");
                let items = model(&keys, prefix, delimiter);
                let items = items.0.len() + items.1.len();
                assert_eq!(pages, items.div_ceil(limit as usize).max(1), "{case}");
            }
        }
    }
}

/// All pages, each of which ends after this time as soon as it can tell where the next one begins.
async fn list_in_haste(
    store: &ObjectStore,
    mut request: ListObjects,
    pause_after: Duration,
) -> (Vec<String>, Vec<String>) {
    request.pause_after = Some(pause_after);
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    for _ in 0..1_000 {
        let page = store.list_objects(request.clone()).await.unwrap();
        keys.extend(page.objects.into_iter().map(|object| object.key.as_str().to_owned()));
        prefixes.extend(page.prefixes);
        match page.next {
            Some(next) => {
                assert_ne!(next, request.start_after, "the listing gets on");
                request.start_after = next;
            }
            None => return (keys, prefixes),
        }
    }
    panic!("{request:?} comes to no end");
}

/// Each node stops elsewhere, amid deleted keys, at keys that look like rolled-up prefixes, and before the only live key below one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_stop_before_they_have_found_anything_hide_nothing() {
    let bench = Bench::start(3, 2).await;
    make_bucket(&bench.store, "bucket").await;
    let (mut all, mut keys): (BTreeSet<String>, BTreeSet<String>) = Default::default();
    for folder in ["a", "a/", "b/", "b/c/", "d/", "e"] {
        all.extend((0..7).map(|number| format!("{folder}{number}")));
        all.insert(folder.to_owned());
    }
    let live = ["a", "a/6", "b/", "b/c/3", "b/c/4", "e", "e2", "e6"];
    for k in &all {
        put(&bench.store, "bucket", k, &bytes(10, 1)).await.unwrap();
        if live.contains(&k.as_str()) {
            keys.insert(k.clone());
        } else {
            delete(&bench.store, k).await;
        }
    }
    for gate in &bench.gates {
        gate.stops_at.lock().unwrap().extend(all.iter().map(|k| key(k)));
    }
    for prefix in ["", "a", "b/", "b/c", "d", "e"] {
        for delimiter in ["", "/", "c/"] {
            for limit in [1, 2, 100] {
                let case = format!("prefix {prefix:?} delimiter {delimiter:?} limit {limit}");
                let expected = model(&keys, prefix, delimiter);
                let (listed, rolled_up, pages) =
                    list_all(&bench.store, "bucket", prefix, delimiter, limit).await;
                let items = expected.0.len() + expected.1.len();
                assert_eq!((listed, rolled_up), expected, "{case}");
                assert_eq!(pages, items.div_ceil(limit as usize).max(1), "{case}");
                let request = list_request("bucket", prefix, delimiter, limit);
                let listed = list_in_haste(&bench.store, request, Duration::ZERO).await;
                assert_eq!(listed, expected, "{case}, in haste");
            }
        }
    }
    for gate in &bench.gates {
        assert!(gate.stopped.load(Ordering::SeqCst) > 100, "{} stops no page", gate.id);
    }
}

/// All nodes have looked on behind the rolled-up prefix, and only it can name the place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_ends_where_a_key_looks_like_a_prefix_repeats_nothing() {
    let bench = Bench::start(3, 2).await;
    make_bucket(&bench.store, "bucket").await;
    for k in ["A", "a/1", "c"] {
        put(&bench.store, "bucket", k, &bytes(10, 1)).await.unwrap();
    }
    for gate in &bench.gates {
        gate.stops_at.lock().unwrap().insert(key("b/"));
    }
    let request = list_request("bucket", "", "/", 100);
    let listed = list_in_haste(&bench.store, request, Duration::ZERO).await;
    assert_eq!(listed, (vec!["A".to_owned(), "c".to_owned()], vec!["a/".to_owned()]));
}

/// A bucket of these keys, on all nodes but those that are away, and the first node stops at each of `a/00`, `a/01` and so on.
async fn bench_that_stops(live: &[&str], away: &[usize]) -> Bench {
    let bench = Bench::start(3, 2).await;
    make_bucket(&bench.store, "bucket").await;
    bench.down(away);
    for k in live {
        put(&bench.store, "bucket", k, &bytes(10, 1)).await.unwrap();
    }
    bench.settled().await;
    bench.down(&[]);
    let stops = (0..40).map(|number| key(&format!("a/{number:02}")));
    bench.gates[0].stops_at.lock().unwrap().extend(stops);
    bench
}

/// The first node has missed both keys, and without it the second one is too few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_looks_behind_what_another_has_found_is_not_waited_for() {
    let bench = bench_that_stops(&["a/0", "b"], &[0]).await;
    bench.down(&[2]);
    let stops = (1..5).map(|number| key(&format!("c/{number}")));
    bench.gates[0].stops_at.lock().unwrap().extend(stops);
    let expected = (vec!["b".to_owned()], vec!["a/".to_owned()]);
    let (listed, rolled_up, pages) = list_all(&bench.store, "bucket", "", "/", 100).await;
    assert_eq!(((listed, rolled_up), pages), (expected.clone(), 1));
    let request = list_request("bucket", "", "/", 100);
    assert_eq!(list_in_haste(&bench.store, request, Duration::ZERO).await, expected);
    let stopped = bench.gates[0].stopped.load(Ordering::SeqCst);
    assert_eq!(stopped, 4, "below each of `a/` and `c/` it is heard once in each listing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_looks_for_long_is_left_out_if_the_others_can_speak() {
    let bench = bench_that_stops(&["b"], &[]).await;
    assert_eq!(list_all(&bench.store, "bucket", "", "/", 100).await, (vec!["b".to_owned()], Vec::new(), 1));
    let stopped = bench.gates[0].stopped.load(Ordering::SeqCst);
    assert_eq!(stopped, 2, "rounds that it is waited for");
}

/// The third node has missed the key, and has told what is behind it; without it the second one is too few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_told_more_can_speak_while_another_is_left_out() {
    let bench = bench_that_stops(&["b"], &[2]).await;
    let stops = (1..5).map(|number| key(&format!("c/{number}")));
    bench.gates[2].stops_at.lock().unwrap().extend(stops);
    assert_eq!(list_all(&bench.store, "bucket", "", "/", 100).await, (vec!["b".to_owned()], Vec::new(), 1));
    let stopped = bench.gates[0].stopped.load(Ordering::SeqCst);
    assert_eq!(stopped, 2, "rounds that it is waited for");
}

/// One drive of the first node is enough beside those of the second, but none of them has told all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_that_are_in_turn_left_out_of_pages_do_not_speak_for_one_another() {
    let bench = bench_that_stops(&["b"], &[]).await;
    bench.down(&[2]);
    bench.gates[0].leaves_drives_out.store(true, Ordering::SeqCst);
    let request = list_request("bucket", "", "/", 100);
    let refused = bench.store.list_objects(request.clone()).await;
    assert!(matches!(refused, Err(ListError::Unavailable(_))), "{refused:?}");
    // A page ends where that begins, and the next one is another listing.
    let listed = list_in_haste(&bench.store, request, Duration::from_secs(600)).await;
    assert_eq!(listed, (vec!["b".to_owned()], Vec::new()));
}

/// Below the prefix is a delete marker alone, behind places at which all nodes stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_below_a_prefix_grow_and_stay_short() {
    let bench = Bench::start(3, 2).await;
    make_bucket(&bench.store, "bucket").await;
    bench.store.set_versioning(&name("bucket"), true).await.unwrap();
    put(&bench.store, "bucket", "m/x", &bytes(10, 1)).await.unwrap();
    delete(&bench.store, "m/x").await;
    for gate in &bench.gates {
        let stops = (0..40).map(|number| key(&format!("m/{number:02}")));
        gate.stops_at.lock().unwrap().extend(stops);
    }
    assert_eq!(list_all(&bench.store, "bucket", "", "/", 100).await, (Vec::new(), Vec::new(), 1));
    for gate in &bench.gates {
        assert_eq!(gate.longest_below.load(Ordering::SeqCst), 128, "{}", gate.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_shows_a_write_at_once() {
    let bench = Bench::start(4, 1).await;
    let other = bench.gateway().await;
    make_bucket(&bench.store, "bucket").await;
    for i in 0..30 {
        let k = format!("k{i:03}");
        put(&bench.store, "bucket", &k, &bytes(10, i)).await.unwrap();
        let (keys, _, _) = list_all(&other, "bucket", "", "", 1000).await;
        assert_eq!(keys.len() as u64, i + 1);
    }
}
