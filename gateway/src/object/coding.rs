//! How many data and parity shards a new version gets, and its block length. Fixed before the first byte.

use coffer_common::erasure::CODEC_REED_SOLOMON;
use coffer_common::layout::{self, ParitySettings, Split};
use coffer_common::limits::INLINE_SHARD_BYTES;
use coffer_common::meta::{Coding, StorageClass};
use coffer_common::protocol::quorum::Geometry;
use coffer_common::shard::{InvalidGeometry, StripeGeometry, default_block_len_bytes};

/// Blocks are not made shorter than this for want of memory: smaller messages cost more than they save.
const LEAST_BLOCK_LEN_BYTES: u32 = 64 * 1024;
/// Of the memory that is left, one upload's buffers take at most this part, so that the first ones leave room for others.
const UPLOADS_LEFT: u64 = 28;

/// Bytes that one streamed body holds at most: a stripe's data being filled, and whole stripes being coded, waiting in the
/// slots' channels and in their messages, and two in the transport's send buffers.
pub(super) fn buffers_bytes(k: u8, m: u8, block_len_bytes: u32) -> u64 {
    let (k, n) = (u64::from(k), u64::from(k) + u64::from(m));
    (k + 5 * n) * u64::from(block_len_bytes)
}

/// How a body of `size` bytes is coded while `alive` of the slots are: parity rises when slots are away, so that a write
/// never needs more than n/2 + 1 of them. Blocks are long while there is `room` (bytes left for stripe buffers).
pub(super) fn choose(
    settings: &ParitySettings,
    geometry: Geometry,
    class: StorageClass,
    alive: usize,
    size: u64,
    room: u64,
) -> Coding {
    if size == 0 {
        return Coding::default();
    }
    let n = geometry.n() as u8;
    let class = match class {
        StorageClass::Standard => layout::StorageClass::Standard,
        StorageClass::ReducedRedundancy => layout::StorageClass::ReducedRedundancy,
    };
    // Liveness is a guess: with too few alive the write is tried at the most parity, and its quorum decides.
    let alive = (alive as u8).max(n / 2 + 1).min(n);
    let full = settings.split(class, n);
    let Split { k, m } = full.with_alive(alive).unwrap_or(full);
    let mut block_len_bytes = default_block_len_bytes(size, k, m);
    while block_len_bytes > LEAST_BLOCK_LEN_BYTES
        && buffers_bytes(k, m, block_len_bytes) > room / UPLOADS_LEFT
    {
        block_len_bytes /= 2;
    }
    Coding { codec: u32::from(CODEC_REED_SOLOMON), k, m, block_len_bytes }
}

/// The stripes of bytes coded so.
pub(super) fn stripes(coding: Coding, size: u64) -> Result<StripeGeometry, InvalidGeometry> {
    StripeGeometry::new(size, coding.k, coding.m, coding.block_len_bytes)
}

/// Whether shards of this length travel and live with their metadata. Such a body is coded whole, so it is one stripe: with
/// short blocks, for want of memory, it may be more, and then goes the way of large ones.
pub(super) fn is_inline(stripes: &StripeGeometry) -> bool {
    stripes.stripes() == 1 && stripes.shard_len_bytes() <= u64::from(INLINE_SHARD_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_follows_the_class_and_rises_while_slots_are_away() {
        let k = |n, class, alive| {
            choose(&ParitySettings::default(), Geometry::new(n), class, alive, 1, 1 << 30).k
        };
        let (standard, reduced) = (StorageClass::Standard, StorageClass::ReducedRedundancy);
        assert_eq!((k(1, standard, 1), k(1, reduced, 1)), (1, 1));
        assert_eq!((k(2, standard, 2), k(2, reduced, 2)), (1, 1));
        assert_eq!((k(4, standard, 4), k(4, standard, 3), k(4, reduced, 4)), (2, 2, 3));
        assert_eq!((k(4, reduced, 3), k(4, reduced, 1)), (2, 2));
        assert_eq!((k(8, standard, 8), k(8, standard, 5), k(8, reduced, 8), k(8, reduced, 6)), (4, 4, 6, 5));
        assert_eq!((k(5, standard, 5), k(5, standard, 4), k(5, standard, 3)), (3, 3, 2));
    }

    #[test]
    fn every_choice_is_allowed() {
        for n in 1..=16 {
            for alive in 0..=usize::from(n) {
                for class in [StorageClass::Standard, StorageClass::ReducedRedundancy] {
                    let coding =
                        choose(&ParitySettings::default(), Geometry::new(n), class, alive, 1 << 30, 1 << 30);
                    assert!(Geometry::new(n).allows(coding.k), "n {n} alive {alive} {coding:?}");
                    assert_eq!(coding.k + coding.m, n);
                }
            }
        }
    }

    #[test]
    fn sixty_four_large_bodies_fit_into_the_budget_of_four_slots() {
        let mut room = u64::from(crate::object::core::STRIPE_BUDGET_KIB) * 1024;
        let mut lengths = Vec::new();
        for _ in 0..64 {
            let settings = ParitySettings::default();
            let coding = choose(&settings, Geometry::new(4), StorageClass::Standard, 4, 64 << 20, room);
            let needs = buffers_bytes(coding.k, coding.m, coding.block_len_bytes);
            room = room.checked_sub(needs).expect("room for 64 uploads");
            lengths.push(coding.block_len_bytes);
        }
        assert!(lengths[0] > lengths[63] && lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
    }

    #[test]
    fn a_small_body_that_is_cut_into_stripes_for_want_of_memory_is_not_coded_whole() {
        for (n, size) in [(4, 200_000), (8, 300_000)] {
            let is_coded_whole = |room: u64| {
                let settings = ParitySettings::default();
                let n = Geometry::new(n);
                let coding = choose(&settings, n, StorageClass::Standard, n.n(), size, room);
                let stripes = stripes(coding, size).unwrap();
                (stripes.stripes(), is_inline(&stripes))
            };
            assert_eq!(is_coded_whole(1 << 30), (1, true));
            assert_eq!(is_coded_whole(1 << 20), (2, false));
        }
    }

    #[test]
    fn an_empty_body_has_no_shards() {
        assert_eq!(
            choose(&ParitySettings::default(), Geometry::new(4), StorageClass::Standard, 4, 0, 0),
            Coding::default()
        );
    }
}
