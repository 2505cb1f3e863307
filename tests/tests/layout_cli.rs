//! `coffer layout` and `coffer node` as an operator types them, on real nodes and a real etcd.

use std::time::Duration;

use anyhow::{Context, Result};
use coffer_tests::harness::cli::{coffer, expect, slots_of};
use coffer_tests::harness::daemons::Daemons;
use coffer_tests::harness::wait_for;
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
