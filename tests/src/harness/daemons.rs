//! `coffer storage-node` and `coffer gateway` as processes of their own, with an etcd: the shape behind a load balancer.
//! Nodes may stand behind proxies, one each: that is where everybody else reaches them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::etcd::Etcd;
use super::ports::free_port;
use super::process::Process;
use super::{CLUSTER_SECRET, binary, http_status, is_settled, wait_for};
use crate::client::{ACCESS_KEY, SECRET_KEY, s3};
use crate::proxy::Proxy;

/// One process: its main port (S3 or gRPC) and its admin port.
#[derive(Debug)]
pub struct Daemon {
    /// Its name in logs; a storage node's id.
    pub name: String,
    /// Its main port.
    pub port: u16,
    admin_port: u16,
    arguments: Vec<String>,
    folder: PathBuf,
    process: Process,
}

impl Daemon {
    fn start(
        name: String,
        port: u16,
        mut arguments: Vec<String>,
        (address, admin_address): (&str, &str),
        (etcd, folder): (&Etcd, &TempDir),
    ) -> Result<Self> {
        let admin_port = free_port();
        arguments.extend(["--etcd".to_owned(), etcd.url()]);
        arguments.extend([address.to_owned(), format!("127.0.0.1:{port}")]);
        arguments.extend([admin_address.to_owned(), format!("127.0.0.1:{admin_port}")]);
        let folder = folder.path().to_owned();
        let process = launch(&name, &folder, &arguments)?;
        Ok(Self { name, port, admin_port, arguments, folder, process })
    }

    /// A URL on its admin port.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// An S3 client, if it is a gateway.
    pub fn client(&self) -> aws_sdk_s3::Client {
        s3(&self.endpoint())
    }

    /// `http://127.0.0.1:<port>` of its S3 front.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process, to kill or stop it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Starts it again after it has ended, on the same ports and folders, without waiting.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        self.process = launch(&self.name, &self.folder, &self.arguments)?;
        Ok(())
    }

    /// The same with more arguments, this once.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn_with(&mut self, more: &[&str]) -> Result<()> {
        let more = more.iter().map(|argument| (*argument).to_owned());
        let arguments: Vec<String> = self.arguments.iter().cloned().chain(more).collect();
        self.process = launch(&self.name, &self.folder, &arguments)?;
        Ok(())
    }

    /// The same, and waits until it is ready.
    ///
    /// # Errors
    /// With the tail of its log.
    pub async fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// With the tail of its log.
    pub async fn wait_ready(&self) -> Result<()> {
        let (url, what) = (self.admin_url("/health/ready"), format!("{} to be ready", self.name));
        let ready =
            wait_for(&what, Duration::from_secs(180), || async { http_status(&url).await == Some(200) });
        ready.await.with_context(|| self.process.log_tail())
    }
}

fn launch(name: &str, folder: &Path, arguments: &[String]) -> Result<Process> {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("COFFER_CLUSTER_SECRET", CLUSTER_SECRET)
        .env("COFFER_ACCESS_KEY", ACCESS_KEY)
        .env("COFFER_SECRET_KEY", SECRET_KEY);
    Process::start(name, folder, &mut command)
}

/// The name of a storage node, and how it is started on its own folders.
fn node_arguments(folder: &TempDir, index: usize, drives: usize) -> (String, Vec<String>) {
    let name = format!("node-{index}");
    let folders = folder.path().join(&name).join(format!("drive{{1...{drives}}}"));
    let arguments = ["storage-node", &folders.display().to_string(), "--node-id", &name].map(str::to_owned);
    (name, arguments.to_vec())
}

/// Storage nodes and gateways of one cluster.
#[derive(Debug)]
pub struct Daemons {
    /// The gateways.
    pub gateways: Vec<Daemon>,
    /// The storage nodes.
    pub nodes: Vec<Daemon>,
    /// What stands before each node, if anything does.
    pub proxies: Vec<Proxy>,
    /// The coordinator.
    pub etcd: Etcd,
    folder: TempDir,
}

impl Daemons {
    /// Starts `nodes` with `drives` each and `gateways`, and waits until all are ready.
    ///
    /// # Errors
    /// If one does not become ready.
    pub async fn start(nodes: usize, drives: usize, gateways: usize) -> Result<Self> {
        Self::start_on(Etcd::start().await?, nodes, drives, gateways).await
    }

