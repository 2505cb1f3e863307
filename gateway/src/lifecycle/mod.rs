//! Objects that expire and uploads that are given up, by the rules of their buckets.
//!
//! Owns: what rules mean ([`rules`], pure), and carrying them out ([`worker`]). Never: knows the documents that rules come
//! in; the edge checks and keeps them.
//!
//! 1. One gateway at a time (a lock at the coordinator, which only saves work) goes over the buckets that have rules.
//! 2. What is due is deleted under the condition that it is still what was listed: a write that comes in between stays.
//! 3. A pass that fails, or whose gateway dies, is made again; nothing is remembered between passes.
//!
//! Consistency: an object is never deleted before it is due by this machine's clock, and it may be served for as long as a
//! pass takes after that. While the coordinator is away nothing expires.

mod rules;
mod worker;

pub(crate) use rules::{DAY_MS, Filter, Rule, Rules, When};
pub(crate) use worker::start;

/// The name of the text that carries the rules in a bucket's record, as [`Rules::encode`] writes it.
pub(crate) const DOCUMENT: &str = "lifecycle-rules";
