//! An etcd on loopback, of one member or several: killed, paused, emptied, and set back to a snapshot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::ports::free_port;
use super::process::Process;
use super::{http_status, wait_for};

/// One member.
#[derive(Debug)]
struct Member {
    name: String,
    client_port: u16,
    peer_port: u16,
    process: Option<Process>,
}

impl Member {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
}

/// All members of one etcd.
#[derive(Debug)]
pub struct Etcd {
    folder: TempDir,
    members: Vec<Member>,
}

impl Etcd {
    /// Starts one member with an empty data folder and waits until it answers.
    ///
    /// # Errors
    /// If `etcd` is not on the PATH or does not answer.
    pub async fn start() -> Result<Self> {
        Self::start_members(1).await
    }

    /// The same with several members.
    ///
    /// # Errors
    /// If `etcd` is not on the PATH or does not answer.
    pub async fn start_members(count: usize) -> Result<Self> {
        let member = |number| Member {
            name: format!("etcd-{number}"),
            client_port: free_port(),
            peer_port: free_port(),
            process: None,
        };
        let mut etcd = Self { folder: TempDir::new()?, members: (0..count).map(member).collect() };
        etcd.launch().await?;
        Ok(etcd)
    }

    /// Starts whatever was killed again on the same data, and waits until it answers.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn launch(&mut self) -> Result<()> {
        for at in 0..self.members.len() {
            if !self.members[at].process.as_mut().is_some_and(Process::is_running) {
                self.spawn(at)?;
            }
        }
        for member in &self.members {
            let health = format!("{}/health", member.url());
            let answers = || async { http_status(&health).await == Some(200) };
            wait_for("etcd", Duration::from_secs(120), answers).await?;
        }
        Ok(())
    }

    fn spawn(&mut self, at: usize) -> Result<()> {
        let member = &self.members[at];
        let (client, peer) = (member.url(), member.peer_url());
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.data(at))
            .args(["--name", &member.name, "--initial-cluster", &self.initial_cluster()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        let process = Process::start(&member.name, self.folder.path(), &mut command);
        self.members[at].process = Some(process.context("etcd is needed: apt-get install etcd-server")?);
        Ok(())
    }

    fn data(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("data-{at}"))
    }

    fn initial_cluster(&self) -> String {
        let peers = self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url()));
        peers.collect::<Vec<_>>().join(",")
    }

    /// Its client URLs, separated by commas.
    pub fn url(&self) -> String {
        self.members.iter().map(Member::url).collect::<Vec<_>>().join(",")
    }

    /// How many members it has.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().filter_map(|member| member.process.as_ref())
    }

    /// SIGSTOP of all: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.processes().for_each(Process::pause);
    }

    /// SIGCONT of all.
    pub fn resume(&self) {
        self.processes().for_each(Process::resume);
    }

    /// `kill -9` of all.
    pub fn kill(&mut self) {
        (0..self.size()).for_each(|at| self.kill_member(at));
    }

    /// `kill -9` of one member.
    pub fn kill_member(&mut self, at: usize) {
        if let Some(process) = &mut self.members[at].process {
            process.kill();
        }
    }

    /// Removes all data, while it is killed.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn wipe(&self) -> Result<()> {
        (0..self.members.len()).try_for_each(|at| Ok(std::fs::remove_dir_all(self.data(at))?))
    }

    /// Saves a snapshot of what it holds now.
    ///
    /// # Errors
    /// If `etcdctl` is not on the PATH or fails.
    pub fn save(&self, snapshot: &Path) -> Result<()> {
        self.etcdctl(&["snapshot", "save", &snapshot.to_string_lossy()]).map(drop)
    }

    /// Puts a snapshot in the place of the data of its only member, while it is killed.
    ///
    /// # Errors
    /// If `etcdctl` is not on the PATH or fails.
    pub fn restore(&self, snapshot: &Path) -> Result<()> {
        self.wipe()?;
        let member = &self.members[0];
        self.etcdctl(&[
            "snapshot",
            "restore",
            &snapshot.to_string_lossy(),
            "--data-dir",
            &self.data(0).to_string_lossy(),
            "--name",
            &member.name,
            "--initial-cluster",
            &self.initial_cluster(),
            "--initial-advertise-peer-urls",
            &member.peer_url(),
        ])
        .map(drop)
    }

    /// What `etcdctl` prints.
    ///
    /// # Errors
    /// If it is not on the PATH or fails.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.members[0].url()).args(arguments);
        let output = command.output().context("etcdctl is needed: apt-get install etcd-client")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}
