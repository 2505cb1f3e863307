//! A process that ends in the middle leaves things that the next one sees and a power cut takes back: each is made durable
//! before anything is answered on its account.

use super::*;

impl Bench {
    /// Ends the process where a fault has cut it off, and starts again.
    fn restart(&mut self) {
        self.drive.clear_faults();
        self.drive.restart();
        self.store = None;
        self.reopen();
    }

    fn crash(&mut self, seed: u64) {
        self.drive.crash(seed);
        self.store = None;
        self.reopen();
    }

    async fn current(&self, key: &RegisterKey) -> Option<OpId> {
        match self.call(key, SlotRequest::Query { inline_data: false }).await.unwrap() {
            SlotReply::View(view, _) => view.current.map(|current| current.version.op),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_a_failed_sync_dropped_is_written_again_before_it_is_shown() {
    for seed in 0..60 {
        let mut bench = Bench::seeded(seed);
        bench.put(&object("a"), 1, &data(1, 3000)).await.unwrap();
        bench.drive.inject(Fault::new(Call::Sync, "journal", When::After(0), Effect::Error));
        // Its record lies in several pages.
        let (version, tag) = (Version { metadata: vec![7; 9000].into(), ..version(2, 5000) }, tag(2));
        bench.call(&object("a"), SlotRequest::Commit { version, tag }).await.unwrap_err();
        bench.restart();
        let shown = bench.current(&object("a")).await;
        bench.crash(seed);
        assert_eq!(bench.current(&object("a")).await, shown, "seed {seed}");
    }
}

#[tokio::test]
async fn a_segment_whose_name_was_not_durable_gets_no_answered_record_before_it_is() {
    for seed in 0..20 {
        let mut bench = Bench::new();
        bench.drive.inject(Fault::new(Call::SyncFolder, "journal", When::After(0), Effect::PowerCut));
        let mut counter = 1;
        while bench.put(&object("fill"), counter, &data(counter, 20_000)).await.is_ok() {
            counter += 1;
        }
        bench.restart();
        bench.put(&object("after"), 1000, b"x").await.unwrap();
        bench.crash(seed);
        assert_eq!(bench.current(&object("after")).await, Some(op(1000)), "seed {seed}");
    }
}

#[tokio::test]
async fn a_shard_in_a_folder_that_somebody_else_made_is_durable() {
    // The folder above and the one below it.
    for (seed, syncs) in (0..20).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut bench = Bench::new();
        let shard = data(1, 30_000);
        bench.drive.inject(Fault::new(Call::SyncFolder, "shards", When::After(syncs), Effect::PowerCut));
        bench.prepare_file(&object("a"), 1, &shard).await.unwrap_err();
        bench.restart();
        bench.prepare_file(&object("a"), 1, &shard).await.unwrap();
        bench.crash(seed);
        assert_eq!(bench.read_shard(&object("a"), op(1)).await.unwrap(), shard, "seed {seed}, {syncs} syncs");
    }
}

#[tokio::test]
async fn a_drive_opens_however_little_room_is_left_in_its_segment() {
    for slack in (0..240).step_by(8) {
        let mut bench = Bench::new();
        let append = |bench: &Bench, len| {
            let mut appender = bench.store().journal.appender();
            appender.append(crate::journal::RecordKind::InlineShard, vec![1; len].into()).unwrap()
        };
        append(&bench, 100_000);
        let (_, place) = append(&bench, 100_000);
        let left = (SEGMENT - place.offset - place.len) as usize;
        let (sequence, last) = append(&bench, left - 120 - slack);
        bench.store().journal.durable(sequence).await.unwrap();
        assert_eq!(last.segment, 1);
        bench.reopen();
        bench.put(&object("after"), 1, b"x").await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_large_shard_that_comes_again_is_written_again() {
    let bench = Bench::new();
    let (key, shard) = (object("large"), data(1, 30_000));
    bench.prepare_file(&key, 1, &shard).await.unwrap();
    let (version, tag) = (version(1, 30_000), tag(1));
    bench.call(&key, SlotRequest::Commit { version, tag }).await.unwrap();
    let path = bench.drive.paths().into_iter().find(|path| path.starts_with("shards/")).unwrap();
    assert!(bench.drive.damage(&path, |bytes| bytes[5000] ^= 1));
    bench.read_shard(&key, op(1)).await.unwrap_err();
    assert_eq!(bench.store().info().missing_shards, 1);
    bench.prepare_file(&key, 1, &shard).await.unwrap();
    assert_eq!(bench.store().info().missing_shards, 0);
    assert_eq!(bench.read_shard(&key, op(1)).await.unwrap(), shard);
}

#[tokio::test]
async fn a_sweep_whose_index_fails_removes_nothing() {
    let mut bench = Bench::new();
    bench.prepare_file(&object("large"), 1, &data(1, 30_000)).await.unwrap();
    bench.drive.inject(Fault::new(Call::Write, "index", When::After(0), Effect::Error));
    bench.store().sweep_files(Duration::ZERO);
    bench.restart();
    assert_eq!(bench.read_shard(&object("large"), op(1)).await.unwrap(), data(1, 30_000));
}

#[tokio::test]
async fn an_index_whose_sync_failed_is_not_trusted_by_the_next_process() {
    for seed in 0..40 {
        let mut bench = Bench::seeded(seed);
        for counter in 1..60 {
            bench.put(&object(&format!("k{counter}")), counter, b"x").await.unwrap();
        }
        bench.drive.inject(Fault::new(Call::Sync, "index", When::After(seed % 2), Effect::Error));
        bench.store().apply(true);
        assert_eq!(bench.store().info().state, DriveState::Failed);
        bench.restart();
        bench.put(&object("after"), 1000, b"x").await.unwrap();
        bench.store().apply(true);
        bench.crash(seed);
        for counter in 1..60 {
            assert_eq!(
                bench.current(&object(&format!("k{counter}"))).await,
                Some(op(counter)),
                "seed {seed}"
            );
        }
        assert_eq!(bench.current(&object("after")).await, Some(op(1000)), "seed {seed}");
    }
}
