//! Bytes on drives that are not what was written: flipped, cut off, zeroed, and valid ones of something else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::{shard_paths, status, wait_for};

use super::ONE_AT_A_TIME;

/// Large enough for a file per drive, of several blocks.
const SIZE: usize = 3_000_000;

/// A server on four drives, of which two hold enough of every object.
struct Store {
    server: Standalone,
    bucket: Bucket,
}

impl Store {
    async fn start() -> Result<Self> {
        let server = Standalone::start(4).await?;
        let bucket = Bucket::create(server.client(), "matrix").await?;
        Ok(Self { server, bucket })
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        let set_aside = |path: &PathBuf| path.extension().is_some_and(|end| end == "damaged");
        let files = self.server.drives();
        files.iter().flat_map(|drive| shard_paths(drive)).filter(|path| !set_aside(path)).collect()
    }

    /// Writes an object; where its shards lie, in the order of the drives.
    async fn put(&self, key: &str, round: usize) -> Result<Vec<PathBuf>> {
        let before = self.files();
        assert_eq!(self.bucket.put(key, body(key, round, SIZE)).await, Ok(()));
        // The fourth may still be written: it is whole when it is as long as the others.
        let complete = || async {
            let files = self.files();
            let length = |path: &PathBuf| fs::metadata(path).map_or(0, |file| file.len());
            let lengths: Vec<u64> = files.difference(&before).map(length).collect();
            lengths.len() == 4 && lengths.iter().all(|length| *length == lengths[0])
        };
        wait_for("four shards", Duration::from_secs(60), complete).await?;
        // Late shards are complete when no version waits for one.
        let whole = || async {
            status(&self.server.admin_url("")).is_ok_and(|(screen, _)| screen.contains(", 0 versions not"))
        };
        wait_for("the version to be stable", Duration::from_secs(60), whole).await?;
        Ok(self.files().difference(&before).cloned().collect())
    }

    async fn assert_whole(&self, key: &str, round: usize, what: &str) {
        assert!(self.bucket.get(key).await == Ok(body(key, round, SIZE)), "{key}: {what}");
    }

