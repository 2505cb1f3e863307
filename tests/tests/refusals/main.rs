//! Bad starts of `coffer`: each ends at once with a message that names the thing and the way out.

mod certificates;
mod members;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use coffer_tests::client::{ACCESS_KEY, SECRET_KEY};
use coffer_tests::harness::binary;
use coffer_tests::harness::ports::free_port;
use coffer_tests::harness::process::Process;
use coffer_tests::harness::standalone::Standalone;
use tempfile::TempDir;

/// However slow the machine is, a start that is refused has ended by then.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs `coffer <arguments>` until it ends, and gives what it said.
fn refusal(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("COFFER_ACCESS_KEY").env_remove("COFFER_SECRET_KEY");
    command.env_remove("COFFER_CLUSTER_SECRET");
    command.envs(environment.iter().copied());
    // What an earlier start in the same folder said is not what this one says.
    let _ = std::fs::remove_file(folder.join("refused.log"));
    let mut process = Process::start("refused", folder, &mut command).expect("coffer starts");
    let status = process.wait(PATIENCE);
    let log = process.log();
    assert!(
        status.is_some_and(|status| !status.success()),
        "it must refuse {arguments:?}: {status:?}\n{log}"
    );
    assert!(!log.contains("panicked"), "{log}");
    log
}

fn with_keys() -> [(&'static str, &'static str); 2] {
    [("COFFER_ACCESS_KEY", ACCESS_KEY), ("COFFER_SECRET_KEY", SECRET_KEY)]
}

fn server_on<'a>(drives: &'a str, s3: &'a str, admin: &'a str) -> [&'a str; 6] {
    ["server", drives, "--address", s3, "--console-address", admin]
}

