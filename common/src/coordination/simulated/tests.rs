use bytes::Bytes;

use super::*;
use crate::coordination::{CLUSTER_KEY, Coordinator, CoordinatorError, Expected, WatchEvent, conformance};
use crate::limits::SESSION_TTL;
use crate::node::Stand;

const DELAY: Range<Duration> = Duration::from_micros(100)..Duration::from_millis(2);

#[tokio::test(start_paused = true)]
async fn simulated_coordinator_conforms() {
    conformance::check(SimulatedEtcd::start(DELAY).connect(Vec::new()).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_lost_its_lease_early_still_believes_in_it() {
    let etcd = SimulatedEtcd::start(DELAY);
    let (one, two) = (etcd.connect(Vec::new()).await, etcd.connect(Vec::new()).await);
    one.put("live/1", Bytes::new(), Expected::Any, true).await.unwrap();
    let old = one.lock("k", Duration::ZERO).await.unwrap();
    let refused = two.lock("k", Duration::from_millis(200)).await;
    assert!(matches!(refused, Err(CoordinatorError::Locked { .. })), "{refused:?}");
    one.lose_lease();
    let new = two.lock("k", Duration::ZERO).await.unwrap();
    assert!(new.fence() > old.fence() && old.held() && new.held());
    tokio::time::sleep(SESSION_TTL).await;
    assert!(!old.held() && one.session_alive(), "the process has learnt it and has a new session");
    assert!(two.get("live/1").await.unwrap().is_some(), "with its leased keys");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_cut_off_loses_its_session_and_its_leased_keys() {
    let etcd = SimulatedEtcd::start(DELAY);
    let door = Arc::<Door>::default();
    let (one, two) = (etcd.connect(vec![Arc::clone(&door)]).await, etcd.connect(Vec::new()).await);
    one.put("live/1", Bytes::new(), Expected::Any, true).await.unwrap();
    door.set(Stand::Shut);
    assert!(matches!(one.get("live/1").await, Err(CoordinatorError::Timeout(_))));
    tokio::time::sleep(SESSION_TTL).await;
    assert!(!one.session_alive());
    assert_eq!(two.get("live/1").await.unwrap(), None);
    door.set(Stand::Open);
    tokio::time::sleep(SESSION_TTL).await;
    assert!(one.session_alive() && two.get("live/1").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_paused_etcd_times_out_and_is_done_later() {
    let etcd = SimulatedEtcd::start(DELAY);
    let one = etcd.connect(Vec::new()).await;
    etcd.door().set(Stand::Held);
    let unknown = one.put("a", Bytes::new(), Expected::Absent, false).await;
    assert!(matches!(unknown, Err(CoordinatorError::Timeout(_))), "{unknown:?}");
    tokio::time::sleep(SESSION_TTL * 2).await;
    etcd.door().set(Stand::Open);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(one.get("a").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn after_a_restore_the_generation_is_new_and_watches_start_over() {
    let etcd = SimulatedEtcd::start(DELAY);
    let one = etcd.connect(Vec::new()).await;
    one.put(CLUSTER_KEY, Bytes::from_static(b"{\"generation\":1}"), Expected::Absent, false).await.unwrap();
    let before = one.lock("k", Duration::ZERO).await.unwrap().fence();
    let snapshot = etcd.snapshot();
    one.put("known/b", Bytes::new(), Expected::Absent, false).await.unwrap();
    one.put("a", Bytes::new(), Expected::Absent, false).await.unwrap();
    let mut events = one.watch("");
    assert!(matches!(events.recv().await, Some(WatchEvent::Reset(_))));
    etcd.restore(&snapshot, |entry| entry.key.starts_with("known/").then(|| Bytes::from_static(b"kept")));
    assert!(matches!(events.recv().await, Some(WatchEvent::Reset(_))));
    assert_eq!(one.get("a").await.unwrap(), None);
    assert_eq!(one.get("known/b").await.unwrap().unwrap().value, "kept");
    assert!(one.lock("k", Duration::from_secs(30)).await.unwrap().fence() > before);
}
