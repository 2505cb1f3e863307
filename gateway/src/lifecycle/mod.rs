//! Objects that expire and uploads that are given up, by the rules of their buckets.
//!
//! Owns: what rules mean ([`rules`], pure), which versions of a listing are due ([`walk`], pure), and carrying that out
//! ([`worker`], [`expire`]). Never: knows the documents that rules come in; the edge checks and keeps them.
//!
//! 1. One gateway at a time (a lock at the coordinator, which only saves work) goes over the versions of the buckets that
//!    have rules; in a bucket that keeps none these are its objects.
//! 2. A current object that is due is deleted as a client would: a delete marker comes on top where versions are kept. A
//!    version that is not current, or a delete marker below which there is nothing, is removed for good.
//! 3. Each delete is made under the condition that the version is still what was listed, current or not as it was then: a
//!    write that comes in between stays, and so does a version that has become current again.
//! 4. A pass that fails, or whose gateway dies, is made again; nothing is remembered between passes.
//!
//! Consistency: nothing is deleted before it is due by this machine's clock, and it may be served for as long as a pass
//! takes after that. What object lock protects is left out, and by the object layer's word, not by this one's. A change of
//! the rules is noticed with the next page of a listing. While the coordinator is away nothing expires.

mod expire;
mod rules;
mod walk;
mod worker;

pub(crate) use rules::{DAY_MS, Filter, Noncurrent, Rule, Rules, When};
pub(crate) use worker::start;

/// The name of the text that carries the rules in a bucket's record, as [`Rules::encode`] writes it.
pub(crate) const DOCUMENT: &str = "lifecycle-rules";
