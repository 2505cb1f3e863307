//! Drives with a file system of their own that is taken away, replaced, turned read-only, filled, or loses its medium.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_tests::bucket::Bucket;
use coffer_tests::harness::image::ImageDrive;
use coffer_tests::harness::process::Process;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::{census, http_get, http_status, wait_for};

use super::ONE_AT_A_TIME;
use super::drive::{SIZES, assert_all, wait_for_status, write_all};
use super::join::wait_until_joined;

/// A server whose drives are file systems of this many mebibytes, with the first round written.
async fn start(mebibytes: u64) -> Result<Option<(Standalone, Bucket, Vec<ImageDrive>)>> {
    let mut server = Standalone::prepare(4)?;
    let Some(drives) = ImageDrive::create(&server.drives(), mebibytes)? else { return Ok(None) };
    server.launch().await?;
    let bucket = Bucket::create(server.client(), "matrix").await?;
    write_all(&bucket, 1).await;
    wait_for_status(&server.admin_url(""), &["HEALTHY", " 0 shards known to be missing, 0 versions"]).await?;
    Ok(Some((server, bucket, drives)))
}

fn stop(server: &mut Standalone) {
    server.process_mut().stop(Duration::from_secs(60));
}

fn assert_refused(server: &Standalone, words: &[&str]) -> Result<()> {
    let folder = server.drive(1).with_file_name("");
    let _ = std::fs::remove_file(folder.join("refused.log"));
    let mut refused = Process::start("refused", &folder, &mut server.command())?;
    let status = refused.wait(Duration::from_secs(40));
    ensure!(status.is_some_and(|status| !status.success()), "{}", refused.log_tail());
    for word in words {
        ensure!(refused.log().contains(word), "`{word}` is not in: {}", refused.log_tail());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices"]
async fn a_drive_that_loses_part_of_its_medium_costs_no_request_and_no_byte() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some((mut server, bucket, drives)) = start(512).await? else { return Ok(()) };
    stop(&mut server);
    // Nothing of it is in a cache then.
    drives[1].unmount()?;
    drives[1].mount()?;
    server.launch().await?;
    drives[1].cut_medium(8 << 20)?;
    for round in 2..5 {
        assert_all(&bucket, round - 1).await;
        write_all(&bucket, round).await;
    }
    assert_all(&bucket, 4).await;
    wait_for_status(&server.admin_url(""), &["drive2 is"]).await?;
    Ok(())
}

fn is_empty(path: &Path) -> Result<bool> {
    Ok(std::fs::read_dir(path)?.next().is_none())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices"]
async fn a_drive_taken_away_from_its_path_is_followed_and_nothing_is_made_in_its_place() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some((mut server, bucket, drives)) = start(512).await? else { return Ok(()) };
    drives[1].detach()?;
    ensure!(is_empty(drives[1].path())?, "it was mounted over an empty folder");
    for round in 2..5 {
        assert_all(&bucket, round - 1).await;
        write_all(&bucket, round).await;
    }
    ensure!(is_empty(drives[1].path())?, "nothing is made below the mount point");
    stop(&mut server);
    for _ in 0..2 {
        assert_refused(&server, &["drive2", "is the disk mounted", "--replace"])?;
        ensure!(is_empty(drives[1].path())?, "a refused start makes nothing");
    }
    drives[1].mount()?;
    server.launch().await?;
    assert_all(&bucket, 4).await;
    write_all(&bucket, 5).await;
    assert_all(&bucket, 5).await;
    wait_for_status(&server.admin_url(""), &["HEALTHY", " 0 shards known to be missing, 0 versions"]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices"]
async fn an_empty_drive_in_the_place_of_another_is_refused_or_votes_again() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some((mut server, bucket, drives)) = start(512).await? else { return Ok(()) };
    stop(&mut server);
    drives[1].unmount()?;
    let new = [drives[1].path().to_owned()];
    std::fs::rename(drives[1].image(), drives[1].image().with_extension("old"))?;
    let Some(_new) = ImageDrive::create(&new, 512)? else { return Ok(()) };
    assert_refused(&server, &["drive2", "--replace"])?;
    let mut command = server.command();
    command.arg("--replace").arg(drives[1].path());
    let mut replaced = Process::start("replaced", &server.drive(1).with_file_name(""), &mut command)?;
    let url = server.admin_url("/health/ready");
    let ready = || async { http_status(&url).await == Some(200) };
    wait_for("the server with a new drive", Duration::from_secs(60), ready).await?;
    assert_all(&bucket, 1).await;
    write_all(&bucket, 2).await;
    assert_all(&bucket, 2).await;
    wait_until_joined(&server.admin_url("")).await?;
    // With one more gone there are two of four besides it: its votes count.
    replaced.stop(Duration::from_secs(60));
    std::fs::rename(server.drive(3).join("coffer.json"), server.drive(3).join("aside"))?;
    std::fs::write(server.drive(3).join("coffer.json"), "{")?;
    server.launch().await?;
    assert_all(&bucket, 2).await;
    assert_eq!(bucket.put("after", vec![1]).await, Ok(()), "the new drive is in the write quorum");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices"]
async fn a_drive_that_turns_read_only_is_failed_and_costs_no_request() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some((mut server, bucket, drives)) = start(512).await? else { return Ok(()) };
    drives[1].make_read_only()?;
    for round in 2..4 {
        assert_all(&bucket, round - 1).await;
        write_all(&bucket, round).await;
    }
    wait_for_status(&server.admin_url(""), &["DEGRADED", "drive2 is failed", "Read-only"]).await?;
    // It starts without it, as often as it is told to.
    for round in 3..5 {
        stop(&mut server);
        server.launch().await?;
        assert_all(&bucket, round).await;
        write_all(&bucket, round + 1).await;
        wait_for_status(&server.admin_url(""), &["DEGRADED", "drive2 is"]).await?;
    }
    assert_all(&bucket, 5).await;
    stop(&mut server);
    drives[1].unmount()?;
    drives[1].mount()?;
    server.launch().await?;
    assert_all(&bucket, 5).await;
    wait_for_status(&server.admin_url(""), &["HEALTHY"]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices"]
async fn one_full_drive_of_four_costs_no_request() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some((server, bucket, drives)) = start(512).await? else { return Ok(()) };
    let ballast = drives[1].path().join("ballast");
    let mut file = std::fs::File::create(&ballast)?;
    let piece = vec![1; 1 << 20];
    while file.write_all(&piece).is_ok() {}
    // An open file keeps its room after it was removed.
    drop(file);
    for round in 2..6 {
        write_all(&bucket, round).await;
        assert_all(&bucket, round).await;
    }
    wait_for_status(&server.admin_url(""), &["DEGRADED", "drive2 is read-only"]).await?;
    for size in SIZES {
        assert_eq!(bucket.delete(&format!("key/{size}")).await, Ok(()));
    }
    assert_eq!(bucket.keys().await, Ok(Vec::new()));
    std::fs::remove_file(&ballast)?;
    wait_for_status(&server.admin_url(""), &["HEALTHY"]).await?;
    write_all(&bucket, 7).await;
    assert_all(&bucket, 7).await;
    Ok(())
}

/// Objects whose shards are files: more of them than the small drive of a test has room for.
const LARGE: usize = 6 << 20;
const MANY: usize = 40;

fn large(number: usize) -> (String, Vec<u8>) {
    (format!("large/{number:02}"), vec![number as u8; LARGE])
}

async fn assert_large(bucket: &Bucket, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let (key, body) = large(number);
        assert_eq!(bucket.get(&key).await, Ok(body), "{key}");
    }
}

/// The sum of a counter over all drives.
async fn counted(server: &Standalone, name: &str) -> u64 {
    let (_, text) = http_get(&server.admin_url("/metrics")).await.unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices"]
async fn a_drive_that_gets_full_while_it_heals_waits_for_room_and_goes_on() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some((mut server, bucket, drives)) = start(512).await? else { return Ok(()) };
    let many = Bucket::create(server.client(), "large").await?;
    for number in 0..MANY {
        let (key, body) = large(number);
        assert_eq!(many.put(&key, body).await, Ok(()));
    }
    stop(&mut server);
    drives[1].unmount()?;
    let new = [drives[1].path().to_owned()];
    std::fs::rename(drives[1].image(), drives[1].image().with_extension("old"))?;
    // Forty shards of three megabytes do not fit.
    let Some(small) = ImageDrive::create(&new, 96)? else { return Ok(()) };
    let mut command = server.command();
    command.arg("--replace").arg(small[0].path());
    let mut replaced = Process::start("replaced", &server.drive(1).with_file_name(""), &mut command)?;
    let url = server.admin_url("/health/ready");
    let ready = || async { http_status(&url).await == Some(200) };
    wait_for("the server with a new drive", Duration::from_secs(60), ready).await?;
    let words = ["DEGRADED", "drive2 is read-only", "drive2: healing waits for room for", "% full"];
    wait_for_status(&server.admin_url(""), &words).await?;
    assert_large(&many, 0..MANY).await;

    // Nothing is tried again and again, and nothing is half there.
    let names = ["coffer_heal_failures_total", "coffer_heal_bytes_total", "coffer_heal_shards_total"];
    let before = [
        counted(&server, names[0]).await,
        counted(&server, names[1]).await,
        counted(&server, names[2]).await,
    ];
    ensure!(before[2] > 0, "some of it has come");
    tokio::time::sleep(Duration::from_secs(20)).await;
    for (name, before) in names.into_iter().zip(before) {
        let now = counted(&server, name).await;
        ensure!(now <= before + 4, "{name}: {before}, and {now} soon after");
    }
    write_all(&bucket, 2).await;
    assert_all(&bucket, 2).await;

    // A crash in this state loses nothing either.
    replaced.kill();
    server.launch().await?;
    wait_for_status(&server.admin_url(""), &words).await?;
    assert_large(&many, 0..MANY).await;
    for number in 10..MANY {
        assert_eq!(many.delete(&large(number).0).await, Ok(()));
    }
    wait_for_status(&server.admin_url(""), &["HEALTHY", " 0 shards known to be missing"]).await?;
    assert_large(&many, 0..10).await;
    assert_all(&bucket, 2).await;
    server.process_mut().stop(Duration::from_secs(60));
    let folders: Vec<String> = server.drives().iter().map(|drive| drive.display().to_string()).collect();
    let census = census(&folders)?;
    ensure!(census.exit_code == Some(0), "{:#?}", census.sum);
    Ok(())
}
