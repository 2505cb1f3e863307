//! Keys and strings to sign of Signature Version 4, and the chain of chunk signatures.

use super::ALGORITHM;
use super::scope::Scope;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// The key of one day, region and service. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SigningKey([u8; 32]);

impl SigningKey {
    pub(super) fn derive(secret: &str, scope: &Scope<'_>) -> Self {
        let day = hmac(format!("AWS4{secret}").as_bytes(), &[scope.day.as_bytes()]);
        let region = hmac(&day, &[scope.region.as_bytes()]);
        let service = hmac(&region, &[b"s3"]);
        Self(hmac(&service, &[b"aws4_request"]))
    }

    /// HMAC-SHA256 of the concatenated pieces.
    pub(super) fn sign(&self, pieces: &[&[u8]]) -> [u8; 32] {
        hmac(&self.0, pieces)
    }
}

/// HMAC-SHA256 of the concatenated pieces.
fn hmac(key: &[u8], pieces: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().into()
}

/// The string to sign of a whole request.
pub(super) fn string_to_sign(date: &str, scope: &str, canonical_hash: &[u8; 32]) -> String {
    format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex::encode(canonical_hash))
}

/// The chain of signatures over the chunks of one `aws-chunked` body: each covers the one before, and the
/// first covers the request's own (the seed).
#[derive(Clone, PartialEq, Eq)]
pub struct ChunkSigning {
    key: SigningKey,
    date: String,
    scope: String,
    previous: String,
}

impl ChunkSigning {
    pub(super) fn new(key: SigningKey, date: String, scope: String, seed: &str) -> Self {
        Self { key, date, scope, previous: seed.to_owned() }
    }

    /// Checks the signature of the next chunk, whose data has this SHA-256; advances the chain if it holds.
    #[must_use]
    pub fn verify_chunk(&mut self, data_sha256: &[u8; 32], signature: &str) -> bool {
        const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let tail = format!("{EMPTY}\n{}", hex::encode(data_sha256));
        self.verify("AWS4-HMAC-SHA256-PAYLOAD", &tail, signature)
    }

    /// Checks the signature of the trailer, given as its canonical lines (`name:value\n` each).
    #[must_use]
    pub fn verify_trailer(&mut self, canonical_lines: &[u8], signature: &str) -> bool {
        let tail = hex::encode(Sha256::digest(canonical_lines));
        self.verify("AWS4-HMAC-SHA256-TRAILER", &tail, signature)
    }

    fn verify(&mut self, algorithm: &str, tail: &str, signature: &str) -> bool {
        let text = format!("{algorithm}\n{}\n{}\n{}\n{tail}", self.date, self.scope, self.previous);
        let expected = hex::encode(self.key.sign(&[text.as_bytes()]));
        let matches = bool::from(expected.as_bytes().ct_eq(signature.as_bytes()));
        if matches {
            self.previous = expected;
        }
        matches
    }
}

impl fmt::Debug for ChunkSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSigning").field("scope", &self.scope).finish_non_exhaustive()
    }
}
