//! The erasure codec: systematic Reed-Solomon over GF(2^8), byte-identical to the `reed-solomon-erasure` crate.
//!
//! Owns: parity from data, missing shards from any k present ones, and the choice of the engine. Never: I/O,
//! stripes and their padding (see [`crate::shard`]), checksums. This is the only file that names a
//! Reed-Solomon crate.
//!
//! 1. [`Codecs`] is made once and passed down; it builds the [`Codec`] of a (k, m) at its first use.
//! 2. A codec picks the SIMD engine if the CPU has a path for it *and* a comparison with the reference
//!    agrees, byte for byte, on a small stripe; else the reference itself.
//! 3. Encode writes parity straight into the caller's buffers; rebuild writes only what is wanted.
//!
//! The code word is that of the Vandermonde matrix V(k+m, k) times the inverse of its top square, over
//! the field polynomial 0x11d. That is fixed for [`CODEC_REED_SOLOMON`] for ever: stored shards depend on it.

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use reed_solomon_erasure::galois_8::ReedSolomon;
use rusty_erasure::{Coder, compat};

use crate::limits::MAX_SLOTS;

#[cfg(test)]
mod tests;

/// The codec id in shard headers and object metadata: systematic Vandermonde Reed-Solomon, GF(2^8), 0x11d.
pub const CODEC_REED_SOLOMON: u8 = 1;

/// A longer stripe than one SIMD step of any kernel and an odd tail, for the comparison at start.
const SELF_CHECK_LEN_BYTES: usize = 131;

/// Why shards cannot be coded.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// k is 0 or k + m exceeds 16.
    #[error("no code with `{k}` data and `{m}` parity shards: 1 <= k and k + m <= {MAX_SLOTS}")]
    Geometry {
        /// Data shards.
        k: u8,
        /// Parity shards.
        m: u8,
    },
    /// The number of buffers is not what the code needs.
    #[error("expected `{expected}` shards, got `{got}`")]
    ShardCount {
        /// What the code needs.
        expected: usize,
        /// What was passed.
        got: usize,
    },
    /// Buffers of one stripe differ in length.
    #[error("shard `{index}` has `{got}` bytes, the stripe has `{expected}`")]
    ShardLength {
        /// The shard's place in the stripe.
        index: usize,
        /// Length of the stripe's first shard, in bytes.
        expected: usize,
        /// Length of this one, in bytes.
        got: usize,
    },
    /// Fewer than k shards are present.
    #[error("`{present}` shards are present, `{needed}` are needed")]
    TooFewShards {
        /// Present shards.
        present: usize,
        /// k.
        needed: usize,
    },
    /// The engine refused what passed the checks above: a bug, reported instead of a panic.
    #[error("erasure engine: {0}")]
    Engine(String),
}

#[derive(Debug)]
enum Engine {
    /// m = 0: nothing to compute.
    None,
    Simd(Coder),
    Reference(Box<ReedSolomon>),
}

/// The code of one (k, m). Cheap to share behind a reference; all methods take `&self`.
#[derive(Debug)]
pub struct Codec {
    k: usize,
    m: usize,
    engine: Engine,
}

impl Codec {
    /// The code with k data and m parity shards, on the fastest engine that agrees with the reference.
    /// Costs some tens of microseconds: keep it (see [`Codecs`]).
    ///
    /// # Errors
    /// [`CodecError::Geometry`] unless 1 ≤ k and k + m ≤ 16.
    pub fn new(k: u8, m: u8) -> Result<Self, CodecError> {
        check_geometry(k, m)?;
        let (data, parity) = (usize::from(k), usize::from(m));
        if m == 0 {
            return Ok(Self { k: data, m: parity, engine: Engine::None });
        }
        let reference = reference_codec(k, m)?;
        let engine = match simd_coder(data, parity) {
            Some(coder) if agrees(&coder, &reference, data, parity) => Engine::Simd(coder),
            _ => Engine::Reference(Box::new(reference)),
        };
        Ok(Self { k: data, m: parity, engine })
    }

    /// The code on the reference engine: the oracle of tests and benches.
    ///
    /// # Errors
    /// As [`Codec::new`].
    pub fn reference(k: u8, m: u8) -> Result<Self, CodecError> {
        check_geometry(k, m)?;
        let engine = if m == 0 { Engine::None } else { Engine::Reference(Box::new(reference_codec(k, m)?)) };
        Ok(Self { k: usize::from(k), m: usize::from(m), engine })
    }

    /// Data shards.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Parity shards.
    pub fn m(&self) -> usize {
        self.m
    }

