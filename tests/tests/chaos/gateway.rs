//! F-54, F-57: a gateway is killed in the middle of operations of every kind; the other one goes on with the same keys,
//! and a Complete that is sent again gets the answer of the first.

use anyhow::Result;
use coffer_tests::chaos::verdict::{check_census, check_listings, read_and_judge};

use super::volley::Volley;
use super::{Arena, ONE_AT_A_TIME};

async fn killed_after(points: &[usize]) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    let mut clients = vec![arena.gateways[0].clone()];
    clients.extend(std::iter::repeat_n(arena.gateways[1].clone(), 20));
    for answers in points {
        let volley = Volley::fire(&arena, &format!("after-{answers}"), &clients).await?;
        volley.answered(*answers).await?;
        arena.cluster.gateways[0].process().kill();
        volley.replace_all(&arena, &arena.gateways[1]).await?;
        arena.cluster.gateways[0].restart().await?;
        volley.end().await?;
    }
    println!("{:?}", read_and_judge(&arena.recorder, &arena.gateways).await?);
    check_listings(&arena.recorder, &arena.gateways, "after-").await?;
    println!("census {}", check_census(&arena.cluster).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_leaves_old_or_new_and_locks_nothing_for_long() -> Result<()> {
    killed_after(&[10]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_gateway_killed_at_eight_points_leaves_old_or_new_and_locks_nothing_for_long() -> Result<()> {
    killed_after(&[0, 1, 4, 8, 15, 25, 40, 55]).await
}
