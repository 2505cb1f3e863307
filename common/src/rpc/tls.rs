//! TLS of node connections: TLS 1.3 or 1.2 with aws-lc, both sides show a certificate of the cluster's authority, and
//! a node's certificate must carry the name or address by which it is reached.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::security::SecurityError;

const ALPN: &[u8] = b"h2";

struct Material {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// What a node accepts connections with.
pub(super) async fn acceptor(dir: &Path) -> Result<TlsAcceptor, SecurityError> {
    let material = read(dir).await?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(material.roots, provider.clone())
        .build()
        .map_err(|e| SecurityError::Tls(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SecurityError::Tls(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(material.chain, material.key)
        .map_err(|e| bad_key(dir, &e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What a caller connects with.
pub(super) async fn connector(dir: &Path) -> Result<TlsConnector, SecurityError> {
    let material = read(dir).await?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SecurityError::Tls(e.to_string()))?
        .with_root_certificates(material.roots)
        .with_client_auth_cert(material.chain, material.key)
        .map_err(|e| bad_key(dir, &e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Refuses files that the other members would refuse: a certificate that has expired, is of another authority, or does
/// not carry the `host` by which this process is reached (nobody connects to a gateway: `None`).
pub(super) async fn check(dir: &Path, host: Option<&str>) -> Result<(), SecurityError> {
    acceptor(dir).await?;
    let Material { roots, chain, .. } = read(dir).await?;
    let path = dir.join("node.crt");
    let Some((own, between)) = chain.split_first() else {
        return Err(bad(&path, "it holds no certificate"));
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |e: rustls::server::VerifierBuilderError| SecurityError::Tls(e.to_string());
    let (refused, now) = (|e| bad(&path, explain(&e, host.unwrap_or_default())), UnixTime::now());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    verifier.build().map_err(failed)?.verify_client_cert(own, between, now).map_err(refused)?;
    if let Some(host) = host {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| bad(&path, e))?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(failed)?;
        verifier.verify_server_cert(own, between, &name, &[], now).map_err(refused)?;
    }
    Ok(())
}

/// What is wrong with this process's own certificate, and the way out.
fn explain(error: &rustls::Error, host: &str) -> String {
    let rustls::Error::InvalidCertificate(reason) = error else { return error.to_string() };
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("{reason}; issue a new one")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("{reason}; is this machine's clock right?")
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the authority in `ca.crt` beside it has not signed it; both must be of this cluster's authority"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "it does not carry `{host}`, by which others reach this node: issue it with that name or address"
            )
        }
        other => other.to_string(),
    }
}

fn bad_key(dir: &Path, error: &rustls::Error) -> SecurityError {
    let reason = match error {
        rustls::Error::InconsistentKeys(_) => "it is not the key of `node.crt` beside it".to_owned(),
        other => other.to_string(),
    };
    bad(&dir.join("node.key"), reason)
}

async fn read(dir: &Path) -> Result<Material, SecurityError> {
    let mut roots = RootCertStore::empty();
    let (path, authority) = file(dir, "ca.crt").await?;
    for certificate in certificates(&path, &authority)? {
        roots.add(certificate).map_err(|e| bad(&path, e))?;
    }
    let (path, chain) = file(dir, "node.crt").await?;
    let chain = certificates(&path, &chain)?;
    let (path, key) = file(dir, "node.key").await?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| bad(&path, e))?;
    Ok(Material { roots: Arc::new(roots), chain, key })
}

async fn file(dir: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), SecurityError> {
    let path = dir.join(name);
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok((path, bytes)),
        Err(error) => Err(bad(&path, error)),
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let parsed: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| bad(path, e))?;
    if parsed.is_empty() { Err(bad(path, "it holds no certificate")) } else { Ok(parsed) }
}

fn bad(path: &Path, reason: impl ToString) -> SecurityError {
    SecurityError::TlsFile { path: path.to_owned(), reason: reason.to_string() }
}
