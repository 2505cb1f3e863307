use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use coffer_common::protocol::message::{SlotVersion, Version, VersionKind, VersionState};
use coffer_common::types::{OpId, PartitionId, SlotIndex, SlotSet, Tag};
use proptest::prelude::*;

use super::*;
use crate::drive::FileIo;
use crate::image::{ShardLocation, StoredShard};

fn entry(key: u16, sequence: u64, stable: bool) -> Arc<Entry> {
    let mut entry = Entry::vacant(name(key), PartitionId(key % 16), SlotIndex(1));
    let op = OpId { session: 1, counter: sequence };
    entry.register.versions.push(SlotVersion {
        version: Version {
            op,
            kind: VersionKind::Data,
            null_version: true,
            k: 1,
            shard_len_bytes: 1,
            block_len_bytes: 1,
            metadata: Bytes::from(vec![7; usize::from(key)]),
        },
        tag: Tag { seq: sequence, ..Tag::default() },
        state: if stable { VersionState::Stable } else { VersionState::Committed },
        shard_present: true,
        acknowledged: SlotSet(1),
    });
    entry.sequence = sequence;
    entry.place = Place { segment: 1 + sequence / 10, offset: 64, len: 100 };
    let location = if stable {
        ShardLocation::File { len: 9 }
    } else {
        ShardLocation::Inline(Place { segment: 2 + sequence / 10, offset: 640, len: 50 })
    };
    entry.shards.push(StoredShard { op, location });
    Arc::new(entry)
}

fn name(key: u16) -> Bytes {
    Bytes::from(format!("{key:05}"))
}

fn open(dir: &std::path::Path) -> Opened {
    let io: Arc<dyn DriveIo> = Arc::new(FileIo::new(dir));
    Index::open(&io, Arc::new(|_| {})).unwrap()
}

fn scan(index: &Index, from: Bound<Vec<u8>>, end: Vec<u8>) -> Vec<(Bytes, u64)> {
    let mut scan = index.scan(from, end);
    let mut found = Vec::new();
    while let Some(next) = scan.next().unwrap() {
        let key = Bytes::copy_from_slice(next.key());
        found.push((key, next.listed(Bytes::copy_from_slice).unwrap().unwrap().current.version.op.counter));
    }
    found
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, bool),
    Forget(u16),
    Freeze,
    Apply,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..300_u16, any::<bool>()).prop_map(|(key, stable)| Step::Insert(key, stable)),
        3 => (0..300_u16).prop_map(Step::Forget),
        1 => Just(Step::Freeze),
        1 => Just(Step::Apply),
        1 => Just(Step::Reopen),
    ]
}

fn check(index: &Index, model: &BTreeMap<u16, Arc<Entry>>, (from, to): (u16, u16)) {
    let all = |range: std::ops::Range<u16>| -> Vec<(Bytes, u64)> {
        model.range(range).map(|(_, entry)| (entry.key.clone(), entry.sequence)).collect()
    };
    assert_eq!(scan(index, Bound::Unbounded, Vec::new()), all(0..300));
    let part = scan(index, Bound::Included(name(from).to_vec()), name(to.max(from)).to_vec());
    assert_eq!(part, all(from..to.max(from)));
    let mut skipping = index.scan(Bound::Unbounded, Vec::new());
    skipping.next().unwrap();
    skipping.seek(name(to).to_vec());
    let next = skipping.next().unwrap().map(|found| found.key().to_vec());
    // A seek goes forward only: the key that was read before it does not come again.
    let beyond_first = model.keys().next().map_or(0, |first| first + 1);
    assert_eq!(next, model.range(to.max(beyond_first)..).next().map(|(_, entry)| entry.key.to_vec()));
    assert_eq!(index.get(&name(from)).unwrap(), model.get(&from).cloned());
}

/// Walks over a partition's records in pages, as one who copies them does.
fn check_recorded(index: &Index, model: &BTreeMap<u16, Arc<Entry>>, (partition, limit): (u16, usize)) {
    let (mut after, mut recorded) = (0, Vec::new());
    loop {
        let page = index.recorded(PartitionId(partition), after, limit).unwrap();
        assert!(page.len() <= limit && page.is_sorted());
        let Some((last, _)) = page.last() else { break };
        assert!(*last > after);
        after = *last;
        recorded.extend(page);
    }
    let newest = |(sequence, key): &(u64, Bytes)| {
        index.get(key).unwrap().is_some_and(|entry| entry.sequence == *sequence)
    };
    recorded.retain(newest);
    let mut all: Vec<_> = model
        .values()
        .filter(|entry| entry.partition.0 == partition)
        .map(|e| (e.sequence, e.key.clone()))
        .collect();
    all.sort();
    assert_eq!(recorded, all);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_index_is_an_ordered_map_whatever_is_in_which_layer(
        steps in proptest::collection::vec(step(), 1..300),
        range in (0..300_u16, 0..300_u16),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path()).index;
        let mut model = BTreeMap::new();
        for (sequence, step) in (1..).zip(&steps) {
            match *step {
                Step::Insert(key, stable) => {
                    let entry = entry(key, sequence, stable);
                    model.insert(key, Arc::clone(&entry));
                    index.insert(entry);
                }
                Step::Forget(key) => {
                    model.remove(&key);
                    index.forget(name(key), sequence);
                }
                Step::Freeze => drop(index.layers.freeze()),
                Step::Apply => index.apply(false, |_| Ok(())).unwrap(),
                Step::Reopen => {
                    // Twice: a layer may be frozen already.
                    index.apply(true, |_| Ok(())).unwrap();
                    index.apply(true, |_| Ok(())).unwrap();
                    drop(index);
                    index = open(dir.path()).index;
                }
            }
        }
        check(&index, &model, range);
        check_recorded(&index, &model, (range.0 % 16, 1 + usize::from(range.1 % 9)));
        index.apply(true, |_| Ok(())).unwrap();
        index.apply(true, |_| Ok(())).unwrap();
        check(&index, &model, range);
        let census = model.values().fold(Census::default(), |sum, e| sum.moved(Census::default(), e.census()));
        prop_assert_eq!(index.applied.lock().census, census);
        let mut live = BTreeMap::<u64, u64>::new();
        for place in model.values().flat_map(|entry| entry.places().collect::<Vec<_>>()) {
            *live.entry(place.segment).or_default() += place.room();
        }
        let mut counted = index.live_bytes().unwrap();
        counted.retain(|_, bytes| *bytes > 0);
        prop_assert_eq!(counted, live);
        let waiting: Vec<Bytes> =
            model.values().filter(|entry| entry.needs_attention()).map(|entry| entry.key.clone()).collect();
        prop_assert_eq!(index.attention(&[], 1000).unwrap(), waiting);
    }
}

