//! Consistency of real gateways, nodes and etcd under faults. What a row of the fault matrix is shown by is in the table
//! of `README.md` beside this file; `tests/chaos` runs what CI does not.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test, all of it")]

mod buckets;
mod create;
mod etcd;
mod gateway;
mod holder;
mod mixed;
mod races;
mod repair;
mod returns;
mod slow;
mod steady;
mod volley;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use aws_sdk_s3::Client;
use coffer_tests::chaos::impatient;
use coffer_tests::chaos::recorder::Recorder;
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::etcd::Etcd;

/// One cluster at a time: many processes share few cores here, and a slot that is too slow is dropped from a write.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A client waits longer than any pause of a gateway.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longer than three times the lease of a gateway's session.
const PAST_THE_LEASE: Duration = Duration::from_secs(31);

/// Four nodes of two drives each, two gateways, and a bucket whose keys are recorded.
struct Arena {
    cluster: Daemons,
    gateways: Vec<Client>,
    recorder: Arc<Recorder>,
}

impl Arena {
    async fn start() -> Result<Self> {
        Self::start_on(Etcd::start().await?).await
    }

    async fn start_on(etcd: Etcd) -> Result<Self> {
        let cluster = Daemons::start_on(etcd, 4, 2, 2).await?;
        let gateways: Vec<_> =
            cluster.gateways.iter().map(|gateway| impatient(&gateway.client(), PATIENCE)).collect();
        gateways[0].create_bucket().bucket("chaos").send().await?;
        Ok(Self { cluster, gateways, recorder: Arc::new(Recorder::new("chaos")) })
    }

    /// Clients that give up after this long.
    fn impatient(&self, patience: Duration) -> Vec<Client> {
        self.gateways.iter().map(|gateway| impatient(gateway, patience)).collect()
    }
}

/// The seed of a run: the one asked for, or a new one, which is printed.
#[expect(clippy::disallowed_methods, reason = "a run is configured by its caller's environment")]
fn seed() -> u64 {
    let asked = std::env::var("COFFER_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = asked.unwrap_or_else(|| coffer_common::random::random::<u32>().into());
    println!("COFFER_CHAOS_SEED={seed}");
    seed
}
