//! `--tls-dir` and `--insecure`: what other members would refuse is refused at the start, by the name of the file.

use std::path::Path;

use anyhow::Result;
use coffer_tests::harness::certificates::Authority;
use coffer_tests::harness::ports::free_port;
use tempfile::TempDir;

use super::{refusal, with_keys};

/// What a server with this TLS folder says. Nothing listens where its etcd is said to be: it must not get that far.
fn server(folder: &Path, tls: &Path) -> String {
    let (s3, admin, node, node_admin) = (free_port(), free_port(), free_port(), free_port());
    let [s3, admin, node, node_admin] = [s3, admin, node, node_admin].map(|port| format!("127.0.0.1:{port}"));
    let endpoint = format!("https://{node}{}/d1", folder.display());
    let tls = tls.display().to_string();
    let arguments = [
        ["server", endpoint.as_str()],
        ["--etcd", "http://127.0.0.1:1"],
        ["--tls-dir", &tls],
        ["--address", &s3],
        ["--console-address", &admin],
        ["--node-admin-address", &node_admin],
    ];
    let log = refusal(folder, arguments.as_flattened(), &with_keys());
    assert!(!folder.join("d1").exists(), "a refused start formats nothing");
    log
}

#[test]
fn certificates_that_others_would_refuse_are_refused_at_the_start() -> Result<()> {
    let folder = TempDir::new()?;
    let (ours, theirs) = (Authority::new()?, Authority::new()?);
    let tls = |name: &str| folder.path().join(name);
    let cases = ["no-ca", "no-key", "empty", "mismatched", "expired", "foreign", "misnamed"];
    for case in cases {
        ours.issue(&tls(case), &["127.0.0.1"])?;
    }
    std::fs::remove_file(tls("no-ca").join("ca.crt"))?;
    std::fs::remove_file(tls("no-key").join("node.key"))?;
    std::fs::write(tls("empty").join("node.crt"), "")?;
    ours.issue(&tls("other"), &["127.0.0.1"])?;
    std::fs::copy(tls("other").join("node.key"), tls("mismatched").join("node.key"))?;
    ours.issue_until(&tls("expired"), &["127.0.0.1"], 2024)?;
    theirs.issue(&tls("other"), &["127.0.0.1"])?;
    std::fs::copy(tls("other").join("ca.crt"), tls("foreign").join("ca.crt"))?;
    ours.issue(&tls("misnamed"), &["node-7.example.com"])?;
    let wanted = [
        ["no-ca/ca.crt", "No such file"],
        ["no-key/node.key", "No such file"],
        ["empty/node.crt", "no certificate"],
        ["mismatched/node.key", "not the key of `node.crt`"],
        ["expired/node.crt", "issue a new one"],
        ["foreign/node.crt", "authority in `ca.crt`"],
        ["misnamed/node.crt", "`127.0.0.1`"],
    ];
    for (case, wanted) in cases.iter().zip(wanted) {
        let log = server(folder.path(), &tls(case));
        for word in wanted {
            assert!(log.contains(word), "{case}: `{word}` is not in: {log}");
        }
    }
    let (s3, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let tls = tls("expired").display().to_string();
    let gateway = ["gateway", "--etcd", "http://127.0.0.1:1", "--tls-dir", &tls, "--address", &s3];
    let gateway = [gateway.as_slice(), &["--console-address", &admin]].concat();
    let log = refusal(folder.path(), &gateway, &with_keys());
    assert!(log.contains("expired/node.crt"), "{log}");
    Ok(())
}

#[test]
fn without_security_a_node_listens_on_loopback_only_and_two_securities_are_refused() -> Result<()> {
    let folder = TempDir::new()?;
    let drive = folder.path().join("d1").display().to_string();
    let (open, local) = (format!("0.0.0.0:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let node = ["storage-node", &drive, "--etcd", "http://127.0.0.1:1", "--node-admin-address", &local];
    let start = |more: &[&str]| refusal(folder.path(), &[node.as_slice(), more].concat(), &[]);
    let log = start(&["--insecure", "--node-address", &open]);
    for word in [open.as_str(), "loopback", "secret", "TLS folder"] {
        assert!(log.contains(word), "`{word}` is not in: {log}");
    }
    let log = start(&["--node-address", &open]);
    assert!(log.contains("COFFER_CLUSTER_SECRET") && log.contains("--tls-dir"), "{log}");
    let log = start(&["--insecure", "--tls-dir", &drive, "--node-address", &open]);
    assert!(log.contains("exclude each other"), "{log}");
    assert!(!Path::new(&drive).exists(), "a refused start formats nothing");
    Ok(())
}
