//! F-52: many clients create the same keys through two gateways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_common::linearizability::{Call, Return};
use coffer_tests::chaos::verdict::read_and_judge;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Arena, ONE_AT_A_TIME, PAST_THE_LEASE};

const CLIENTS: usize = 8;
/// Keys that are raced for at the same time.
const AT_A_TIME: usize = 60;

/// Every key is created by all clients at once; what the cluster suffers meanwhile is the caller's choice.
fn race(arena: &Arena, keys: usize) -> JoinSet<()> {
    let mut races = JoinSet::new();
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    for key in 0..keys {
        let (recorder, gateways) = (arena.recorder.clone(), arena.gateways.clone());
        let turns = turns.clone();
        races.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let key = format!("race/{key:04}");
            let mut clients = JoinSet::new();
            for client in 0..CLIENTS {
                let (recorder, key) = (recorder.clone(), key.clone());
                let gateway = gateways[client % gateways.len()].clone();
                // One in four has shard files of its own.
                let size = if client % 4 == 3 { 200_000 } else { 300 };
                clients.spawn(async move { recorder.create(&gateway, &key, size).await });
            }
            clients.join_all().await;
        });
    }
    races
}

/// How often creates ended like this, by key: exactly one has won, once what is unknown is resolved by reading.
async fn check_winners(arena: &Arena, keys: usize) -> Result<()> {
    let (gateways, recorder) = (&arena.gateways, &arena.recorder);
    for key in 0..keys {
        // Where nobody has won, this one does; it is refused everywhere else.
        recorder.create(&gateways[key % 2], &format!("race/{key:04}"), 300).await;
    }
    let summary = read_and_judge(recorder, gateways).await?;
    ensure!(summary.keys == keys, "{summary:?}");
    let mut winners = BTreeMap::new();
    for (key, history) in recorder.histories() {
        let ok = history
            .iter()
            .filter(|o| matches!(o.call, Call::Replace(..)) && o.returned == Return::Ok)
            .count();
        let values: Vec<_> = history
            .iter()
            .filter_map(|o| match (o.call, o.returned) {
                (Call::Read, Return::Value(value)) => Some(value),
                _ => None,
            })
            .collect();
        ensure!(
            ok <= 1 && values[0] > 0 && values.iter().all(|value| *value == values[0]),
            "{key}: {history:?}"
        );
        *winners.entry(if ok == 1 { "acknowledged" } else { "unknown, found by reading" }).or_insert(0) += 1;
    }
    println!("{summary:?}, winners {winners:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creates_of_a_key_one_wins_while_a_node_is_killed() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    let races = race(&arena, 60);
    arena.cluster.nodes[1].process().kill();
    races.join_all().await;
    arena.cluster.nodes[1].restart().await?;
    check_winners(&arena, 60).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn of_many_creates_of_1000_keys_one_each_wins_while_nodes_die_and_a_gateway_is_paused() -> Result<()> {
    const KEYS: usize = 1_000;
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    let mut races = race(&arena, KEYS);
    let (mut done, mut faults) = (0, 0);
    while races.join_next().await.is_some() {
        done += 1;
        if done % 100 != 50 {
            continue;
        }
        let node = faults % arena.cluster.nodes.len();
        faults += 1;
        arena.cluster.nodes[node].process().kill();
        if faults % 3 == 1 {
            let gateway = faults % 2;
            arena.cluster.gateways[gateway].process().pause();
            tokio::time::sleep(PAST_THE_LEASE).await;
            arena.cluster.gateways[gateway].process().resume();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        arena.cluster.nodes[node].restart().await?;
    }
    println!("{faults} node kills");
    check_winners(&arena, KEYS).await
}
