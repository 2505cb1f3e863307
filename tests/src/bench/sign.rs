//! AWS Signature Version 4 in the Authorization header, for requests whose path needs no escaping.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What stands for the body's hash when it is not signed.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// Signs the requests of one identity. The key of a day is derived once.
#[derive(Clone)]
pub struct Signer {
    access_key: String,
    secret_key: String,
    region: String,
    day: String,
    key: [u8; 32],
}

/// The headers that make a request a signed one.
#[derive(Debug, PartialEq, Eq)]
pub struct SignedHeaders {
    /// `authorization`.
    pub authorization: String,
    /// `x-amz-date`.
    pub date: String,
}

/// What is signed.
pub struct Request<'a> {
    /// GET, PUT, …
    pub method: &'a str,
    /// The `host` header.
    pub host: &'a str,
    /// The path, escaped.
    pub path: &'a str,
    /// The query, escaped and sorted.
    pub query: &'a str,
    /// The hex SHA-256 of the body, or [`UNSIGNED_PAYLOAD`].
    pub payload_hash: &'a str,
}

impl Signer {
    /// A signer for S3 in this region.
    pub fn new(access_key: &str, secret_key: &str, region: &str) -> Self {
        Self {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            region: region.to_owned(),
            day: String::new(),
            key: [0; 32],
        }
    }

    /// Signs a request at this many seconds since the Unix epoch.
    pub fn sign(&mut self, request: &Request<'_>, unix_seconds: u64) -> SignedHeaders {
        self.sign_with(request, &[], unix_seconds)
    }

    /// The same with more headers, whose names sort after `x-amz-date`.
    pub fn sign_with(
        &mut self,
        request: &Request<'_>,
        more: &[(&str, &str)],
        unix_seconds: u64,
    ) -> SignedHeaders {
        let date = amz_date(unix_seconds);
        self.turn_to(&date[..8]);
        let Request { method, host, path, query, payload_hash } = request;
        let mut names = "host;x-amz-content-sha256;x-amz-date".to_owned();
        let mut lines = String::new();
        for (name, value) in more {
            names.push_str(&format!(";{name}"));
            lines.push_str(&format!("{name}:{value}\n"));
        }
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{payload_hash}\nx-amz-date:{date}\n{lines}\n\
             {names}\n{payload_hash}"
        );
        let scope = format!("{}/{}/s3/aws4_request", self.day, self.region);
        let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
        let signature =
            hex::encode(mac(&self.key, format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}").as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key
        );
        SignedHeaders { authorization, date }
    }

    fn turn_to(&mut self, day: &str) {
        if self.day == day {
            return;
        }
        day.clone_into(&mut self.day);
        let mut key = mac(format!("AWS4{}", self.secret_key).as_bytes(), day.as_bytes());
        for step in [self.region.as_str(), "s3", "aws4_request"] {
            key = mac(&key, step.as_bytes());
        }
        self.key = key;
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// `YYYYMMDDTHHMMSSZ`, by the proleptic Gregorian calendar.
fn amz_date(unix_seconds: u64) -> String {
    let (mut days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{:02}{:02}T{hour:02}{minute:02}{second:02}Z", month + 1, days + 1)
}

/// Escapes a query value as SigV4 wants it.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
