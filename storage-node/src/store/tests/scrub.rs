//! What has rotted is found by re-reading, and a damaged part of the journal is replaced while the index knows better.

use futures_util::FutureExt;
use proptest::test_runner::{Config, TestCaseError};
use rand::RngExt;

use super::crashes::{Step, World};
use super::damage::{block_on, requests};
use super::model::Violation;
use super::*;
use crate::image::ShardLocation;
use crate::store::Scrubbed;
use crate::store::mutate::{Change, NewShard};

impl Bench {
    /// Scrubs all shards; how many were whole and damaged.
    async fn scrub_shards(&self) -> (usize, usize) {
        let (mut after, mut whole, mut damaged) = (Vec::new(), 0, 0);
        loop {
            let piece = self.store().shards_after(after).await.unwrap();
            for (entry, op) in &piece.shards {
                match self.store().scrub_shard(entry, *op, &|_| std::future::ready(()).boxed()).await.unwrap()
                {
                    Scrubbed::Whole(_) => whole += 1,
                    Scrubbed::Damaged => damaged += 1,
                    Scrubbed::Gone => {}
                }
            }
            match piece.last {
                Some(last) => after = last,
                None => return (whole, damaged),
            }
        }
    }

    /// The sealed segments that do not verify.
    async fn damaged_segments(&self) -> Vec<u64> {
        let mut damaged = Vec::new();
        for segment in self.store().sealed_segments() {
            let mut offset = 0;
            loop {
                match self.store().scrub_segment(segment, offset).await.unwrap() {
                    Ok(Some(next)) => {
                        assert!(next > offset);
                        offset = next;
                    }
                    Ok(None) => break,
                    Err(_) => {
                        damaged.push(segment);
                        break;
                    }
                }
            }
        }
        damaged
    }

    /// Where the op's shard lies: the file's path, or the journal's and the offset there.
    fn shard_at(&self, key: &RegisterKey, op: OpId) -> (String, usize) {
        let loaded = self.store().load_blocking(&key.encode().into()).unwrap();
        match loaded.entry().unwrap().shard(op).unwrap() {
            ShardLocation::Inline(place) => {
                (format!("journal/{:016x}", place.segment), place.offset as usize + place.len as usize / 2)
            }
            ShardLocation::File { len } => {
                let named = format!("/{:032x}-0", u128::from_be_bytes(op.to_bytes()));
                let path = self.drive.paths().into_iter().find(|path| path.ends_with(&named));
                (path.unwrap(), len as usize / 2)
            }
        }
    }
}

#[tokio::test]
async fn every_kind_of_rot_is_found_once_and_what_is_whole_is_left_alone() {
    const LEN: usize = 30_000;
    let bench = Bench::new();
    for counter in 1..=10 {
        let key = object(&format!("k{counter:02}"));
        if counter <= 5 {
            bench.prepare_file(&key, counter, &data(counter, LEN)).await.unwrap();
        }
        bench.put(&key, counter, &data(counter, LEN)).await.unwrap();
    }
    assert_eq!(bench.scrub_shards().await, (10, 0));
    let damage = |counter: u64, change: fn(&mut Vec<u8>, usize)| {
        let (path, at) = bench.shard_at(&object(&format!("k{counter:02}")), op(counter));
        assert!(bench.drive.damage(&path, |bytes| change(bytes, at)), "{path}");
    };
    damage(1, |bytes, at| bytes[at] ^= 1);
    damage(2, |bytes, _| bytes.truncate(bytes.len() - 1));
    damage(3, |bytes, _| bytes.push(0));
    damage(4, |bytes, _| bytes[0] ^= 1);
    damage(7, |bytes, at| bytes[at] ^= 1);
    assert_eq!(bench.scrub_shards().await, (5, 5));
    assert_eq!(bench.store().info().missing_shards, 5);
    assert_eq!(bench.scrub_shards().await, (5, 0), "they are known to be missing");
}

#[tokio::test]
async fn what_compaction_finds_rotten_is_marked_missing() {
    let bench = Bench::new();
    let mut written = 0;
    while bench.store().sealed_segments().is_empty() {
        written += 1;
        bench.put(&object(&format!("k{written}")), written, &data(written, 2000)).await.unwrap();
    }
    let rotten = object("k1");
    let (path, at) = bench.shard_at(&rotten, op(1));
    assert!(bench.drive.damage(&path, |bytes| bytes[at] ^= 1), "{path}");
    bench.store().apply(true);
    let segment = bench.store().sealed_segments()[0];
    assert_eq!(path, format!("journal/{segment:016x}"));
    bench.store().compact_segment(segment, &mut || {}).unwrap();
    assert_eq!(bench.store().info().missing_shards, 1);
    assert_eq!((bench.inline(&rotten).await, bench.scrub_shards().await), (None, (written as usize - 1, 0)));
}

