//! What was deleted while a node was away never comes back when it returns, whatever heals at the same time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::{census, wait_for};
use coffer_tests::proxy::Link;

use super::{ONE_AT_A_TIME, PATIENCE};

const BUCKET: &str = "returns";
const ROUNDS: usize = 1000;
/// Objects of a round: some lie in the journals, some are files.
const SIZES: [usize; 5] = [0, 900, 4000, 150_000, 600_000];
/// The objects of a round that stay.
const KEPT: usize = 1;
/// In one of so many rounds the node is killed and started again instead of being cut off.
const KILL_EVERY: usize = 50;
/// Rounds that are looked at again after each round.
const LOOK_BACK: usize = 3;

/// When a round's objects are deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The node was there when they were written, and away when they were deleted.
    Away,
    /// It missed that they were written, and is catching up on that when they are deleted.
    Healing,
    /// It missed that they were written; another one misses that they are deleted.
    AnotherAway,
}

struct Returns {
    cluster: Daemons,
    client: Client,
    kept: BTreeSet<String>,
}

fn key(round: usize, number: usize) -> String {
    format!("round-{round:04}/{number}")
}

impl Returns {
    async fn write(&mut self, round: usize) -> Result<()> {
        for (number, size) in SIZES.into_iter().enumerate() {
            let (key, body) = (key(round, number), vec![round as u8; size]);
            let put =
                || self.client.put_object().bucket(BUCKET).key(&key).body(ByteStream::from(body.clone()));
            wait_for("a write", PATIENCE, || async { put().send().await.is_ok() }).await?;
            if number < KEPT {
                self.kept.insert(key);
            }
        }
        Ok(())
    }

    async fn delete(&self, round: usize) -> Result<()> {
        for number in KEPT..SIZES.len() {
            let delete = || self.client.delete_object().bucket(BUCKET).key(key(round, number));
            wait_for("a delete", PATIENCE, || async { delete().send().await.is_ok() }).await?;
        }
        Ok(())
    }

    async fn leave(&mut self, node: usize, round: usize) {
        match round % KILL_EVERY {
            0 => self.cluster.nodes[node].process().kill(),
            _ => self.cluster.proxies[node].set(Link::RESET),
        }
    }

    async fn come_back(&mut self, node: usize, round: usize) -> Result<()> {
        match round % KILL_EVERY {
            0 => self.cluster.nodes[node].restart().await,
            _ => {
                self.cluster.proxies[node].set(Link::OPEN);
                Ok(())
            }
        }
    }

    async fn round(&mut self, round: usize) -> Result<()> {
        let (node, other) = (round % 4, (round + 1) % 4);
        let orders = [Order::Away, Order::Healing, Order::AnotherAway];
        let order = orders[(round / 4) % orders.len()];
        if order == Order::Away {
            self.write(round).await?;
            self.leave(node, round).await;
            self.delete(round).await?;
            return self.come_back(node, round).await;
        }
        self.leave(node, round).await;
        self.write(round).await?;
        self.come_back(node, round).await?;
        if order == Order::AnotherAway {
            self.leave(other, round).await;
        }
        self.delete(round).await?;
        if order == Order::AnotherAway {
            self.come_back(other, round).await?;
        }
        Ok(())
    }

    /// What is listed below a prefix, once enough slots answer.
    async fn listed(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let began = Instant::now();
        let (mut keys, mut after) = (BTreeSet::new(), None);
        loop {
            let list = self.client.list_objects_v2().bucket(BUCKET).prefix(prefix);
            match list.set_continuation_token(after.clone()).send().await {
                Ok(page) => {
                    keys.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
                    after = page.next_continuation_token().map(str::to_owned);
                    if after.is_none() {
                        return Ok(keys);
                    }
                }
                Err(error) => ensure!(began.elapsed() < PATIENCE, "no listing: {error:?}"),
            }
        }
    }

    /// A round's objects are there, or gone, as they must be.
    async fn check(&self, round: usize) -> Result<()> {
        let prefix = format!("round-{round:04}/");
        let expected: BTreeSet<String> =
            self.kept.range(prefix.clone()..).take_while(|key| key.starts_with(&prefix)).cloned().collect();
        let listed = self.listed(&prefix).await?;
        ensure!(listed == expected, "listed are {listed:?} instead of {expected:?}");
        for number in 0..SIZES.len() {
            let key = key(round, number);
            let began = Instant::now();
            loop {
                match self.client.get_object().bucket(BUCKET).key(&key).send().await {
                    Ok(_) if expected.contains(&key) => break,
                    Ok(_) => anyhow::bail!("{key} has come back"),
                    Err(error) => match error.into_service_error() {
                        error if error.is_no_such_key() => {
                            ensure!(!expected.contains(&key), "{key} is lost");
                            break;
                        }
                        error => ensure!(began.elapsed() < PATIENCE, "no answer about {key}: {error:?}"),
                    },
                }
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a thousand rounds"]
async fn objects_deleted_while_a_node_was_away_never_come_back_in_a_thousand_rounds() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Daemons::start_behind_proxies(4, 1, 1).await?;
    let client = cluster.gateways[0].client();
    client.create_bucket().bucket(BUCKET).send().await?;
    let mut returns = Returns { cluster, client, kept: BTreeSet::new() };
    let began = Instant::now();
    for round in 0..ROUNDS {
        returns.round(round).await?;
        for back in 0..LOOK_BACK.min(round + 1) {
            returns.check(round - back).await?;
        }
        if round % 100 == 99 {
            println!("{} rounds in {:?}", round + 1, began.elapsed());
        }
    }
    let etcd = ["--etcd".to_owned(), returns.cluster.etcd.url()];
    let whole = || async { census(&etcd).is_ok_and(|census| census.exit_code == Some(0)) };
    wait_for("every shard to be there", Duration::from_secs(300), whole).await?;
    ensure!(returns.listed("").await? == returns.kept, "not exactly what was kept is listed");
    for round in 0..ROUNDS {
        returns.check(round).await?;
    }
    println!(
        "{ROUNDS} rounds, {} objects deleted, {} kept",
        ROUNDS * (SIZES.len() - KEPT),
        returns.kept.len()
    );
    Ok(())
}
