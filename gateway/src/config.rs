//! Settings of a gateway: arguments, their environment forms, and the root credentials.
//!
//! Owns: parsing and defaults, and the names that users of MinIO have in their environment. Never opens a socket.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use coffer_common::layout::ParitySettings;
use zeroize::Zeroizing;

use crate::notify::{self, InvalidTarget, Webhook};
use crate::object::{InvalidKeyring, Keyring};
use crate::s3::auth::Credential;
use crate::s3::{Ownership, TrustedProxies};

/// Shortest secret key that is accepted, in characters.
const MIN_SECRET_CHARS: usize = 8;
/// Shortest access key that is accepted, in characters.
const MIN_ACCESS_CHARS: usize = 3;

/// Settings that do not let a gateway start.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No root credentials.
    #[error(
        "no credentials: set COFFER_ACCESS_KEY and COFFER_SECRET_KEY (or COFFER_ACCESS_KEY_FILE and \
         COFFER_SECRET_KEY_FILE), for example\n  \
         export COFFER_ACCESS_KEY=coffer COFFER_SECRET_KEY=$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \\n')"
    )]
    NoCredentials,
    /// Half of a key pair.
    #[error("`{set}` is set, but `{missing}` is not: both are needed")]
    HalfOfPair {
        /// The one that is there.
        set: String,
        /// The one that is not.
        missing: String,
    },
    /// Too short to be safe, or not what a header can carry.
    #[error("`{name}` is not usable: {reason}")]
    BadKey {
        /// The setting.
        name: String,
        /// Why.
        reason: String,
    },
    /// A file named by a `_FILE` setting cannot be read.
    #[error("`{name}` names `{path}`, which cannot be read: {reason}")]
    File {
        /// The setting.
        name: String,
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file of the encryption keys is none, or is not kept from others.
    #[error("`{path}`, which `--encryption-keys` names, cannot be used: {reason}")]
    Keys {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A target of events that cannot be used.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    /// A proxy that is to be trusted, and is neither an address nor a network.
    #[error(
        "`{0}` is no network: give `--trusted-proxies` addresses or networks such as 10.0.0.5 or 10.0.1.0/24, separated by commas"
    )]
    BadProxy(String),
    /// A base domain that cannot be one.
    #[error("`{0}` is not a domain name: give names such as s3.example.com, separated by commas")]
    BadDomain(String),
}

/// Arguments of a gateway, for its own binary, `coffer gateway` and `coffer server`.
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    /// Where S3 is served.
    #[arg(long, env = "COFFER_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:9000")]
    pub address: SocketAddr,

    /// Where the admin API, health and metrics are served.
    #[arg(long, env = "COFFER_CONSOLE_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:9001")]
    pub console_address: SocketAddr,

    /// Serves S3 over TLS, HTTP/2 and HTTP/1.1, with `tls.crt` (the chain) and `tls.key` of this folder; read anew when they change.
    #[arg(long, env = "COFFER_S3_TLS_DIR", value_name = "FOLDER")]
    pub s3_tls_dir: Option<PathBuf>,

    /// Load balancers that are believed whom a request comes from (`X-Forwarded-For`, `X-Forwarded-Proto`): addresses and networks,
    /// separated by commas [default: none].
    #[arg(long, env = "COFFER_TRUSTED_PROXIES", value_name = "CIDR,…", value_delimiter = ',')]
    pub trusted_proxies: Vec<String>,

    /// Base domains for addresses such as `bucket.s3.example.com`, separated by commas.
    #[arg(long, env = "COFFER_DOMAIN", value_name = "DOMAINS", value_delimiter = ',')]
    pub domain: Vec<String>,

    /// The only region that requests may name [default: any; new buckets are in us-east-1].
    #[arg(long, env = "COFFER_REGION", value_name = "REGION")]
    pub region: Option<String>,

    /// Whether Signature Version 2 is accepted, which old clients and presigned URLs of boto3 use.
    #[arg(long, env = "COFFER_SIGV2", value_name = "on|off", default_value = "on")]
    pub sigv2: Switch,

    /// Who owns what others write into new buckets, and whether access control lists count in them.
    #[arg(
        long,
        env = "COFFER_OBJECT_OWNERSHIP",
        value_name = "OWNERSHIP",
        default_value = "bucket-owner-enforced"
    )]
    pub object_ownership: Ownership,

    /// Keys for encryption at rest: a file of lines `name:base64 of 32 bytes`, the same for all gateways. The first is used
    /// where none is named; lines stay while an object needs them.
    #[arg(long, env = "COFFER_ENCRYPTION_KEYS", value_name = "FILE")]
    pub encryption_keys: Option<PathBuf>,

    /// Seconds that count as a day for lifecycle rules, in tests.
    #[arg(long, env = "COFFER_TEST_LIFECYCLE_DAY_SECONDS", value_name = "SECONDS", hide = true)]
    pub test_lifecycle_day_seconds: Option<u32>,

    /// Parity of the storage class STANDARD, such as EC:4 [default: half of the stripe].
    #[arg(long, env = "COFFER_STORAGE_CLASS_STANDARD", value_name = "EC:m", value_parser = ParitySettings::parse)]
    pub standard: Option<u8>,

    /// Parity of the storage class REDUCED_REDUNDANCY [default: EC:2, but less than STANDARD].
    #[arg(long, env = "COFFER_STORAGE_CLASS_RRS", value_name = "EC:m", value_parser = ParitySettings::parse)]
    pub reduced: Option<u8>,
}