    /// Spoils shards of an object on one drive more at a time: it is whole with two of them, and with three refused or
    /// broken off, and still known. What was found damaged comes back after a while, so all so far are spoiled each time,
    /// until nothing is left to make them from.
    async fn degrade(
        &self,
        key: &str,
        round: usize,
        what: &str,
        spoil: impl Fn(usize) -> Result<()>,
    ) -> Result<()> {
        for drives in 1..=2 {
            spoil(drives)?;
            self.assert_whole(key, round, what).await;
        }
        let unreadable = || async {
            spoil(3).expect("files that can be written");
            match self.bucket.get(key).await {
                Ok(bytes) => {
                    assert!(bytes == body(key, round, SIZE), "{key}: {what}");
                    false
                }
                Err(status) => {
                    assert!(matches!(status, 0 | 503), "{key} with {what} on three of four drives: {status}");
                    true
                }
            }
        };
        wait_for("nothing to be left", Duration::from_secs(60), unreadable).await?;
        let keys = self.bucket.keys().await.expect("a listing");
        assert!(keys.iter().any(|listed| listed == key), "{key} is listed");
        Ok(())
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    Ok(paths.iter().map(fs::read).collect::<Result<_, _>>()?)
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let at = at(bytes.len());
    *bytes.get_mut(at).context("within the file")? ^= 0x10;
    // In place: the node may have the file open.
    write_over(path, &bytes)
}

fn write_over(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    Ok(fs::OpenOptions::new().create(true).write(true).truncate(true).open(path)?.write_all(bytes)?)
}

type Damage = (&'static str, fn(&Path) -> Result<()>);

const DAMAGES: [Damage; 9] = [
    ("a flip in the first byte", |path| flip(path, |_| 0)),
    ("a flip in the header", |path| flip(path, |_| 50)),
    ("a flip in a block's checksum", |path| flip(path, |_| 100)),
    ("a flip in the middle", |path| flip(path, |len| len / 2)),
    ("a flip in the last byte", |path| flip(path, |len| len - 1)),
    ("half a file", |path| write_over(path, &fs::read(path)?[..700_000])),
    ("an empty file", |path| write_over(path, &[])),
    ("a block of zeros", |path| {
        let mut bytes = fs::read(path)?;
        bytes[8192..12288].fill(0);
        write_over(path, &bytes)
    }),
    ("zeros only", |path| write_over(path, &vec![0; fs::read(path)?.len()])),
];

#[tokio::test(flavor = "multi_thread")]
async fn damaged_shards_cost_redundancy_and_never_a_wrong_byte() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let store = Store::start().await?;
    for (number, (what, damage)) in DAMAGES.iter().enumerate() {
        let key = format!("damaged/{number}");
        let mut shards = store.put(&key, 1).await?;
        shards.rotate_left(number % 4);
        let whole = read_all(&shards)?;
        let spoil = |drives| {
            shards.iter().zip(&whole).take(drives).try_for_each(|(shard, whole)| {
                write_over(shard, whole)?;
                damage(shard)
            })
        };
        store.degrade(&key, 1, what, spoil).await?;
        // A try at healing that fails puts back what it set aside.
        let all = || async { shards.iter().all(|shard| shard.exists()) };
        wait_for("every file: nothing is deleted because it is damaged", Duration::from_secs(60), all)
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_shards_in_a_wrong_place_are_not_taken_for_the_right_ones() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let store = Store::start().await?;
    // Those of another object, each way round.
    let places = [store.put("one", 1).await?, store.put("other", 1).await?];
    let shards = [read_all(&places[0])?, read_all(&places[1])?];
    for (key, own) in [("one", 0), ("other", 1)] {
        let spoil = |drives| {
            (0..drives).try_for_each(|drive| write_over(&places[own][drive], &shards[1 - own][drive]))
        };
        store.degrade(key, 1, "another object's shard", spoil).await?;
    }
    // Those of another drive.
    let places = store.put("index", 1).await?;
    let first = fs::read(&places[0])?;
    let spoil = |drives: usize| places[1..=drives].iter().try_for_each(|place| write_over(place, &first));
    store.degrade("index", 1, "another drive's shard", spoil).await?;
    // Those of an older version.
    let old = read_all(&store.put("version", 1).await?)?;
    let places = store.put("version", 2).await?;
    let spoil = |drives| (0..drives).try_for_each(|drive| write_over(&places[drive], &old[drive]));
    store.degrade("version", 2, "an older version's shard", spoil).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_could_not_be_read_once_is_read_again() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut store = Store::start().await?;
    let shards = store.put("key", 1).await?;
    // A folder can be opened no more than a file on a drive that gives errors.
    for shard in &shards[..3] {
        fs::rename(shard, shard.with_extension("aside"))?;
        fs::create_dir(shard)?;
    }
    for _ in 0..3 {
        assert_eq!(store.bucket.get("key").await.map(|bytes| bytes.len()), Err(503));
    }
    for shard in &shards[..3] {
        fs::remove_dir(shard)?;
        fs::rename(shard.with_extension("aside"), shard)?;
    }
    store.assert_whole("key", 1, "errors that have passed").await;
    store.server.process_mut().stop(Duration::from_secs(60));
    store.server.launch().await?;
    store.assert_whole("key", 1, "errors that have passed, after a restart").await;
    Ok(())
}

/// Files of a drive whose bytes hold `needle`, and where.
fn find(drive: &Path, needle: &[u8]) -> Result<Vec<(PathBuf, usize)>> {
    let mut found = Vec::new();
    let folders = [drive.to_owned(), drive.join("journal")];
    for entry in folders.iter().map(fs::read_dir).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        let path = entry?.path();
        if path.is_file() {
            let bytes = fs::read(&path)?;
            found.extend(
                bytes
                    .windows(needle.len())
                    .enumerate()
                    .filter(|(_, w)| *w == needle)
                    .map(|(at, _)| (path.clone(), at)),
            );
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_metadata_of_a_drive_changes_no_answer() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    // A killed server has its last records in the journal only.
    for (drive, killed) in [(1, false), (4, true)] {
        let mut store = Store::start().await?;
        let keys: Vec<_> = (0..20).map(|number| format!("small-object-{number:02}")).collect();
        for key in &keys {
            assert_eq!(store.bucket.put(key, body(key, 1, 700)).await, Ok(()));
        }
        if killed {
            store.server.process_mut().kill();
        } else {
            store.server.process_mut().stop(Duration::from_secs(60));
        }
        let places = find(&store.server.drive(drive), keys[7].as_bytes())?;
        ensure!(!places.is_empty(), "the key is on the drive");
        for (file, at) in places {
            flip(&file, |_| at + 3)?;
        }
        store.server.launch().await?;
        for key in &keys {
            assert!(store.bucket.get(key).await == Ok(body(key, 1, 700)), "{key}");
        }
        assert_eq!(store.bucket.get("never-written").await, Err(404));
        assert_eq!(store.bucket.keys().await, Ok(keys.clone()));
        assert_eq!(store.bucket.put("more", body("more", 1, 700)).await, Ok(()));
        assert!(store.bucket.get("more").await == Ok(body("more", 1, 700)));
        let (screen, _) = status(&store.server.admin_url(""))?;
        println!("drive {drive}, killed {killed}:\n{screen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_built_anew_by_the_next_start() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut store = Store::start().await?;
    let keys: Vec<_> = (0..50).map(|number| format!("small-object-{number:02}")).collect();
    for key in &keys {
        assert_eq!(store.bucket.put(key, body(key, 1, 700)).await, Ok(()));
    }
    store.server.process_mut().stop(Duration::from_secs(60));
    // Of all drives: without their indexes nothing is left to answer.
    for drive in store.server.drives() {
        let path = drive.join("index/registers.redb");
        let mut bytes = fs::read(&path)?;
        bytes.iter_mut().skip(4096 + 77).step_by(4096).for_each(|byte| *byte ^= 0x10);
        write_over(&path, &bytes)?;
    }
    store.server.launch().await?;
    for key in &keys {
        assert!(store.bucket.get(key).await == Ok(body(key, 1, 700)), "{key}");
    }
    assert_eq!(store.bucket.get("never-written").await, Err(404));
    assert_eq!(store.bucket.keys().await, Ok(keys.clone()));
    let log = store.server.process_mut().log();
    let told = |drive: &PathBuf| {
        let drive = drive.display().to_string();
        log.lines().any(|line| line.contains("is built anew from the journal") && line.contains(&drive))
    };
    ensure!(store.server.drives().iter().all(told), "the log names every drive:\n{log}");
    Ok(())
}