fn check(drives: &str, environment: &[(&str, &str)], wanted: &[&str]) {
    let folder = TempDir::new().expect("a temporary folder");
    let (s3, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let drives = drives.replace("TMP", &folder.path().display().to_string());
    let log = refusal(folder.path(), &server_on(&drives, &s3, &admin), environment);
    for word in wanted {
        assert!(log.contains(word), "`{word}` is not in: {log}");
    }
}

#[test]
fn a_start_without_credentials_shows_the_line_to_type() {
    check("TMP/d{1...4}", &[], &["COFFER_ACCESS_KEY", "COFFER_SECRET_KEY"]);
}

#[test]
fn a_two_dot_range_shows_the_right_form() {
    check("TMP/d{1..4}", &with_keys(), &["{1...4}"]);
}

#[test]
fn a_url_without_etcd_is_refused() {
    check("http://127.0.0.1:1/d{1...4}", &with_keys(), &["--etcd"]);
}

#[test]
fn a_drive_that_holds_other_files_is_refused() -> Result<()> {
    let folder = TempDir::new()?;
    std::fs::create_dir(folder.path().join("d1"))?;
    std::fs::write(folder.path().join("d1/precious"), "not ours")?;
    let drive = folder.path().join("d1").display().to_string();
    let (s3, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let log = refusal(folder.path(), &server_on(&drive, &s3, &admin), &with_keys());
    assert!(log.contains("d1") && log.contains("empty"), "{log}");
    assert_eq!(std::fs::read_to_string(folder.path().join("d1/precious"))?, "not ours");
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let folder = TempDir::new()?;
    let drive = folder.path().join("d1").display().to_string();
    let (s3, admin) = (taken.local_addr()?.to_string(), format!("127.0.0.1:{}", free_port()));
    let log = refusal(folder.path(), &server_on(&drive, &s3, &admin), &with_keys());
    assert!(log.contains(&s3) && log.contains("--address"), "{log}");
    let log = refusal(folder.path(), &server_on(&drive, &admin, &s3), &with_keys());
    assert!(log.contains(&s3) && log.contains("--console-address"), "{log}");
    assert!(!Path::new(&drive).exists(), "a refused start formats nothing");
    Ok(())
}

#[test]
fn half_of_the_credentials_and_short_ones_are_refused() {
    check("TMP/d{1...4}", &with_keys()[..1], &["COFFER_SECRET_KEY"]);
    let short = [("COFFER_ACCESS_KEY", ACCESS_KEY), ("COFFER_SECRET_KEY", "short")];
    check("TMP/d{1...4}", &short, &["COFFER_SECRET_KEY", "8 characters"]);
}

#[test]
fn the_same_folder_twice_and_a_file_are_refused() -> Result<()> {
    let folder = TempDir::new()?;
    let (drive, file) = (folder.path().join("d1"), folder.path().join("file"));
    std::fs::write(&file, "precious")?;
    let (drive, file) = (drive.display().to_string(), file.display().to_string());
    let log = refusal(folder.path(), &["server", &drive, &drive], &with_keys());
    assert!(log.contains("d1") && log.contains("twice"), "{log}");
    let (s3, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let log = refusal(folder.path(), &server_on(&file, &s3, &admin), &with_keys());
    assert!(log.contains("file") && log.contains("not a folder"), "{log}");
    Ok(())
}

#[test]
fn an_unreachable_etcd_is_named() -> Result<()> {
    let folder = TempDir::new()?;
    let etcd = format!("http://127.0.0.1:{}", free_port());
    let node = format!("127.0.0.1:{}", free_port());
    let endpoint = format!("http://{node}{}/d1", folder.path().display());
    let (s3, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut arguments =
        vec!["server", "--etcd", &etcd, &endpoint, "--address", &s3, "--console-address", &admin];
    let node_admin = format!("127.0.0.1:{}", free_port());
    arguments.extend(["--node-admin-address", &node_admin]);
    let secret = [with_keys().as_slice(), &[("COFFER_CLUSTER_SECRET", "some secret of the tests")]].concat();
    let log = refusal(folder.path(), &arguments, &secret);
    assert!(log.contains(&etcd), "{log}");
    Ok(())
}

#[test]
fn a_gateway_names_an_unreachable_etcd_and_how_to_start_without_it() -> Result<()> {
    let folder = TempDir::new()?;
    let [etcd, s3, admin] = [free_port(), free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let etcd = format!("http://{etcd}");
    let gateway = ["gateway", "--etcd", &etcd, "--address", &s3, "--console-address", &admin];
    let secret = [with_keys().as_slice(), &[("COFFER_CLUSTER_SECRET", "some secret of the tests")]].concat();
    let log = refusal(folder.path(), &gateway, &secret);
    assert!(log.contains(&etcd) && log.contains("--node"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_of_another_cluster_is_refused() -> Result<()> {
    let mut one = Standalone::start(4).await?;
    let mut other = Standalone::start(4).await?;
    one.process_mut().stop(Duration::from_secs(60));
    other.process_mut().stop(Duration::from_secs(60));
    std::fs::rename(one.drive(2), one.drive(2).with_extension("aside"))?;
    std::fs::rename(other.drive(2), one.drive(2))?;
    let folder = TempDir::new()?;
    let mut process = Process::start("refused", folder.path(), &mut one.command())?;
    let status = process.wait(PATIENCE);
    assert!(status.is_some_and(|status| !status.success()), "{}", process.log_tail());
    assert!(process.log().contains("drive2") && process.log().contains("cluster"), "{}", process.log_tail());

    // A copy of a drive, and a drive that is not mounted.
    std::fs::copy(one.drive(1).join("coffer.json"), one.drive(2).join("coffer.json"))?;
    let mut copied = Process::start("copied", folder.path(), &mut one.command())?;
    let status = copied.wait(PATIENCE);
    assert!(status.is_some_and(|status| !status.success()), "{}", copied.log_tail());
    assert!(
        copied.log().contains("drive1") && copied.log().contains("the same drive"),
        "{}",
        copied.log_tail()
    );
    std::fs::remove_dir_all(one.drive(2))?;
    let mut missing = Process::start("missing", folder.path(), &mut one.command())?;
    let status = missing.wait(PATIENCE);
    assert!(status.is_some_and(|status| !status.success()), "{}", missing.log_tail());
    assert!(
        missing.log().contains("drive2") && missing.log().contains("--replace"),
        "{}",
        missing.log_tail()
    );
    assert!(!one.drive(2).exists(), "a refused start makes no folder");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_drive_twice_is_refused() -> Result<()> {
    let mut server = Standalone::start(4).await?;
    let running = server.drive(1).display().to_string();
    let folder = TempDir::new()?;
    let (s3, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let log = refusal(folder.path(), &server_on(&running, &s3, &admin), &with_keys());
    assert!(log.contains("drive1"), "{log}");
    server.process_mut().stop(Duration::from_secs(60));
    Ok(())
}
