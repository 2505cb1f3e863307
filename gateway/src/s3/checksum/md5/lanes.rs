//! The SIMD kernels: 8 lanes a vector, one or two vectors side by side, chosen at run time.
//!
//! Every vector holds one state word, or one message word, of eight streams. Blocks (64 bytes of each
//! stream) are transposed into message words with shuffles. MD5 is one long chain of dependent operations:
//! a single vector leaves most of the CPU idle, so above eight streams two vectors advance in turn. That
//! beats one 512-bit vector of 16 lanes nearly twofold (9.2 against 5.0 GB/s, AMD EPYC of 2023, one core);
//! AVX-512's rotation and three-operand logic on 256-bit vectors are worth another third over AVX2.
//!
//! This file holds the only `unsafe` of the gateway, for two reasons: a call of a function compiled for a
//! CPU feature (made only after that feature was detected), and unaligned vector loads and stores (from and
//! to arrays of exactly the vector's size).

#![allow(unsafe_code, reason = "CPU-feature calls and vector loads; see the module's documentation")]

use super::{Block, scalar};

/// Most lanes of a kernel.
pub(super) const MAX_LANES: usize = 16;

/// A way to compress many streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512Vl,
}

impl Kernel {
    /// Every kernel this CPU can run, slowest first.
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "no SIMD kernel here"))]
        let mut kernels = vec![Self(Isa::Scalar)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            kernels.push(Self(Isa::Avx2));
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                kernels.push(Self(Isa::Avx512Vl));
            }
        }
        kernels
    }

    /// The fastest kernel for this CPU.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self(Isa::Scalar))
    }

    /// Streams that advance together.
    pub fn lanes(self) -> usize {
        match self.0 {
            Isa::Scalar => 1,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512Vl => MAX_LANES,
        }
    }

    /// From how many streams on a pass beats the scalar kernel: it takes about as long as one scalar block,
    /// however many lanes are used.
    pub(super) fn worthwhile(self) -> usize {
        match self.0 {
            Isa::Scalar => usize::MAX,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512Vl => 2,
        }
    }

    /// Adds to the first `used` states their blocks, as many in each lane; later states may change too.
    pub(super) fn compress(
        self,
        used: usize,
        states: &mut [[u32; 4]; MAX_LANES],
        blocks: &[&[Block]; MAX_LANES],
    ) {
        let count = blocks[0].len();
        assert!(used <= self.lanes(), "a kernel has so many lanes");
        assert!(blocks.iter().all(|lane| lane.len() == count), "lanes advance by the same count");
        match self.0 {
            Isa::Scalar => scalar::compress(&mut states[0], blocks[0]),
            // SAFETY: `available` makes these values only after it has detected the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if used <= 8 => unsafe { avx2::compress::<1>(states, blocks, count) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::compress::<2>(states, blocks, count) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vl if used <= 8 => unsafe { avx512vl::compress::<1>(states, blocks, count) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vl => unsafe { avx512vl::compress::<2>(states, blocks, count) },
        }
    }
}

