//! One stream at a time: the fallback, and what runs when too few streams are there.

use super::Block;
use super::rounds::{SINES, rounds};

/// Adds whole blocks to a state.
pub(super) fn compress(state: &mut [u32; 4], blocks: &[Block]) {
    for block in blocks {
        compress_one(state, block);
    }
}

fn compress_one(state: &mut [u32; 4], block: &Block) {
    let mut words = [0u32; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let [mut a, mut b, mut c, mut d] = *state;
    macro_rules! step {
        ($function:ident, $a:ident, $b:ident, $c:ident, $d:ident, $word:literal, $step:literal, $by:literal) => {
            $a = $a.wrapping_add(words[$word]).wrapping_add(SINES[$step]);
            $a = $function($a, $b, $c, $d).rotate_left($by).wrapping_add($b);
        };
    }
    rounds!(step, a, b, c, d);
    for (word, added) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(added);
    }
}

// Each adds its round function to the sum. `g` adds its two halves apart, since they share no bits: the half
// without `b`, the latest value, is then off the critical path.

#[inline(always)]
fn f(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    sum.wrapping_add(d ^ (b & (c ^ d)))
}

#[inline(always)]
fn g(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    sum.wrapping_add(!d & c).wrapping_add(d & b)
}

#[inline(always)]
fn h(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    sum.wrapping_add(b ^ (c ^ d))
}

#[inline(always)]
fn i(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    sum.wrapping_add(c ^ (b | !d))
}
