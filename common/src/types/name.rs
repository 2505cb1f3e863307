//! Bucket names and object keys, checked by S3's rules.

use std::fmt;

use bytes::Bytes;

use crate::limits::MAX_KEY_BYTES;

/// The name breaks S3's rules for general purpose buckets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("bucket name `{name}` is not valid: {reason}")]
pub struct InvalidBucketName {
    name: String,
    reason: &'static str,
}

/// A bucket name: 3-63 of `a-z 0-9 . -`, by the rules of
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(String);

impl BucketName {
    /// Checks the name.
    ///
    /// # Errors
    /// [`InvalidBucketName`] with the rule that is broken.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidBucketName> {
        let name = name.into();
        match broken_rule(&name) {
            None => Ok(Self(name)),
            Some(reason) => Err(InvalidBucketName { name, reason }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn broken_rule(name: &str) -> Option<&'static str> {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    if !(3..=63).contains(&bytes.len()) {
        Some("it must have 3 to 63 characters")
    } else if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
    {
        Some("it may hold lower-case letters, digits, dots and hyphens only")
    } else if !edge(bytes.first()) || !edge(bytes.last()) {
        Some("it must begin and end with a letter or a digit")
    } else if name.contains("..") {
        Some("it must not hold two dots in a row")
    } else if name.parse::<std::net::Ipv4Addr>().is_ok() {
        Some("it must not look like an IP address")
    } else if name.starts_with("xn--")
        || name.starts_with("sthree-")
        || name.ends_with("-s3alias")
        || name.ends_with("--ol-s3")
    {
        Some("this prefix or suffix is reserved")
    } else {
        None
    }
}

/// The key is empty, too long or not UTF-8.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidObjectKey {
    /// No byte at all.
    #[error("an object key must not be empty")]
    Empty,
    /// Over the limit.
    #[error("an object key of {0} bytes is longer than {MAX_KEY_BYTES}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("an object key must be UTF-8")]
    NotUtf8,
}

/// An object key: any 1-1,024 bytes of UTF-8. Never a file path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Bytes);

impl ObjectKey {
    /// Checks the key.
    ///
    /// # Errors
    /// [`InvalidObjectKey`] if it is empty, too long or not UTF-8.
    pub fn new(key: impl Into<Bytes>) -> Result<Self, InvalidObjectKey> {
        let key = key.into();
        if key.is_empty() {
            Err(InvalidObjectKey::Empty)
        } else if key.len() > MAX_KEY_BYTES {
            Err(InvalidObjectKey::TooLong(key.len()))
        } else if std::str::from_utf8(&key).is_err() {
            Err(InvalidObjectKey::NotUtf8)
        } else {
            Ok(Self(key))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
