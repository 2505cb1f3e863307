use proptest::prelude::*;

use super::*;

const CLUSTER: ClusterId = ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
const OP: OpId = OpId { session: 0x1112_1314_1516_1718, counter: 0x191a };

fn header(len_bytes: u64, block_len_bytes: u32) -> ShardHeader {
    ShardHeader { cluster: CLUSTER, op: OP, slot: SlotIndex(2), k: 2, m: 2, block_len_bytes, len_bytes }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn joined(blocks: &[VerifiedBlock]) -> Vec<u8> {
    blocks.iter().flat_map(|block| block.data.to_vec()).collect()
}

fn encoded(len: usize, block: u32) -> (ShardHeader, Bytes) {
    let header = header(len as u64, block);
    (header, header.encode_shard(&data(len)))
}

/// The bytes on disk: this may never change for format version 1.
#[test]
fn golden_bytes() {
    let (header, bytes) = encoded(5, 4);
    assert_eq!(bytes.len() as u64, header.encoded_len_bytes());
    assert_eq!(hex::encode(&bytes), GOLDEN.concat());
}

const GOLDEN: [&str; 6] = [
    "434f46530101020202000000040000000500000000000000",
    "0102030405060708090a0b0c0d0e0f10",
    "1112131415161718000000000000191a",
    "e645e82a28b03908",
    "d23a1d60dc5598077cf079da6569b71600070e15",
    "06e9b2b9fcce8c21a2f664a0196211a71c",
];

#[test]
fn headers_round_trip_and_every_flipped_bit_is_found() {
    let header = header(1 << 40, 128 * 1024);
    let bytes = header.encode();
    assert_eq!(ShardHeader::decode(&bytes), Ok(header));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(ShardHeader::decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn headers_that_cannot_be_true_are_refused() {
    let good = header(10, 4);
    let check = |header: ShardHeader, says: &'static str| {
        assert_eq!(ShardHeader::decode(&header.encode()), Err(ShardError::Header(says)));
    };
    check(ShardHeader { k: 0, ..good }, "k and m are out of range");
    check(ShardHeader { m: 15, ..good }, "k and m are out of range");
    check(ShardHeader { slot: SlotIndex(4), ..good }, "slot index is not below k + m");
    check(ShardHeader { block_len_bytes: 0, ..good }, "block length is out of range");
    check(ShardHeader { block_len_bytes: MAX_BLOCK_LEN_BYTES + 1, ..good }, "block length is out of range");
    check(ShardHeader { len_bytes: u64::MAX, ..good }, "shard length is out of range");
}

#[test]
fn a_later_format_version_is_named_not_called_damaged() {
    let mut bytes = header(10, 4).encode();
    bytes[4] = 2;
    assert_eq!(ShardHeader::decode(&bytes), Err(ShardError::Version(2)));
}

#[test]
fn every_flipped_bit_of_a_shard_is_found() {
    let (header, bytes) = encoded(23, 8);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped.into(), header.id()).is_err(), "bit {bit}");
    }
}

