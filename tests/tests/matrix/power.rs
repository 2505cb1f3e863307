//! Power cuts: every drive is a file system of its own that loses whatever was not synced, in the middle of writes. Every
//! 200 that a client saw is there afterwards.

use std::time::Duration;

use anyhow::{Context, Result};
use coffer_tests::bucket::Bucket;
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::image::{ImageDrive, power_off};
use coffer_tests::harness::standalone::Standalone;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::ONE_AT_A_TIME;
use super::load::Load;

const MEBIBYTES: u64 = 1024;
const CLIENTS: usize = 8;

/// Some moment in the middle of the load.
async fn some_moment(load: &Load, random: &mut StdRng) -> Result<()> {
    load.progress(random.random_range(20..120)).await?;
    tokio::time::sleep(Duration::from_micros(random.random_range(0..50_000))).await;
    Ok(())
}

fn mount_again(drives: &[ImageDrive]) -> Result<()> {
    for drive in drives {
        drive.unmount()?;
        drive.mount()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices and takes minutes"]
async fn a_server_keeps_every_acknowledged_write_across_power_cuts() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut server = Standalone::prepare(4)?;
    let Some(drives) = ImageDrive::create(&server.drives(), MEBIBYTES)? else { return Ok(()) };
    server.launch().await?;
    let bucket = Bucket::create(server.client(), "matrix").await?;
    let (mut random, mut load) = (StdRng::seed_from_u64(4), Load::start(vec![bucket.clone(); CLIENTS], 5));
    for round in 0..8 {
        some_moment(&load, &mut random).await?;
        power_off(&drives)?;
        server.process_mut().kill();
        load.pause().await;
        mount_again(&drives)?;
        server.launch().await?;
        load.verify(&bucket).await.with_context(|| format!("power cut {round}"))?;
        println!("power cut {round}: {}", load.summary());
        load.go_on(vec![bucket.clone(); CLIENTS]);
    }
    load.pause().await;
    load.verify(&bucket).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts loop devices and takes minutes"]
async fn a_cluster_keeps_every_acknowledged_write_across_power_cuts() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Distributed::prepare(4, 1).await?;
    let paths: Vec<_> = (0..4).map(|node| cluster.drive(node, 1)).collect();
    let Some(drives) = ImageDrive::create(&paths, MEBIBYTES)? else { return Ok(()) };
    start(&mut cluster).await?;
    let bucket = Bucket::create(cluster.client(0), "matrix").await?;
    let clients = |cluster: &Distributed| -> Vec<Bucket> {
        (0..CLIENTS).map(|client| bucket.through(cluster.client(client % 4))).collect()
    };
    let (mut random, mut load) = (StdRng::seed_from_u64(7), Load::start(clients(&cluster), 8));
    for round in 0..4 {
        some_moment(&load, &mut random).await?;
        power_off(&drives)?;
        (0..4).for_each(|node| cluster.kill(node));
        load.pause().await;
        mount_again(&drives)?;
        start(&mut cluster).await?;
        load.verify(&bucket).await.with_context(|| format!("power cut {round}"))?;
        println!("power cut {round}: {}", load.summary());
        load.go_on(clients(&cluster));
    }
    load.pause().await;
    load.verify(&bucket).await
}

async fn start(cluster: &mut Distributed) -> Result<()> {
    for node in 0..4 {
        cluster.spawn(node)?;
    }
    for node in 0..4 {
        cluster.wait_ready(node).await?;
    }
    Ok(())
}
