//! Two gateways, mixed load, and a random fault every five seconds.

use std::time::{Duration, Instant};

use anyhow::Result;
use coffer_tests::chaos::load::{Load, Plan};
use coffer_tests::chaos::nemesis::Nemesis;
use coffer_tests::chaos::verdict::{check_census, check_listings, check_whole_log, read_and_judge};

use super::{Arena, ONE_AT_A_TIME, seed};

const EVERY: Duration = Duration::from_secs(5);

async fn mixed_load_under_faults(duration: Duration) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (seed, begun) = (seed(), Instant::now());
    let mut arena = Arena::start().await?;
    let clients = arena.impatient(Duration::from_secs(20));
    let plan = Plan { seed, keys: 24, clients: 8, rest: Duration::from_millis(120) };
    let load = Load::start(&arena.recorder, &clients, plan).await?;
    let mut nemesis = Nemesis::new(seed);
    let raged = nemesis.rage(&mut arena.cluster, duration, EVERY).await;
    let acknowledged = load.stop().await?;
    raged?;
    println!("quiet after {:.0?}: {} faults, {acknowledged} keys in the log", begun.elapsed(), nemesis.count);
    check_whole_log(&arena.recorder, &arena.gateways, acknowledged).await?;
    check_listings(&arena.recorder, &arena.gateways, "key/").await?;
    let summary = read_and_judge(&arena.recorder, &arena.gateways).await?;
    let census = check_census(&arena.cluster).await?;
    println!("{summary:?}\ncensus {census}\nafter {:.0?}", begun.elapsed());
    assert!(acknowledged > 0 && summary.operations > 500 && nemesis.count > 0, "hardly anything happened");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_minutes_of_mixed_load_and_faults_leave_linearizable_histories() -> Result<()> {
    mixed_load_under_faults(Duration::from_secs(120)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes COFFER_CHAOS_MINUTES, 30 if not told otherwise"]
#[expect(clippy::disallowed_methods, reason = "a run is configured by its caller's environment")]
async fn half_an_hour_of_mixed_load_and_faults_leaves_linearizable_histories() -> Result<()> {
    let minutes = std::env::var("COFFER_CHAOS_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    mixed_load_under_faults(Duration::from_secs(60 * minutes.unwrap_or(30))).await
}