    /// The same on an etcd that runs already.
    ///
    /// # Errors
    /// If one does not become ready.
    pub async fn start_on(etcd: Etcd, nodes: usize, drives: usize, gateways: usize) -> Result<Self> {
        Self::launch(etcd, (nodes, drives, gateways), false).await
    }

    /// The same with a proxy before each node.
    ///
    /// # Errors
    /// If one does not become ready.
    pub async fn start_behind_proxies(nodes: usize, drives: usize, gateways: usize) -> Result<Self> {
        Self::launch(Etcd::start().await?, (nodes, drives, gateways), true).await
    }

    async fn launch(
        etcd: Etcd,
        (nodes, drives, gateways): (usize, usize, usize),
        proxied: bool,
    ) -> Result<Self> {
        let folder = TempDir::new()?;
        let (mut proxies, mut started) = (Vec::new(), Vec::new());
        for index in 0..nodes {
            let (name, mut arguments) = node_arguments(&folder, index, drives);
            arguments.extend(["--bootstrap-expect", &nodes.to_string()].map(str::to_owned));
            let port = free_port();
            if proxied {
                let proxy = Proxy::start(port).await?;
                arguments.extend(["--advertise-address".to_owned(), format!("127.0.0.1:{}", proxy.port())]);
                proxies.push(proxy);
            }
            let options = ("--node-address", "--node-admin-address");
            started.push(Daemon::start(name, port, arguments, options, (&etcd, &folder))?);
        }
        let mut cluster = Self { gateways: Vec::new(), nodes: started, proxies, etcd, folder };
        for index in 0..gateways {
            let (name, arguments) = (format!("gateway-{index}"), vec!["gateway".to_owned()]);
            let options = ("--address", "--console-address");
            let place = (&cluster.etcd, &cluster.folder);
            cluster.gateways.push(Daemon::start(name, free_port(), arguments, options, place)?);
        }
        for daemon in cluster.nodes.iter().chain(&cluster.gateways) {
            daemon.wait_ready().await?;
        }
        Ok(cluster)
    }

    /// Starts one more storage node with fresh drives, which joins the running cluster, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn add_node(&mut self, drives: usize) -> Result<()> {
        let (name, arguments) = node_arguments(&self.folder, self.nodes.len(), drives);
        let options = ("--node-address", "--node-admin-address");
        let node = Daemon::start(name, free_port(), arguments, options, (&self.etcd, &self.folder))?;
        node.wait_ready().await?;
        self.nodes.push(node);
        Ok(())
    }

    /// Waits until every slot has what it was sent, and all of it is STABLE: a write is answered when W of n have it.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn wait_until_settled(&self) -> Result<()> {
        // Twice: a slot that is late has nothing to settle when it is asked first.
        for node in self.nodes.iter().chain(&self.nodes) {
            let metrics = node.admin_url("/metrics");
            let settled = || async { is_settled(&metrics).await };
            wait_for(&format!("{} to be settled", node.name), Duration::from_secs(120), settled).await?;
        }
        Ok(())
    }

    /// Empties a drive while its node is down, as a replaced disk would be.
    ///
    /// # Errors
    /// If the folder cannot be emptied.
    pub fn wipe(&self, node: usize, drive: usize) -> Result<()> {
        std::fs::remove_dir_all(self.drive(node, drive))?;
        Ok(std::fs::create_dir(self.drive(node, drive))?)
    }

    /// Has `coffer recover` bring back from all drives what etcd has lost, and gives what it said.
    ///
    /// # Errors
    /// If it refuses.
    pub fn recover(&self) -> Result<String> {
        let mut files = Vec::new();
        for node in 0..self.nodes.len() {
            let folder = self.folder.path().join(format!("node-{node}"));
            let drives = std::fs::read_dir(folder)?.map(|drive| Ok(drive?.path()));
            let drives = drives.collect::<std::io::Result<Vec<_>>>()?;
            let exported = Command::new(binary()).args(["recover", "export"]).args(drives).output()?;
            let said = String::from_utf8_lossy(&exported.stderr).into_owned();
            ensure!(exported.status.success(), "{said}");
            let file = self.folder.path().join(format!("node-{node}.jsonl"));
            std::fs::write(&file, exported.stdout)?;
            files.push(file);
        }
        let mut apply = Command::new(binary());
        apply.args(["recover", "apply", "--yes", "--etcd", &self.etcd.url()]).args(files);
        let output = apply.output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(output.status.success(), "{said}");
        Ok(said)
    }

    /// A node's drive folder, drives counted from 1.
    pub fn drive(&self, node: usize, drive: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}/drive{drive}"))
    }
}
