//! Mutual TLS between nodes. The S3 port speaks plain HTTP; TLS towards clients is the load balancer's.

use std::time::Duration;

use anyhow::Result;
use coffer_tests::harness::certificates::Authority;
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::{http_status, status, wait_for};

use super::{bytes, get, put};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_speak_mutual_tls_and_one_of_another_authority_is_left_alone() -> Result<()> {
    let (ours, theirs) = (Authority::new()?, Authority::new()?);
    let mut cluster = Distributed::prepare(4, 1).await?;
    let folders: Vec<_> = (0..4).map(|node| cluster.folder().join(format!("tls{node}"))).collect();
    for folder in &folders {
        ours.issue(folder, &["127.0.0.1"])?;
    }
    cluster.use_tls(folders.clone());
    for node in 0..4 {
        cluster.spawn(node)?;
    }
    for node in 0..4 {
        cluster.wait_ready(node).await?;
    }
    let (first, last) = (cluster.client(0), cluster.client(3));
    first.create_bucket().bucket("cluster").send().await?;
    for (key, size) in [("small", 700), ("large", 3_000_000)] {
        assert_eq!(put(&first, key, bytes(size, 1)).await, Ok(()));
        assert!(get(&last, key).await == Ok(bytes(size, 1)), "{key} through another node");
    }

    cluster.kill(3);
    theirs.issue(&folders[3], &["127.0.0.1"])?;
    cluster.spawn(3)?;
    let port = cluster.nodes()[3].admin_url("/health/live");
    let up = || async { http_status(&port).await == Some(200) };
    wait_for("the stranger's gateway", Duration::from_secs(60), up).await?;
    // It sees its own drive only: no quorum, and no word about what is there.
    assert_eq!(get(&last, "small").await, Err(503));
    let ready = http_status(&cluster.nodes()[3].admin_url("/health/ready")).await;
    assert_eq!(ready, Some(503), "{}", cluster.process(3).log_tail());
    let says = || async { cluster.process(3).log().contains("certificate") };
    wait_for("it to say why nobody talks to it", Duration::from_secs(30), says).await?;
    // The others go on without it.
    assert_eq!(put(&first, "small", bytes(900, 2)).await, Ok(()));
    assert!(get(&cluster.client(1), "small").await == Ok(bytes(900, 2)));
    let endpoint = cluster.nodes()[0].admin_url("");
    let away = || async {
        status(&endpoint).is_ok_and(|(screen, code)| code == Some(4) && screen.contains("does not answer"))
    };
    wait_for("the first node to miss the fourth", Duration::from_secs(60), away).await?;

    // With a certificate of the cluster it is taken back.
    cluster.kill(3);
    ours.issue(&folders[3], &["127.0.0.1"])?;
    cluster.spawn(3)?;
    cluster.wait_ready(3).await?;
    assert!(get(&last, "small").await == Ok(bytes(900, 2)));
    Ok(())
}