/// One bit anywhere in the sealed part of the journal; whatever it was, after a pass of scrubbing the journal alone tells all.
async fn flip_and_scrub(seed: u64, steps: &[Step]) -> Result<bool, Violation> {
    let mut world = World::new(seed, &[]);
    for step in steps {
        match step {
            Step::Apply(sync) => world.bench.store().apply(*sync),
            step => drop(world.request(step).await?),
        }
    }
    let bench = &mut world.bench;
    let sealed = bench.store().sealed_segments();
    if sealed.is_empty() {
        return Ok(false);
    }
    let segment = sealed[world.random.random_range(0..sealed.len())];
    let bit = world.random.random_range(0..(64_u64 << 10) * 8);
    let path = format!("journal/{segment:016x}");
    bench.drive.damage(&path, |bytes| bytes[(bit / 8) as usize] ^= 1 << (bit % 8));
    world.model.damaged = true;
    bench.scrub_shards().await;
    let damaged = bench.damaged_segments().await;
    for segment in &damaged {
        bench.store().rescue_segment(*segment).await.map_err(|error| error.to_string())?;
    }
    if !bench.damaged_segments().await.is_empty() {
        return Err("a damaged segment is still there".to_owned());
    }
    bench.lose_index();
    bench.drive.restart();
    bench.try_open().map_err(|error| format!("it does not open: {error}"))?;
    world.model.check(bench).await?;
    Ok(!damaged.is_empty())
}

#[tokio::test]
async fn a_damaged_copy_of_cluster_state_stays_in_its_segment_until_a_newer_one_is_here() {
    let mut bench = Bench::new();
    let snapshot = |revision: u64| {
        let data = data(revision, 5000).into();
        Snapshot { kind: SnapshotKind::Layout, generation: 1, revision, data }
    };
    bench.store().store_snapshot(&snapshot(1)).await.unwrap();
    for counter in 1..100_u64 {
        bench.put(&object("k"), counter, &data(counter, 5000)).await.unwrap();
    }
    assert!(bench.drive.damage("journal/0000000000000001", |bytes| bytes[2000] ^= 1));
    assert_eq!(bench.damaged_segments().await, [1]);
    assert!(bench.store().rescue_segment(1).await.is_err());
    assert_eq!(bench.damaged_segments().await, [1]);
    bench.store().store_snapshot(&snapshot(1)).await.unwrap();
    bench.store().rescue_segment(1).await.unwrap();
    assert_eq!(bench.damaged_segments().await, [0; 0]);
    bench.lose_index();
    bench.reopen();
    let kept = bench.store().snapshot(SnapshotKind::Layout).await.unwrap();
    assert_eq!(kept, Some(snapshot(1)));
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_found_and_replaced_or_harmless() {
    let mut found = 0;
    let mut runner = proptest::test_runner::TestRunner::new(Config { cases: 60, ..Config::default() });
    let steps = proptest::collection::vec(requests(), 3..5).prop_map(|steps| steps.concat());
    let ran = runner.run(&(any::<u64>(), steps), |(seed, steps)| {
        block_on(flip_and_scrub(seed, &steps)).map_err(TestCaseError::fail)?;
        Ok(())
    });
    ran.unwrap();
    // That it is not always harmless, by fixed seeds.
    for seed in 0..20 {
        let steps = (1..6).flat_map(|counter| (0..4).map(move |key| (key, counter)));
        let steps =
            steps.flat_map(|(key, counter)| [Step::Prepare(key, counter), Step::Commit(key, counter)]);
        let steps: Vec<Step> = steps.collect();
        found += usize::from(block_on(flip_and_scrub(seed, &steps)).unwrap());
    }
    assert!(found >= 10, "found {found}");
}

#[tokio::test]
async fn a_shard_that_is_still_on_its_way_to_the_journal_is_waited_for_and_not_taken_for_damaged() {
    let bench = Bench::new();
    let (key, bytes) = (object("k"), data(1, 4000));
    let encoded = Bytes::from(key.encode());
    let shards = vec![NewShard::Inline(op(1), encode(&version(1, bytes.len()), &bytes))];
    let address = bench.address(&key);
    let change = Change { key: &encoded, address: &address, bucket: None, shards };
    let loaded = bench.store().load_blocking(&encoded).unwrap();
    // Recorded, and nobody has waited for it yet.
    let recorded = bench.store().mutate(loaded, &change, |entry| {
        entry.register.prepared.push(op(1));
        ((), true)
    });
    assert!(recorded.is_ok());
    assert_eq!(bench.read_shard(&key, op(1)).await, Ok(bytes));
}

#[tokio::test]
async fn rescuing_segments_takes_none_of_the_threads_that_requests_wait_for() {
    let bench = Bench::threaded();
    for counter in 1..200_u64 {
        bench.put(&object(&format!("k{}", counter % 4)), counter, &data(counter, 5000)).await.unwrap();
    }
    let store = bench.store();
    let newest = *store.sealed_segments().last().unwrap();
    assert!(newest > 2, "{newest}");
    assert!(bench.drive.damage("journal/0000000000000002", |bytes| *bytes.last_mut().unwrap() ^= 1));
    let release = bench.occupy();
    let rescued = store.rescue_segment(newest).await;
    release();
    assert_eq!(rescued, Ok(()));
    let left = store.sealed_segments();
    assert!(left.iter().all(|segment| *segment > newest), "{left:?}");
    for counter in 196..200_u64 {
        let expected = encode(&version(counter, 5000), &data(counter, 5000));
        assert_eq!(bench.inline(&object(&format!("k{}", counter % 4))).await, Some(expected));
    }
}
