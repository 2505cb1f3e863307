//! MD5 over many streams at once.
//!
//! Owns: an incremental MD5 whose states can advance together, one stream per SIMD lane. MD5 is serial
//! within a stream (0.6 to 0.8 GB/s a core), and S3 wants it for every ETag; sixteen uploads hashed in one
//! pass reach several times that. Never: starts threads (`super::pool` does), or is used for security.
//!
//! Flow of [`update_many`]:
//! 1. Each stream's buffered tail is filled up and compressed alone.
//! 2. While enough streams have whole blocks left, up to [`Kernel::lanes`] of them advance together by the
//!    shortest one's count; finished ones make room for others.
//! 3. What is left runs in the scalar kernel; the last partial blocks are buffered.
//!
//! Source: RFC 1321. Tests compare with the `md-5` crate.

mod lanes;
mod rounds;
mod scalar;

pub use lanes::Kernel;

use lanes::MAX_LANES;

/// One block of MD5, in bytes.
type Block = [u8; 64];

/// An incremental MD5.
#[derive(Clone, Debug)]
pub struct Md5 {
    state: [u32; 4],
    /// Bytes hashed or buffered so far; the last `len % 64` are in `tail`.
    len: u64,
    tail: Block,
}

impl Default for Md5 {
    fn default() -> Self {
        Self::new()
    }
}

impl Md5 {
    /// The hasher of no bytes.
    pub fn new() -> Self {
        Self { state: rounds::INITIAL, len: 0, tail: [0; 64] }
    }

    /// Adds bytes to this stream alone.
    pub fn update(&mut self, data: &[u8]) {
        let data = self.fill_tail(data);
        let (blocks, rest) = data.as_chunks::<64>();
        scalar::compress(&mut self.state, blocks);
        self.keep(blocks, rest);
    }

    /// The digest.
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.len.wrapping_mul(8);
        let used = self.tail_len();
        // 0x80, zeros up to 56 modulo 64, and the length in bits.
        let zeros = if used < 56 { 55 - used } else { 119 - used };
        let mut padding = [0; 72];
        padding[0] = 0x80;
        padding[zeros + 1..zeros + 9].copy_from_slice(&bits.to_le_bytes());
        self.update(&padding[..zeros + 9]);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }

    fn tail_len(&self) -> usize {
        (self.len % 64) as usize
    }

    /// Completes the buffered block from the front of `data`, and returns the rest; all of `data` is
    /// buffered if it does not suffice.
    fn fill_tail<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let used = self.tail_len();
        if used == 0 {
            return data;
        }
        let (head, rest) = data.split_at(data.len().min(64 - used));
        self.tail[used..used + head.len()].copy_from_slice(head);
        self.len += head.len() as u64;
        if self.tail_len() == 0 {
            scalar::compress(&mut self.state, &[self.tail]);
        }
        rest
    }

    /// Records `blocks` as compressed and buffers `rest`.
    fn keep(&mut self, blocks: &[Block], rest: &[u8]) {
        self.len += (blocks.len() * 64 + rest.len()) as u64;
        if !rest.is_empty() {
            self.tail[..rest.len()].copy_from_slice(rest);
        }
    }
}

/// A stream's state, and its whole blocks that are still to be compressed.
struct Pending<'j, 'd> {
    state: &'j mut [u32; 4],
    blocks: &'d [Block],
}

/// Adds to each stream its bytes, in SIMD lanes where enough streams have some.
pub fn update_many(kernel: Kernel, jobs: &mut [(&mut Md5, &[u8])]) {
    let mut pending = Vec::with_capacity(jobs.len());
    for (md5, data) in jobs.iter_mut() {
        let rest = md5.fill_tail(data);
        // A stream that still buffers a partial block has no bytes left.
        let (blocks, tail) = rest.as_chunks::<64>();
        md5.keep(blocks, tail);
        if !blocks.is_empty() {
            pending.push(Pending { state: &mut md5.state, blocks });
        }
    }
    // Longest last: the lanes of one pass then have similar lengths, and popping is cheap.
    pending.sort_unstable_by_key(|stream| stream.blocks.len());
    while pending.len() >= kernel.worthwhile() {
        let from = pending.len() - pending.len().min(kernel.lanes());
        advance(kernel, &mut pending[from..]);
        pending.retain(|stream| !stream.blocks.is_empty());
    }
    for stream in pending {
        scalar::compress(stream.state, stream.blocks);
    }
}

/// Advances up to `kernel.lanes()` streams by the shortest one's count of blocks.
fn advance(kernel: Kernel, streams: &mut [Pending<'_, '_>]) {
    let Some(count) = streams.iter().map(|stream| stream.blocks.len()).min() else {
        return;
    };
    // Lanes without a stream repeat the first one into a state that nobody reads.
    let first = &streams[0].blocks[..count];
    let mut states = [rounds::INITIAL; MAX_LANES];
    let mut blocks = [first; MAX_LANES];
    for (lane, stream) in streams.iter().enumerate() {
        states[lane] = *stream.state;
        blocks[lane] = &stream.blocks[..count];
    }
    kernel.compress(streams.len(), &mut states, &blocks);
    for (lane, stream) in streams.iter_mut().enumerate() {
        *stream.state = states[lane];
        stream.blocks = &stream.blocks[count..];
    }
}

#[cfg(test)]
mod tests;