#[test]
fn every_cut_and_every_extension_is_found() {
    let (header, bytes) = encoded(23, 8);
    for len in 0..bytes.len() {
        let missing_bytes = (bytes.len() - len) as u64;
        let expected = match len {
            // Before the header is read, only its own rest is known to be missing.
            0..HEADER_LEN_BYTES => ShardError::Truncated { missing_bytes: (HEADER_LEN_BYTES - len) as u64 },
            _ => ShardError::Truncated { missing_bytes },
        };
        assert_eq!(decode(&bytes.slice(..len), header.id()), Err(expected), "cut at {len}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(decode(&longer.into(), header.id()), Err(ShardError::Trailing));
}

#[test]
fn another_cluster_op_or_slot_is_refused_by_name() {
    let (header, bytes) = encoded(23, 8);
    let id = header.id();
    let check = |other: ShardId, what| {
        assert_eq!(decode(&bytes, other), Err(ShardError::OtherShard(what)));
    };
    check(ShardId { cluster: ClusterId(1), ..id }, "cluster");
    check(ShardId { op: OpId { counter: 9, ..OP }, ..id }, "op");
    check(ShardId { slot: SlotIndex(3), ..id }, "slot");
}

/// Blocks, with their own checksums, moved in from elsewhere: another slot, another op, another place.
#[test]
fn misdirected_stale_and_swapped_blocks_are_found() {
    let (header, bytes) = encoded(24, 8);
    let block = |from: &Bytes, i: usize| from.slice(64 + i * 24..64 + (i + 1) * 24);
    let with = |blocks: [Bytes; 3]| {
        let mut out = bytes[..64].to_vec();
        blocks.iter().for_each(|block| out.extend_from_slice(block));
        decode(&out.into(), header.id()).map(|(_, blocks)| joined(&blocks))
    };
    let own = [block(&bytes, 0), block(&bytes, 1), block(&bytes, 2)];
    assert_eq!(with(own.clone()), Ok(data(24)));
    let [a, b, c] = own;
    assert_eq!(with([b.clone(), a.clone(), c.clone()]), Err(ShardError::BlockChecksum { block: 0 }));
    assert_eq!(with([a.clone(), c, b.clone()]), Err(ShardError::BlockChecksum { block: 1 }));

    let other_slot = ShardHeader { slot: SlotIndex(1), ..header }.encode_shard(&data(24));
    let other_op = ShardHeader { op: OpId { counter: 1, ..OP }, ..header }.encode_shard(&data(24));
    let other_cluster = ShardHeader { cluster: ClusterId(5), ..header }.encode_shard(&data(24));
    for other in [other_slot, other_op, other_cluster] {
        let mixed = [a.clone(), b.clone(), block(&other, 2)];
        assert_eq!(with(mixed), Err(ShardError::BlockChecksum { block: 2 }));
    }
}

#[test]
fn a_block_in_one_piece_is_not_copied() {
    let (header, bytes) = encoded(20, 8);
    let (_, blocks) = decode(&bytes, header.id()).unwrap();
    for (i, block) in blocks.iter().enumerate() {
        assert_eq!(block.data.as_ptr(), bytes[64 + 16 + i * 24..].as_ptr());
    }
    // Also when checksum and data come as pieces of their own, as a gateway sends them.
    let mut decoder = Decoder::new(header.id());
    let mut blocks = Vec::new();
    for range in [0..64, 64..80, 80..88] {
        decoder.push(bytes.slice(range), &mut blocks).unwrap();
    }
    assert_eq!(blocks[0].data.as_ptr(), bytes[80..].as_ptr());
}

#[test]
fn an_error_stays() {
    let (header, bytes) = encoded(8, 8);
    let mut flipped = bytes.to_vec();
    flipped[85] ^= 1;
    let mut verifier = Verifier::new(header.id());
    let error = Err(ShardError::BlockChecksum { block: 0 });
    assert_eq!(verifier.push(flipped.into()), error);
    assert_eq!(verifier.push(bytes), error);
    assert_eq!(verifier.finish().map(|_| ()), error);
}

#[test]
fn an_empty_shard_is_its_header() {
    let (header, bytes) = encoded(0, 8);
    assert_eq!(bytes.len(), HEADER_LEN_BYTES);
    assert_eq!(decode(&bytes, header.id()), Ok((header, Vec::new())));
    assert_eq!(header.verify(0, header.checksum(0, b""), b""), Err(ShardError::BlockChecksum { block: 0 }));
}

#[test]
fn a_block_of_the_wrong_length_does_not_verify() {
    let header = header(20, 8);
    let whole = data(20);
    assert_eq!(header.verify(2, header.checksum(2, &whole[16..]), &whole[16..]), Ok(()));
    let long = &whole[..8];
    assert_eq!(header.verify(2, header.checksum(2, long), long), Err(ShardError::BlockChecksum { block: 2 }));
}

/// The object, block by block, as the drawing in `geometry` says it: built naively.
fn naive_shards(geometry: &StripeGeometry, object: &[u8]) -> Vec<Vec<u8>> {
    let mut shards = vec![Vec::new(); usize::from(geometry.k())];
    for row in object.chunks(geometry.stripe_len_bytes() as usize) {
        let block = row.len().div_ceil(shards.len());
        for (slot, shard) in shards.iter_mut().enumerate() {
            let bytes = (slot * block..(slot + 1) * block).map(|i| row.get(i).copied().unwrap_or(0));
            shard.extend(bytes);
        }
    }
    shards
}

proptest! {
    #[test]
    fn pieces_of_any_size_decode_to_the_data(
        len in 0..3000_usize, block in 1..700_u32, cuts in proptest::collection::vec(1..900_usize, 0..40),
    ) {
        let (header, bytes) = encoded(len, block);
        let mut rest = bytes.clone();
        let (mut decoder, mut verifier, mut blocks) = (Decoder::new(header.id()), Verifier::new(header.id()), Vec::new());
        for cut in cuts.into_iter().chain([bytes.len()]) {
            let piece = rest.split_to(cut.min(rest.len()));
            verifier.push(piece.clone()).unwrap();
            decoder.push(piece, &mut blocks).unwrap();
        }
        prop_assert_eq!(verifier.finish(), Ok(header));
        prop_assert_eq!(decoder.finish(), Ok(header));
        prop_assert_eq!(joined(&blocks), data(len));
        for block in &blocks {
            prop_assert_eq!(header.verify(block.number, block.checksum, &block.data), Ok(()));
        }
    }

    #[test]
    fn any_run_of_blocks_verifies_alone(
        len in 1..3000_usize, block in 1..700_u32, first in 0..20_u64, count in 0..20_u64, split in 0..3000_usize,
    ) {
        let (header, bytes) = encoded(len, block);
        let at = |block_number: u64| block_offset_bytes(block_number, block).min(bytes.len() as u64) as usize;
        let mut run = bytes.slice(at(first)..at(first + count));
        let head = run.split_to(split.min(run.len()));
        let (mut decoder, mut blocks) = (Decoder::blocks(header, first, count), Vec::new());
        decoder.push(head, &mut blocks).unwrap();
        if !run.is_empty() {
            prop_assert_eq!(decoder.finish(), Err(ShardError::Truncated { missing_bytes: run.len() as u64 }));
        }
        decoder.push(run, &mut blocks).unwrap();
        prop_assert_eq!(decoder.finish(), Ok(header));
        let from = (first as usize * block as usize).min(len);
        let to = ((first + count) as usize * block as usize).min(len);
        prop_assert_eq!(joined(&blocks), &data(len)[from..to]);
    }

    #[test]
    fn geometry_agrees_with_the_naive_model(
        size in 0..5000_usize, k in 1..=16_u8, block in 1..300_u32, from in 0..5200_u64, len in 0..5200_u64,
    ) {
        let geometry = StripeGeometry::new(size as u64, k, 16 - k, block).unwrap();
        let object = data(size);
        let shards = naive_shards(&geometry, &object);
        let stripe_len = geometry.stripe_len_bytes() as usize;

        let mut cut = vec![Vec::new(); usize::from(k)];
        for (stripe, row) in object.chunks(stripe_len).enumerate() {
            let blocks = geometry.data_blocks(stripe as u64, &Bytes::copy_from_slice(row));
            for (shard, block) in cut.iter_mut().zip(blocks) {
                prop_assert_eq!(block.len() as u32, geometry.block_len_bytes_at(stripe as u64));
                shard.extend_from_slice(&block);
            }
        }
        prop_assert_eq!(&cut, &shards);
        prop_assert!(shards.iter().all(|shard| shard.len() as u64 == geometry.shard_len_bytes()));
        let header = geometry.header(ShardId { cluster: CLUSTER, op: OP, slot: SlotIndex(0) });
        prop_assert_eq!(header.block_count(), geometry.stripes());

        let range = from..from + len;
        let stripes = geometry.stripes_of(range.clone());
        let mut read = Vec::new();
        for piece in geometry.pieces(range.clone()) {
            prop_assert!((stripes.first..stripes.first + stripes.count).contains(&piece.stripe));
            prop_assert!(piece.end <= header.block_len_bytes_at(piece.stripe));
            let base = piece.stripe as usize * block as usize;
            let shard = &shards[usize::from(piece.slot)];
            read.extend_from_slice(&shard[base + piece.start as usize..base + piece.end as usize]);
        }
        let (from, to) = (size.min(from as usize), size.min(range.end as usize));
        prop_assert_eq!(read, &object[from..to]);
    }
}

#[test]
fn default_blocks_keep_stripes_small_and_objects_in_several_stripes() {
    const KIB: u32 = 1024;
    let check = |size: u64, k, m, expected| assert_eq!(default_block_len_bytes(size, k, m), expected);
    check(0, 2, 2, 128 * KIB);
    check(1 << 20, 2, 2, 128 * KIB);
    check(2 << 20, 2, 2, 256 * KIB);
    check(64 << 20, 2, 2, 512 * KIB);
    check(64 << 20, 4, 4, 512 * KIB);
    check(64 << 20, 8, 8, 256 * KIB);
    check(4 << 20, 8, 8, 128 * KIB);
    check(64 << 20, 1, 0, 512 * KIB);
}
