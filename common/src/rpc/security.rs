//! How a node knows its callers and a caller its node: a secret of the whole cluster, certificates of the cluster's
//! own authority, or nothing at all on loopback.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::io::Io;
use super::settings::{CERTIFICATE_RELOAD, CONNECT_TIMEOUT};
use super::tls;
use crate::proto::storage_v1::Method;

/// Shortest cluster secret, in bytes: `openssl rand -hex 16` gives twice as many.
pub const MIN_SECRET_BYTES: usize = 16;

/// Why security cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Guessable.
    #[error(
        "the cluster secret has {0} bytes, it needs at least {MIN_SECRET_BYTES}; `openssl rand -hex 32` makes one"
    )]
    ShortSecret(usize),
    /// Anyone on the network could be a gateway.
    #[error(
        "node address `{0}` is not loopback: without a cluster secret or a TLS folder a node listens on loopback only"
    )]
    InsecureNotLoopback(SocketAddr),
    /// A file of the TLS folder is missing or malformed.
    #[error("TLS file `{path}` cannot be used: {reason}")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Key and certificate do not fit, or the authority is not one.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// The secret that all nodes and gateways of a cluster share. It never travels and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(Arc<str>);

impl ClusterSecret {
    /// Checks the length.
    ///
    /// # Errors
    /// [`SecurityError::ShortSecret`] below [`MIN_SECRET_BYTES`].
    pub fn new(secret: &str) -> Result<Self, SecurityError> {
        let secret = secret.trim();
        if secret.len() < MIN_SECRET_BYTES {
            return Err(SecurityError::ShortSecret(secret.len()));
        }
        Ok(Self(secret.into()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

/// How nodes and callers know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeSecurity {
    /// Both know the cluster's secret; for trusted networks, since bytes travel in the clear.
    ClusterSecret(ClusterSecret),
    /// Both hold a certificate of the cluster's authority: `ca.crt`, `node.crt`, `node.key` (PEM) in this folder.
    Mtls {
        /// The folder.
        dir: PathBuf,
    },
    /// Nothing is proved; nodes listen on loopback only.
    Insecure,
}

impl NodeSecurity {
    /// What a hello says of it.
    pub fn method(&self) -> Method {
        match self {
            Self::ClusterSecret(_) => Method::ClusterSecret,
            Self::Mtls { .. } => Method::MutualTls,
            Self::Insecure => Method::Insecure,
        }
    }

    /// The secret, if there is one.
    pub fn secret(&self) -> Option<&ClusterSecret> {
        match self {
            Self::ClusterSecret(secret) => Some(secret),
            Self::Mtls { .. } | Self::Insecure => None,
        }
    }

    /// Whether certificates are there, fit together and would be accepted now. `address` (`host:port`) is where others
    /// reach this process, if they do.
    ///
    /// # Errors
    /// [`SecurityError`] that names the file and the way out.
    pub async fn check_files(&self, address: Option<&str>) -> Result<(), SecurityError> {
        match self {
            Self::Mtls { dir } => tls::check(dir, address.map(super::connection::host)).await,
            Self::ClusterSecret(_) | Self::Insecure => Ok(()),
        }
    }

    /// Whether a node may listen here.
    ///
    /// # Errors
    /// [`SecurityError::InsecureNotLoopback`].
    pub fn check_listen(&self, address: SocketAddr) -> Result<(), SecurityError> {
        match self {
            Self::Insecure if !address.ip().is_loopback() => Err(SecurityError::InsecureNotLoopback(address)),
            Self::Insecure | Self::ClusterSecret(_) | Self::Mtls { .. } => Ok(()),
        }
    }
}

/// Accepts a node's connections; clones share the certificates.
#[derive(Clone)]
pub struct Acceptor {
    tls: Option<Arc<tokio::sync::Mutex<ServerTls>>>,
}

struct ServerTls {
    dir: PathBuf,
    acceptor: TlsAcceptor,
    read_at: Instant,
}

impl Acceptor {
    /// Reads the certificates, if any.
    ///
    /// # Errors
    /// [`SecurityError`] that names the file.
    pub async fn new(security: &NodeSecurity) -> Result<Self, SecurityError> {
        let NodeSecurity::Mtls { dir } = security else { return Ok(Self { tls: None }) };
        let acceptor = tls::acceptor(dir).await?;
        let tls = ServerTls { dir: dir.clone(), acceptor, read_at: Instant::now() };
        Ok(Self { tls: Some(Arc::new(tokio::sync::Mutex::new(tls))) })
    }

    /// Takes a connection; with TLS the caller has shown a certificate of the cluster's authority afterwards.
    ///
    /// # Errors
    /// What the transport or TLS says.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<Io> {
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Io::Plain(stream)) };
        let acceptor = current(&mut *tls.lock().await).await;
        let accepted = tokio::time::timeout(CONNECT_TIMEOUT, acceptor.accept(stream)).await;
        Ok(Io::Tls(Box::new(accepted.map_err(|_| std::io::ErrorKind::TimedOut)??.into())))
    }
}

/// The acceptor, read anew if it is old; certificates that cannot be read leave the old ones in use.
async fn current(tls: &mut ServerTls) -> TlsAcceptor {
    if tls.read_at.elapsed() >= CERTIFICATE_RELOAD {
        tls.read_at = Instant::now();
        match tls::acceptor(&tls.dir).await {
            Ok(acceptor) => tls.acceptor = acceptor,
            Err(error) => tracing::warn!(%error, "certificates stay as they were"),
        }
    }
    tls.acceptor.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_refused_and_none_is_printed() {
        assert!(matches!(ClusterSecret::new(" fifteen bytes !  "), Err(SecurityError::ShortSecret(15))));
        let secret = ClusterSecret::new("0123456789abcdef\n").unwrap();
        assert_eq!(format!("{secret:?}"), "ClusterSecret(…)");
    }

    #[test]
    fn insecure_nodes_listen_on_loopback_only() {
        let check = |address: &str| NodeSecurity::Insecure.check_listen(address.parse().unwrap());
        assert!(check("127.0.0.12:9100").is_ok());
        assert!(check("[::1]:9100").is_ok());
        assert!(matches!(check("0.0.0.0:9100"), Err(SecurityError::InsecureNotLoopback(_))));
    }
}
