//! F-41 to F-45, F-47: etcd loses a member, its data, its latest revisions, or its history; or it hangs, or asks for a
//! password that nobody has.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coffer_common::linearizability::Return;
use coffer_tests::chaos::verdict::{judge, read_and_judge};
use coffer_tests::harness::etcd::Etcd;
use coffer_tests::harness::{status, wait_for};

use super::volley::Volley;
use super::{Arena, ONE_AT_A_TIME};

const KEYS: usize = 12;

impl Arena {
    /// Plain writes, reads, deletes and listings through both gateways, each acknowledged.
    async fn assert_plain_operations(&self, name: &str) -> Result<()> {
        for (number, gateway) in self.gateways.iter().enumerate() {
            let key = format!("{name}/{number}");
            for size in [400, 300_000] {
                let (put, value) = self.recorder.put(gateway, &key, size).await;
                ensure!(put == Return::Ok, "PUT {key}: {put:?}");
                ensure!(self.recorder.get(gateway, &key).await == Some(value), "GET {key}");
            }
            let listed = self.recorder.list(gateway, &key).await;
            ensure!(listed == Some(vec![key.clone()]), "LIST {key}: {listed:?}");
            ensure!(self.recorder.delete(gateway, &key).await == Return::Ok, "DELETE {key}");
        }
        Ok(())
    }

    /// Creates a fresh key through each gateway, as soon as the lock can be had.
    async fn wait_for_creates(&self, name: &str, limit: Duration) -> Result<()> {
        for (number, gateway) in self.gateways.iter().enumerate() {
            let key = format!("{name}/created-{number}");
            let created = || async { self.recorder.create(gateway, &key, 300).await.0 != Return::Unknown };
            wait_for(&format!("a create of {key}"), limit, created).await?;
        }
        Ok(())
    }