/// A setting that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Settings of a gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where S3 is served.
    pub s3_address: SocketAddr,
    /// Where the admin API, health and metrics are served.
    pub admin_address: SocketAddr,
    /// The folder of the certificate that S3 is served with; `None` for HTTP.
    pub s3_tls_dir: Option<PathBuf>,
    /// The root key pair.
    pub root: Credential,
    /// Proxies that are believed whom a request comes from.
    pub trusted_proxies: TrustedProxies,
    /// Base domains for virtual-host style addresses, lower case.
    pub domains: Vec<String>,
    /// Whether Signature Version 2 is accepted.
    pub sigv2: bool,
    /// The only region that is accepted; `None` for any.
    pub region: Option<String>,
    /// Who owns what others write into new buckets.
    pub ownership: Ownership,
    /// The keys that objects are encrypted with; none without a file.
    pub encryption_keys: Keyring,
    /// How long a day is for lifecycle rules, in tests.
    pub lifecycle_day: Option<Duration>,
    /// Targets of events.
    pub webhooks: Vec<Webhook>,
    /// The parity of each storage class.
    pub parity: ParitySettings,
}

impl GatewayArgs {
    /// The gateway's settings, with credentials and fallbacks from the environment.
    ///
    /// # Errors
    /// [`ConfigError`] if they do not let a gateway start.
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the environment")]
    pub fn gateway_config(&self) -> Result<GatewayConfig, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok();
        let mut domains = self.domain.clone();
        if domains.is_empty() {
            let old = variable("MINIO_DOMAIN").unwrap_or_default();
            domains = old.split(',').map(str::to_owned).collect();
        }
        Ok(GatewayConfig {
            s3_address: self.address,
            admin_address: self.console_address,
            s3_tls_dir: self.s3_tls_dir.clone(),
            trusted_proxies: TrustedProxies::parse(&self.trusted_proxies).map_err(ConfigError::BadProxy)?,
            root: root_credential()?,
            domains: parse_domains(&domains)?,
            sigv2: self.sigv2 == Switch::On,
            region: self.region.clone().filter(|region| !region.is_empty()),
            ownership: self.object_ownership,
            encryption_keys: self.encryption_keys.as_deref().map(keyring).transpose()?.unwrap_or_default(),
            lifecycle_day: self.test_lifecycle_day_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            webhooks: notify::webhooks(
                std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()),
                |name| setting(name, &variable, &read_file),
                |path| read_file(Path::new(path)),
            )?,
            parity: ParitySettings { standard: self.standard, reduced: self.reduced },
        })
    }
}

/// Names of a key pair, the first that is set wins: ours, and those that people have from MinIO.
const PAIRS: [(&str, &str); 3] = [
    ("COFFER_ACCESS_KEY", "COFFER_SECRET_KEY"),
    ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
];

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;
type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<String, String>;

/// The root key pair of the environment, for servers and for what commands sign.
///
/// # Errors
/// [`ConfigError`] if there is none that can be used.
#[expect(clippy::disallowed_methods, reason = "this is the module that reads the environment")]
pub fn root_credential() -> Result<Credential, ConfigError> {
    credentials(&|name: &str| std::env::var(name).ok(), &read_file)
}

fn credentials(variable: Lookup<'_>, file: ReadFile<'_>) -> Result<Credential, ConfigError> {
    for (access_name, secret_name) in PAIRS {
        let access = setting(access_name, variable, file)?;
        let secret = setting(secret_name, variable, file)?;
        let half =
            |set: &str, missing: &str| ConfigError::HalfOfPair { set: set.into(), missing: missing.into() };
        match (access, secret) {
            (None, None) => {}
            (Some(_), None) => return Err(half(access_name, secret_name)),
            (None, Some(_)) => return Err(half(secret_name, access_name)),
            (Some(access), Some(secret)) => {
                check_key(access_name, &access, MIN_ACCESS_CHARS)?;
                check_key(secret_name, &secret, MIN_SECRET_CHARS)?;
                return Ok(Credential::new(access, secret));
            }
        }
    }
    Err(ConfigError::NoCredentials)
}

