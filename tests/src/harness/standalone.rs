//! `coffer server <paths>`: gateway and drives in one process, no etcd.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::ports::free_port;
use super::process::Process;
use super::{binary, http_status, wait_for};
use crate::client::{ACCESS_KEY, SECRET_KEY, s3};

/// A standalone server on `drives` folders.
#[derive(Debug)]
pub struct Standalone {
    folder: TempDir,
    drives: usize,
    s3_port: u16,
    admin_port: u16,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Standalone {
    /// Starts one on fresh folders and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start(drives: usize) -> Result<Self> {
        Self::start_with(drives, &[]).await
    }

    /// The same with more environment variables.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start_with(drives: usize, environment: &[(&str, &str)]) -> Result<Self> {
        let mut server = Self::prepare(drives)?;
        server.environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        server.launch().await?;
        Ok(server)
    }

    /// Everything but the process; the folders of the drives are not there yet.
    ///
    /// # Errors
    /// If there is no temporary folder.
    pub fn prepare(drives: usize) -> Result<Self> {
        let (folder, s3_port, admin_port) = (TempDir::new()?, free_port(), free_port());
        Ok(Self { folder, drives, s3_port, admin_port, environment: Vec::new(), process: None })
    }

    /// The folders of all drives.
    pub fn drives(&self) -> Vec<PathBuf> {
        (1..=self.drives).map(|number| self.drive(number)).collect()
    }

    /// The command line, for variations.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        let drives = self.folder.path().join(format!("drive{{1...{}}}", self.drives));
        let drives = if self.drives == 1 { self.drive(1) } else { drives };
        command
            .arg("server")
            .arg(drives)
            .args(["--address", &format!("127.0.0.1:{}", self.s3_port)])
            .args(["--console-address", &format!("127.0.0.1:{}", self.admin_port)])
            .env("COFFER_ACCESS_KEY", ACCESS_KEY)
            .env("COFFER_SECRET_KEY", SECRET_KEY)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the stopped process again on the same folders and ports, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn launch(&mut self) -> Result<()> {
        self.process = Some(Process::start("server", self.folder.path(), &mut self.command())?);
        let url = self.admin_url("/health/ready");
        let ready = wait_for("the server to be ready", Duration::from_secs(90), || async {
            http_status(&url).await == Some(200)
        });
        ready.await.with_context(|| self.process().log_tail())
    }

    /// The folder of drive `1..=drives`.
    pub fn drive(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("drive{number}"))
    }

    /// Empties a drive while the server is down, as a replaced disk would be.
    ///
    /// # Errors
    /// If the folder cannot be emptied.
    pub fn wipe(&self, number: usize) -> Result<()> {
        std::fs::remove_dir_all(self.drive(number))?;
        Ok(std::fs::create_dir(self.drive(number))?)
    }

    /// The process.
    ///
    /// # Panics
    /// If it was never started.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the server was started")
    }

    /// The process, to kill or stop it.
    ///
    /// # Panics
    /// If it was never started.
    pub fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server was started")
    }

    /// `http://127.0.0.1:<port>` of the S3 front.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.s3_port)
    }

    /// A URL on the admin port.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// An S3 client.
    pub fn client(&self) -> aws_sdk_s3::Client {
        s3(&self.endpoint())
    }
}