    /// One conditional write of each key through each gateway, whatever comes of it. How many were acknowledged.
    async fn replace_all(&self) -> usize {
        let mut acknowledged = 0;
        for number in 0..KEYS {
            for gateway in &self.gateways {
                let key = format!("key/{number}");
                let returned = match self.recorder.get(gateway, &key).await {
                    Some(0) => self.recorder.create(gateway, &key, 200).await.0,
                    Some(old) => self.recorder.replace(gateway, &key, old, 200).await.0,
                    None => Return::Unknown,
                };
                acknowledged += usize::from(returned == Return::Ok);
            }
        }
        acknowledged
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for elections"]
async fn any_one_of_three_etcd_members_may_be_lost() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start_on(Etcd::start_members(3).await?).await?;
    arena.wait_for_creates("all", Duration::from_secs(60)).await?;
    // One of them is the leader.
    for member in 0..arena.cluster.etcd.size() {
        let name = format!("without-{member}");
        arena.cluster.etcd.kill_member(member);
        arena.assert_plain_operations(&name).await?;
        arena.wait_for_creates(&name, Duration::from_secs(60)).await?;
        arena.cluster.etcd.launch().await?;
        arena.wait_for_creates(&format!("again-{member}"), Duration::from_secs(60)).await?;
    }
    let endpoint = arena.cluster.gateways[0].admin_url("");
    let whole = || async { status(&endpoint).is_ok_and(|(_, code)| code == Some(0)) };
    wait_for("no membership to be lost", Duration::from_secs(60), whole).await?;
    println!("{:?}", read_and_judge(&arena.recorder, &arena.gateways).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for sessions to end"]
async fn an_etcd_that_hangs_past_every_lease_lets_no_conditional_write_be_lost() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let arena = Arena::start().await?;
    for answers in [4, 20, 40] {
        let name = format!("after-{answers}");
        let volley = Volley::fire(&arena, &name, &arena.gateways[..1]).await?;
        volley.answered(answers).await?;
        arena.cluster.etcd.pause();
        arena.assert_plain_operations(&format!("{name}/plain")).await?;
        // Leases of gateways that live are over by then.
        tokio::time::sleep(Duration::from_secs(16)).await;
        arena.cluster.etcd.resume();
        volley.replace_all(&arena, &arena.gateways[1]).await?;
        volley.end().await?;
    }
    println!("{:?}", read_and_judge(&arena.recorder, &arena.gateways).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for sessions to end"]
async fn after_the_total_loss_of_etcd_the_data_path_goes_on_until_it_is_recovered() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    ensure!(arena.replace_all().await == 2 * KEYS);
    arena.cluster.etcd.kill();
    arena.cluster.etcd.wipe()?;
    arena.assert_plain_operations("lost").await?;
    ensure!(arena.replace_all().await == 0, "a lock was held by nobody");
    arena.cluster.etcd.launch().await?;
    // Longer than any retry: whoever would make a new cluster of the empty etcd has done so by then.
    for round in 0..4 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        arena.assert_plain_operations(&format!("empty-{round}")).await?;
        println!("{} conditional writes acknowledged on an empty etcd", arena.replace_all().await);
    }
    println!("{}", arena.cluster.recover()?);
    arena.wait_for_creates("recovered", Duration::from_secs(40)).await?;
    arena.assert_plain_operations("recovered").await?;
    ensure!(arena.replace_all().await == 2 * KEYS, "all locks are to be had again");
    println!("{:?}", read_and_judge(&arena.recorder, &arena.gateways).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcdctl, waits for sessions to end"]
async fn an_etcd_set_back_to_an_old_snapshot_lets_no_conditional_write_be_lost() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    ensure!(arena.replace_all().await == 2 * KEYS);
    let folder = tempfile::tempdir()?;
    let snapshot = folder.path().join("snapshot");
    arena.cluster.etcd.save(&snapshot)?;
    for _ in 0..4 {
        ensure!(arena.replace_all().await == 2 * KEYS);
    }
    arena.cluster.etcd.kill();
    arena.cluster.etcd.restore(&snapshot)?;
    arena.cluster.etcd.launch().await?;
    arena.wait_for_creates("after", Duration::from_secs(60)).await?;
    // Revisions are used a second time, with other owners; the slots must not confuse them.
    for round in 0..8 {
        arena.assert_plain_operations(&format!("restored-{round}")).await?;
        println!("{} of {} conditional writes acknowledged", arena.replace_all().await, 2 * KEYS);
    }
    println!("{:?}", read_and_judge(&arena.recorder, &arena.gateways).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcdctl"]
async fn a_gateway_that_slept_through_a_compaction_catches_up() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    let (awake, asleep) = (arena.gateways[0].clone(), arena.gateways[1].clone());
    awake.create_bucket().bucket("goes").send().await?;
    asleep.put_object().bucket("goes").key("k").send().await?;
    arena.cluster.gateways[1].process().pause();
    awake.delete_object().bucket("goes").key("k").send().await?;
    awake.delete_bucket().bucket("goes").send().await?;
    awake.create_bucket().bucket("comes").send().await?;
    let now: serde_json::Value =
        serde_json::from_str(&arena.cluster.etcd.etcdctl(&["get", "x", "-w", "json"])?)?;
    let revision = now["header"]["revision"].as_i64().context("a revision")?;
    arena.cluster.etcd.etcdctl(&["compact", &revision.to_string()])?;
    arena.cluster.gateways[1].process().resume();
    asleep.put_object().bucket("comes").key("k").send().await.context("a bucket made meanwhile")?;
    let gone = || async {
        let put = asleep.put_object().bucket("goes").key("k").send().await;
        put.err().and_then(|error| error.raw_response().map(|raw| raw.status().as_u16())) == Some(404)
    };
    wait_for("the deleted bucket to be known as such", Duration::from_secs(40), gone).await?;
    arena.wait_for_creates("after", Duration::from_secs(60)).await?;
    println!("{:?}", judge(&arena.recorder)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcdctl"]
async fn an_etcd_that_asks_for_a_password_stops_no_data_path_and_refuses_a_start_clearly() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut arena = Arena::start().await?;
    ensure!(arena.replace_all().await == 2 * KEYS);
    for arguments in
        [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        arena.cluster.etcd.etcdctl(arguments)?;
    }
    arena.assert_plain_operations("locked-out").await?;
    ensure!(arena.replace_all().await == 0, "a lock without a password");
    let gateway = &mut arena.cluster.gateways[1];
    gateway.process().kill();
    gateway.spawn()?;
    let ended = gateway.process().wait(Duration::from_secs(60));
    println!("{}", gateway.process().log_tail());
    ensure!(ended.is_some_and(|status| !status.success()), "it must not start");
    ensure!(gateway.process().log().contains("user name is empty"), "{}", gateway.process().log_tail());
    arena.cluster.etcd.etcdctl(&["--user", "root:secret", "auth", "disable"])?;
    arena.cluster.gateways[1].restart().await?;
    arena.wait_for_creates("again", Duration::from_secs(60)).await?;
    println!("{:?}", read_and_judge(&arena.recorder, &arena.gateways).await?);
    Ok(())
}