/// A kernel on `N` vectors of eight lanes for one set of CPU features; `$rotate` and the four functions say
/// how the features rotate and combine one vector.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($module:ident, $features:literal, $rotate:expr, $f:expr, $g:expr, $h:expr, $i:expr) => {
        mod $module {
            use super::super::rounds::{SINES, rounds};
            use super::{Block, MAX_LANES};
            use std::arch::x86_64::*;

            type Vectors<const N: usize> = [__m256i; N];

            #[target_feature(enable = $features)]
            pub(super) fn compress<const N: usize>(
                states: &mut [[u32; 4]; MAX_LANES],
                blocks: &[&[Block]; MAX_LANES],
                count: usize,
            ) {
                let [mut a, mut b, mut c, mut d] = load_states::<N>(states);
                for at in 0..count {
                    let words = transpose::<N>(blocks, at);
                    let before = [a, b, c, d];
                    macro_rules! step {
                        (
                            $function:ident, $a:ident, $b:ident, $c:ident, $d:ident,
                            $word:literal, $step:literal, $by:literal
                        ) => {
                            let sine = _mm256_set1_epi32(SINES[$step].cast_signed());
                            for n in 0..N {
                                let sum = _mm256_add_epi32($a[n], _mm256_add_epi32(words[$word][n], sine));
                                let sum = _mm256_add_epi32(sum, $function($b[n], $c[n], $d[n]));
                                $a[n] = _mm256_add_epi32(rotate::<$by, { 32 - $by }>(sum), $b[n]);
                            }
                        };
                    }
                    rounds!(step, a, b, c, d);
                    for n in 0..N {
                        a[n] = _mm256_add_epi32(a[n], before[0][n]);
                        b[n] = _mm256_add_epi32(b[n], before[1][n]);
                        c[n] = _mm256_add_epi32(c[n], before[2][n]);
                        d[n] = _mm256_add_epi32(d[n], before[3][n]);
                    }
                }
                store_states(states, &[a, b, c, d]);
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn load_states<const N: usize>(states: &[[u32; 4]; MAX_LANES]) -> [Vectors<N>; 4] {
                let mut vectors = [[_mm256_setzero_si256(); N]; 4];
                for (index, vectors) in vectors.iter_mut().enumerate() {
                    for (vector, states) in vectors.iter_mut().zip(states.as_chunks::<8>().0) {
                        let words = states.map(|state| state[index]);
                        // SAFETY: the array is as long as the vector; the load needs no alignment.
                        *vector = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
                    }
                }
                vectors
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn store_states<const N: usize>(states: &mut [[u32; 4]; MAX_LANES], vectors: &[Vectors<N>; 4]) {
                for (index, vectors) in vectors.iter().enumerate() {
                    for (vector, states) in vectors.iter().zip(states.as_chunks_mut::<8>().0) {
                        let mut words = [0u32; 8];
                        // SAFETY: the array is as long as the vector; the store needs no alignment.
                        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), *vector) };
                        for (state, word) in states.iter_mut().zip(words) {
                            state[index] = word;
                        }
                    }
                }
            }

            /// Message word `w` of the blocks at `at` of all lanes in vectors `w`.
            #[inline]
            #[target_feature(enable = $features)]
            fn transpose<const N: usize>(blocks: &[&[Block]; MAX_LANES], at: usize) -> [Vectors<N>; 16] {
                let mut words = [[_mm256_setzero_si256(); N]; 16];
                for n in 0..N {
                    for half in 0..2 {
                        let mut rows = [_mm256_setzero_si256(); 8];
                        for (lane, row) in rows.iter_mut().enumerate() {
                            let part: &[u8; 32] = &blocks[8 * n + lane][at].as_chunks::<32>().0[half];
                            // SAFETY: half a block is as long as the vector; the load needs no alignment.
                            *row = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
                        }
                        let (first, second) = (quad(&rows, 0), quad(&rows, 4));
                        for i in 0..4 {
                            words[8 * half + i][n] = _mm256_permute2x128_si256::<0x20>(first[i], second[i]);
                            words[8 * half + 4 + i][n] = _mm256_permute2x128_si256::<0x31>(first[i], second[i]);
                        }
                    }
                }
                words
            }

            /// Half `j` of vector `i` holds word `4j + i` of the four rows from `at` on.
            #[inline]
            #[target_feature(enable = $features)]
            fn quad(rows: &[__m256i; 8], at: usize) -> [__m256i; 4] {
                let low = _mm256_unpacklo_epi32(rows[at], rows[at + 1]);
                let high = _mm256_unpackhi_epi32(rows[at], rows[at + 1]);
                let low_next = _mm256_unpacklo_epi32(rows[at + 2], rows[at + 3]);
                let high_next = _mm256_unpackhi_epi32(rows[at + 2], rows[at + 3]);
                [
                    _mm256_unpacklo_epi64(low, low_next),
                    _mm256_unpackhi_epi64(low, low_next),
                    _mm256_unpacklo_epi64(high, high_next),
                    _mm256_unpackhi_epi64(high, high_next),
                ]
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn rotate<const LEFT: i32, const RIGHT: i32>(sum: __m256i) -> __m256i {
                $rotate(sum)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn f(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
                $f(b, c, d)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn g(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
                $g(b, c, d)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn h(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
                $h(b, c, d)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn i(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
                $i(b, c, d)
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(
    avx2,
    "avx2",
    |sum| _mm256_or_si256(_mm256_slli_epi32::<LEFT>(sum), _mm256_srli_epi32::<RIGHT>(sum)),
    |b, c, d| _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d))),
    |b, c, d| _mm256_or_si256(_mm256_and_si256(d, b), _mm256_andnot_si256(d, c)),
    |b, c, d| _mm256_xor_si256(b, _mm256_xor_si256(c, d)),
    |b, c, d| _mm256_xor_si256(c, _mm256_or_si256(b, _mm256_xor_si256(d, _mm256_set1_epi32(-1))))
);

// The constants are the truth tables of the round functions for `b`, `c`, `d`.
#[cfg(target_arch = "x86_64")]
kernel!(
    avx512vl,
    "avx2,avx512f,avx512vl",
    |sum| _mm256_rol_epi32::<LEFT>(sum),
    |b, c, d| _mm256_ternarylogic_epi32::<0xca>(b, c, d),
    |b, c, d| _mm256_ternarylogic_epi32::<0xe4>(b, c, d),
    |b, c, d| _mm256_ternarylogic_epi32::<0x96>(b, c, d),
    |b, c, d| _mm256_ternarylogic_epi32::<0x39>(b, c, d)
);
