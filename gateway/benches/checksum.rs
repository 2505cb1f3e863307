//! Speed of the checksums: each alone, and MD5 over many uploads at once.

use coffer_gateway::s3::checksum::md5::{Kernel, Md5, update_many};
use coffer_gateway::s3::checksum::{ChecksumAlgorithm, DigestSet};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const PIECE: usize = 64 * 1024;

fn single(criterion: &mut Criterion) {
    let data = vec![7u8; 1024 * 1024];
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for algorithm in ChecksumAlgorithm::ALL {
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| {
                let mut set = DigestSet::new(false, [algorithm]);
                set.update(&data);
                set.finish()
            });
        });
    }
    group.bench_function("MD5", |bencher| {
        bencher.iter(|| {
            let mut set = DigestSet::new(true, []);
            set.update(&data);
            set.finish()
        });
    });
    group.finish();
}

fn together(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("md5_many");
    for kernel in Kernel::available() {
        for streams in [1, 2, 4, 8, 16, 32] {
            let data: Vec<Vec<u8>> = (0..streams).map(|stream| vec![stream as u8; PIECE]).collect();
            group.throughput(Throughput::Bytes((streams * PIECE) as u64));
            let id = BenchmarkId::new(format!("{kernel:?}"), streams);
            group.bench_function(id, |bencher| {
                let mut hashers = vec![Md5::new(); streams];
                bencher.iter(|| {
                    let mut jobs: Vec<_> =
                        hashers.iter_mut().zip(&data).map(|(md5, data)| (md5, data.as_slice())).collect();
                    update_many(kernel, &mut jobs);
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, single, together);
criterion_main!(benches);
