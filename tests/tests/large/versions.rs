//! Many versions of one key: writing, reading and listing them costs what it costs with few.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coffer_tests::bench::sign::escape;
use coffer_tests::harness::standalone::Standalone;

use super::lean::{Lean, texts};
use super::measure::{Times, assert_flat, idle, print_memory, spread};
use super::{ONE_AT_A_TIME, amount};

const PAGE: usize = 1_000;
const READS: usize = 200;
const LISTS: usize = 3;
/// What the server may take beyond what it took with few versions, in MiB.
const MEMORY: u64 = 256;

const ENABLED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";

/// How long each of some reads of a version takes, whose body is this.
async fn read(client: &mut Lean, version: &str, body: &str) -> Result<Vec<Duration>> {
    let query = if version.is_empty() { String::new() } else { format!("versionId={}", escape(version)) };
    let mut times = Vec::new();
    for _ in 0..READS {
        let began = Instant::now();
        let answer = client.get("/large/key", &query).await?;
        times.push(began.elapsed());
        ensure!(answer.text()? == body, "version `{version}` is {}", answer.text()?);
    }
    Ok(times)
}

/// Lists all versions, and compares them with these, newest first.
async fn list(client: &mut Lean, expected: &[String]) -> Result<Vec<Duration>> {
    let (mut times, mut query, mut at) = (Vec::new(), format!("max-keys={PAGE}&versions="), 0);
    loop {
        let began = Instant::now();
        let answer = client.get("/large", &query).await?;
        let xml = answer.text()?;
        for version in texts(xml, "Version").flat_map(|version| texts(version, "VersionId")) {
            ensure!(expected.get(at).is_some_and(|wanted| wanted == version), "{version} at {at}");
            at += 1;
        }
        times.push(began.elapsed());
        if texts(xml, "IsTruncated").next() != Some("true") {
            break;
        }
        let next = |name| texts(xml, name).next().map(escape).context("a page names no successor");
        let (key, version) = (next("NextKeyMarker")?, next("NextVersionIdMarker")?);
        query = format!("key-marker={key}&max-keys={PAGE}&version-id-marker={version}&versions=");
    }
    ensure!(at == expected.len(), "{at} versions instead of {}", expected.len());
    Ok(times)
}

/// Writes versions after those that are there, and tells how long each takes.
async fn write(client: &mut Lean, ids: &mut Vec<String>, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        let answer = client.put("/large/key", format!("version {}", ids.len())).await?;
        times.push(began.elapsed());
        ids.push(answer.header("x-amz-version-id")?.to_owned());
    }
    Ok(times)
}

/// Reads the newest and the oldest version, and lists the bucket's keys.
async fn report(server: &Standalone, client: &mut Lean, ids: &[String], oldest: usize) -> Result<()> {
    println!("{} versions:", ids.len() - oldest);
    let newest = format!("version {}", ids.len() - 1);
    println!("  GET of the newest {}", spread(read(client, "", &newest).await?));
    println!(
        "  GET of the oldest {}",
        spread(read(client, &ids[oldest], &format!("version {oldest}")).await?)
    );
    let mut keys = Vec::new();
    for _ in 0..READS {
        let began = Instant::now();
        let answer = client.get("/large", "list-type=2").await?;
        keys.push(began.elapsed());
        ensure!(texts(answer.text()?, "Key").eq(["key"]), "not one key");
    }
    println!("  list of the keys {}", spread(keys));
    let expected: Vec<_> = ids[oldest..].iter().rev().cloned().collect();
    let mut times = Times::default();
    for _ in 0..LISTS {
        times.0.push(list(client, &expected).await?);
    }
    let sum: Duration = times.0.iter().flatten().sum();
    println!("  list of the versions {:.0}/s", (expected.len() * LISTS) as f64 / sum.as_secs_f64());
    times.report("a page of versions");
    print_memory(server.process(), "then")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; COFFER_LARGE_VERSIONS tells how many versions"]
async fn a_key_of_many_versions_costs_what_one_of_few_does() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let count = amount("VERSIONS", 10_000);
    let mut server = Standalone::start(4).await?;
    let mut client = Lean::connect(&server.endpoint()).await?;
    client.put("/large", "").await?;
    client.expect("PUT", "/large", "versioning=", Bytes::from_static(ENABLED.as_bytes())).await?;
    let mut ids = Vec::new();
    let first = write(&mut client, &mut ids, 100).await?;
    idle(server.process()).await?;
    let few_newest = spread(read(&mut client, "", "version 99").await?);
    let few_oldest = spread(read(&mut client, &ids[0], "version 0").await?);
    let before = print_memory(server.process(), "with 100 versions")?;
    println!("GET of the newest of 100 {few_newest}, of the oldest {few_oldest}");

    let began = Instant::now();
    let times = write(&mut client, &mut ids, count.saturating_sub(100)).await?;
    println!("versions written: {:.0}/s", times.len() as f64 / began.elapsed().as_secs_f64());
    Times(vec![times]).report("PUT of a version");
    println!("  the first hundred {}", spread(first));
    idle(server.process()).await?;
    report(&server, &mut client, &ids, 0).await?;
    let newest = spread(read(&mut client, "", &format!("version {}", ids.len() - 1)).await?);
    let oldest = spread(read(&mut client, &ids[0], "version 0").await?);
    assert_flat("GET of the newest version", few_newest, newest);
    assert_flat("GET of the oldest version", few_oldest, oldest);

    let mut deletes = Vec::new();
    let gone = count.div_ceil(10);
    for id in &ids[..gone] {
        let began = Instant::now();
        let query = format!("versionId={}", escape(id));
        client.expect("DELETE", "/large/key", &query, Bytes::new()).await?;
        deletes.push(began.elapsed());
    }
    println!("DELETE of the oldest {gone} {}", spread(deletes));
    idle(server.process()).await?;
    report(&server, &mut client, &ids, gone).await?;

    server.process_mut().stop(Duration::from_secs(60)).context("the server does not stop")?;
    server.launch().await?;
    println!("after a start:");
    report(&server, &mut Lean::connect(&server.endpoint()).await?, &ids, gone).await?;
    let after = print_memory(server.process(), "at the end")?;
    ensure!(after <= before + MEMORY, "{count} versions take {} MiB", after - before);
    Ok(())
}
