//! Pages that end before they are full, because the drive has looked for long.

use coffer_common::node::ListRequest;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::*;
use crate::store::{DriveItem, after_prefix};

/// The op of each item, with the prefix if it is one.
type Items = Vec<(Option<Bytes>, OpId)>;

/// All pages of a listing together, and how many of them ended before they were full.
async fn pages(bench: &Bench, delimiter: &'static str, limit: u32, stops: bool) -> (Items, usize) {
    let (mut items, mut stopped, mut after) = (Vec::new(), 0, Bytes::new());
    loop {
        let request = ListRequest {
            cluster: CLUSTER,
            bucket: BucketId(1),
            bucket_revision: 0,
            kind: RegisterKind::Object,
            prefix: Bytes::new(),
            after: after.clone(),
            delimiter: Bytes::from_static(delimiter.as_bytes()),
            limit,
            resumes: stops,
        };
        // The time is up behind the first piece.
        let until = stops.then(Instant::now);
        let page = bench.store().list(Arc::new(request), usize::MAX, until).await.unwrap();
        stopped += usize::from(page.walked.is_some());
        let end = match page.items.last() {
            Some((key, DriveItem::Entry(_))) => key.clone(),
            Some((key, DriveItem::CommonPrefix(..))) => after_prefix(key).into(),
            None => after,
        };
        assert!(page.walked.as_ref().is_none_or(|walked| *walked >= end));
        after = page.walked.unwrap_or(end);
        items.extend(page.items.into_iter().map(|(_, item)| match item {
            DriveItem::Entry(listed) => (None, listed.current.version.op),
            DriveItem::CommonPrefix(prefix, witness) => (Some(prefix), witness.slots[0].1.version.op),
        }));
        if !page.truncated {
            return (items, stopped);
        }
    }
}

#[tokio::test]
async fn pages_that_end_before_they_are_full_tell_together_what_a_whole_one_tells() {
    let mut stops = 0;
    for seed in 0..6 {
        let (bench, mut random) = (Bench::new(), StdRng::seed_from_u64(seed));
        for counter in 1..=250 {
            // Few live keys in most folders, none in the first one.
            let folder: u8 = random.random_range(0..5);
            let key = format!("{folder}/{:02}", random.random_range(0..90));
            let key = if random.random_range(0..20) == 0 { key.replace('/', "") } else { key };
            let live = folder > 0 && random.random_range(0..30) == 0;
            let data: &[u8] = if live { b"x" } else { b"" };
            bench.put(&object(&key), counter, data).await.unwrap();
            if counter == 120 {
                bench.store().apply(true);
            }
        }
        for delimiter in ["", "/"] {
            let (whole, none) = pages(&bench, delimiter, 1_000, false).await;
            assert_eq!(none, 0);
            for limit in [1, 3, 1_000] {
                let (items, stopped) = pages(&bench, delimiter, limit, true).await;
                assert_eq!(items, whole, "seed {seed} delimiter {delimiter:?} limit {limit}");
                stops += stopped;
            }
        }
    }
    assert!(stops > 50, "{stops}");
}
