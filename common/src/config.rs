//! Settings that every kind of process has: the coordinator, how cluster members know each other, logs.
//!
//! Owns: parsing, defaults, and the refusal of settings that cannot be meant. Reads the environment (through clap) and
//! the files that settings name; opens nothing else.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::coordination::{EtcdOptions, EtcdTls};
use crate::rpc::{ClusterSecret, NodeSecurity, SecurityError};
use crate::telemetry::{LogFormat, TelemetryError, init_logs};

/// Makes aws-lc the process's TLS provider; first thing in every `main`. A second call changes nothing.
pub fn install_crypto() {
    // The error only says that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Settings that do not let a process start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A cluster needs a coordinator.
    #[error("no etcd: name its members, for example `--etcd http://10.0.0.1:2379,http://10.0.0.2:2379`")]
    NoEtcd,
    /// Anyone could be a gateway.
    #[error(
        "nodes and gateways must know each other: set the same COFFER_CLUSTER_SECRET everywhere, for example\n  \
         export COFFER_CLUSTER_SECRET=$(openssl rand -hex 32)\n\
         or give certificates with `--tls-dir`, or, on loopback only, `--insecure`"
    )]
    NoSecurity,
    /// Two answers to one question.
    #[error("`--tls-dir`, COFFER_CLUSTER_SECRET and `--insecure` exclude each other: keep one")]
    TwoSecurities,
    /// Not usable.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A file named by a setting cannot be read.
    #[error("`{setting}` names `{path}`, which cannot be read: {reason}")]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A name that would make ambiguous keys.
    #[error("cluster name `{0}` is not usable: letters, digits, dots, hyphens and underscores only")]
    ClusterName(String),
}

/// Where the cluster's agreed state is.
#[derive(Args, Clone, Debug, Default)]
pub struct EtcdArgs {
    /// URLs of the etcd members, separated by commas.
    #[arg(long, env = "COFFER_ETCD", value_name = "URL,…", value_delimiter = ',')]
    pub etcd: Vec<String>,

    /// The cluster's name in etcd: several clusters may share one etcd.
    #[arg(long, env = "COFFER_CLUSTER_NAME", value_name = "NAME", default_value = "default")]
    pub cluster_name: String,

    /// The user at etcd, if it asks for one.
    #[arg(long, env = "COFFER_ETCD_USER", value_name = "NAME", requires = "etcd_password_file")]
    pub etcd_user: Option<String>,

    /// A file with that user's password.
    #[arg(long, env = "COFFER_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,

    /// The authority that signed etcd's certificates, PEM.
    #[arg(long, env = "COFFER_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,

    /// This process's certificate for etcd, PEM.
    #[arg(long, env = "COFFER_ETCD_CERT", value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,

    /// The key of that certificate, PEM.
    #[arg(long, env = "COFFER_ETCD_KEY", value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
}

impl EtcdArgs {
    /// The coordinator's settings.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn options(&self) -> Result<EtcdOptions, ConfigError> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if self.cluster_name.is_empty() || !self.cluster_name.bytes().all(named) {
            return Err(ConfigError::ClusterName(self.cluster_name.clone()));
        }
        let endpoints: Vec<String> =
            self.etcd.iter().map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect();
        if endpoints.is_empty() {
            return Err(ConfigError::NoEtcd);
        }
        let password = self.etcd_password_file.as_deref();
        let password = password.map(|path| read_line("--etcd-password-file", path)).transpose()?;
        let read =
            |setting, path: &Option<PathBuf>| path.as_deref().map(|path| read(setting, path)).transpose();
        let ca_pem = read("--etcd-ca", &self.etcd_ca)?;
        let identity_pem = read("--etcd-cert", &self.etcd_cert)?.zip(read("--etcd-key", &self.etcd_key)?);
        let tls = (ca_pem.is_some() || identity_pem.is_some()).then_some(EtcdTls { ca_pem, identity_pem });
        let prefix = format!("coffer/{}", self.cluster_name);
        Ok(EtcdOptions { endpoints, prefix, user: self.etcd_user.clone().zip(password), tls })
    }
}

/// How nodes and gateways know each other.
#[derive(Args, Clone, Debug, Default)]
pub struct SecurityArgs {
    /// Certificates for nodes and gateways: a folder with `ca.crt`, `node.crt` and `node.key`.
    #[arg(long, env = "COFFER_TLS_DIR", value_name = "FOLDER")]
    pub tls_dir: Option<PathBuf>,

