//! What happens while a job of the drive is still on its way, or finds no place in the queue.

use coffer_common::node::ListRequest;
use futures_util::poll;

use super::*;
use crate::store::DriveItem;

#[tokio::test(start_paused = true)]
async fn a_claim_on_an_op_ends_once_and_never_that_of_the_next_one() {
    let bench = Bench::new();
    let (key, shard) = (object("large"), encode(&version(1, 30_000), &data(1, 30_000)));
    bench.drive.set_latency(Duration::from_secs(1));
    let receive = |pieces| {
        let (address, bucket_revision) = (bench.address(&key), bench.bucket_revision(&key));
        let header = PrepareShard { address, register: key.clone(), bucket_revision, op: op(1) };
        Box::pin(bench.store().prepare_shard(header, pieces))
    };
    let (sender, broken_off) = tokio::sync::mpsc::channel(4);
    sender.try_send(ShardPiece::Data(shard.slice(..100))).unwrap();
    drop(sender);
    let mut first = receive(broken_off);
    // Its register is looked up, the file is made, and removed.
    for _ in 0..3 {
        assert!(poll!(&mut first).is_pending());
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let mut second = receive(pieces_of(shard.clone()));
    assert!(poll!(&mut second).is_pending());
    let failed = first.await;
    assert!(matches!(failed, Err(NodeError::Invalid(_))), "{failed:?}");
    let third = receive(pieces_of(shard)).await;
    assert!(
        matches!(&third, Err(NodeError::Invalid(reason)) if reason.contains("being received")),
        "{third:?}"
    );
    bench.drive.set_latency(Duration::ZERO);
    let received = second.await;
    assert!(matches!(received, Ok(SlotReply::View(..))), "{received:?}");
    assert_eq!(bench.read_shard(&key, op(1)).await, Ok(data(1, 30_000)));
}

#[tokio::test]
async fn a_durable_change_is_answered_although_its_files_cannot_be_removed_yet() {
    let bench = Bench::threaded();
    let key = object("large");
    bench.prepare_file(&key, 1, &data(1, 30_000)).await.unwrap();
    let release = bench.occupy();
    let reply = bench.call(&key, SlotRequest::Abandon { op: op(1) }).await;
    assert!(reply.is_ok(), "{reply:?}");
    release();
    assert_eq!(bench.shard_files(), 1);
    bench.store().sweep_files(Duration::ZERO);
    assert_eq!(bench.shard_files(), 0, "nobody has a claim on it");
}

#[tokio::test]
async fn a_shard_that_compaction_moves_while_it_is_read_is_read_where_it_is_then() {
    let bench = Bench::new();
    bench.put(&object("k1"), 1, &data(1, 5000)).await.unwrap();
    for counter in 2.. {
        if !bench.store().sealed_segments().is_empty() {
            break;
        }
        bench.put(&object(&format!("k{counter}")), counter, &data(counter, 2000)).await.unwrap();
    }
    let (key, store) = (object("k1"), bench.store());
    bench.drive.hang();
    // Three of them would make the drive suspect.
    let mut reads: Vec<_> = (0..3).map(|_| Box::pin(bench.read_shard(&key, op(1)))).collect();
    for read in &mut reads {
        assert!(poll!(read).is_pending());
    }
    let mut inline = Box::pin(bench.inline(&key));
    assert!(poll!(&mut inline).is_pending());
    let segment = store.sealed_segments()[0];
    store.compact_segment(segment, &mut || {}).unwrap();
    bench.drive.set_latency(Duration::ZERO);
    for read in reads {
        assert_eq!(read.await, Ok(data(1, 5000)));
    }
    assert_eq!(inline.await, Some(encode(&version(1, 5000), &data(1, 5000))));
    let info = store.info();
    assert_eq!((info.missing_shards, info.state, info.reason), (0, DriveState::Online, String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_listing_looks_at_deleted_keys_in_pieces_and_misses_nothing_behind_them() {
    let bench = Bench::new();
    for counter in 1..=40 {
        bench.put(&object(&format!("dead/{counter:02}")), counter, b"").await.unwrap();
        bench.put(&object(&format!("live/{counter:02}")), 100 + counter, b"").await.unwrap();
        if counter == 20 {
            bench.store().apply(true);
        }
    }
    bench.put(&object("live/41"), 200, b"x").await.unwrap();
    bench.put(&object("plain"), 201, b"x").await.unwrap();
    bench.drive.set_latency(Duration::from_secs(1));
    let request = ListRequest {
        cluster: CLUSTER,
        bucket: BucketId(1),
        bucket_revision: 0,
        kind: RegisterKind::Object,
        prefix: Bytes::new(),
        after: Bytes::new(),
        delimiter: Bytes::from_static(b"/"),
        limit: 10,
        resumes: false,
    };
    let began = tokio::time::Instant::now();
    let page = bench.store().list(Arc::new(request), usize::MAX, None).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(5), "82 registers, 16 in a job that takes a second");
    let shown = |(_, item): &(Bytes, DriveItem)| match item {
        DriveItem::Entry(listed) => (None, listed.current.version.op),
        DriveItem::CommonPrefix(prefix, witness) => (Some(prefix.clone()), witness.slots[0].1.version.op),
    };
    let items: Vec<(Option<Bytes>, OpId)> = page.items.iter().map(shown).collect();
    let live = Bytes::from_static(b"live/");
    assert_eq!((items, page.truncated), (vec![(Some(live), op(200)), (None, op(201))], false));
}
