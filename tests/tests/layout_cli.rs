//! `coffer layout` and `coffer node` as an operator types them, on real nodes and a real etcd.

use std::time::Duration;

use anyhow::{Context, Result};
use coffer_common::cluster::node_key;
use coffer_common::coordination::{Coordinator, EtcdCoordinator, EtcdOptions, Expected};
use coffer_common::types::NodeId;
use coffer_tests::harness::cli::{coffer, expect, slots_of};
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::ports::free_port;
use coffer_tests::harness::{http_get, wait_for};
use serde_json::Value;

/// However slow the machine is, nodes and gateways know of each other by then.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_staged_planned_and_applied_as_it_was_planned() -> Result<()> {
    let mut cluster = Daemons::start(4, 1, 1).await?;
    let etcd = cluster.etcd.url();
    let etcd = etcd.as_str();
    let shown = expect(etcd, "layout show --json", 0)?.json()?;
    assert_eq!((&shown["version"], &shown["n"], &shown["slots"]), (&1.into(), &4.into(), &16_384.into()));
    assert!(shown["drives"].as_array().context("drives")?.iter().all(|drive| drive["slots"] == 4096));
    assert_eq!((&shown["staged"], &shown["moves"]), (&Value::Null, &Value::Null));

    // What cannot be is refused, and says what can.
    let refused = expect(etcd, "layout remove node-3", 1)?;
    assert!(refused.err.contains("and 3 with a capacity would be left"), "{refused:?}");
    assert_eq!(expect(etcd, "layout add node-9", 3)?.out, "");
    assert!(expect(etcd, "layout plan", 1)?.err.contains("nothing is staged"));
    assert!(expect(etcd, "layout revert --yes", 1)?.err.contains("nothing to take back"));
    assert!(expect(etcd, "layout add", 1)?.err.contains("changes nothing"));
    expect(etcd, "layout apply --version 2 --yes", 1)?;
    assert!(expect("", "layout show", 1)?.err.contains("standalone"));

    // A node that comes later holds nothing until it is taken in.
    cluster.add_node(1).await?;
    let registered = || async { slots_of(etcd, "node-4").is_ok_and(|slots| slots == Some(0)) };
    wait_for("the fifth node to register", PATIENCE, registered).await?;
    assert!(expect(etcd, "layout show", 0)?.out.contains("1 registered drives hold no slots"));
    let staged = expect(etcd, "layout add --json", 0)?.json()?;
    let moving = staged["moving"].as_u64().context("moving")?;
    assert_eq!(staged["staged"]["version"], 2);
    assert!(moving as f64 <= 1.1 * 16_384.0 / 5.0, "{moving} slots move");
    let zoned = expect(etcd, "layout set node-0 --zone rack-1", 0)?;
    assert!(zoned.out.contains("staged as version 3") && zoned.out.contains("`rack-1`"), "{zoned:?}");
    let stale = expect(etcd, "layout apply --version 2 --yes", 1)?;
    assert!(stale.err.contains("that is version 3"), "{stale:?}");
    assert!(expect(etcd, "layout revert", 0)?.out.contains("dropped version 3"));
    assert_eq!(expect(etcd, "layout show --json", 0)?.json()?["staged"], Value::Null);

    let staged = expect(etcd, "layout add node-4", 0)?;
    assert!(staged.out.contains("staged as version 5"), "dropping spends a version too: {staged:?}");
    let plan = expect(etcd, "layout plan --json", 0)?.json()?;
    assert_eq!((&plan["version"], &plan["moving"]), (&5.into(), &moving.into()));
    assert_eq!(
        (&plan["after"]["nodes_for_writes"], &plan["critical_nodes"]),
        (&1.into(), &Value::Array(vec![]))
    );
    assert_eq!(plan["traffic"]["measured_drives"], 4, "all four nodes told what they hold: {plan}");
    let screen = expect(etcd, "layout plan", 0)?.out;
    for wanted in [format!("{moving} of 16384 slots move"), "coffer layout apply --version 5".to_owned()] {
        assert!(screen.contains(&wanted), "{wanted} is not in\n{screen}");
    }
    let asked = coffer(etcd, "layout apply --version 5", "n\n")?;
    assert!(asked.code == Some(1) && asked.err.contains("nothing was changed"), "{asked:?}");
    let applied = coffer(etcd, "layout apply --version 5", "y\n")?;
    assert!(applied.code == Some(0) && applied.out.contains("version 5 is applied"), "{applied:?}");
    let shown = expect(etcd, "layout show --json", 0)?.json()?;
    assert_eq!(shown["moves"]["version"], 5, "{shown}");
    assert_eq!(shown["moves"]["total"], moving, "{shown}");
    let count = |name: &str| shown["moves"][name].as_u64();
    let sum = ["moved", "under_way", "waiting"].iter().filter_map(|name| count(name)).sum::<u64>();
    assert_eq!(sum, moving, "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_stop_only_while_every_partition_can_be_written_without_it() -> Result<()> {
    let mut cluster = Daemons::start(4, 1, 1).await?;
    let endpoint = cluster.gateways[0].admin_url("");
    let drain = |words: &str, code| {
        expect("", &format!("node drain --for-restart --endpoint {endpoint} {words}"), code)
    };
    let goes = |node: &str| {
        let words = format!("node drain --for-restart --endpoint {endpoint} {node}");
        let goes = coffer("", &words, "").is_ok_and(|it| it.code == Some(0) && it.out.starts_with("go"));
        async move { goes }
    };
    wait_for("the gateway to see all nodes", PATIENCE, || goes("node-1")).await?;
    drain("node-9", 3)?;
    let nobody = format!("node drain --for-restart --endpoint http://127.0.0.1:{} node-1", free_port());
    let unknown = expect("", &nobody, 6)?;
    assert!(unknown.err.contains("is not known"), "nobody says that it must not: {unknown:?}");
    cluster.gateways[0].process().kill();
    let words = format!("node drain --for-restart --wait --endpoint {endpoint} node-1");
    let waiting = tokio::spawn(coffer_common::blocking::run(move || expect("", &words, 0)));
    cluster.gateways[0].restart().await?;
    assert!(waiting.await???.out.starts_with("go"), "a gateway that restarts is asked again");
    cluster.nodes[0].process().kill();
    let words = format!("node drain --for-restart --endpoint {endpoint} node-1");
    let refused = || async { coffer("", &words, "").is_ok_and(|printed| printed.code == Some(1)) };
    wait_for("the gateway to miss the first node", PATIENCE, refused).await?;
    let told = drain("node-1", 1)?;
    assert!(told.err.contains("do not stop node node-1 now: 4096 of 4096 partitions"), "{told:?}");
    assert!(told.err.contains("node node-0 drive") && told.err.contains("does not answer"), "{told:?}");
    wait_for("the one that is away already to be no loss", PATIENCE, || goes("node-0")).await?;
    cluster.nodes[0].spawn()?;
    let waited = drain("node-1 --wait", 0)?;
    assert!(waited.out.starts_with("go"), "{waited:?}");
    cluster.nodes[0].wait_ready().await?;

    // For good: its drives are staged to be removed; four slots need four drives.
    let etcd = cluster.etcd.url();
    let refused = expect(&etcd, "node drain node-2", 1)?;
    assert!(refused.err.contains("3 with a capacity would be left"), "{refused:?}");
    cluster.add_node(1).await?;
    let registered = || async { slots_of(&etcd, "node-4").is_ok_and(|slots| slots == Some(0)) };
    wait_for("the fifth node to register", PATIENCE, registered).await?;
    expect(&etcd, "layout add node-4", 0)?;
    let staged = expect(&etcd, "node drain node-2", 0)?;
    assert!(staged.out.contains("remove node-2:") && staged.out.contains("add node-4:"), "{staged:?}");
    let plan = expect(&etcd, "layout plan --json", 0)?.json()?;
    assert_eq!(plan["moving"], 4096, "the new drive takes exactly what the old one held: {plan}");
    Ok(())
}

