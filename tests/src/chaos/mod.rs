//! Consistency under faults, on real processes: what S3 clients see of a key must be what they would see of one
//! register, whatever happens to nodes, gateways and etcd.
//!
//! 1. [`body`]: every value written is unique, and its body tells it; a torn or foreign body is recognised.
//! 2. [`recorder::Recorder`] sends requests and writes down what came of them, key by key.
//! 3. [`load`] mixes operations of many clients through all gateways.
//! 4. [`nemesis::Nemesis`] kills and pauses, one of a kind at a time, and heals.
//! 5. [`verdict`]: after quiet, histories are linearizable, listings complete, acknowledged bytes there.
//!
//! It never looks into a process or a drive, except by the census.

pub mod body;
pub mod load;
pub mod nemesis;
pub mod recorder;
pub mod verdict;

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::StalledStreamProtectionConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;

/// The same client, giving a request up after this long: its outcome is then unknown.
pub fn impatient(client: &Client, patience: Duration) -> Client {
    let timeouts = TimeoutConfig::builder().operation_timeout(patience).build();
    let stalled = StalledStreamProtectionConfig::disabled();
    let config = client.config().to_builder().timeout_config(timeouts).stalled_stream_protection(stalled);
    Client::from_conf(config.build())
}
