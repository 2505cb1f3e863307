//! Encryption at rest: what the bytes of objects are encrypted with, and how the keys for it are kept.
//!
//! Owns: data keys, what seals them, and the rules of which key a request must bring. Never: knows headers, reads files, or keeps a
//! customer's key longer than its request. [`cipher`] has the cryptography and says why no keystream is used twice; [`keyring`] the
//! keys that gateways keep.
//!
//! ```text
//!   customer's key ─┐                             ┌─ HKDF(op) ─► AES-256-CTR over the op's bytes
//!                   ├─ seals ─► data key (random, ┤
//!  keyring's key ───┘           one per object    └─ HKDF(op of a part) ─► …
//!                               or upload)
//! ```
//! 1. A write makes a data key and seals it for its place: bucket, key, and the op or upload whose shards the bytes are. The sealed
//!    key lies in the version's metadata (an upload's in its record, and Complete hands it on), so that it is of no use
//!    anywhere else.
//! 2. Bytes are encrypted after they were hashed and before they are coded, each op with a keystream of its own; lengths and
//!    places stay, and so do ranges, parts and digests, which are of the plain bytes.
//! 3. A read opens the data key: whether the key that was brought is the right one is what opening tells. Nothing of
//!    a customer's key is kept, not even a hash.
//!
//! **Consistency.** The sealed key is part of the version, so that it is never older or newer than its bytes. **Retries.** Another attempt at
//! a part is another op. **Cancellation, crash.** A data key that was not committed is forgotten with the ops that it was for.

mod cipher;
mod keyring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coffer_common::meta::{Encryption, EncryptionScheme};
use coffer_common::types::{BucketId, ObjectKey, OpId, UploadId};

use super::error::{ReadBroken, Unavailable};
use cipher::{CipherFailed, Secret};
pub(super) use cipher::{DataKey, Keystream};
pub use keyring::{InvalidKeyring, Keyring};

/// A key that a client brings with its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerKey(Secret);

impl CustomerKey {
    /// A key of these bytes; `None` if there are more or fewer than 32.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Secret::new(bytes).map(Self)
    }
}

/// How a writer wants its bytes encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encrypt {
    /// Not at all.
    #[default]
    No,
    /// With this key, which each read then has to bring.
    Customer(CustomerKey),
    /// With the keyring's first key.
    Managed,
    /// With the keyring's key of this name.
    Named(String),
}

/// How an object or an upload is encrypted, as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encrypted {
    /// With its customer's key.
    Customer,
    /// With a key of the keyring, whichever.
    Managed,
    /// With the keyring's key of this name.
    Named(String),
}

/// What a read brings to have an object opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlock {
    /// Nothing: it wants to know what is said about the object, its tags or its lists, and neither bytes nor headers.
    Nothing,
    /// The customer's key, if the client has sent one.
    With(Option<CustomerKey>),
}

impl Default for Unlock {
    fn default() -> Self {
        Self::With(None)
    }
}

/// Why a key is not had.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EncryptionError {
    /// Its customer's key is needed, and was not brought.
    #[error("the customer's key is needed")]
    KeyNeeded,
    /// The key that was brought is not the one.
    #[error("another customer's key was used")]
    WrongKey,
    /// A customer's key was brought for what is not encrypted with one.
    #[error("no customer's key is needed")]
    NotApplicable,
    /// The gateway has no keyring.
    #[error("this gateway has no encryption keys")]
    NoKeyring,
    /// The keyring has no key of the name that the writer gives.
    #[error("there is no key `{0}`")]
    UnknownKey(String),
    /// The keyring has lost the key of this name, or this gateway has another keyring than the others.
    #[error("the key `{0}`, with which the object is encrypted, is not among this gateway's encryption keys")]
    MissingKey(String),
    /// What is kept does not open with the keyring's key of this name.
    #[error(
        "the key `{0}` does not open the object: it is another one than it was written with, or what is kept was changed"
    )]
    Unopened(String),
    /// The cipher refused what it never refuses.
    #[error("the cipher failed")]
    Cipher,
}

impl From<CipherFailed> for EncryptionError {
    fn from(_: CipherFailed) -> Self {
        Self::Cipher
    }
}

impl From<CipherFailed> for Unavailable {
    fn from(error: CipherFailed) -> Self {
        Self::new(error.to_string())
    }
}

impl From<CipherFailed> for ReadBroken {
    fn from(error: CipherFailed) -> Self {
        Self { reason: error.to_string() }
    }
}

/// What a data key is sealed for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    bucket: BucketId,
    key: &'a ObjectKey,
    of: [u8; 16],
}

impl<'a> Place<'a> {
    /// The shards of an op in the object's own register.
    pub(super) fn op(bucket: BucketId, key: &'a ObjectKey, op: OpId) -> Self {
        Self { bucket, key, of: op.to_bytes() }
    }

