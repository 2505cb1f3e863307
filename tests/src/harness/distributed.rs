//! `coffer server --etcd … <URLs>` started once per node, with an etcd of its own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::etcd::Etcd;
use super::ports::free_port;
use super::process::Process;
use super::{CLUSTER_SECRET, binary, http_status, is_settled, wait_for};
use crate::client::{ACCESS_KEY, SECRET_KEY, s3};

/// One `coffer server` of a distributed cluster.
#[derive(Debug)]
pub struct ServerNode {
    s3_port: u16,
    admin_port: u16,
    node_port: u16,
    node_admin_port: u16,
    process: Option<Process>,
}

impl ServerNode {
    /// `http://127.0.0.1:<port>` of its S3 front.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.s3_port)
    }

    /// A URL on its admin port.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// A URL on its storage node's admin port.
    pub fn node_admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.node_admin_port)
    }
}

/// A cluster of `coffer server` processes.
#[derive(Debug)]
pub struct Distributed {
    /// The coordinator.
    pub etcd: Etcd,
    folder: TempDir,
    drives_per_node: usize,
    nodes: Vec<ServerNode>,
    tls: Vec<PathBuf>,
}

impl Distributed {
    /// Starts `nodes` x `drives_per_node` on fresh folders and waits until all are ready.
    ///
    /// # Errors
    /// If one does not become ready.
    pub async fn start(nodes: usize, drives_per_node: usize) -> Result<Self> {
        let mut cluster = Self::prepare(nodes, drives_per_node).await?;
        for index in 0..nodes {
            cluster.spawn(index)?;
        }
        for index in 0..nodes {
            cluster.wait_ready(index).await?;
        }
        Ok(cluster)
    }

    /// Everything but the server processes.
    ///
    /// # Errors
    /// If etcd does not start.
    pub async fn prepare(nodes: usize, drives_per_node: usize) -> Result<Self> {
        let node = |_| ServerNode {
            s3_port: free_port(),
            admin_port: free_port(),
            node_port: free_port(),
            node_admin_port: free_port(),
            process: None,
        };
        let nodes = (0..nodes).map(node).collect();
        let (etcd, folder) = (Etcd::start().await?, TempDir::new()?);
        Ok(Self { etcd, folder, drives_per_node, nodes, tls: Vec::new() })
    }

    /// Lets the nodes know each other by certificates, one folder a node, instead of a secret; before they are started.
    pub fn use_tls(&mut self, folders: Vec<PathBuf>) {
        self.tls = folders;
    }

    /// The endpoint arguments, the same for every node.
    pub fn endpoints(&self) -> Vec<String> {
        let mut endpoints = Vec::new();
        let scheme = if self.tls.is_empty() { "http" } else { "https" };
        for (index, node) in self.nodes.iter().enumerate() {
            for drive in 1..=self.drives_per_node {
                let path = self.drive(index, drive);
                endpoints.push(format!("{scheme}://127.0.0.1:{}{}", node.node_port, path.display()));
            }
        }
        endpoints
    }

    /// The command line of a node.
    pub fn command(&self, index: usize) -> Command {
        let node = &self.nodes[index];
        let mut command = Command::new(binary());
        command
            .args(["server", "--etcd", &self.etcd.url()])
            .args(self.endpoints())
            .args(["--address", &format!("127.0.0.1:{}", node.s3_port)])
            .args(["--console-address", &format!("127.0.0.1:{}", node.admin_port)])
            .args(["--node-address", &format!("127.0.0.1:{}", node.node_port)])
            .args(["--node-admin-address", &format!("127.0.0.1:{}", node.node_admin_port)])
            .env("COFFER_ACCESS_KEY", ACCESS_KEY)
            .env("COFFER_SECRET_KEY", SECRET_KEY);
        match self.tls.get(index) {
            Some(folder) => command.arg("--tls-dir").arg(folder),
            None => command.env("COFFER_CLUSTER_SECRET", CLUSTER_SECRET),
        };
        command
    }

    /// Starts a node's process without waiting.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        let process = Process::start(&format!("node{index}"), self.folder.path(), &mut self.command(index))?;
        self.nodes[index].process = Some(process);
        Ok(())
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// With the tail of its log.
    pub async fn wait_ready(&self, index: usize) -> Result<()> {
        let url = self.nodes[index].admin_url("/health/ready");
        let ready = wait_for("a node to be ready", Duration::from_secs(180), || async {
            http_status(&url).await == Some(200)
        });
        ready.await.with_context(|| self.process(index).log_tail())
    }

    /// Waits until every slot has what it was sent, and all of it is STABLE: a write is answered when W of n have it.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn wait_until_settled(&self) -> Result<()> {
        // Twice: a slot that is late has nothing to settle when it is asked first.
        for node in self.nodes.iter().chain(&self.nodes) {
            let metrics = node.node_admin_url("/metrics");
            let settled = || async { is_settled(&metrics).await };
            wait_for("a node to be settled", Duration::from_secs(120), settled).await?;
        }
        Ok(())
    }

    /// The nodes.
    pub fn nodes(&self) -> &[ServerNode] {
        &self.nodes
    }

    /// A node's process.
    ///
    /// # Panics
    /// If it was never started.
    pub fn process(&self, index: usize) -> &Process {
        self.nodes[index].process.as_ref().expect("the node was started")
    }

    /// Whether a node's process runs.
    pub fn is_running(&mut self, index: usize) -> bool {
        self.nodes[index].process.as_mut().is_some_and(Process::is_running)
    }

    /// `kill -9` of a node.
    pub fn kill(&mut self, index: usize) {
        if let Some(process) = &mut self.nodes[index].process {
            process.kill();
        }
    }

    /// Where the cluster's files are.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A node's drive folder, drives counted from 1.
    pub fn drive(&self, index: usize, drive: usize) -> PathBuf {
        self.folder.path().join(format!("node{index}/drive{drive}"))
    }

    /// An S3 client of a node's gateway.
    pub fn client(&self, index: usize) -> aws_sdk_s3::Client {
        s3(&self.nodes[index].endpoint())
    }
}
