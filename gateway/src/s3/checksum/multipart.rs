//! Checksums and ETag of an object made of parts.

use super::digest::{crc_kind, crc_value};
use super::md5::Md5;
use super::{Checksum, ChecksumAlgorithm, ChecksumError, ChecksumType, DigestSet};
use http::HeaderMap;

/// The ETag of a multipart object: MD5 over the parts' raw MD5s in hex, `-`, and the number of parts.
pub fn multipart_etag<'a>(parts: impl IntoIterator<Item = &'a [u8; 16]>) -> String {
    let mut md5 = Md5::new();
    let mut count = 0u32;
    for part in parts {
        md5.update(part);
        count += 1;
    }
    format!("{}-{count}", hex::encode(md5.finish()))
}

/// The composite checksum: the algorithm over the parts' raw values. S3 writes it as base64, `-`, and the
/// number of parts. `None` if a part has a value of another algorithm.
pub fn composite<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = &'a Checksum>,
) -> Option<Checksum> {
    let mut set = DigestSet::new(false, [algorithm]);
    for part in parts {
        if part.algorithm() != algorithm {
            return None;
        }
        set.update(part.bytes());
    }
    set.finish().get(algorithm)
}

/// Combines the CRCs of consecutive parts into that of the whole object, without the bytes.
#[derive(Clone, Copy, Debug)]
pub struct FullObject {
    algorithm: ChecksumAlgorithm,
    register: u64,
}

impl FullObject {
    /// The checksum of no bytes; `None` if `algorithm` cannot be combined (SHA).
    pub fn new(algorithm: ChecksumAlgorithm) -> Option<Self> {
        let register = crc_fast::checksum(crc_kind(algorithm), b"");
        algorithm.supports(ChecksumType::FullObject).then_some(Self { algorithm, register })
    }

    /// Appends a part of `len` bytes; false, and no change, if its value is of another algorithm.
    #[must_use]
    pub fn append(&mut self, part: &Checksum, len: u64) -> bool {
        if part.algorithm() != self.algorithm {
            return false;
        }
        if len > 0 {
            let register =
                part.bytes().iter().fold(0u64, |register, &byte| (register << 8) | u64::from(byte));
            self.register =
                crc_fast::checksum_combine(crc_kind(self.algorithm), self.register, register, len);
        }
        true
    }

    /// The checksum of everything appended.
    pub fn value(&self) -> Checksum {
        crc_value(self.algorithm, self.register)
    }
}

/// The algorithm and type that `x-amz-checksum-algorithm` and `x-amz-checksum-type` of a
/// CreateMultipartUpload ask for; `None` if neither is there.
///
/// # Errors
/// [`ChecksumError`] if one is unknown, the type comes alone, or S3 does not offer the pair.
pub fn upload_checksum(
    headers: &HeaderMap,
) -> Result<Option<(ChecksumAlgorithm, ChecksumType)>, ChecksumError> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    let kind = match text("x-amz-checksum-type") {
        None => None,
        Some(name) => Some(ChecksumType::from_name(name).ok_or_else(|| invalid("x-amz-checksum-type"))?),
    };
    let Some(name) = text("x-amz-checksum-algorithm") else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(invalid("x-amz-checksum-type")),
        };
    };
    let algorithm = ChecksumAlgorithm::from_name(name).ok_or(ChecksumError::UnsupportedAlgorithm)?;
    let kind = kind.unwrap_or(algorithm.default_type());
    if !algorithm.supports(kind) {
        return Err(ChecksumError::UnsupportedType { kind: kind.name(), algorithm });
    }
    Ok(Some((algorithm, kind)))
}

fn invalid(header: &str) -> ChecksumError {
    ChecksumError::InvalidHeader { header: header.to_owned() }
}