/// How long slots take to move on a slow machine.
const MOVED: Duration = Duration::from_secs(400);

/// Whether a node is registered and alive; `None` if it is not known.
fn is_alive(etcd: &str, node: &str) -> Result<Option<bool>> {
    let nodes = expect(etcd, "node list --json", 0)?.json()?;
    let row = nodes.as_array().into_iter().flatten().find(|row| row["id"] == node);
    Ok(row.and_then(|row| row["alive"].as_bool()))
}

fn state_of(etcd: &str, path: &str) -> Result<Value> {
    let shown = expect(etcd, "layout show --json", 0)?.json()?;
    let mut drives = shown["drives"].as_array().into_iter().flatten();
    let drive = drives.find(|drive| drive["path"].as_str().is_some_and(|at| at.ends_with(path)));
    Ok(drive.context("the drive")?["state"].clone())
}

/// Stops a node for good.
async fn end(cluster: &mut Daemons, node: usize) -> Result<()> {
    cluster.nodes[node].process().stop(PATIENCE).context("the node to stop")?;
    let (etcd, name) = (cluster.etcd.url(), cluster.nodes[node].name.clone());
    let away = || async { is_alive(&etcd, &name).is_ok_and(|alive| alive == Some(false)) };
    wait_for("the node's lease to end", PATIENCE, away).await
}

