//! A pass reads all there is, and ends.

use super::*;
use crate::store::tests::{Bench, object};

impl Scrub {
    /// A pass of a drive that begins, and who tells the order.
    fn begin(bench: &Bench, record: Record) -> (Self, watch::Sender<Option<ScrubOrder>>) {
        let (sender, order) = watch::channel(None);
        let (period, kept) = (Duration::from_secs(14 * 24 * 3600), Instant::now());
        let (store, pace, turn) = (Arc::clone(bench.store()), Pace::default(), Mutex::default());
        (Self { store, period, order, record, kept, pace, turn }, sender)
    }
}

async fn put(bench: &Bench, counter: u64) {
    bench.put(&object(&format!("k{}", counter % 50)), counter, &[7; 20_000]).await.unwrap();
}

#[tokio::test]
async fn a_pass_ends_with_the_segments_that_were_sealed_when_it_came_to_them() {
    let bench = Bench::new();
    let grow = async |counters: std::ops::Range<u64>| {
        for counter in counters {
            put(&bench, counter).await;
        }
        bench.store().sealed_segments()
    };
    let sealed = grow(1..60).await;
    assert!(sealed.len() > 2, "{sealed:?}");
    let (mut scrub, order) = Scrub::begin(&bench, Record::default());
    order.send_replace(Some(ScrubOrder { paused: true, ..ScrubOrder::default() }));
    assert_eq!(scrub.segments().await, Ok(false));
    let after = grow(60..120).await;
    assert!(after.last() > sealed.last(), "{sealed:?}, {after:?}");
    order.send_replace(Some(ScrubOrder::default()));
    assert_eq!(scrub.segments().await, Ok(true));
    assert_eq!(Some(&scrub.running().segment), sealed.last());
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_the_drive_had_no_time_for_is_read_when_it_has() {
    let bench = Bench::threaded();
    for counter in 1..=3 {
        put(&bench, counter).await;
    }
    let piece = bench.store().shards_after(Vec::new()).await.unwrap();
    let (mut scrub, _order) = Scrub::begin(&bench, Record::default());
    let (free, began) = (bench.occupy(), Instant::now());
    let read = async {
        for (entry, op) in &piece.shards {
            assert_eq!(scrub.shard(entry, *op).await, Ok(true));
        }
    };
    let end = async {
        tokio::time::sleep(TICK / 2).await;
        free();
    };
    tokio::join!(read, end);
    assert!(began.elapsed() >= TICK, "it was turned away once");
    assert_eq!((piece.shards.len(), scrub.running().shards), (3, 3));
}

#[tokio::test]
async fn a_pause_holds_after_a_start_until_the_coordinator_tells_otherwise() {
    let bench = Bench::new();
    put(&bench, 1).await;
    let paused = ScrubOrder { paused: true, ..ScrubOrder::default() };
    let (mut scrub, order) = Scrub::begin(&bench, Record::default());
    assert!(!scrub.order().paused);
    order.send_replace(Some(paused));
    scrub.keep().await;
    let record = bench.store().load_scrub().await.unwrap();
    let (mut scrub, order) = Scrub::begin(&bench, record);
    assert_eq!(scrub.order(), paused);
    scrub.pass().await.unwrap();
    assert!(scrub.record.pass.is_some(), "it stands");
    order.send_replace(Some(ScrubOrder::default()));
    scrub.pass().await.unwrap();
    assert!(scrub.record.pass.is_none());
}
