//! What a drive does by itself: freeing and sweeping.

use super::*;

#[tokio::test]
async fn versions_of_many_registers_are_freed_with_one_sync() {
    let bench = Bench::new();
    for counter in 1..=40 {
        let key = object(&format!("k{counter}"));
        bench.prepare_file(&key, counter, &data(counter, 1000)).await.unwrap();
        bench.commit(&key, version(counter, 1000)).await.unwrap();
        bench.put(&key, 1000 + counter, b"").await.unwrap();
    }
    bench.store().apply(true);
    assert_eq!(bench.shard_files(), 40);
    let before = bench.store().journal_syncs();
    bench.store().free_superseded(UnixMillis(u64::MAX), Vec::new()).unwrap();
    let took = bench.store().journal_syncs() - before;
    // A segment that comes to its end takes one more, or two.
    assert!((1..=3).contains(&took), "{took}");
    assert_eq!(bench.shard_files(), 0);
}

#[tokio::test]
async fn no_file_goes_before_the_record_that_no_longer_names_it_is_durable() {
    let mut bench = Bench::new();
    let key = object("k");
    bench.prepare_file(&key, 1, &data(1, 1000)).await.unwrap();
    bench.commit(&key, version(1, 1000)).await.unwrap();
    bench.put(&key, 2, b"").await.unwrap();
    bench.store().apply(true);
    bench.drive.inject(Fault::new(Call::Sync, "journal", When::After(0), Effect::Error));
    bench.store().free_superseded(UnixMillis(u64::MAX), Vec::new()).unwrap_err();
    bench.drive.clear_faults();
    bench.reopen();
    assert_eq!(bench.shard_files(), 1);
}

#[tokio::test]
async fn a_sweep_ends_between_folders_when_it_is_told_and_has_not_seen_all_then() {
    let bench = Bench::new();
    for counter in 1..=3 {
        bench.store().files.create(op(counter), SlotIndex(0)).unwrap();
    }
    let mut folders = 0;
    bench.store().sweep(Duration::ZERO, &mut || {
        folders += 1;
        folders < 2
    });
    assert_eq!((folders, bench.store().quarantined_shards()), (2, None));
    assert_eq!(bench.shard_files(), 2);
}

#[test]
fn a_file_that_gets_its_register_while_files_are_swept_stays() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (bench, key, shard) = (Bench::new(), object("large"), data(1, 30_000));
    // A stray of the same op, so that there is a folder to look at.
    bench.store().files.create(op(1), SlotIndex(0)).unwrap();
    let mut folders = 0;
    bench.store().sweep(Duration::ZERO, &mut || {
        runtime.block_on(bench.prepare_file(&key, 1, &shard)).unwrap();
        folders += 1;
        true
    });
    assert_eq!(folders, 1);
    assert_eq!(runtime.block_on(bench.read_shard(&key, op(1))), Ok(shard));
    assert!(bench.store().receiving.lock().is_empty());
}
