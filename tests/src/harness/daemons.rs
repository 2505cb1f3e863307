//! `coffer storage-node` and `coffer gateway` as processes of their own, with an etcd: the shape behind a load balancer.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::distributed::Etcd;
use super::ports::free_port;
use super::process::Process;
use super::{CLUSTER_SECRET, binary, http_status, wait_for};
use crate::client::{ACCESS_KEY, SECRET_KEY, s3};

/// One process: its main port (S3 or gRPC) and its admin port.
#[derive(Debug)]
pub struct Daemon {
    /// Its name in logs; a storage node's id.
    pub name: String,
    port: u16,
    admin_port: u16,
    process: Process,
}

impl Daemon {
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

    async fn wait_ready(&self) -> Result<()> {
        let (url, what) = (self.admin_url("/health/ready"), format!("{} to be ready", self.name));
        let ready =
            wait_for(&what, Duration::from_secs(90), || async { http_status(&url).await == Some(200) });
        ready.await.with_context(|| self.process.log_tail())
    }
}

/// Storage nodes and gateways of one cluster.
#[derive(Debug)]
pub struct Daemons {
    /// The gateways.
    pub gateways: Vec<Daemon>,
    /// The storage nodes.
    pub nodes: Vec<Daemon>,
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
        let etcd = Etcd::start().await?;
        let folder = TempDir::new()?;
        let mut cluster = Self { gateways: Vec::new(), nodes: Vec::new(), etcd, folder };
        for index in 0..nodes {
            let node = cluster.storage_node(index, nodes, drives)?;
            cluster.nodes.push(node);
        }
        for index in 0..gateways {
            let gateway = cluster.gateway(index)?;
            cluster.gateways.push(gateway);
        }
        for daemon in cluster.nodes.iter().chain(&cluster.gateways) {
            daemon.wait_ready().await?;
        }
        Ok(cluster)
    }

    fn storage_node(&self, index: usize, nodes: usize, drives: usize) -> Result<Daemon> {
        let name = format!("node-{index}");
        let folders = self.folder.path().join(&name).join(format!("drive{{1...{drives}}}"));
        let mut command = self.command("storage-node");
        command.args(["--node-id", &name, "--bootstrap-expect", &nodes.to_string()]).arg(folders);
        self.launch(name, command, ("--node-address", "--node-admin-address"))
    }

    fn gateway(&self, index: usize) -> Result<Daemon> {
        let command = self.command("gateway");
        self.launch(format!("gateway-{index}"), command, ("--address", "--console-address"))
    }

    fn command(&self, daemon: &str) -> Command {
        let mut command = Command::new(binary());
        command
            .args([daemon, "--etcd", &self.etcd.url()])
            .env("COFFER_CLUSTER_SECRET", CLUSTER_SECRET)
            .env("COFFER_ACCESS_KEY", ACCESS_KEY)
            .env("COFFER_SECRET_KEY", SECRET_KEY);
        command
    }

    fn launch(&self, name: String, mut command: Command, options: (&str, &str)) -> Result<Daemon> {
        let (port, admin_port) = (free_port(), free_port());
        command.args([
            options.0,
            &format!("127.0.0.1:{port}"),
            options.1,
            &format!("127.0.0.1:{admin_port}"),
        ]);
        let process = Process::start(&name, self.folder.path(), &mut command)?;
        Ok(Daemon { name, port, admin_port, process })
    }
}
