//! Speed of the parts that have no I/O: codec, shard checksums, layout.

use std::hint::black_box;

use bytes::Bytes;
use coffer_common::erasure::Codec;
use coffer_common::layout::{Layout, LayoutDrive};
use coffer_common::shard::{ShardHeader, Verifier};
use coffer_common::types::{ClusterId, DriveId, NodeId, OpId, SlotIndex};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const KIB: usize = 1024;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 253) as u8).collect()
}

/// Bytes of data a second, one core; the goal is 5 GB/s at 8+4.
fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (k, m, block) in [(2, 2, 512), (4, 4, 256), (8, 4, 128), (8, 8, 256), (14, 2, 128)] {
        let codec = Codec::new(k, m).expect("the geometry is valid");
        let data: Vec<Vec<u8>> = (0..k).map(|_| bytes(block * KIB)).collect();
        let mut parity: Vec<Vec<u8>> = (0..m).map(|_| vec![0; block * KIB]).collect();
        group.throughput(Throughput::Bytes((usize::from(k) * block * KIB) as u64));
        let name = format!("{k}+{m} x {block} KiB, {}", codec.engine());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut refs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
                codec.encode_into(black_box(&data), &mut refs)
            });
        });
    }
    let reference = Codec::reference(8, 4).expect("the geometry is valid");
    let data: Vec<Vec<u8>> = (0..8).map(|_| bytes(128 * KIB)).collect();
    group.throughput(Throughput::Bytes((8 * 128 * KIB) as u64));
    group.bench_function("8+4 x 128 KiB, reference", |bencher| {
        bencher.iter(|| reference.encode(black_box(&data)))
    });
    group.finish();

    let mut group = criterion.benchmark_group("rebuild 8+4 x 128 KiB");
    let codec = Codec::new(8, 4).expect("the geometry is valid");
    let parity = codec.encode(&data).expect("the shapes are right");
    let stripe: Vec<&[u8]> = data.iter().map(Vec::as_slice).chain(parity.iter().map(AsRef::as_ref)).collect();
    for lost in [1, 4] {
        let present: Vec<Option<&[u8]>> =
            stripe.iter().enumerate().map(|(i, shard)| (i >= lost).then_some(*shard)).collect();
        let wanted: Vec<usize> = (0..lost).collect();
        group.throughput(Throughput::Bytes((8 * 128 * KIB) as u64));
        group.bench_function(BenchmarkId::new("lost", lost), |bencher| {
            bencher.iter(|| codec.rebuild(black_box(&present), &wanted));
        });
    }
    group.finish();
}

fn shard(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    for block in [4, 128, 256] {
        let header = ShardHeader {
            cluster: ClusterId(1),
            op: OpId { session: 2, counter: 3 },
            slot: SlotIndex(0),
            k: 2,
            m: 2,
            block_len_bytes: (block * KIB) as u32,
            len_bytes: (8 * block * KIB) as u64,
        };
        let data = bytes(block * KIB);
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function(BenchmarkId::new("checksum, KiB", block), |bencher| {
            bencher.iter(|| header.checksum(black_box(5), black_box(&data)));
        });
        let encoded = header.encode_shard(&bytes(8 * block * KIB));
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_function(BenchmarkId::new("verify in unaligned pieces, KiB", block), |bencher| {
            bencher.iter(|| verify(&header, &encoded, 100_000));
        });
    }
    group.finish();
}

fn verify(header: &ShardHeader, encoded: &Bytes, piece: usize) {
    let mut verifier = Verifier::new(header.id());
    let mut rest = encoded.clone();
    while !rest.is_empty() {
        let piece = rest.split_to(piece.min(rest.len()));
        verifier.push(piece).expect("the shard is whole");
    }
    verifier.finish().expect("the shard is whole");
}

fn drives(nodes: usize) -> Vec<LayoutDrive> {
    (0..nodes * 4)
        .map(|drive| LayoutDrive {
            id: DriveId(drive as u128),
            node: NodeId(format!("node-{}", drive / 4)),
            zone: format!("zone-{}", drive / 4 % 5),
            capacity_bytes: 1 << 40,
        })
        .collect()
}

/// The goal is 10 s for 1,000 drives.
fn layout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layout, n = 16");
    group.sample_size(10);
    group.bench_function("1,000 drives, first", |bencher| {
        bencher.iter(|| Layout::assign(drives(250), 16, None))
    });
    let before = Layout::assign(drives(249), 16, None).expect("there are enough drives");
    group.bench_function("996 drives and one node more", |bencher| {
        bencher.iter(|| Layout::assign(drives(250), 16, Some(&before)));
    });
    let bytes = before.encode();
    group.bench_function("decode", |bencher| bencher.iter(|| Layout::decode(black_box(&bytes))));
    group.finish();
}

criterion_group!(benches, codec, shard, layout);
criterion_main!(benches);
