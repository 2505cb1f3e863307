//! The conformance suite and the outage tests on a real etcd, started on free loopback ports with its own data folder.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    CLUSTER_KEY, Coordinator, CoordinatorError, EtcdCoordinator, EtcdOptions, Expected, WatchEvent,
    conformance,
};

/// Free now, given out once, and below the kernel's range for outgoing connections: none of them takes it before etcd
/// does, or while etcd is away.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 500).unwrap_or_default() * 10;
    let next = || 6_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 5_000;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(next).take(5_000).find(is_free).unwrap()
}

struct Etcd {
    process: Option<Child>,
    ports: [u16; 2],
    folder: tempfile::TempDir,
}

impl Etcd {
    /// `None`, with a line on standard error, where etcd is not installed; in CI (`CI` is set) that is a failure.
    #[expect(clippy::disallowed_methods, reason = "whether a missing etcd is a failure is CI's to say")]
    fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            assert!(std::env::var("CI").is_err(), "etcd is not installed: apt-get install etcd-server");
            eprintln!("SKIPPED: etcd is not installed; `apt-get install etcd-server` to run this test");
            return None;
        }
        let ports = [free_port(), free_port()];
        let mut etcd = Self { process: None, ports, folder: tempfile::tempdir().unwrap() };
        etcd.run();
        Some(etcd)
    }

    fn run(&mut self) {
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("etcd")
            .args(["--data-dir", &self.folder.path().join("data").display().to_string()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--name", "one", "--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    async fn connect(&self) -> Arc<EtcdCoordinator> {
        let endpoints = vec![format!("http://127.0.0.1:{}", self.ports[0])];
        let options = EtcdOptions { endpoints, prefix: "coffer/test".to_owned(), ..EtcdOptions::default() };
        let coordinator = EtcdCoordinator::connect(options).unwrap();
        coordinator.ready(Duration::from_secs(60)).await.unwrap();
        coordinator
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_coordinator_conforms() {
    let Some(etcd) = Etcd::start() else { return };
    let coordinator = etcd.connect().await;
    conformance::check(coordinator).await;
    let other = etcd.connect().await;
    assert_eq!(other.get("live/a").await.unwrap(), None, "a closed session gives its leased keys back");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_exclude_between_processes() {
    let Some(etcd) = Etcd::start() else { return };
    let (one, two) = (etcd.connect().await, etcd.connect().await);
    let held = one.lock("k", Duration::ZERO).await.unwrap();
    assert!(matches!(two.lock("k", Duration::from_millis(200)).await, Err(CoordinatorError::Locked { .. })));
    let waiter = {
        let two = two.clone();
        tokio::spawn(async move { two.lock("k", Duration::from_secs(60)).await.unwrap().fence() })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = held.fence();
    drop(held);
    assert!(waiter.await.unwrap() > before);
    let held = one.lock("k", Duration::from_secs(60)).await.unwrap();
    one.close().await;
    assert!(!held.held());
    assert!(two.lock("k", Duration::from_secs(60)).await.unwrap().fence() > held.fence());
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_ends_the_session_and_everything_returns_with_etcd() {
    let Some(mut etcd) = Etcd::start() else { return };
    let (one, two) = (etcd.connect().await, etcd.connect().await);
    one.put("live/one", Bytes::from_static(b"1"), Expected::Any, true).await.unwrap();
    let mut events = two.watch("live/");
    let Some(WatchEvent::Reset(start)) = events.recv().await else { panic!("a watch begins with a reset") };
    assert_eq!(start.entries.len(), 1);
    let held = one.lock("k", Duration::ZERO).await.unwrap();

    etcd.kill();
    let refused = one.put("a", Bytes::new(), Expected::Any, false).await.unwrap_err();
    assert!(refused.retryable(), "{refused}");
    eventually("the session ends", async || !one.session_alive() && !two.session_alive()).await;
    assert!(!held.held());
    assert!(matches!(one.lock("k", Duration::ZERO).await, Err(CoordinatorError::SessionLost)));

    etcd.run();
    one.ready(Duration::from_secs(60)).await.unwrap();
    two.ready(Duration::from_secs(60)).await.unwrap();
    let reset = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Some(WatchEvent::Reset(listing)) = events.recv().await {
                return listing;
            }
        }
    });
    reset.await.expect("the watch starts over with a reset");
    eventually("the leased key is written again", async || matches!(two.get("live/one").await, Ok(Some(_))))
        .await;
    let later = two.lock("k", Duration::from_secs(60)).await.unwrap();
    assert!(later.fence() > held.fence());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_has_lost_the_cluster_is_not_believed() {
    let Some(mut etcd) = Etcd::start() else { return };
    let one = etcd.connect().await;
    let record = Bytes::from_static(br#"{"generation":1}"#);
    one.put(CLUSTER_KEY, record.clone(), Expected::Absent, false).await.unwrap();
    one.put("buckets/b", Bytes::from_static(b"1"), Expected::Absent, false).await.unwrap();
    let mut events = one.watch("buckets/");
    let Some(WatchEvent::Reset(start)) = events.recv().await else { panic!("a watch begins with a reset") };
    assert_eq!(start.entries.len(), 1);

    etcd.kill();
    etcd.folder = tempfile::tempdir().unwrap();
    etcd.run();
    // Somebody who has never seen the cluster finds an etcd that works, unless he knows of it from elsewhere.
    let stranger = etcd.connect().await;
    assert_eq!(stranger.get("buckets/b").await.unwrap(), None);
    let told = etcd.connect().await;
    told.vouch(1);
    assert!(told.get("buckets/b").await.is_err_and(|error| error.retryable()));
    assert!(told.put("buckets/b", Bytes::new(), Expected::Absent, false).await.is_err());
    let deadline = Instant::now() + Duration::from_secs(15);
    while Instant::now() < deadline {
        assert!(one.get("buckets/b").await.is_err(), "absence is not known");
        assert!(one.list("buckets/").await.is_err(), "absence is not known");
        let created = one.put("buckets/b", Bytes::new(), Expected::Absent, false).await;
        assert!(created.is_err_and(|error| error.retryable()), "made a second time");
        assert!(one.lock("k", Duration::ZERO).await.is_err(), "a fence that went back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!one.session_alive());
    assert!(events.try_recv().is_err(), "the watch told of a state that is none");

    stranger.put(CLUSTER_KEY, record, Expected::Absent, false).await.unwrap();
    one.ready(Duration::from_secs(60)).await.unwrap();
    assert_eq!(one.get("buckets/b").await.unwrap(), None, "who puts the record back vouches for the rest");
    told.put("buckets/b", Bytes::new(), Expected::Absent, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_and_fences_of_a_recovered_cluster_are_above_all_before() {
    let Some(mut etcd) = Etcd::start() else { return };
    let one = etcd.connect().await;
    let record = |generation: u32| Bytes::from(format!(r#"{{"generation":{generation}}}"#));
    one.put(CLUSTER_KEY, record(1), Expected::Absent, false).await.unwrap();
    for round in 0..20 {
        one.put("buckets/b", Bytes::from(format!("{round}")), Expected::Any, false).await.unwrap();
    }
    let old = one.get("buckets/b").await.unwrap().unwrap();
    let lock = one.lock("k", Duration::from_secs(10)).await.unwrap();
    let mut events = one.watch("buckets/");
    let Some(WatchEvent::Reset(before)) = events.recv().await else { panic!("a watch begins with a reset") };

    etcd.kill();
    etcd.folder = tempfile::tempdir().unwrap();
    etcd.run();
    let recovery = etcd.connect().await;
    // The same revision of etcd's own as the old record has.
    let mut own = 0;
    while own < old.revision {
        own = recovery.put("buckets/b", Bytes::from_static(b"new"), Expected::Any, false).await.unwrap();
    }
    recovery.put(CLUSTER_KEY, record(2), Expected::Absent, false).await.unwrap();
    one.ready(Duration::from_secs(60)).await.unwrap();

    let stale = Expected::Revision(old.revision);
    let refused = one.put("buckets/b", Bytes::from_static(b"stale"), stale, false).await;
    assert!(matches!(refused, Err(CoordinatorError::Conflict { .. })), "{refused:?}");
    let new = one.get("buckets/b").await.unwrap().unwrap();
    assert_eq!(new.value.as_ref(), b"new");
    assert!(new.revision > old.revision && new.create_revision > old.revision, "{new:?}");
    // For a while the session of before is believed in; no lock is given under it.
    let deadline = Instant::now() + Duration::from_secs(30);
    let later = loop {
        match one.lock("k2", Duration::from_secs(1)).await {
            Ok(later) => break later,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(later.fence() > lock.fence() && !lock.held());
    let reset = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Some(WatchEvent::Reset(listing)) = events.recv().await {
                return listing;
            }
        }
    });
    assert!(reset.await.unwrap().revision > before.revision);
    let set = one.put("buckets/b", Bytes::new(), Expected::Revision(new.revision), false).await.unwrap();
    assert!(set > new.revision);
    assert!(matches!(events.recv().await, Some(WatchEvent::Put(entry)) if entry.revision == set));
    // An etcd that is set back to the earlier life is not believed either.
    let intruder = etcd.connect().await;
    intruder.put(CLUSTER_KEY, record(1), Expected::Any, false).await.unwrap();
    assert!(one.get("buckets/b").await.is_err_and(|error| error.retryable()));
}
