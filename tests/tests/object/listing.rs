//! Listings against a model.

use std::collections::BTreeSet;

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
