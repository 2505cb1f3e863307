//! Many keys in one bucket: a page costs the same wherever it is, and what it costs in a small bucket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coffer_tests::bench::sign::escape;
use coffer_tests::harness::standalone::Standalone;

use super::lean::{Lean, each, texts};
use super::measure::{Spread, Times, assert_flat, idle, print_memory, spread};
use super::{ONE_AT_A_TIME, amount};

const PAGE: usize = 1_000;
/// Connections that write.
const WRITERS: usize = 64;
/// Lists of everything in each form.
const LISTS: usize = 3;
/// Invoices of a customer.
const INVOICES: usize = 100;
/// What the caches of four drives' indexes may take, in MiB: the first list fills them.
const CACHE_MEMORY: u64 = 4 * 24;
/// What the server may take for lists besides, in MiB.
const LISTING_MEMORY: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V2,
    V1,
    Delimiter,
}

impl Form {
    /// The query of a page.
    fn query(self, next: Option<&str>) -> String {
        let next = next.map(escape).unwrap_or_default();
        match (self, next.is_empty()) {
            (Self::V2, true) => format!("list-type=2&max-keys={PAGE}"),
            (Self::V2, false) => format!("continuation-token={next}&list-type=2&max-keys={PAGE}"),
            (Self::V1, _) => format!("marker={next}&max-keys={PAGE}"),
            (Self::Delimiter, true) => format!("delimiter=%2F&list-type=2&max-keys={PAGE}"),
            (Self::Delimiter, false) => {
                format!("continuation-token={next}&delimiter=%2F&list-type=2&max-keys={PAGE}")
            }
        }
    }

    /// What a page shows: keys, or the prefixes behind that of the request.
    fn items(self, xml: &str) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::V2 | Self::V1 => Box::new(texts(xml, "Key")),
            Self::Delimiter => Box::new(texts(xml, "CommonPrefixes").flat_map(|text| texts(text, "Prefix"))),
        }
    }
}

/// Key number `n`, in the order of keys.
fn key(n: usize) -> String {
    format!("customer-{:06}/2026/{:02}/invoice-{n:08}.pdf", n / INVOICES, n % INVOICES * 12 / INVOICES + 1)
}

/// Lists everything and compares it with what must be there; the times of all pages.
async fn list(client: &mut Lean, path: &str, form: Form, expected: &[String]) -> Result<Vec<Duration>> {
    let (mut times, mut next, mut at) = (Vec::new(), None::<String>, 0);
    loop {
        let began = Instant::now();
        let answer = client.get(path, &form.query(next.as_deref())).await?;
        let xml = answer.text()?;
        let mut last = "";
        for item in form.items(xml) {
            let wanted = expected.get(at).with_context(|| format!("{item} is one too many"))?;
            ensure!(item == wanted, "{item} instead of {wanted}");
            (at, last) = (at + 1, item);
        }
        let more = texts(xml, "IsTruncated").next() == Some("true");
        next = match form {
            _ if !more => None,
            Form::V1 => Some(last.to_owned()),
            Form::V2 | Form::Delimiter => texts(xml, "NextContinuationToken").next().map(str::to_owned),
        };
        times.push(began.elapsed());
        ensure!(more == next.is_some(), "a page has no successor and is not the last one");
        if next.is_none() {
            break;
        }
    }
    ensure!(at == expected.len(), "{at} items instead of {}", expected.len());
    Ok(times)
}

