//! RFC 1321's test suite, and the `md-5` crate as oracle.

use super::*;
use md5::Digest;
use proptest::prelude::*;

fn oracle(data: &[u8]) -> [u8; 16] {
    md5::Md5::digest(data).into()
}

#[test]
fn rfc_1321_suite() {
    for (text, digest) in [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("a", "0cc175b9c0f1b6a831c399e269772661"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
    ] {
        let mut md5 = Md5::new();
        md5.update(text.as_bytes());
        assert_eq!(hex::encode(md5.finish()), digest);
    }
}

#[test]
fn every_length_around_the_padding_edges() {
    let data: Vec<u8> = (0..300u32).map(|byte| (byte * 7) as u8).collect();
    for len in 0..data.len() {
        let mut md5 = Md5::new();
        md5.update(&data[..len]);
        assert_eq!(md5.finish(), oracle(&data[..len]), "{len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Any number of streams of any lengths, given in any pieces, on every kernel this CPU has.
    #[test]
    fn streams_advance_together_as_alone(
        streams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..900), 1..40),
        piece in 1usize..400,
        skew in any::<bool>(),
    ) {
        for kernel in Kernel::available() {
            let mut hashers: Vec<Md5> = streams.iter().map(|_| Md5::new()).collect();
            let mut rests: Vec<&[u8]> = streams.iter().map(Vec::as_slice).collect();
            while rests.iter().any(|rest| !rest.is_empty()) {
                let mut jobs = Vec::new();
                for (index, (md5, rest)) in hashers.iter_mut().zip(&mut rests).enumerate() {
                    let want = if skew { piece + index * 13 } else { piece };
                    let (now, later) = rest.split_at(rest.len().min(want));
                    *rest = later;
                    jobs.push((md5, now));
                }
                update_many(kernel, &mut jobs);
            }
            for (md5, data) in hashers.into_iter().zip(&streams) {
                prop_assert_eq!(md5.finish(), oracle(data), "{:?}", kernel);
            }
        }
    }
}
