//! The certificate that S3 is served with.
//!
//! Owns: reading `tls.crt` and `tls.key` of a folder, at the start and again when they change. Never: asks clients for
//! certificates; who they are is in their signatures.
//!
//! TLS 1.3 and 1.2, without early data: what is sent before the handshake is over could be sent again by anybody. A pair of files
//! that do not fit (one is replaced before the other) is not taken: the last one that did stays until the next look.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// HTTP/2, as a handshake names it.
pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";
/// From one look at the files to the next.
const LOOK: Duration = Duration::from_secs(10);

/// A file of the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{path}`, which S3 is to be served with, cannot be used: {reason}")]
pub struct InvalidCertificate {
    path: String,
    reason: String,
}

/// The current certificate; cheap to clone.
#[derive(Clone)]
pub(crate) struct Certificates {
    folder: Arc<PathBuf>,
    current: Arc<ArcSwap<ServerConfig>>,
}

/// Both files, as they are.
#[derive(PartialEq, Eq)]
struct Files {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Certificates {
    /// Reads the folder. With the second value they are looked after.
    ///
    /// # Errors
    /// [`InvalidCertificate`].
    pub(crate) async fn read(
        folder: &Path,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), InvalidCertificate> {
        let files = Files::read(folder).await?;
        let current = Arc::new(ArcSwap::from_pointee(files.config(folder)?));
        let this = Self { folder: Arc::new(folder.to_owned()), current };
        let kept = this.clone().keep(files);
        Ok((this, kept))
    }

    /// What the next connection is accepted with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Takes new files as they come.
    async fn keep(self, mut taken: Files) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let found = match Files::read(&self.folder).await {
                Ok(files) if files == taken => continue,
                Ok(files) => files.config(&self.folder).map(|config| (files, config)),
                Err(error) => Err(error),
            };
            match found {
                Ok((files, config)) => {
                    self.current.store(Arc::new(config));
                    taken = files;
                    told.clear();
                    tracing::info!(folder = %self.folder.display(), "S3 is served with a new certificate");
                }
                Err(error) if error.to_string() != told => {
                    told = error.to_string();
                    tracing::warn!("{told}; the certificate from before stays");
                }
                Err(_) => {}
            }
        }
    }
}

impl Files {
    async fn read(folder: &Path) -> Result<Self, InvalidCertificate> {
        Ok(Self { chain: file(folder, "tls.crt").await?, key: file(folder, "tls.key").await? })
    }

    fn config(&self, folder: &Path) -> Result<ServerConfig, InvalidCertificate> {
        let wrong = |name: &str, reason: &dyn ToString| bad(&folder.join(name), reason);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.chain)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("tls.crt", &error))?;
        if chain.is_empty() {
            return Err(wrong("tls.crt", &"it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| wrong("tls.key", &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| wrong("tls.crt", &error))?.with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong("tls.key", &"it is not the key of `tls.crt` beside it")
            }
            error => wrong("tls.key", &error),
        })?;
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        Ok(config)
    }
}

async fn file(folder: &Path, name: &str) -> Result<Vec<u8>, InvalidCertificate> {
    let path = folder.join(name);
    tokio::fs::read(&path).await.map_err(|error| bad(&path, &error))
}

fn bad(path: &Path, reason: &dyn ToString) -> InvalidCertificate {
    InvalidCertificate { path: path.display().to_string(), reason: reason.to_string() }
}
