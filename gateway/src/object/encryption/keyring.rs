//! The keys that gateways keep for objects: a text of lines `name:base64 of 32 bytes`.
//!
//! The first line's key is the one that is used where none is named; new keys go above, and a key stays while an object
//! needs it. Empty lines, and those that begin with `#`, say nothing. Never reads the file, nor writes one.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::cipher::Secret;

/// Longest name of a key, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// The name that stands for the first key, as clients of AWS know it.
const DEFAULT_ALIAS: &str = "aws/s3";

/// The text is no keyring. Never holds a key.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidKeyring {
    /// There is no key in it.
    #[error(
        "it holds no key; a line is `name:base64 of 32 bytes`, such as `first:$(head -c 32 /dev/urandom | base64)` makes it"
    )]
    Empty,
    /// A line is none.
    #[error("line {line} is not `name:base64 of 32 bytes`: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why.
        reason: &'static str,
    },
}

/// Keys by name, in order. Cheap to clone.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Arc<[(String, Secret)]>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(name, _)| name)).finish()
    }
}

impl Keyring {
    /// Reads a keyring.
    ///
    /// # Errors
    /// [`InvalidKeyring`] says where.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyring> {
        let mut keys: Vec<(String, Secret)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |reason| InvalidKeyring::Line { line: at + 1, reason };
            let (name, key) = line.split_once(':').ok_or_else(|| bad("it has no colon"))?;
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(known) {
                return Err(bad("a name is of letters, digits, `-`, `_` and `.`"));
            }
            if keys.iter().any(|(other, _)| other == name) {
                return Err(bad("another line has this name"));
            }
            let bytes = Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| bad("the key is no base64"))?);
            let key = Secret::new(&bytes).ok_or_else(|| bad("the key has not 32 bytes"))?;
            keys.push((name.to_owned(), key));
        }
        if keys.is_empty() {
            return Err(InvalidKeyring::Empty);
        }
        Ok(Self { keys: keys.into() })
    }

    /// The name of the key that is used where none is named; `None` if there is no key.
    pub fn default_key(&self) -> Option<&str> {
        self.keys.first().map(|(name, _)| name.as_str())
    }

    /// The name of the key that `id` means: a name, `alias/NAME`, or an ARN that ends in `key/NAME` or `alias/NAME`. It need
    /// not be in the keyring.
    pub fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        let tail = match id.strip_prefix("arn:") {
            Some(arn) => arn.splitn(5, ':').last().unwrap_or(arn),
            None => id,
        };
        let name = tail.strip_prefix("key/").or_else(|| tail.strip_prefix("alias/")).unwrap_or(tail);
        match self.default_key() {
            Some(first) if name == DEFAULT_ALIAS => first,
            _ => name,
        }
    }

    /// Whether there is a key of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.key(name).is_some()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn key(&self, name: &str) -> Option<&Secret> {
        self.keys.iter().find(|(known, _)| known == name).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=";

    #[test]
    fn the_first_line_is_the_default() {
        let keys = Keyring::parse(&format!("# ours\n\n new:{KEY} \nold-1.a_b:{KEY}\n")).unwrap();
        assert_eq!(keys.default_key(), Some("new"));
        assert!(keys.contains("old-1.a_b") && !keys.contains("other"));
        assert_eq!(format!("{keys:?}"), r#"["new", "old-1.a_b"]"#);
    }

    #[test]
    fn bad_texts_say_where_and_never_what() {
        assert_eq!(Keyring::parse("# nothing\n").unwrap_err(), InvalidKeyring::Empty);
        for (text, line) in [
            (format!("a{KEY}"), 1),
            (format!("a:{KEY}\n\na:{KEY}"), 3),
            (format!("a b:{KEY}"), 1),
            (format!(":{KEY}"), 1),
            ("a:c2hvcnQ=".to_owned(), 1),
            ("a:*".to_owned(), 1),
        ] {
            let error = Keyring::parse(&text).unwrap_err();
            assert!(matches!(error, InvalidKeyring::Line { line: at, .. } if at == line), "{text}: {error}");
            assert!(!error.to_string().contains("pO3up"), "{error}");
        }
    }

    #[test]
    fn ids_mean_names() {
        let keys = Keyring::parse(&format!("first:{KEY}\nsecond:{KEY}")).unwrap();
        for (id, name) in [
            ("second", "second"),
            ("alias/second", "second"),
            ("arn:aws:kms:eu-central-1:111122223333:key/second", "second"),
            ("arn:aws:kms:eu-central-1:111122223333:alias/second", "second"),
            ("alias/aws/s3", "first"),
            ("arn:aws:kms:eu-central-1:111122223333:alias/aws/s3", "first"),
            ("unknown", "unknown"),
        ] {
            assert_eq!(keys.name_of(id), name, "{id}");
        }
    }
}
