use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn shards(count: usize, len: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| (0..len).map(|_| next()).collect()).collect()
}

fn stripe(codec: &Codec, len: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut stripe = shards(codec.k(), len, seed);
    let parity = codec.encode(&stripe).unwrap();
    stripe.extend(parity.into_iter().map(|p| p.to_vec()));
    stripe
}

fn geometries() -> impl Iterator<Item = (u8, u8)> {
    (1..=16_u8).flat_map(|k| (0..=16 - k).map(move |m| (k, m)))
}

/// Loses the shards in `lost` and demands them back, from both engines.
fn check_loss(codecs: &[&Codec], stripe: &[Vec<u8>], lost: u32) {
    for codec in codecs {
        let mut holes: Vec<Option<Bytes>> =
            stripe.iter().enumerate().map(|(i, s)| (lost >> i & 1 == 0).then(|| s.clone().into())).collect();
        codec.reconstruct(&mut holes).unwrap();
        for (i, (shard, original)) in holes.iter().zip(stripe).enumerate() {
            assert_eq!(shard.as_deref(), Some(original.as_slice()), "{codec:?} lost {lost:b} shard {i}");
        }
    }
}

#[test]
fn every_geometry_and_awkward_length_matches_the_reference() {
    let codecs = Codecs::new();
    for (k, m) in geometries() {
        let (codec, reference) = (codecs.get(k, m).unwrap(), Codec::reference(k, m).unwrap());
        for len in [0, 1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 1000, 4097] {
            let data = shards(usize::from(k), len, u64::from(k) << 8 | u64::from(m));
            assert_eq!(codec.encode(&data).unwrap(), reference.encode(&data).unwrap(), "{k}+{m} x {len}");
        }
    }
}

#[test]
fn every_loss_up_to_m_of_a_small_stripe_is_rebuilt() {
    for (k, m) in geometries().filter(|(k, m)| k + m <= 8) {
        let (codec, reference) = (Codec::new(k, m).unwrap(), Codec::reference(k, m).unwrap());
        let stripe = stripe(&codec, 65, 7);
        for lost in (0..1_u32 << (k + m)).filter(|lost| lost.count_ones() <= u32::from(m)) {
            check_loss(&[&codec, &reference], &stripe, lost);
        }
    }
}

#[test]
fn more_than_m_lost_is_an_error_and_changes_nothing() {
    let codec = Codec::new(4, 2).unwrap();
    let mut holes: Vec<Option<Vec<u8>>> = stripe(&codec, 9, 3).into_iter().map(Some).collect();
    for i in [0, 2, 5] {
        holes[i] = None;
    }
    let before = holes.clone();
    assert_eq!(codec.reconstruct(&mut holes), Err(CodecError::TooFewShards { present: 3, needed: 4 }));
    assert_eq!(holes, before);
}

#[test]
fn reads_rebuild_data_only_and_heal_rebuilds_what_it_wants() {
    let codec = Codec::new(5, 3).unwrap();
    let stripe = stripe(&codec, 100, 9);
    let mut holes: Vec<Option<Vec<u8>>> = stripe.iter().cloned().map(Some).collect();
    holes[1] = None;
    holes[6] = None;
    codec.reconstruct_data(&mut holes).unwrap();
    assert_eq!(holes[1].as_ref(), Some(&stripe[1]));
    assert_eq!(holes[6], None);

    let present: Vec<Option<&[u8]>> =
        stripe.iter().enumerate().map(|(i, s)| (![2, 7].contains(&i)).then_some(s.as_slice())).collect();
    assert_eq!(
        codec.rebuild(&present, &[7, 2, 0]).unwrap(),
        [&stripe[7], &stripe[2], &stripe[0]].map(Vec::clone)
    );
}

#[test]
fn wrong_shapes_are_errors() {
    assert_eq!(Codec::new(0, 2).unwrap_err(), CodecError::Geometry { k: 0, m: 2 });
    assert_eq!(Codecs::new().get(9, 8).unwrap_err(), CodecError::Geometry { k: 9, m: 8 });
    let codec = Codec::new(2, 1).unwrap();
    assert_eq!(codec.encode(&[[1, 2]]).unwrap_err(), CodecError::ShardCount { expected: 3, got: 2 });
    let uneven = [vec![1, 2], vec![3]];
    assert_eq!(codec.encode(&uneven).unwrap_err(), CodecError::ShardLength { index: 1, expected: 2, got: 1 });
    let short: [Option<&[u8]>; 3] = [Some(b"ab"), None, Some(b"c")];
    assert_eq!(codec.rebuild(&short, &[1]), Err(CodecError::ShardLength { index: 2, expected: 2, got: 1 }));
    let whole: [Option<&[u8]>; 3] = [Some(b"ab"), Some(b"cd"), None];
    assert_eq!(codec.rebuild(&whole, &[3]), Err(CodecError::ShardCount { expected: 3, got: 4 }));
}

#[test]
fn without_parity_the_data_is_the_stripe() {
    let codec = Codec::new(3, 0).unwrap();
    assert_eq!(codec.encode(&[b"ab", b"cd", b"ef"]).unwrap(), Vec::<BytesMut>::new());
    let mut whole: Vec<Option<Vec<u8>>> = [b"ab", b"cd", b"ef"].map(|s| Some(s.to_vec())).to_vec();
    codec.reconstruct(&mut whole).unwrap();
    whole[0] = None;
    assert_eq!(codec.reconstruct(&mut whole), Err(CodecError::TooFewShards { present: 2, needed: 3 }));
}

/// The code word is part of the disk format: this may never change.
#[test]
fn golden_parity() {
    let data = [*b"coffer--", *b"stores--", *b"objects."];
    let parity = Codec::new(3, 2).unwrap().encode(&data).unwrap();
    assert_eq!(hex::encode(&parity[0]), "7f7963716375732e");
    assert_eq!(hex::encode(&parity[1]), "cb9906cc716ef427");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn random_losses_of_any_geometry_are_rebuilt(
        k in 1..=16_u8, m_seed in any::<u8>(), len in 0..5000_usize, seed in any::<u64>(), order in any::<u64>(),
    ) {
        let m = m_seed % (17 - k);
        let (codec, reference) = (Codec::new(k, m).unwrap(), Codec::reference(k, m).unwrap());
        let stripe = stripe(&codec, len, seed);
        prop_assert_eq!(&stripe, &self::stripe(&reference, len, seed));
        let (mut lost, mut order) = (0_u32, order);
        for _ in 0..m {
            lost |= 1 << (order % u64::from(k + m));
            order /= 11;
        }
        check_loss(&[&codec, &reference], &stripe, lost);
    }
}
