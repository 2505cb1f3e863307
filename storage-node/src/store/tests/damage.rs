//! Bytes that change behind the store's back: no shard is served that is not the one, and no record is skipped in silence.

use proptest::test_runner::{Config, TestCaseError};
use rand::RngExt;

use super::crashes::{Step, World};
use super::model::{COUNTERS, KEYS, Violation, is_file, name, shard_data, shard_of, version_of};
use super::*;
use crate::journal::{AppendError, RecordKind};

/// Requests only; each key's ops in any order.
pub(super) fn requests() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0..KEYS, 1..COUNTERS);
    let request = prop_oneof![
        3 => at().prop_map(|(k, c)| Step::Prepare(k, c)),
        2 => at().prop_map(|(k, c)| Step::Commit(k, c)),
        1 => at().prop_map(|(k, c)| Step::Stable(k, c)),
        1 => Just(Step::Apply(true)),
    ];
    proptest::collection::vec(request, 5..40)
}

pub(super) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(test)
}

/// One flipped bit anywhere in the journal but in its last batch, which nothing follows to prove that it was whole.
async fn flip_in_the_journal(seed: u64, steps: &[Step], lose_index: bool) -> Result<(), Violation> {
    let mut world = World::new(seed, &[]);
    for step in steps.iter().chain([&Step::Commit(0, 0)]) {
        match step {
            Step::Apply(sync) => world.bench.store().apply(*sync),
            step => drop(world.request(step).await?),
        }
    }
    let bench = &mut world.bench;
    // A batch of its own.
    let appended =
        bench.store().journal.appender().append(RecordKind::InlineShard, Bytes::from_static(b"last"));
    let (sequence, tail) = appended.unwrap();
    bench.store().journal.durable(sequence).await.unwrap();
    if lose_index {
        bench.drive.lose("index");
    }
    let segment = world.random.random_range(1..=tail.segment);
    let limit = if segment == tail.segment { u64::from(tail.offset) - 32 } else { 64 << 10 };
    let bit = world.random.random_range(0..limit * 8);
    let path = format!("journal/{segment:016x}");
    let flip = |bench: &Bench| bench.drive.damage(&path, |bytes| bytes[(bit / 8) as usize] ^= 1 << (bit % 8));
    if !flip(bench) {
        return Ok(());
    }
    bench.drive.restart();
    bench.store = None;
    world.model.damaged = true;
    match bench.try_open() {
        Ok(()) => drop(world.model.check(bench).await?),
        Err(error) if error.contains("is corrupt at offset") => {}
        Err(error) => return Err(format!("refused with {error}")),
    }
    bench.drive.restart();
    bench.store = None;
    flip(bench);
    bench.try_open().map_err(|error| format!("being refused has changed the drive: {error}"))?;
    world.model.check(bench).await.map(drop)
}

/// Reads and writes of shards that lie: what is served is right, and what is sent again is right from then on.
async fn lie_about_shards(seed: u64, steps: &[Step], lies: &[Fault]) -> Result<(), Violation> {
    let mut world = World::new(seed, &[]);
    world.model.damaged = true;
    lies.iter().for_each(|lie| world.bench.drive.inject(lie.clone()));
    for step in steps {
        match step {
            Step::Apply(sync) => world.bench.store().apply(*sync),
            // A lie may be noticed: the model does not follow then, and need not.
            step => drop(world.request(step).await),
        }
    }
    for lying in [true, false] {
        if !lying {
            world.bench.drive.clear_faults();
        }
        for (key, counter) in (0..KEYS).flat_map(|key| (1..COUNTERS).map(move |counter| (key, counter))) {
            let op = version_of(key, counter).0.op;
            let mut read = world.bench.read_shard(&name(key), op).await;
            let committed = world.bench.store().load_blocking(&name(key).encode().into()).unwrap();
            let committed = committed
                .entry()
                .is_some_and(|entry| entry.register.versions.iter().any(|version| version.version.op == op));
            if !lying && committed && read.is_err() {
                send_again(&world.bench, key, op).await.map_err(|error| error.to_string())?;
                read = world.bench.read_shard(&name(key), op).await;
            }
            match read {
                Ok(bytes) if bytes != shard_data(op) => {
                    return Err(format!("the shard of {op} is served wrong"));
                }
                Err(error) if !lying && committed => return Err(format!("{op} was sent again: {error}")),
                _ => {}
            }
        }
    }
    Ok(())
}

async fn send_again(bench: &Bench, key: u8, op: OpId) -> Result<SlotReply, NodeError> {
    if is_file(op.counter % 100) {
        return bench.stream(&name(key), op, shard_of(op)).await;
    }
    bench.call(&name(key), SlotRequest::Prepare { op, shard: shard_of(op) }).await
}

fn lie() -> impl Strategy<Value = Fault> {
    let chance = |call, under, effect| Fault::new(call, under, When::Chance(0.3), effect);
    let write = prop_oneof![Just(Effect::Flip), Just(Effect::Misdirect), Just(Effect::Lost)];
    let write = write.prop_map(move |effect| chance(Call::Write, "shards", effect));
    let read = prop_oneof![Just(Effect::Flip), Just(Effect::Stale), Just(Effect::Short), Just(Effect::Error)];
    let read = read.prop_map(move |effect| chance(Call::Read, "shards", effect));
    // Inline shards; an error there may also be one of the writer's.
    let inline = prop_oneof![Just(Effect::Flip), Just(Effect::Stale)];
    let inline = inline.prop_map(move |effect| chance(Call::Read, "journal", effect));
    prop_oneof![write, read, inline]
}

#[tokio::test]
async fn a_shard_found_damaged_while_the_journal_changes_segments_is_marked_all_the_same() {
    let bench = Bench::new();
    let (key, version) = (object("k"), version(1, 30_000));
    bench.prepare_file(&key, 1, &data(1, 30_000)).await.unwrap();
    bench.commit(&key, version.clone()).await.unwrap();
    let path = bench.drive.paths().into_iter().find(|path| path.starts_with("shards/") && path.contains('-'));
    assert!(bench.drive.damage(&path.unwrap(), |bytes| bytes[20_000] ^= 1));
    let store = bench.store();
    // Until not even a small record fits.
    for len in [20_000, 1] {
        let refused = loop {
            let filler = Bytes::from(vec![0; len]);
            if let Err(error) = store.journal.appender().append(RecordKind::InlineShard, filler) {
                break error;
            }
        };
        assert!(matches!(refused, AppendError::NotReady), "{refused}");
    }
    bench.read_shard(&key, version.op).await.unwrap_err();
    assert_eq!(store.info().heal.missing, 1);
}

proptest! {
    #![proptest_config(Config { cases: 60, max_shrink_iters: 500, ..Config::default() })]

    #[test]
    fn a_flipped_bit_in_the_journal_is_found_or_harmless(
        seed in any::<u64>(), steps in requests(), lose_index in any::<bool>()
    ) {
        block_on(flip_in_the_journal(seed, &steps, lose_index)).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn no_shard_is_served_that_was_flipped_misdirected_lost_or_stale(
        seed in any::<u64>(), steps in requests(), lies in proptest::collection::vec(lie(), 1..3)
    ) {
        block_on(lie_about_shards(seed, &steps, &lies)).map_err(TestCaseError::fail)?;
    }
}
