use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::drive::{DriveFile, DriveIo, IoPool};

fn drive() -> SimulatedDrive {
    SimulatedDrive::format(ClusterId(1), DriveId(2), 64 << 10, 3)
}

/// Everything that crashes with many seeds may leave of `run`, as `look` sees it.
fn outcomes<T: Ord>(run: impl Fn(&dyn DriveIo), look: impl Fn(&dyn DriveIo) -> T) -> BTreeSet<T> {
    let outcome = |seed| {
        let drive = drive();
        run(&drive.mount());
        drive.crash(seed);
        look(&drive.mount())
    };
    (0..200).map(outcome).collect()
}

fn read(io: &dyn DriveIo, path: &str) -> Option<Vec<u8>> {
    let file = io.open(path).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

fn write_synced(io: &dyn DriveIo, path: &str, bytes: &[u8]) -> Arc<dyn DriveFile> {
    let file = io.create(path).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
    io.sync_dir(".").unwrap();
    file
}

#[test]
fn what_is_synced_stays_and_names_need_their_folder_synced() {
    let named = outcomes(|io| drop(write_synced(io, "f", b"kept")), |io| read(io, "f"));
    assert_eq!(named, BTreeSet::from([Some(b"kept".to_vec())]));
    let unnamed = outcomes(
        |io| {
            let file = io.create("f").unwrap();
            file.write_at(b"kept", 0).unwrap();
            file.sync_data().unwrap();
        },
        |io| read(io, "f"),
    );
    assert_eq!(unnamed, BTreeSet::from([None, Some(b"kept".to_vec())]));
}

#[test]
fn a_name_can_be_durable_before_the_bytes_and_a_length_before_either() {
    let left = outcomes(
        |io| {
            io.create("f").unwrap().write_at(b"data", 0).unwrap();
            io.sync_dir(".").unwrap();
        },
        |io| read(io, "f"),
    );
    assert_eq!(left, BTreeSet::from([Some(vec![]), Some(vec![0; 4]), Some(b"data".to_vec())]));
}

#[test]
fn pages_are_lost_one_by_one_in_any_version_and_torn_at_sectors() {
    let left = outcomes(
        |io| {
            let file = write_synced(io, "f", &[1; 8192]);
            file.write_at(&[2; 4096], 0).unwrap();
            file.write_at(&[3; 8192], 0).unwrap();
        },
        |io| read(io, "f").unwrap(),
    );
    for bytes in &left {
        for (index, sector) in bytes.chunks(512).enumerate() {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
            assert!(matches!(sector[0], 1 | 3) || (sector[0] == 2 && index < 8));
        }
    }
    let ends = |bytes: &Vec<u8>| (bytes[0], bytes[8191]);
    assert_eq!(
        left.iter().map(ends).collect::<BTreeSet<_>>().len(),
        6,
        "the pages do not depend on each other"
    );
    assert!(left.iter().any(|bytes| bytes[..4096].iter().any(|byte| *byte != bytes[0])), "some are torn");
}

#[test]
fn a_rename_is_whole_or_not_at_all_and_entries_do_not_wait_for_each_other() {
    let left = outcomes(
        |io| {
            write_synced(io, "new", b"new");
            write_synced(io, "old", b"old");
            io.rename("new", "old").unwrap();
            io.create("other").unwrap();
        },
        |io| (read(io, "new"), read(io, "old"), read(io, "other").is_some()),
    );
    let (new, old) = (Some(b"new".to_vec()), Some(b"old".to_vec()));
    let before = |other| (new.clone(), old.clone(), other);
    let after = |other| (None, new.clone(), other);
    assert_eq!(left, BTreeSet::from([before(false), before(true), after(false), after(true)]));
}

#[test]
fn what_was_cut_off_never_comes_back_behind_the_cut() {
    let left = outcomes(
        |io| {
            let file = write_synced(io, "f", &[1; 5000]);
            file.set_len(10).unwrap();
            file.set_len(5000).unwrap();
        },
        |io| read(io, "f").unwrap(),
    );
    let cut = |len: usize| [vec![1; 10], vec![0; len - 10]].concat();
    assert_eq!(left, BTreeSet::from([cut(10), cut(5000), vec![1; 5000]]));
}

#[test]
fn a_failed_sync_loses_for_good_what_later_ones_do_not_bring_back() {
    let left: BTreeSet<_> = (0..50)
        .map(|seed| {
            let drive = SimulatedDrive::format(ClusterId(1), DriveId(2), 64 << 10, seed);
            let io = drive.mount();
            let file = write_synced(&io, "f", b"old");
            file.write_at(b"new", 0).unwrap();
            drive.inject(Fault::new(Call::Sync, "f", When::After(0), Effect::Error));
            assert!(file.sync_data().is_err());
            file.sync_data().unwrap();
            drive.crash(seed);
            read(&drive.mount(), "f").unwrap()
        })
        .collect();
    assert_eq!(left, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
}

#[test]
fn a_full_drive_says_so_and_room_comes_back() {
    let drive = drive();
    let io = drive.mount();
    drive.set_room(3 * 4096);
    let file = io.create("a").unwrap();
    file.allocate(8192).unwrap();
    file.write_at(&[1; 8192], 0).unwrap();
    assert_eq!(io.space().unwrap().free, 4096);
    let other = io.create("b").unwrap();
    let full = other.write_at(&[1; 4097], 0).unwrap_err();
    assert!(crate::drive::is_full(&full), "{full}");
    io.remove("a").unwrap();
    other.write_at(&[1; 12288], 0).unwrap();
    assert_eq!(io.space().unwrap().free, 0);
    other.set_len(4096).unwrap();
    assert_eq!(io.space().unwrap().free, 8192);
}

/// Does something to a file of eight bytes, with a fault, and looks at it.
fn with(call: Call, effect: Effect) -> (bool, Vec<u8>) {
    let drive = drive();
    let io = drive.mount();
    let file = write_synced(&io, "f", b"12345678");
    file.write_at(b"abcdefgh", 0).unwrap();
    drive.inject(Fault::new(call, "f", When::After(0), effect));
    let mut seen = vec![0; 8];
    let done = match call {
        Call::Read => file.read_at(&mut seen, 0).is_ok(),
        _ => file.write_at(b"ABCDEFGH", 0).is_ok(),
    };
    if call != Call::Read {
        file.read_at(&mut seen, 0).unwrap();
    }
    (done, seen)
}

#[test]
fn reads_and_writes_fail_fall_short_and_lie_on_command() {
    let wrong_bits = |bytes: &[u8], right: &[u8]| -> u32 {
        bytes.iter().zip(right).map(|(byte, right)| (byte ^ right).count_ones()).sum()
    };
    assert!(!with(Call::Read, Effect::Error).0);
    assert!(!with(Call::Read, Effect::Short).0);
    assert_eq!(with(Call::Read, Effect::Stale), (true, b"12345678".to_vec()));
    let (done, flipped) = with(Call::Read, Effect::Flip);
    assert_eq!((done, wrong_bits(&flipped, b"abcdefgh")), (true, 1));

    assert_eq!(with(Call::Write, Effect::Error), (false, b"abcdefgh".to_vec()));
    assert_eq!(with(Call::Write, Effect::Lost), (true, b"abcdefgh".to_vec()));
    let (done, short) = with(Call::Write, Effect::Short);
    assert!(!done && short.ends_with(b"h"), "{short:?}");
    let (done, flipped) = with(Call::Write, Effect::Flip);
    assert_eq!((done, wrong_bits(&flipped, b"ABCDEFGH")), (true, 1));
}

#[test]
fn a_misdirected_write_lands_in_some_file_of_the_folder() {
    let drive = drive();
    let io = drive.mount();
    io.create_dir("d").unwrap();
    let file = io.create("d/f").unwrap();
    io.create("d/g").unwrap().write_at(&[0; 4096], 0).unwrap();
    drive.inject(Fault::new(Call::Write, "d/f", When::Always, Effect::Misdirect));
    file.write_at(b"here", 0).unwrap();
    let seen = (read(&io, "d/f").unwrap(), read(&io, "d/g").unwrap());
    assert_eq!((seen.0.len(), seen.1.starts_with(b"here")), (0, true));
}

#[test]
fn after_a_power_cut_nothing_works_until_the_drive_is_opened_again() {
    let drive = drive();
    let io = drive.mount();
    drive.inject(Fault::power_cut_after(1));
    let file = io.create("f").unwrap();
    assert!(file.write_at(b"x", 0).is_err() && !drive.has_power());
    assert!(io.create("g").is_err() && file.len().is_err());
    drive.crash(1);
    assert!(drive.has_power() && file.len().is_err(), "an old handle is dead");
    drive.mount().create("g").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_drive_takes_its_time_and_a_hanging_one_until_it_is_told() {
    let drive = drive();
    let pool = IoPool::start("slow", drive.open().1).unwrap();
    assert_eq!(pool.run(|| 1).await, Ok(1));
    drive.set_latency(Duration::from_secs(7));
    let began = tokio::time::Instant::now();
    assert_eq!(pool.run(|| 2).await, Ok(2));
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    drive.hang();
    let mut hung = Box::pin(pool.run(|| 3));
    assert!(tokio::time::timeout(Duration::from_secs(100), &mut hung).await.is_err());
    assert_eq!(pool.oldest_job(), Duration::from_secs(100));
    drive.set_latency(Duration::ZERO);
    assert_eq!(hung.await, Ok(3));
    assert_eq!(pool.oldest_job(), Duration::ZERO);
}
