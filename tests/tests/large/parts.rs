//! An upload of many parts. S3 wants 5 MiB of each but the last: with less (the default here, as it fits on any disk) Complete
//! looks at all parts and refuses. With `COFFER_LARGE_PART_BYTES=5242880` they are zeros that are completed and read; where the
//! disk has no room for them, a compressed one in memory has (`zramctl --size 120G /dev/zram0`, `mkfs.ext4`, `TMPDIR`).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coffer_tests::harness::standalone::Standalone;

use super::lean::{Lean, each, texts};
use super::measure::{Times, idle, ms, print_memory, spread};
use super::{ONE_AT_A_TIME, amount};

const MIN_PART_BYTES: usize = 5 << 20;
const PAGE: usize = 1_000;
const UPLOADERS: usize = 8;
const LISTS: usize = 3;
/// What the server may take beyond what it took before the upload, in MiB.
const MEMORY: u64 = 384;

/// Lists all parts and compares their numbers.
async fn list(client: &mut Lean, upload: &str, count: usize) -> Result<(Vec<Duration>, Vec<String>)> {
    let (mut times, mut etags, mut marker) = (Vec::new(), Vec::new(), 0);
    loop {
        let began = Instant::now();
        let query = format!("max-parts={PAGE}&part-number-marker={marker}&uploadId={upload}");
        let answer = client.get("/large/key", &query).await?;
        let xml = answer.text()?;
        for number in texts(xml, "PartNumber") {
            marker += 1;
            ensure!(number == marker.to_string(), "part {number} instead of {marker}");
        }
        times.push(began.elapsed());
        etags.extend(texts(xml, "ETag").map(str::to_owned));
        if texts(xml, "IsTruncated").next() != Some("true") {
            break;
        }
    }
    ensure!(marker == count, "{marker} parts instead of {count}");
    Ok((times, etags))
}

fn complete_document(etags: &[String]) -> Bytes {
    let mut document = "<CompleteMultipartUpload>".to_owned();
    for (index, etag) in etags.iter().enumerate() {
        let number = index + 1;
        let _ = write!(document, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    document.push_str("</CompleteMultipartUpload>");
    document.into()
}

async fn upload_parts(server: &Standalone, upload: &str, count: usize, size: usize) -> Result<Times> {
    let (began, query, body) = (Instant::now(), format!("uploadId={upload}"), Bytes::from(vec![0; size]));
    let times = each(&server.endpoint(), (count, UPLOADERS), move |mut client, at| {
        let (query, body) = (format!("partNumber={}&{query}", at + 1), body.clone());
        async move {
            client.expect("PUT", "/large/key", &query, body).await?;
            Ok(client)
        }
    })
    .await?;
    println!("{count} parts of {size} bytes: {:.0}/s", count as f64 / began.elapsed().as_secs_f64());
    Ok(Times(vec![times]))
}

/// What a complete object costs to look at, read and delete.
async fn read_and_delete(client: &mut Lean, count: usize, size: usize) -> Result<()> {
    let mut heads = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        client.expect("HEAD", "/large/key", "", Bytes::new()).await?;
        heads.push(began.elapsed());
    }
    println!("  HEAD {}", spread(heads));
    for number in [1, count / 2, count] {
        let began = Instant::now();
        client.read_zeros("/large/key", &format!("partNumber={number}"), size as u64).await?;
        println!("  GET of part {number}: {:.1} ms", ms(began.elapsed()));
    }
    let began = Instant::now();
    let bytes = (count * size) as u64;
    client.read_zeros("/large/key", "", bytes).await?;
    let seconds = began.elapsed().as_secs_f64();
    println!("  GET of all: {:.1} s, {:.0} MiB/s", seconds, bytes as f64 / f64::from(1 << 20) / seconds);
    let began = Instant::now();
    client.expect("DELETE", "/large/key", "", Bytes::new()).await?;
    println!("  DELETE: {:.1} ms", ms(began.elapsed()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; COFFER_LARGE_PARTS tells how many parts, COFFER_LARGE_PART_BYTES how large"]
async fn an_upload_of_many_parts_costs_what_its_parts_do() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (count, size) = (amount("PARTS", 10_000), amount("PART_BYTES", 1024));
    let server = Standalone::start(4).await?;
    let mut client = Lean::connect(&server.endpoint()).await?;
    client.put("/large", "").await?;
    client.put("/large/warm", "").await?;
    idle(server.process()).await?;
    let before = print_memory(server.process(), "before")?;
    let created = client.expect("POST", "/large/key", "uploads=", Bytes::new()).await?;
    let upload = texts(created.text()?, "UploadId").next().context("an upload id")?.to_owned();

    upload_parts(&server, &upload, count, size).await?.report("UploadPart");
    print_memory(server.process(), "after the parts")?;
    idle(server.process()).await?;
    // The connection may have been idle for longer than the server keeps one.
    client = Lean::connect(&server.endpoint()).await?;
    let (mut times, mut etags) = (Times::default(), Vec::new());
    for _ in 0..LISTS {
        let (run, found) = list(&mut client, &upload, count).await?;
        (times.0, etags) = ([times.0, vec![run]].concat(), found);
    }
    times.report("a page of parts");

    let began = Instant::now();
    let query = format!("uploadId={upload}");
    let answer = client.ask("POST", "/large/key", &query, complete_document(&etags)).await?;
    println!("  Complete: {}, {:.1} ms", answer.status, ms(began.elapsed()));
    print_memory(server.process(), "after Complete")?;
    if size >= MIN_PART_BYTES {
        ensure!(answer.status == 200, "{}", answer.text()?);
        read_and_delete(&mut client, count, size).await?;
    } else {
        ensure!(answer.status == 400 && answer.text()?.contains("EntityTooSmall"), "{}", answer.text()?);
        let began = Instant::now();
        client.expect("DELETE", "/large/key", &query, Bytes::new()).await?;
        println!("  Abort: {:.1} ms", ms(began.elapsed()));
    }
    let began = Instant::now();
    idle(server.process()).await?;
    println!("  then busy for {:.0} s", (began.elapsed().as_secs_f64() - 3.0).max(0.0));
    let after = print_memory(server.process(), "at the end")?;
    ensure!(after <= before + MEMORY, "{count} parts take {} MiB", after - before);
    ensure!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
