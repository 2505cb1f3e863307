//! F-46: a gateway is paused past three times its lease, in the middle of operations of every kind. What it does when it
//! goes on never wins over what the other gateway did in the meantime.

use anyhow::{Result, ensure};
use coffer_common::linearizability::Return;
use coffer_tests::chaos::body::body;
use coffer_tests::chaos::verdict::read_and_judge;
use tokio::time::Instant;

use super::slow::SlowPut;
use super::volley::Volley;
use super::{Arena, ONE_AT_A_TIME, PAST_THE_LEASE};

/// One pause after so many answers.
async fn paused_after(arena: &mut Arena, answers: usize) -> Result<()> {
    let (recorder, gateways) = (arena.recorder.clone(), arena.gateways.clone());
    let body_key = format!("after-{answers}/body");
    let volley = Volley::fire(arena, &format!("after-{answers}"), &gateways[..1]).await?;
    // No earlier: a body of which nothing comes for a minute is given up.
    let slow = SlowPut::begin(&gateways[0], &body_key, true, body(recorder.fresh(), 600_000)).await?;
    volley.answered(answers).await?;
    arena.cluster.gateways[0].process().pause();
    let paused = Instant::now();
    volley.replace_all(arena, &gateways[1]).await?;
    let (created, value) = recorder.create(&gateways[1], &body_key, 900).await;
    ensure!(created == Return::Ok, "create under the body of another one: {created:?}");
    tokio::time::sleep_until(paused + PAST_THE_LEASE).await;
    arena.cluster.gateways[0].process().resume();
    let late = slow.finish().await?;
    ensure!(late == 412 || late >= 500, "a create that came late got {late}");
    volley.end().await?;
    for gateway in &gateways {
        ensure!(recorder.get(gateway, &body_key).await == Some(value), "the late create has won");
    }
    println!("paused after {answers} answers: {:?}", read_and_judge(&recorder, &gateways).await?);
    Ok(())
}

async fn paused_at(points: &[usize]) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    for point in points {
        paused_after(&mut arena, *point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_paused_past_its_lease_never_wins_when_it_goes_on() -> Result<()> {
    paused_at(&[8]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_gateway_paused_past_its_lease_at_five_points_never_wins_when_it_goes_on() -> Result<()> {
    paused_at(&[0, 3, 15, 30, 50]).await
}