    /// The engine's name, for logs and status: `none`, `reference`, or the SIMD kernels' own.
    pub fn engine(&self) -> &'static str {
        match &self.engine {
            Engine::None => "none",
            Engine::Simd(coder) => coder.kernels().name,
            Engine::Reference(_) => "reference",
        }
    }

    /// Writes the parity of k equally long data blocks into m buffers of the same length; what they held is
    /// overwritten.
    ///
    /// # Errors
    /// [`CodecError::ShardCount`] or [`CodecError::ShardLength`] if the buffers do not fit the code.
    pub fn encode_into<D: AsRef<[u8]>>(
        &self,
        data: &[D],
        parity: &mut [&mut [u8]],
    ) -> Result<(), CodecError> {
        if data.len() != self.k || parity.len() != self.m {
            return Err(CodecError::ShardCount { expected: self.k + self.m, got: data.len() + parity.len() });
        }
        let len = data[0].as_ref().len();
        let lengths = data.iter().map(|d| d.as_ref().len()).chain(parity.iter().map(|p| p.len()));
        for (index, got) in lengths.enumerate() {
            if got != len {
                return Err(CodecError::ShardLength { index, expected: len, got });
            }
        }
        if len == 0 {
            return Ok(());
        }
        let mut refs = [&[][..]; MAX_SLOTS];
        for (slot, block) in refs.iter_mut().zip(data) {
            *slot = block.as_ref();
        }
        match &self.engine {
            Engine::None => Ok(()),
            Engine::Simd(coder) => coder.encode(&refs[..self.k], parity).map_err(engine_error),
            Engine::Reference(codec) => codec.encode_sep(&refs[..self.k], parity).map_err(engine_error),
        }
    }

    /// The parity of k equally long data blocks, in fresh buffers.
    ///
    /// # Errors
    /// As [`Codec::encode_into`].
    pub fn encode<D: AsRef<[u8]>>(&self, data: &[D]) -> Result<Vec<BytesMut>, CodecError> {
        let len = data.first().map_or(0, |block| block.as_ref().len());
        let mut parity: Vec<BytesMut> = (0..self.m).map(|_| BytesMut::zeroed(len)).collect();
        let mut refs: Vec<&mut [u8]> = parity.iter_mut().map(AsMut::as_mut).collect();
        self.encode_into(data, &mut refs)?;
        Ok(parity)
    }

    /// Fills in the missing *data* shards of a stripe (k data, then m parity; `None` is missing) from any k
    /// present ones. Missing parity stays missing.
    ///
    /// # Errors
    /// [`CodecError::TooFewShards`] if fewer than k are present; the shape errors of [`Codec::encode_into`].
    pub fn reconstruct_data<T>(&self, shards: &mut [Option<T>]) -> Result<(), CodecError>
    where
        T: AsRef<[u8]> + From<Vec<u8>>,
    {
        self.reconstruct_first(shards, self.k)
    }

    /// As [`Codec::reconstruct_data`], parity too.
    ///
    /// # Errors
    /// As [`Codec::reconstruct_data`].
    pub fn reconstruct<T>(&self, shards: &mut [Option<T>]) -> Result<(), CodecError>
    where
        T: AsRef<[u8]> + From<Vec<u8>>,
    {
        self.reconstruct_first(shards, self.k + self.m)
    }

    fn reconstruct_first<T>(&self, shards: &mut [Option<T>], count: usize) -> Result<(), CodecError>
    where
        T: AsRef<[u8]> + From<Vec<u8>>,
    {
        let missing = |(index, shard): (usize, &Option<T>)| shard.is_none().then_some(index);
        let wanted: Vec<usize> = shards.iter().enumerate().take(count).filter_map(missing).collect();
        let present: Vec<Option<&[u8]>> = shards.iter().map(|s| s.as_ref().map(AsRef::as_ref)).collect();
        let rebuilt = self.rebuild(&present, &wanted)?;
        for (index, shard) in wanted.into_iter().zip(rebuilt) {
            shards[index] = Some(T::from(shard));
        }
        Ok(())
    }

    /// Computes the shards `wanted` (data or parity, by place in the stripe, in that order) from any k of the
    /// present ones. Heal and degraded reads of one shard pay only for that shard.
    ///
    /// # Errors
    /// [`CodecError::TooFewShards`] if fewer than k are present; [`CodecError::ShardCount`] if `shards` is not
    /// k + m long or `wanted` names none of them; [`CodecError::ShardLength`] if lengths differ.
    pub fn rebuild(&self, shards: &[Option<&[u8]>], wanted: &[usize]) -> Result<Vec<Vec<u8>>, CodecError> {
        let len = self.check_stripe(shards, wanted)?;
        if wanted.is_empty() || len == 0 {
            return Ok(vec![Vec::new(); wanted.len()]);
        }
        match &self.engine {
            // Without parity all k shards are present, or the check above had failed.
            Engine::None => Ok(wanted.iter().filter_map(|&i| shards[i]).map(<[u8]>::to_vec).collect()),
            Engine::Simd(coder) => {
                let mut out = vec![vec![0; len]; wanted.len()];
                let mut refs: Vec<&mut [u8]> = out.iter_mut().map(Vec::as_mut_slice).collect();
                coder.recover(shards, wanted, &mut refs).map_err(engine_error)?;
                Ok(out)
            }
            Engine::Reference(codec) => {
                let mut all: Vec<Option<Vec<u8>>> = shards.iter().map(|s| s.map(<[u8]>::to_vec)).collect();
                codec.reconstruct(&mut all).map_err(engine_error)?;
                Ok(wanted.iter().map(|&i| all[i].clone().unwrap_or_default()).collect())
            }
        }
    }

    /// Checks the shape of a stripe; returns the shards' length in bytes.
    fn check_stripe(&self, shards: &[Option<&[u8]>], wanted: &[usize]) -> Result<usize, CodecError> {
        let n = self.k + self.m;
        let highest = wanted.iter().map(|i| i + 1).max().unwrap_or(0);
        if shards.len() != n || highest > n {
            return Err(CodecError::ShardCount { expected: n, got: shards.len().max(highest) });
        }
        let present = shards.iter().flatten().count();
        if present < self.k {
            return Err(CodecError::TooFewShards { present, needed: self.k });
        }
        let len = shards.iter().flatten().next().map_or(0, |shard| shard.len());
        for (index, shard) in shards.iter().enumerate() {
            let got = shard.map_or(len, <[u8]>::len);
            if got != len {
                return Err(CodecError::ShardLength { index, expected: len, got });
            }
        }
        Ok(len)
    }
}

