//! Objects that expire and uploads that are given up, by the rules of their buckets.
//!
//! Owns: what rules mean ([`rules`], pure), when passes begin ([`rounds`], pure), which gateway goes over which bucket ([`share`],
//! [`worker`]), which versions of a listing are due ([`walk`], pure), and carrying that out ([`pass`], [`expire`]). Never: knows the
//! documents that rules come in; the edge checks and keeps them.
//!
//! 1. All gateways share the buckets that have rules. Every ten minutes, at midnight UTC among others, each goes over the versions of its own, under a
//!    lock for each at the coordinator, which only saves work; in a bucket that keeps none these are its objects.
//! 2. A current object that is due is deleted as a client would: a delete marker comes on top where versions are kept. A
//!    version that is not current, or a delete marker below which there is nothing, is removed for good.
//! 3. Each delete is made under the condition that the version is still what was listed, current or not as it was then: a
//!    write that comes in between stays, and so does a version that has become current again.
//! 4. A pass that fails, or whose gateway dies, is made again; nothing is remembered between passes.
//!
//! Consistency: nothing is deleted before it is due by this machine's clock. What falls due at midnight UTC, as whole days and dates do, is
//! gone over from then on, and is served until the pass has come to it; a gateway that has died is one of those that share until its
//! session ends, and its buckets go to others with the next round. What object lock protects is left out, and by the object layer's word, not
//! by this one's. A change of the rules is noticed with the next page of a listing. While the coordinator is away nothing expires.

mod expire;
mod pass;
mod rounds;
mod rules;
mod share;
mod walk;
mod worker;

pub(crate) use rules::{DAY_MS, Filter, Noncurrent, Rule, Rules, When};
pub(crate) use worker::start;

/// The name of the text that carries the rules in a bucket's record, as [`Rules::encode`] writes it.
pub(crate) const DOCUMENT: &str = "lifecycle-rules";
