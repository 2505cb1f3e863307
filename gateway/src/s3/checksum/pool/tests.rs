//! Many uploads at once against each alone; limits and ends.

use super::*;
use crate::s3::checksum::ChecksumAlgorithm;
use std::time::Duration;

fn alone(data: &[u8]) -> Digests {
    let mut set = DigestSet::new(true, ChecksumAlgorithm::ALL);
    set.update(data);
    set.finish()
}

async fn through(pool: &HashPool, data: Bytes, piece: usize) -> Digests {
    let set = DigestSet::new(true, ChecksumAlgorithm::ALL);
    let mut hasher = pool.hasher(set, Some(data.len() as u64));
    for at in (0..data.len()).step_by(piece) {
        hasher.update(&data.slice(at..data.len().min(at + piece))).await.unwrap();
        tokio::task::yield_now().await;
    }
    hasher.finish().await.unwrap()
}

#[tokio::test]
async fn concurrent_uploads_hash_as_alone() {
    for kernel in Kernel::available() {
        let pool = HashPool::start_with(2, kernel).unwrap();
        let uploads = (0..40usize).map(|index| {
            let len = [0, 1, 64 * 1024, 64 * 1024 + 1, 300_007, 1_000_000][index % 6];
            let data: Bytes = (0..len).map(|at| (at * 31 + index) as u8).collect::<Vec<_>>().into();
            let pool = &pool;
            async move {
                let digests = through(pool, data.clone(), 10_007 * (index % 7 + 1)).await;
                assert_eq!(digests, alone(&data), "{kernel:?} upload {index} of {len}");
            }
        });
        futures_util::future::join_all(uploads).await;
    }
}

#[tokio::test]
async fn an_upload_waits_for_its_hash_and_a_huge_piece_passes() {
    let (jobs, mut receiver) = unbounded_channel();
    let worker = Worker { jobs, uploads: Arc::default(), next: AtomicU64::new(0) };
    let mut remote = Remote::open(&worker, DigestSet::new(true, []));
    let huge = Bytes::from(vec![0; BACKLOG_BYTES as usize * 3]);
    remote.update(&huge).await.unwrap();
    let more = Bytes::from_static(b"more");
    let blocked = tokio::time::timeout(Duration::from_millis(20), remote.update(&more)).await;
    assert!(blocked.is_err(), "nobody has hashed the first piece");
    assert!(matches!(receiver.recv().await, Some(Job::Open { .. })));
    drop(receiver.recv().await);
    remote.update(&more).await.unwrap();
}

#[tokio::test]
async fn a_dropped_hasher_is_forgotten_and_a_dead_worker_is_noticed() {
    let (jobs, mut receiver) = unbounded_channel();
    let worker = Worker { jobs, uploads: Arc::default(), next: AtomicU64::new(0) };
    let remote = Remote::open(&worker, DigestSet::new(true, []));
    assert_eq!(worker.uploads.load(Ordering::Relaxed), 1);
    drop(remote);
    assert_eq!(worker.uploads.load(Ordering::Relaxed), 0);
    let mut uploads = Uploads::new(Kernel::detect());
    while let Ok(job) = receiver.try_recv() {
        uploads.apply(job);
    }
    assert!(uploads.by_id.is_empty());
    let mut remote = Remote::open(&worker, DigestSet::new(true, []));
    drop(receiver);
    assert_eq!(remote.update(&Bytes::from_static(b"x")).await, Err(HashLost));
    assert_eq!(remote.finish().await, Err(HashLost));
}

#[tokio::test]
async fn threads_end_with_their_pool() {
    let pool = HashPool::start(1).unwrap();
    let mut hasher = pool.hasher(DigestSet::new(true, []), None);
    drop(pool);
    hasher.update(&Bytes::from_static(b"abc")).await.unwrap();
    let digests = hasher.finish().await.unwrap();
    assert_eq!(digests.etag().as_deref(), Some("900150983cd24fb0d6963f7d28e17f72"));
}

#[tokio::test]
async fn a_pool_without_threads_hashes_in_place() {
    let data = Bytes::from(vec![5; 200_000]);
    assert_eq!(through(&HashPool::in_place(), data.clone(), 9_999).await, alone(&data));
}