#[test]
fn a_scan_misses_nothing_while_layers_go_to_redb() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path()).index;
    for key in 0..500 {
        index.insert(entry(key, u64::from(key) + 1, true));
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sequence = 1000;
            while !stop.load(Ordering::Relaxed) {
                for key in (0..500).step_by(7) {
                    sequence += 1;
                    index.insert(entry(key, sequence, true));
                }
                index.apply(false, |_| Ok(())).unwrap();
            }
        });
        for _ in 0..60 {
            let keys: Vec<Bytes> =
                scan(&index, Bound::Unbounded, Vec::new()).into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, (0..500).map(name).collect::<Vec<_>>());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_damaged_or_older_index_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path()).index;
    index.insert(entry(1, 5, true));
    index.apply(true, |_| Ok(())).unwrap();
    drop(index);
    let opened = open(dir.path());
    assert_eq!((opened.applied, opened.census.registers), (5, 1));
    drop(opened);
    let path = dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..4096].fill(0xEE);
    std::fs::write(&path, bytes).unwrap();
    let opened = open(dir.path());
    assert_eq!((opened.applied, opened.census.registers), (0, 0));
    assert!(opened.index.get(&name(1)).unwrap().is_none());
}

#[tokio::test]
async fn writers_wait_while_both_layers_are_full_and_go_on_after() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path()).index;
    index.insert(entry(0, 1, true));
    let _frozen = index.layers.freeze();
    for key in 0..400 {
        // Some 59 KB each.
        index.insert(entry(59_000 + key, 2 + u64::from(key), true));
    }
    let mut waiting = Box::pin(index.admit());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    index.apply(false, |_| Ok(())).unwrap();
    waiting.await;
}

#[test]
fn blocks_and_their_checksums_lie_where_they_always_lay() {
    let dir = tempfile::tempdir().unwrap();
    let io: Arc<dyn DriveIo> = Arc::new(FileIo::new(dir.path()));
    io.create_dir(FOLDER).unwrap();
    let blocks = Blocks::create(&io).unwrap();
    blocks.set_len(4 * 4096).unwrap();
    blocks.write(0, &[0xAA; 320]).unwrap();
    blocks.write(4096, &[[1; 4096], [2; 4096]].concat()).unwrap();
    blocks.sync().unwrap();
    let read = |file: &str| std::fs::read(dir.path().join(file)).unwrap();
    let (data, sums) = (read(FILE), read(SUMS));
    assert_eq!(data.len(), 4 * 4096);
    // Written once.
    assert_eq!(data[320..328], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(data[328..336], [230, 95, 203, 45, 56, 181, 163, 103]);
    assert_eq!(data[336..4096], [0; 4096 - 336]);
    let (headers, first, second) = (
        [1, 0, 0, 0, 0, 0, 0, 0],
        [84, 102, 64, 17, 172, 75, 188, 251],
        [194, 93, 94, 137, 103, 198, 126, 222],
    );
    assert_eq!(sums, [headers, first, second, [0; 8]].concat());
    assert_eq!(first, xxhash_rust::xxh3::xxh3_64_with_seed(&[1; 4096], 1).to_le_bytes());
    let mut out = [0; 4096];
    let blocks = Blocks::open(&io).unwrap();
    blocks.read(0, &mut out[..320]).unwrap();
    assert_eq!(out[..320], [0xAA; 320]);
    blocks.read(2 * 4096, &mut out).unwrap();
    assert_eq!(out, [2; 4096]);
    assert!(blocks.read(3 * 4096, &mut out).is_err(), "it was never written");
    assert!(!dir.path().join(FILE).exists(), "the next start begins anew");
}

#[test]
fn an_engine_that_panics_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let io: Arc<dyn DriveIo> = Arc::new(FileIo::new(dir.path()));
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reasons);
    let index = Index::open(&io, Arc::new(move |reason| told.lock().push(reason))).unwrap().index;
    index.insert(entry(1, 5, true));
    index.apply(true, |_| Ok(())).unwrap();
    index.guarded(|| -> Result<(), IndexError> { panic!("as if a page contradicted another") }).unwrap_err();
    index.get(&name(1)).unwrap_err();
    index.get(&name(2)).unwrap_err();
    index.scan(Bound::Unbounded, Vec::new()).next().map(drop).unwrap_err();
    index.insert(entry(2, 6, true));
    index.apply(true, |_| Ok(())).unwrap_err();
    assert_eq!(reasons.lock().len(), 1);
    drop(index);
    assert_eq!(open(dir.path()).applied, 0);
}
