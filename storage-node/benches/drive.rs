//! What one drive can do: durable journal records a second, index inserts, gets and scans.
//!
//! `cargo bench -p coffer-storage-node`; `BENCH_DIR` names the drive to measure (default: the temporary folder).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coffer_storage_node::bench::{IndexBench, JournalBench};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[expect(clippy::disallowed_methods, reason = "a bench has no other settings")]
fn folder() -> tempfile::TempDir {
    let base = std::env::var("BENCH_DIR").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
    tempfile::tempdir_in(base).expect("a folder to measure in")
}

/// 512-byte records, each durable before its writer goes on.
fn journal(criterion: &mut Criterion) {
    let dir = folder();
    let journal = Arc::new(JournalBench::open(dir.path(), 64 << 20).expect("a journal"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let mut group = criterion.benchmark_group("journal 512 B durable");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements(1));
    for writers in [1_u64, 16, 64] {
        group.bench_function(format!("{writers} writers"), |bencher| {
            bencher.iter_custom(|count| {
                let began = Instant::now();
                runtime.block_on(async {
                    let tasks = (0..writers).map(|writer| {
                        let journal = Arc::clone(&journal);
                        let records = count / writers + u64::from(writer < count % writers);
                        tokio::spawn(async move {
                            let payload = Bytes::from(vec![writer as u8; 512]);
                            for _ in 0..records {
                                journal.append(payload.clone()).await.expect("a durable record");
                            }
                        })
                    });
                    for task in tasks.collect::<Vec<_>>() {
                        task.await.expect("a writer");
                    }
                });
                began.elapsed()
            });
        });
    }
}

/// Prints a rate by the CPU time of this thread: on a machine that is busy otherwise, wall time says little.
fn per_cpu_second(what: &str, count: u64, run: impl FnOnce()) {
    let nanos = || -> Option<f64> {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        stat.split(' ').next()?.parse().ok()
    };
    let (began, before) = (Instant::now(), nanos());
    run();
    let wall = began.elapsed().as_secs_f64();
    let cpu = before.zip(nanos()).map_or(wall, |(before, after)| (after - before) / 1e9);
    println!("{what}: {:.0}/s, {:.0} per CPU-second", count as f64 / wall, count as f64 / cpu);
}

fn index(criterion: &mut Criterion) {
    const REGISTERS: u64 = 200_000;
    let dir = folder();
    let index = IndexBench::open(dir.path()).expect("an index");
    per_cpu_second("inserts in batches, random order", REGISTERS, || {
        index.fill(REGISTERS).expect("registers")
    });
    per_cpu_second("registers scanned", REGISTERS, || assert_eq!(index.scan().expect("a scan"), REGISTERS));
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10).throughput(Throughput::Elements(REGISTERS));
    group.bench_function("scan", |bencher| bencher.iter(|| index.scan().expect("a scan")));
    let mut number = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % REGISTERS;
            index.get(number).expect("a register")
        });
    });
}

criterion_group!(benches, journal, index);
criterion_main!(benches);
