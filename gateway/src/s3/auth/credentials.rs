//! The access keys this gateway accepts: one root pair today, users beside it later.
//!
//! Secrets never leave this type through `Debug`, logs or errors. Lookups are by exact access key; the
//! verifier works with a decoy when there is none, so that timing tells nothing.

use coffer_common::time::UnixMillis;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// One access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    access_key: String,
    secret_key: String,
    session_token: Option<String>,
    expires: Option<UnixMillis>,
}

impl Credential {
    /// A permanent key pair.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            session_token: None,
            expires: None,
        }
    }

    /// Makes it temporary: requests must carry `token`, until `expires`.
    pub fn with_session(mut self, token: impl Into<String>, expires: UnixMillis) -> Self {
        self.session_token = Some(token.into());
        self.expires = Some(expires);
        self
    }

    /// The access key.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    pub(super) fn secret_key(&self) -> &str {
        &self.secret_key
    }

    pub(super) fn session_token(&self) -> Option<&str> {
        self.session_token.as_deref()
    }

    pub(super) fn expires(&self) -> Option<UnixMillis> {
        self.expires
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// The set of known credentials; cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    by_key: Arc<HashMap<String, Credential>>,
}

impl Credentials {
    /// A store with the root pair only.
    pub fn root(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        [Credential::new(access_key, secret_key)].into_iter().collect()
    }

    /// The credential of this access key.
    pub fn find(&self, access_key: &str) -> Option<&Credential> {
        self.by_key.get(access_key)
    }
}

impl FromIterator<Credential> for Credentials {
    fn from_iter<T: IntoIterator<Item = Credential>>(iter: T) -> Self {
        let by_key = iter.into_iter().map(|credential| (credential.access_key.clone(), credential)).collect();
        Self { by_key: Arc::new(by_key) }
    }
}
