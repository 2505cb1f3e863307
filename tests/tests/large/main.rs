//! Large buckets, large keys, many buckets: what a page and a request cost there, and how much memory the server takes.
//!
//! Each test fills a standalone server of four drives, checks that what it lists is complete and in order, that the last page
//! is as fast as the first, and prints the figures. They take minutes, so they run on demand:
//!
//! ```sh
//! cargo test --release --workspace --test large -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `COFFER_BIN` names another binary; `COFFER_LARGE_{KEYS,VERSIONS,PARTS,PART_BYTES,BUCKETS}` ask for other amounts, `TMPDIR`
//! tells where the drives are. The client is the one of [`lean`]: one HTTP/1.1 connection, one request at a time.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test, all of it")]

mod buckets;
mod keys;
mod lean;
mod measure;
mod parts;
mod versions;

/// One server at a time: each is to have the machine for itself.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// An amount: the one asked for, or the usual one.
#[expect(clippy::disallowed_methods, reason = "a run is configured by its caller's environment")]
fn amount(name: &str, usual: usize) -> usize {
    let asked = std::env::var(format!("COFFER_LARGE_{name}"));
    asked.ok().map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("COFFER_LARGE_{name}={text}")))
}
