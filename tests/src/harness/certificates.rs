//! Certificates of a cluster's own authority, as an operator would issue them for `--tls-dir`.

use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Fills the folder: `ca.crt`, and `node.crt` with `node.key` for these names, valid for years.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn issue(&self, folder: &Path, names: &[&str]) -> Result<()> {
        self.issue_until(folder, names, 2100)
    }

    /// The same with a certificate that expires at the beginning of a year.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn issue_until(&self, folder: &Path, names: &[&str], year: i32) -> Result<()> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("ca.crt"), self.issuer.pem())?;
        std::fs::write(folder.join("node.crt"), certificate.pem())?;
        Ok(std::fs::write(folder.join("node.key"), key.serialize_pem())?)
    }
}