/// All codecs of a process, each built at its first use. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Codecs {
    table: Arc<[[OnceLock<Codec>; MAX_SLOTS]; MAX_SLOTS]>,
}

impl Codecs {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The code with k data and m parity shards.
    ///
    /// # Errors
    /// [`CodecError::Geometry`] unless 1 ≤ k and k + m ≤ 16.
    pub fn get(&self, k: u8, m: u8) -> Result<&Codec, CodecError> {
        check_geometry(k, m)?;
        let cell = &self.table[usize::from(k) - 1][usize::from(m)];
        if let Some(codec) = cell.get() {
            return Ok(codec);
        }
        let codec = Codec::new(k, m)?;
        Ok(cell.get_or_init(|| codec))
    }
}

fn check_geometry(k: u8, m: u8) -> Result<(), CodecError> {
    if k == 0 || usize::from(k) + usize::from(m) > MAX_SLOTS {
        return Err(CodecError::Geometry { k, m });
    }
    Ok(())
}

fn reference_codec(k: u8, m: u8) -> Result<ReedSolomon, CodecError> {
    ReedSolomon::new(usize::from(k), usize::from(m)).map_err(engine_error)
}

/// The coder on this CPU's SIMD kernels; `None` if it has none.
fn simd_coder(k: usize, m: usize) -> Option<Coder> {
    let kernels = rusty_erasure::best_kernels();
    if kernels.name == rusty_erasure::kernel::Kernels::scalar().name {
        return None;
    }
    Coder::with_kernels(compat::reed_solomon_erasure_matrix(k, m).ok()?, kernels).ok()
}

/// Whether both engines make the same parity of a stripe whose bytes differ everywhere.
fn agrees(coder: &Coder, reference: &ReedSolomon, k: usize, m: usize) -> bool {
    let byte = |shard: usize, i: usize| ((shard * 89 + i) * 167 + i * i / 3 + 1) as u8;
    let data: Vec<Vec<u8>> =
        (0..k).map(|shard| (0..SELF_CHECK_LEN_BYTES).map(|i| byte(shard, i)).collect()).collect();
    let refs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut ours = vec![vec![0_u8; SELF_CHECK_LEN_BYTES]; m];
    let mut theirs = ours.clone();
    let mut outs: Vec<&mut [u8]> = ours.iter_mut().map(Vec::as_mut_slice).collect();
    coder.encode(&refs, &mut outs).is_ok()
        && reference.encode_sep(&refs, &mut theirs).is_ok()
        && ours == theirs
}

fn engine_error(error: impl std::fmt::Debug) -> CodecError {
    CodecError::Engine(format!("{error:?}"))
}