/// `NAME`, or the first line of the file that `NAME_FILE` names.
fn setting(name: &str, variable: Lookup<'_>, file: ReadFile<'_>) -> Result<Option<String>, ConfigError> {
    if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
        return Ok(Some(value));
    }
    let name = format!("{name}_FILE");
    let Some(path) = variable(&name).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    match file(Path::new(&path)) {
        Ok(text) => Ok(Some(text.lines().next().unwrap_or_default().trim().to_owned())),
        Err(reason) => Err(ConfigError::File { name, path, reason }),
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Reads the file of the encryption keys. Others than its owner and its group must not be able to read it, nor others than its
/// owner to write it: whoever can read it can read what is encrypted, and whoever can write it can have writes refused.
fn keyring(path: &Path) -> Result<Keyring, ConfigError> {
    let bad = |reason: String| ConfigError::Keys { path: path.display().to_string(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err(bad(format!("its mode {mode:03o} lets others read or change it: `chmod 600`")));
    }
    let text = Zeroizing::new(read_file(path).map_err(bad)?);
    Keyring::parse(&text).map_err(|error: InvalidKeyring| bad(error.to_string()))
}

fn check_key(name: &str, value: &str, shortest: usize) -> Result<(), ConfigError> {
    let reason = if value.chars().count() < shortest {
        format!("it needs at least {shortest} characters")
    } else if value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "it holds white space".to_owned()
    } else if shortest == MIN_ACCESS_CHARS && value.contains(['/', ',', '=', ':']) {
        "it holds one of / , = :, which signatures use".to_owned()
    } else {
        return Ok(());
    };
    Err(ConfigError::BadKey { name: name.to_owned(), reason })
}

fn parse_domains(names: &[String]) -> Result<Vec<String>, ConfigError> {
    let mut domains = Vec::new();
    for name in names.iter().map(|name| name.trim().trim_matches('.').to_ascii_lowercase()) {
        if name.is_empty() {
            continue;
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !name.bytes().all(known) || name.parse::<std::net::IpAddr>().is_ok() {
            return Err(ConfigError::BadDomain(name));
        }
        domains.push(name);
    }
    Ok(domains)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Credential, ConfigError> {
        let variable =
            |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let file = |path: &Path| match path.to_str() {
            Some("/good") => Ok(" from-the-file \nmore".to_owned()),
            _ => Err("no such file".to_owned()),
        };
        credentials(&variable, &file)
    }

    #[test]
    fn credentials_come_from_the_first_pair_that_is_set() {
        let ours = [
            ("COFFER_ACCESS_KEY", "ours"),
            ("COFFER_SECRET_KEY_FILE", "/good"),
            ("MINIO_ROOT_USER", "theirs"),
        ];
        assert_eq!(from(&ours).unwrap().access_key(), "ours");
        let theirs = [("MINIO_ROOT_USER", "theirs"), ("MINIO_ROOT_PASSWORD", "long enough".trim_end())];
        assert!(matches!(from(&theirs), Err(ConfigError::BadKey { .. })), "white space");
        let theirs = [("MINIO_ACCESS_KEY", "theirs"), ("MINIO_SECRET_KEY", "long-enough")];
        assert_eq!(from(&theirs).unwrap().access_key(), "theirs");
    }

    #[test]
    fn a_start_without_credentials_says_what_to_type() {
        assert!(from(&[]).unwrap_err().to_string().contains("export COFFER_ACCESS_KEY="));
        let half = from(&[("COFFER_ACCESS_KEY", "abc")]).unwrap_err();
        assert!(half.to_string().contains("`COFFER_SECRET_KEY` is not"), "{half}");
        let file = from(&[("COFFER_ACCESS_KEY", "abc"), ("COFFER_SECRET_KEY_FILE", "/bad")]).unwrap_err();
        assert!(file.to_string().contains("`/bad`"), "{file}");
        assert!(from(&[("COFFER_ACCESS_KEY", "abc"), ("COFFER_SECRET_KEY", "short")]).is_err());
    }

    #[test]
    fn a_keyring_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let (key, other) = ("pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=", "pO3u");
        let check = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            keyring(&path)
                .map(|keys| keys.default_key().map(str::to_owned))
                .map_err(|error| error.to_string())
        };
        for mode in [0o600, 0o400, 0o440] {
            assert_eq!(check(&format!("first:{key}"), mode), Ok(Some("first".to_owned())));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        for mode in [0o644, 0o660, 0o604] {
            let error = check(&format!("first:{key}"), mode).unwrap_err();
            assert!(error.contains("chmod 600") && error.contains("--encryption-keys"), "{error}");
        }
        let error = check(&format!("first:{other}"), 0o600).unwrap_err();
        assert!(error.contains("line 1") && !error.contains(other), "{error}");
        assert!(keyring(&folder.path().join("none")).is_err());
    }

    #[test]
    fn domains_are_names() {
        let parse = |text: &str| parse_domains(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse("S3.Example.com, .b.org,").unwrap(), ["s3.example.com", "b.org"]);
        assert!(parse("http://x").is_err());
        assert!(parse("127.0.0.1").is_err());
    }
}
