//! Many buckets: to make one more, and to use one, costs what it costs with few.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coffer_tests::bench::sign::escape;
use coffer_tests::harness::standalone::Standalone;

use super::lean::{Lean, each, texts};
use super::measure::{Spread, Times, assert_flat, idle, ms, print_memory, spread};
use super::{ONE_AT_A_TIME, amount};

const PAGE: usize = 1_000;
const FEW: usize = 10;
const MAKERS: usize = 4;
const REQUESTS: usize = 200;
const LISTS: usize = 3;
/// What the server may take beyond what it took with few buckets, in MiB.
const MEMORY: u64 = 256;

const ENABLED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";

fn name(number: usize) -> String {
    format!("tenant-{number:05}")
}

/// Makes buckets from this number on.
async fn make(server: &Standalone, from: usize, count: usize) -> Result<Times> {
    let began = Instant::now();
    let times = each(&server.endpoint(), (count, MAKERS), move |mut client, at| async move {
        client.put(&format!("/{}", name(from + at)), "").await?;
        Ok(client)
    })
    .await?;
    println!("{count} buckets made: {:.0}/s", count as f64 / began.elapsed().as_secs_f64());
    Ok(Times(vec![times]))
}

/// Lists all buckets, in pages or at once, and compares their names.
async fn list(client: &mut Lean, page: Option<usize>, count: usize) -> Result<Vec<Duration>> {
    let (mut times, mut token, mut at) = (Vec::new(), None::<String>, 0);
    loop {
        let began = Instant::now();
        let token_query = token.as_deref().map(|token| format!("continuation-token={}&", escape(token)));
        let query = page.map(|page| format!("{}max-buckets={page}", token_query.unwrap_or_default()));
        let answer = client.get("/", &query.unwrap_or_default()).await?;
        let xml = answer.text()?;
        for found in texts(xml, "Name") {
            ensure!(found == name(at), "{found} instead of {}", name(at));
            at += 1;
        }
        times.push(began.elapsed());
        token = texts(xml, "ContinuationToken").next().map(str::to_owned);
        if token.is_none() {
            ensure!(at == count, "{at} buckets instead of {count}");
            return Ok(times);
        }
    }
}

/// What requests take in a bucket: a plain write and read, a conditional write, a write of a version, a page.
async fn requests(client: &mut Lean, bucket: usize) -> Result<Vec<(&'static str, Spread)>> {
    let (plain, versioned) = (format!("/{}", name(bucket)), format!("/{}", name(bucket + 1)));
    client.expect("PUT", &versioned, "versioning=", Bytes::from_static(ENABLED.as_bytes())).await?;
    let mut times: [Vec<Duration>; 5] = Default::default();
    for number in 0..REQUESTS {
        let key = format!("{plain}/key-{number}");
        let asked = [
            ("PUT", key.clone(), "", "a small object"),
            ("GET", key, "", ""),
            ("PUT", format!("{versioned}/key-{number}"), "", "a small object"),
            ("GET", plain.clone(), "list-type=2&max-keys=10", ""),
            ("HEAD", plain.clone(), "", ""),
        ];
        for (times, (method, path, query, body)) in times.iter_mut().zip(asked) {
            let began = Instant::now();
            client.expect(method, &path, query, Bytes::from_static(body.as_bytes())).await?;
            times.push(began.elapsed());
        }
    }
    let names = ["PUT", "GET", "PUT of a version", "a page of keys", "HEAD of a bucket"];
    let spreads: Vec<_> = names.into_iter().zip(times.map(spread)).collect();
    let shown: Vec<_> = spreads.iter().map(|(name, spread)| format!("{name} {spread}")).collect();
    println!("  {}", shown.join(", "));
    Ok(spreads)
}

fn assert_same(before: &[(&str, Spread)], after: &[(&str, Spread)]) {
    for ((what, before), (_, after)) in before.iter().zip(after) {
        assert_flat(what, *before, *after);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; COFFER_LARGE_BUCKETS tells how many buckets"]
async fn a_request_costs_the_same_however_many_buckets_there_are() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let count = amount("BUCKETS", 10_000);
    let mut server = Standalone::start(4).await?;
    let mut client = Lean::connect(&server.endpoint()).await?;
    make(&server, 0, FEW).await?;
    idle(server.process()).await?;
    let before = print_memory(server.process(), "with few buckets")?;
    let few = requests(&mut client, 0).await?;

    let created = make(&server, FEW, count - FEW).await?;
    print_memory(server.process(), "then")?;
    idle(server.process()).await?;
    // The other connection has been idle for longer than the server keeps one.
    client = Lean::connect(&server.endpoint()).await?;
    let many = requests(&mut client, count - 2).await?;
    let mut times = Times::default();
    for _ in 0..LISTS {
        times.0.push(list(&mut client, Some(PAGE), count).await?);
    }
    let all = list(&mut client, None, count).await?;
    println!("  all buckets at once: {:.1} ms", ms(all[0]));
    print_memory(server.process(), "after lists")?;

    server.process_mut().stop(Duration::from_secs(60)).context("the server does not stop")?;
    let began = Instant::now();
    server.launch().await?;
    println!("started again in {:.1} s", began.elapsed().as_secs_f64());
    let mut client = Lean::connect(&server.endpoint()).await?;
    list(&mut client, Some(PAGE), count).await?;
    let again = requests(&mut client, count - 4).await?;
    let after = print_memory(server.process(), "at the end")?;

    times.report("a page of buckets");
    created.report("CreateBucket");
    assert_same(&few, &many);
    assert_same(&few, &again);
    ensure!(after <= before + MEMORY, "{count} buckets take {} MiB", after - before);
    ensure!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
