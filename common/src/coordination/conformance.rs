//! What every coordinator must do; run on each implementation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Change, Coordinator, CoordinatorError, Expected, WatchEvent, Write};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the suite. The coordinator's prefix must be empty.
pub(super) async fn check(coordinator: Arc<dyn Coordinator>) {
    let one = &*coordinator;
    conditions_decide(one).await;
    transaction_is_all_or_nothing(one).await;
    listing_is_ordered_and_bounded(one).await;
    watch_tells_every_change(one).await;
    locks_exclude_and_fences_rise(coordinator.clone()).await;
    leased_keys_live_with_the_session(one).await;
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn conditions_decide(one: &dyn Coordinator) {
    assert_eq!(one.get("c/a").await.unwrap(), None);
    let first = one.put("c/a", value("1"), Expected::Absent, false).await.unwrap();
    let conflict = one.put("c/a", value("2"), Expected::Absent, false).await;
    assert!(matches!(conflict, Err(CoordinatorError::Conflict { .. })), "{conflict:?}");
    let second = one.put("c/a", value("2"), Expected::Revision(first), false).await.unwrap();
    assert!(second > first);
    let stale = one.put("c/a", value("3"), Expected::Revision(first), false).await;
    assert!(matches!(stale, Err(CoordinatorError::Conflict { .. })), "{stale:?}");
    let entry = one.get("c/a").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), &entry.value[..]), ("c/a", &b"2"[..]));
    assert_eq!((entry.create_revision, entry.revision), (first, second));
    let stale = one.delete("c/a", Expected::Revision(first)).await;
    assert!(matches!(stale, Err(CoordinatorError::Conflict { .. })), "{stale:?}");
    one.delete("c/a", Expected::Revision(second)).await.unwrap();
    one.delete("c/a", Expected::Any).await.unwrap();
    assert_eq!(one.get("c/a").await.unwrap(), None);
    let third = one.put("c/a", value("4"), Expected::Any, false).await.unwrap();
    assert_eq!(one.get("c/a").await.unwrap().unwrap().create_revision, third, "a new life of the key");
}

async fn transaction_is_all_or_nothing(one: &dyn Coordinator) {
    let put = |key: &str, expected| Write {
        key: key.to_owned(),
        expected,
        change: Change::Put { value: value("t"), leased: false },
    };
    let refused =
        one.transaction(vec![put("t/a", Expected::Absent), put("t/b", Expected::Revision(1))]).await;
    assert!(matches!(refused, Err(CoordinatorError::Conflict { .. })), "{refused:?}");
    assert!(one.list("t/").await.unwrap().entries.is_empty());
    let revision =
        one.transaction(vec![put("t/a", Expected::Absent), put("t/b", Expected::Absent)]).await.unwrap();
    let listing = one.list("t/").await.unwrap();
    assert!(listing.entries.iter().all(|entry| entry.revision == revision) && listing.entries.len() == 2);
    let check = Write { key: "t/a".to_owned(), expected: Expected::Absent, change: Change::Check };
    assert!(one.transaction(vec![check, put("t/c", Expected::Any)]).await.is_err());
    assert_eq!(one.get("t/c").await.unwrap(), None);
}

async fn listing_is_ordered_and_bounded(one: &dyn Coordinator) {
    for key in ["l/b", "l/a", "l", "l0", "l/a/x"] {
        one.put(key, value("v"), Expected::Any, false).await.unwrap();
    }
    let keys = |listing: super::Listing| listing.entries.into_iter().map(|e| e.key).collect::<Vec<_>>();
    assert_eq!(keys(one.list("l/").await.unwrap()), ["l/a", "l/a/x", "l/b"]);
    assert_eq!(keys(one.list("l/a").await.unwrap()), ["l/a", "l/a/x"]);
    assert_eq!(keys(one.list("nothing/").await.unwrap()), Vec::<String>::new());
}

async fn next(events: &mut mpsc::Receiver<WatchEvent>) -> WatchEvent {
    timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the watch is open")
}

async fn watch_tells_every_change(one: &dyn Coordinator) {
    one.put("w/a", value("0"), Expected::Any, false).await.unwrap();
    let mut events = one.watch("w/");
    let WatchEvent::Reset(start) = next(&mut events).await else { panic!("a watch begins with a reset") };
    assert_eq!(start.entries.len(), 1);
    let second = one.put("w/b", value("1"), Expected::Any, false).await.unwrap();
    one.put("other", value("1"), Expected::Any, false).await.unwrap();
    let third = one.delete("w/a", Expected::Any).await.unwrap();
    let WatchEvent::Put(entry) = next(&mut events).await else { panic!("the put is told") };
    assert_eq!((entry.key.as_str(), entry.revision), ("w/b", second));
    let deleted = WatchEvent::Delete { key: "w/a".to_owned(), revision: third };
    assert_eq!(next(&mut events).await, deleted);
}

async fn locks_exclude_and_fences_rise(one: Arc<dyn Coordinator>) {
    let first = one.lock("k/1", Duration::ZERO).await.unwrap();
    assert!(first.held());
    let refused = one.lock("k/1", Duration::from_millis(50)).await;
    assert!(matches!(refused, Err(CoordinatorError::Locked { .. })), "{refused:?}");
    let other = one.lock("k/2", Duration::ZERO).await.unwrap();
    assert!(other.fence() > first.fence());
    let waiting = {
        let one = one.clone();
        tokio::spawn(async move { one.lock("k/1", PATIENCE).await.unwrap().fence() })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    let before = first.fence();
    drop(first);
    let fence = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(fence > before && fence > other.fence());

    // Twenty contenders, one at a time, each with a higher fence than the one before.
    let last = Arc::new(parking_lot::Mutex::new((0_u32, fence)));
    let contenders = (0..20).map(|_| {
        let (one, last) = (one.clone(), last.clone());
        tokio::spawn(async move {
            let guard = one.lock("k/1", PATIENCE).await.unwrap();
            let count = {
                let mut last = last.lock();
                assert!(guard.fence() > last.1);
                *last = (last.0 + 1, guard.fence());
                last.0
            };
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert_eq!(last.lock().0, count, "nobody else got in");
        })
    });
    for contender in contenders.collect::<Vec<_>>() {
        contender.await.unwrap();
    }
    assert_eq!(last.lock().0, 20);
}

async fn leased_keys_live_with_the_session(one: &dyn Coordinator) {
    assert!(one.session_alive());
    one.put("live/a", value("1"), Expected::Any, true).await.unwrap();
    assert!(one.get("live/a").await.unwrap().is_some());
    let mut events = one.watch("live/");
    let _reset = next(&mut events).await;
    one.close().await;
    assert!(!one.session_alive());
    let locked = one.lock("k/9", Duration::ZERO).await;
    assert!(matches!(locked, Err(CoordinatorError::SessionLost)), "{locked:?}");
}