/// Lists in all forms, prints what it takes, and checks that pages cost the same everywhere.
async fn report(server: &Standalone, what: &str, expected: &[String], small: Spread) -> Result<()> {
    println!("{what}: {} keys", expected.len());
    let before = print_memory(server.process(), "before")?;
    let mut prefixes: Vec<_> =
        expected.iter().filter_map(|key| Some(key[..=key.find('/')?].to_owned())).collect();
    prefixes.dedup();
    let mut client = Lean::connect(&server.endpoint()).await?;
    let mut listed_once = None;
    for form in [Form::V2, Form::V1, Form::Delimiter] {
        let items = if form == Form::Delimiter { &prefixes } else { expected };
        let (mut times, mut speeds) = (Times::default(), Vec::new());
        for _ in 0..LISTS {
            let run = list(&mut client, "/large", form, items).await?;
            speeds.push(items.len() as f64 / run.iter().sum::<Duration>().as_secs_f64());
            times.0.push(run);
        }
        let shown: Vec<_> = speeds.iter().map(|speed| format!("{speed:.0}")).collect();
        println!("  {form:?}: {} items/s", shown.join(", "));
        let first = times.report(&format!("{form:?}, least/median/p99 of a page"));
        if form == Form::V2 && items.len() >= PAGE {
            assert_flat("a page of a small bucket and one of this", small, first);
        }
        let after = print_memory(server.process(), &format!("after {form:?}"))?;
        ensure!(after <= before + CACHE_MEMORY + LISTING_MEMORY, "listing has taken {} MiB", after - before);
        let once = *listed_once.get_or_insert(after);
        ensure!(after <= once + LISTING_MEMORY, "lists take more with each: {once} MiB, then {after}");
    }
    Ok(())
}

/// Changes keys, `each` number once, and tells how fast.
async fn change(
    server: &Standalone,
    method: &'static str,
    numbers: Vec<usize>,
    body: &'static str,
) -> Result<()> {
    let (began, count) = (Instant::now(), numbers.len());
    let numbers = Arc::new(numbers);
    each(&server.endpoint(), (count, WRITERS), move |mut client, at| {
        let path = format!("/large/{}", key(numbers[at]));
        async move {
            client.expect(method, &path, "", Bytes::from_static(body.as_bytes())).await?;
            Ok(client)
        }
    })
    .await?;
    println!("{count} x {method}: {:.0}/s", count as f64 / began.elapsed().as_secs_f64());
    idle(server.process()).await
}

/// A bucket with one page, for comparison.
async fn small_bucket(server: &Standalone) -> Result<Spread> {
    let mut client = Lean::connect(&server.endpoint()).await?;
    client.put("/small", "").await?;
    let expected: Vec<_> = (0..PAGE).map(key).collect();
    for key in &expected {
        client.put(&format!("/small/{key}"), "a small object").await?;
    }
    idle(server.process()).await?;
    let mut times = Vec::new();
    for _ in 0..50 {
        times.extend(list(&mut client, "/small", Form::V2, &expected).await?);
    }
    let spread = spread(times);
    println!("a page of a bucket of {PAGE} keys: {spread}");
    Ok(spread)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; COFFER_LARGE_KEYS tells how many keys"]
async fn pages_of_a_large_bucket_cost_what_those_of_a_small_one_do() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let count = amount("KEYS", 1_000_000);
    let mut server = Standalone::start(4).await?;
    let small = small_bucket(&server).await?;
    Lean::connect(&server.endpoint()).await?.put("/large", "").await?;

    // Keys arrive in no order, as from many clients: the step is a prime that divides no round number.
    let numbers = (0..count).map(|n| n * 7919 % count).collect();
    change(&server, "PUT", numbers, "a small object").await?;
    let all: Vec<_> = (0..count).map(key).collect();
    report(&server, "as written", &all, small).await?;

    // A tenth is written again, a tenth is deleted: half of that all over, half in one piece.
    change(&server, "PUT", (0..count).filter(|n| n % 10 == 3).collect(), "another small object").await?;
    let piece = count * 30 / 100..count * 35 / 100;
    let deleted = |n: &usize| n % 20 == 7 || piece.contains(n);
    change(&server, "DELETE", (0..count).filter(deleted).collect(), "").await?;
    let rest: Vec<_> = (0..count).filter(|n| !deleted(n)).map(key).collect();
    report(&server, "changed and deleted", &rest, small).await?;

    server.process_mut().stop(Duration::from_secs(60)).context("the server does not stop")?;
    let began = Instant::now();
    server.launch().await?;
    println!("started again in {:.1} s", began.elapsed().as_secs_f64());
    report(&server, "after a start", &rest, small).await?;
    ensure!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
