//! The canonical request, rebuilt from what came over the wire.
//!
//! S3 encodes once and never normalises paths. Clients differ in what they escape on the wire, so the path
//! and the query have two accepted forms each: decoded and strictly re-encoded (what S3 documents), and
//! exactly as sent (what some signers hash). Both name the same decoded key and parameters, so accepting
//! either binds the request equally. The forms coincide for nearly all requests; then one hash is made.

use super::super::RequestParts;
use super::super::encoding::{encode_into, pairs, percent_decode};
use sha2::{Digest, Sha256};

/// What the hash is made of.
pub(super) struct CanonicalRequest<'a> {
    pub(super) request: &'a RequestParts<'a>,
    /// The list as sent, `;` between names.
    pub(super) signed_headers: &'a str,
    /// The literal last line.
    pub(super) payload: &'a str,
    /// Whether `X-Amz-Signature` is left out of the query.
    pub(super) presigned: bool,
}

impl CanonicalRequest<'_> {
    /// SHA-256 of every accepted form, one to four of them.
    pub(super) fn hashes(&self) -> Vec<[u8; 32]> {
        let headers = self.headers();
        let queries = self.queries();
        let mut hashes = Vec::with_capacity(1);
        for path in self.paths() {
            for query in &queries {
                let mut hash = Sha256::new();
                for piece in [self.request.method.as_bytes(), &path, query] {
                    hash.update(piece);
                    hash.update(b"\n");
                }
                hash.update(&headers);
                for piece in [b"\n", self.signed_headers.as_bytes(), b"\n", self.payload.as_bytes()] {
                    hash.update(piece);
                }
                hashes.push(hash.finalize().into());
            }
        }
        hashes
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        let raw = if self.request.raw_path.is_empty() { "/" } else { self.request.raw_path };
        let mut encoded = Vec::with_capacity(raw.len());
        encode_into(&mut encoded, &percent_decode(raw), true);
        distinct(encoded, raw.as_bytes().to_vec())
    }

    fn queries(&self) -> Vec<Vec<u8>> {
        let raw = self.request.raw_query.unwrap_or_default();
        let kept = || pairs(raw).filter(|(name, _)| !(self.presigned && *name == "X-Amz-Signature"));
        let encode = |text: &str| {
            let mut out = Vec::with_capacity(text.len());
            encode_into(&mut out, &percent_decode(&text.replace('+', " ")), false);
            out
        };
        let encoded = kept().map(|(name, value)| (encode(name), encode(value))).collect();
        let sent =
            kept().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        distinct(join(encoded), join(sent))
    }

    /// `name:value\n` for each signed header, sorted by name.
    fn headers(&self) -> Vec<u8> {
        let mut names: Vec<&str> = self.signed_headers.split(';').collect();
        names.sort_unstable();
        let mut out = Vec::with_capacity(512);
        for name in names {
            out.extend(name.as_bytes());
            out.push(b':');
            self.header_value(name, &mut out);
            out.push(b'\n');
        }
        out
    }

    fn header_value(&self, name: &str, out: &mut Vec<u8>) {
        if let ("host", Some(authority)) = (name, self.request.authority) {
            out.extend(authority.as_bytes());
            return;
        }
        let mut values = self.request.headers.get_all(name).iter().peekable();
        // Proxies answer `Expect: 100-continue` themselves and drop it; older clients sign it.
        if name == "expect" && values.peek().is_none() {
            out.extend(b"100-continue");
        }
        for (index, value) in values.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_trimmed(out, value.as_bytes());
        }
    }
}

/// Appends without leading and trailing blanks, and with inner runs of spaces made one.
fn push_trimmed(out: &mut Vec<u8>, value: &[u8]) {
    let mut previous_space = false;
    for &byte in value.trim_ascii() {
        let space = byte == b' ';
        if !(space && previous_space) {
            out.push(byte);
        }
        previous_space = space;
    }
}

fn join(mut pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    pairs.sort_unstable();
    let mut out = Vec::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(b'&');
        }
        out.extend(name);
        out.push(b'=');
        out.extend(value);
    }
    out
}

fn distinct(first: Vec<u8>, second: Vec<u8>) -> Vec<Vec<u8>> {
    if first == second { vec![first] } else { vec![first, second] }
}