    /// The parts of an upload.
    pub(super) fn upload(bucket: BucketId, key: &'a ObjectKey, upload: UploadId) -> Self {
        Self { bucket, key, of: upload.to_bytes() }
    }

    /// As additional data. All but the key has a fixed length, so that no two places have the same.
    fn context(&self, scheme: EncryptionScheme) -> Vec<u8> {
        let scheme = match scheme {
            EncryptionScheme::Customer => 1,
            EncryptionScheme::Managed => 2,
            EncryptionScheme::Named => 3,
        };
        [&[scheme], &self.bucket.to_bytes()[..], &self.of, self.key.as_bytes()].concat()
    }
}

/// A data key with what is kept of it.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    /// What is kept.
    pub(super) encryption: Encryption,
    /// The key.
    pub(super) data_key: DataKey,
}

/// Makes a data key as the writer wants; `None` if it wants none.
pub(super) fn seal(
    keys: &Keyring,
    wanted: &Encrypt,
    place: Place<'_>,
) -> Result<Option<Sealed>, EncryptionError> {
    let (scheme, key_id, by) = match wanted {
        Encrypt::No => return Ok(None),
        Encrypt::Customer(key) => (EncryptionScheme::Customer, "", &key.0),
        Encrypt::Managed => {
            let name = keys.default_key().ok_or(EncryptionError::NoKeyring)?;
            (EncryptionScheme::Managed, name, known(keys, name)?)
        }
        Encrypt::Named(name) => (EncryptionScheme::Named, name.as_str(), known(keys, name)?),
    };
    let data_key = DataKey::random();
    let sealed_key = data_key.seal(by, &place.context(scheme))?;
    let encryption = Encryption { scheme, key_id: key_id.to_owned(), sealed_key };
    Ok(Some(Sealed { encryption, data_key }))
}

/// What the bytes of an op are encrypted with, if they are to be.
pub(super) fn keystream(
    data_key: Option<&DataKey>,
    op: OpId,
) -> Result<Option<Arc<Keystream>>, EncryptionError> {
    Ok(data_key.map(|key| key.keystream(op)).transpose()?.map(Arc::new))
}

fn known<'a>(keys: &'a Keyring, name: &str) -> Result<&'a Secret, EncryptionError> {
    if keys.is_empty() {
        return Err(EncryptionError::NoKeyring);
    }
    keys.key(name).ok_or_else(|| EncryptionError::UnknownKey(name.to_owned()))
}

/// Checks that what was brought is what is needed.
fn check(encryption: Option<&Encryption>, brought: bool) -> Result<(), EncryptionError> {
    let needed = encryption.is_some_and(|encryption| encryption.scheme == EncryptionScheme::Customer);
    match (needed, brought) {
        (true, false) => Err(EncryptionError::KeyNeeded),
        (false, true) => Err(EncryptionError::NotApplicable),
        (true, true) | (false, false) => Ok(()),
    }
}

/// The data key of what is kept in a place; `None` if it is not encrypted.
pub(super) fn open(
    keys: &Keyring,
    encryption: Option<&Encryption>,
    brought: Option<&CustomerKey>,
    place: Place<'_>,
) -> Result<Option<DataKey>, EncryptionError> {
    check(encryption, brought.is_some())?;
    let Some(Encryption { scheme, key_id, sealed_key }) = encryption else { return Ok(None) };
    let (by, otherwise) = match brought {
        Some(key) => (&key.0, EncryptionError::WrongKey),
        None => {
            let by = keys.key(key_id).ok_or_else(|| EncryptionError::MissingKey(key_id.clone()))?;
            (by, EncryptionError::Unopened(key_id.clone()))
        }
    };
    DataKey::open(sealed_key, by, &place.context(*scheme)).map(Some).ok_or(otherwise)
}

/// Checks that who wants to know an object's headers may: the customer's key must be the right one.
pub(super) fn prove(
    encryption: Option<&Encryption>,
    unlock: &Unlock,
    place: Place<'_>,
) -> Result<(), EncryptionError> {
    match unlock {
        Unlock::Nothing => Ok(()),
        Unlock::With(None) => check(encryption, false),
        Unlock::With(key) => open(&Keyring::default(), encryption, key.as_ref(), place).map(|_| ()),
    }
}

/// How it is encrypted, as callers see it.
pub(super) fn seen(encryption: &Encryption) -> Encrypted {
    match encryption.scheme {
        EncryptionScheme::Customer => Encrypted::Customer,
        EncryptionScheme::Managed => Encrypted::Managed,
        EncryptionScheme::Named => Encrypted::Named(encryption.key_id.clone()),
    }
}
