//! The S3 load generator behind `coffer-bench`: drives any S3 endpoint and tells how fast it answered.
//!
//! It owns its own small S3 client, because it shares the machine with what it measures: one HTTP/1.1
//! connection a worker, SigV4 with a cached key, bodies that are slices of one buffer. It never retries: an
//! error is counted, and with some of them the run is worth nothing.
//!
//! 1. [`plan`]: what to do, from the command line.
//! 2. prepare: the bucket, and the objects that reads, listings and deletes need.
//! 3. [`run`]: workers loop; what ends between the end of the warm-up and the deadline is counted.
//! 4. clean up, unless told to keep.
//! 5. [`report`]: throughput, operations a second, percentiles, errors, and the CPU time of this process.

pub mod client;
pub mod histogram;
pub mod plan;
pub mod report;
pub mod run;
pub mod sign;

#[cfg(test)]
mod tests;