    /// Run without any proof of who calls; nodes then listen on loopback only. For trying things out.
    #[arg(long, env = "COFFER_INSECURE")]
    pub insecure: bool,

    /// The secret that all nodes and gateways of the cluster share; better in the environment than here.
    #[arg(long, env = "COFFER_CLUSTER_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub cluster_secret: Option<String>,

    /// A file with that secret.
    #[arg(long, env = "COFFER_CLUSTER_SECRET_FILE", value_name = "FILE")]
    pub cluster_secret_file: Option<PathBuf>,
}

impl SecurityArgs {
    /// The security that was asked for.
    ///
    /// # Errors
    /// [`ConfigError`] if it is none, or more than one.
    pub fn security(&self) -> Result<NodeSecurity, ConfigError> {
        let given = self.cluster_secret.clone().filter(|secret| !secret.is_empty());
        let secret = match (given, &self.cluster_secret_file) {
            (Some(secret), _) => Some(secret),
            (None, Some(path)) => Some(read_line("COFFER_CLUSTER_SECRET_FILE", path)?),
            (None, None) => None,
        };
        match (secret, &self.tls_dir, self.insecure) {
            (Some(secret), None, false) => Ok(NodeSecurity::ClusterSecret(ClusterSecret::new(&secret)?)),
            (None, Some(dir), false) => Ok(NodeSecurity::Mtls { dir: dir.clone() }),
            (None, None, true) => Ok(NodeSecurity::Insecure),
            (None, None, false) => Err(ConfigError::NoSecurity),
            _ => Err(ConfigError::TwoSecurities),
        }
    }
}

/// What is logged, and how.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// What to log, for example `debug` or `info,coffer_gateway=debug`.
    #[arg(long, env = "COFFER_LOG", value_name = "FILTER", global = true)]
    pub log: Option<String>,

    /// How log lines look; by default text on a terminal and JSON elsewhere.
    #[arg(long, env = "COFFER_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub log_format: Option<LogLines>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLines {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl LogArgs {
    /// Starts logging.
    ///
    /// # Errors
    /// [`TelemetryError`] if the filter is not one.
    pub fn init(&self) -> Result<(), TelemetryError> {
        let format = match self.log_format {
            None => LogFormat::Auto,
            Some(LogLines::Text) => LogFormat::Text,
            Some(LogLines::Json) => LogFormat::Json,
        };
        init_logs(self.log.as_deref(), format)
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| ConfigError::File {
        setting,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn read_line(setting: &'static str, path: &Path) -> Result<String, ConfigError> {
    let bytes = read(setting, path)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_to_know_each_other_is_needed_and_only_one() {
        let secret = || Some("0123456789abcdef".to_owned());
        let none = SecurityArgs::default().security().unwrap_err().to_string();
        assert!(none.contains("export COFFER_CLUSTER_SECRET="), "{none}");
        let insecure = SecurityArgs { insecure: true, ..SecurityArgs::default() };
        assert_eq!(insecure.security().unwrap(), NodeSecurity::Insecure);
        let both = SecurityArgs { cluster_secret: secret(), ..insecure };
        assert!(matches!(both.security(), Err(ConfigError::TwoSecurities)));
        let one = SecurityArgs { cluster_secret: secret(), ..SecurityArgs::default() };
        assert!(matches!(one.security(), Ok(NodeSecurity::ClusterSecret(_))));
        let missing =
            SecurityArgs { cluster_secret_file: Some("/no/such".into()), ..SecurityArgs::default() };
        assert!(missing.security().unwrap_err().to_string().contains("/no/such"));
    }

    #[test]
    fn etcd_keys_begin_with_the_clusters_name() {
        let args = |name: &str| EtcdArgs {
            etcd: vec![" http://a:2379".to_owned(), String::new()],
            cluster_name: name.to_owned(),
            ..EtcdArgs::default()
        };
        let options = args("photos").options().unwrap();
        assert_eq!((options.prefix.as_str(), options.endpoints.len()), ("coffer/photos", 1));
        assert!(matches!(args("a/b").options(), Err(ConfigError::ClusterName(_))));
        assert!(matches!(EtcdArgs { etcd: vec![], ..args("a") }.options(), Err(ConfigError::NoEtcd)));
    }
}