async fn is_told_of(cluster: &Daemons, node: &str) -> bool {
    let metrics = http_get(&cluster.gateways[0].admin_url("/metrics")).await.unwrap_or_default().1;
    metrics.contains(&format!("coffer_cluster_node_up{{node=\"{node}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_and_nodes_that_are_gone_are_left_out_and_forgotten() -> Result<()> {
    let mut cluster = Daemons::start(4, 1, 1).await?;
    let etcd = cluster.etcd.url();
    cluster.add_node(2).await?;
    let registered = || async { slots_of(&etcd, "node-4").is_ok_and(|slots| slots == Some(0)) };
    wait_for("the fifth node to register", PATIENCE, registered).await?;
    // One of its two drives breaks: its node runs without it.
    end(&mut cluster, 4).await?;
    std::fs::write(cluster.drive(4, 2).join("coffer.json"), "not any more")?;
    cluster.nodes[4].restart().await?;
    let states =
        || Ok::<_, anyhow::Error>((state_of(&etcd, "node-4/drive1")?, state_of(&etcd, "node-4/drive2")?));
    let gone = || async { states().is_ok_and(|states| states == ("unused".into(), "gone".into())) };
    wait_for("its second drive to be gone", PATIENCE, gone).await?;
    let shown = expect(&etcd, "layout show", 0)?.out;
    assert!(shown.contains("1 registered drives hold no slots"), "{shown}");
    let staged = expect(&etcd, "layout add --json", 0)?.json()?;
    assert_eq!(staged["staged"]["drives"].as_object().map(serde_json::Map::len), Some(1), "{staged}");
    assert_eq!(staged["skipped"][0]["why"], "absent", "{staged}");
    expect(&etcd, "layout revert", 0)?;

    // The node goes: nobody is told to give it slots, and who does is warned.
    assert!(expect(&etcd, "node forget node-4 --yes", 1)?.err.contains("is running"));
    expect(&etcd, "node forget node-9 --yes", 3)?;
    end(&mut cluster, 4).await?;
    assert!(expect(&etcd, "layout add", 1)?.err.contains("drive1 (its node is away)"));
    let shown = expect(&etcd, "layout show", 0)?.out;
    assert!(
        !shown.contains("hold no slots: `coffer layout add`")
            && shown.contains("`coffer node forget node-4`"),
        "{shown}"
    );
    assert!(expect(&etcd, "layout add node-4", 0)?.out.contains("left out: node-4:"));
    let plan = expect(&etcd, "layout plan --json", 0)?.json()?;
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("are to get slots: node-4:") && !warnings.contains("rebuilt"), "{warnings}");
    assert!(expect(&etcd, "node forget node-4 --yes", 1)?.err.contains("is staged to get slots"));
    expect(&etcd, "layout revert", 0)?;

    let told = || is_told_of(&cluster, "node-4");
    wait_for("the gateway to tell of the node", PATIENCE, told).await?;
    assert_eq!(coffer(&etcd, "node forget node-4", "n\n")?.code, Some(1));
    expect(&etcd, "node forget node-4 --yes", 0)?;
    assert_eq!(is_alive(&etcd, "node-4")?, None);
    let untold = || async { !is_told_of(&cluster, "node-4").await };
    wait_for("the gateway not to tell of it any more", PATIENCE, untold).await?;

    // It starts again, as a new one; and what is forgotten while it runs comes back.
    cluster.nodes[4].restart().await?;
    wait_for("the node to register anew", PATIENCE, registered).await?;
    let (endpoints, prefix) = (vec![etcd.clone()], "coffer/default".to_owned());
    let coordinator = EtcdCoordinator::connect(EtcdOptions { endpoints, prefix, user: None, tls: None })?;
    coordinator.ready(PATIENCE).await?;
    coordinator.delete(&node_key(&NodeId("node-4".to_owned())), Expected::Any).await?;
    assert_eq!(is_alive(&etcd, "node-4")?, None);
    wait_for("the node to register again", PATIENCE, registered).await?;
    coordinator.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_that_the_cluster_began_with_is_drained_and_forgotten() -> Result<()> {
    let mut cluster = Daemons::start(4, 1, 1).await?;
    let etcd = cluster.etcd.url();
    cluster.add_node(1).await?;
    let registered = || async { slots_of(&etcd, "node-4").is_ok_and(|slots| slots == Some(0)) };
    wait_for("the fifth node to register", PATIENCE, registered).await?;
    end(&mut cluster, 0).await?;
    assert!(expect(&etcd, "node forget node-0 --yes", 1)?.err.contains("holds slots"));
    expect(&etcd, "layout add node-4", 0)?;
    expect(&etcd, "node drain node-0", 0)?;
    let plan = expect(&etcd, "layout plan --json", 0)?.json()?;
    let version = plan["version"].as_u64().context("version")?;
    expect(&etcd, &format!("layout apply --version {version} --yes"), 0)?;
    let moves = || expect(&etcd, "layout show --json", 0)?.json();
    assert!(expect(&etcd, "node forget node-0 --yes", 1)?.err.contains("drive node-0:"));
    let moving = || async { moves().is_ok_and(|shown| shown["moves"]["moved"].as_u64() > Some(64)) };
    wait_for("some slots to have moved", MOVED, moving).await?;
    let shown = expect(&etcd, "layout show", 0)?.out;
    assert!(
        shown.contains("`coffer layout revert` takes the moves back") && shown.contains("of data wait"),
        "{shown}"
    );

    // Back: what has moved is counted, and what would be refused is not proposed.
    expect(&etcd, "layout revert --yes", 0)?;
    let shown = expect(&etcd, "layout show", 0)?.out;
    assert!(shown.contains("slots are still to move") && !shown.contains("layout revert"), "{shown}");
    assert!(shown.contains("node node-0 is away"), "{shown}");
    expect(&etcd, "layout revert --yes", 1)?;

    // And away for good. The drive is gone from the layout, so that the node may go.
    expect(&etcd, "layout add node-4", 0)?;
    expect(&etcd, "node drain node-0", 0)?;
    let plan = expect(&etcd, "layout plan --json", 0)?.json()?;
    let version = plan["version"].as_u64().context("version")?;
    expect(&etcd, &format!("layout apply --version {version} --yes"), 0)?;
    let done = || async { moves().is_ok_and(|shown| shown["moves"].is_null()) };
    wait_for("all slots to be elsewhere", MOVED, done).await?;
    let shown = expect(&etcd, "layout show", 0)?.out;
    assert!(shown.contains("`coffer node forget node-0`"), "{shown}");
    assert!(expect(&etcd, "layout add", 1)?.err.contains("(it was taken out of the layout"));
    expect(&etcd, "node forget node-0 --yes", 0)?;
    assert_eq!(is_alive(&etcd, "node-0")?, None);

    // It comes back all the same: as a node that holds nothing.
    cluster.nodes[0].restart().await?;
    let registered = || async { slots_of(&etcd, "node-0").is_ok_and(|slots| slots == Some(0)) };
    wait_for("the node to register anew", PATIENCE, registered).await?;
    assert_eq!(state_of(&etcd, "node-0/drive1")?, "unused");
    Ok(())
}
