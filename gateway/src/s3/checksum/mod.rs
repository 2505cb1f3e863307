//! Checksums of objects and parts: parsed from requests, computed in one pass, compared, combined.
//!
//! Owns: the five S3 algorithms and MD5, their text forms, which headers and trailers announce them
//! ([`RequestChecksums`]), the hashers ([`DigestSet`]), multipart arithmetic ([`composite`],
//! [`FullObject`], [`multipart_etag`]). Never: touches a body or a store.
//!
//! Flow of an upload:
//! 1. [`RequestChecksums::parse`] reads the headers and refuses contradictions.
//! 2. [`DigestSet::new`] with [`RequestChecksums::algorithms`], given to [`HashPool::hasher`], which hashes
//!    beside the upload and many uploads at once; `update` for every piece.
//! 3. [`RequestChecksums::verify`] compares with header or trailer values, before anything is committed.
//!
//! Source: "Checking object integrity for data uploads in Amazon S3" (User Guide) and the API Reference of
//! PutObject, UploadPart and CompleteMultipartUpload.

mod digest;
mod error;
pub mod md5;
mod multipart;
mod pool;
mod request;

pub use digest::{DigestSet, Digests};
pub use error::ChecksumError;
pub use multipart::{FullObject, composite, multipart_etag, upload_checksum};
pub use pool::{HashLost, HashPool, ObjectHasher};
pub use request::{RequestChecksums, parse_content_md5};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// The checksum algorithms of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC), 4 bytes.
    Crc32,
    /// CRC-32C (Castagnoli, iSCSI), 4 bytes.
    Crc32c,
    /// CRC-64/NVME, 8 bytes.
    Crc64Nvme,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

impl ChecksumAlgorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// S3's name: `CRC32`, `CRC32C`, `CRC64NVME`, `SHA1`, `SHA256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The request and response header: `x-amz-checksum-…`.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The element in XML bodies: `ChecksumCRC32` and so on.
    pub fn element(self) -> &'static str {
        match self {
            Self::Crc32 => "ChecksumCRC32",
            Self::Crc32c => "ChecksumCRC32C",
            Self::Crc64Nvme => "ChecksumCRC64NVME",
            Self::Sha1 => "ChecksumSHA1",
            Self::Sha256 => "ChecksumSHA256",
        }
    }

    /// Length of a value in bytes.
    pub fn value_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// By S3's name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// By header name, in any case.
    pub fn from_header(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.header().eq_ignore_ascii_case(name))
    }

    /// The type a multipart upload gets when it names none; CRC-64/NVME knows only the whole object.
    pub fn default_type(self) -> ChecksumType {
        match self {
            Self::Crc64Nvme => ChecksumType::FullObject,
            _ => ChecksumType::Composite,
        }
    }

    /// Whether S3 offers this type for this algorithm in multipart uploads.
    pub fn supports(self, kind: ChecksumType) -> bool {
        match self {
            Self::Crc32 | Self::Crc32c => true,
            Self::Crc64Nvme => kind == ChecksumType::FullObject,
            Self::Sha1 | Self::Sha256 => kind == ChecksumType::Composite,
        }
    }
}

/// Whether a multipart object's checksum covers its bytes or the checksums of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumType {
    /// A checksum of the parts' checksums, written `<value>-<part count>`.
    Composite,
    /// A checksum of the whole object.
    FullObject,
}

impl ChecksumType {
    /// S3's name: `COMPOSITE` or `FULL_OBJECT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Composite => "COMPOSITE",
            Self::FullObject => "FULL_OBJECT",
        }
    }

    /// By S3's name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Composite, Self::FullObject].into_iter().find(|kind| kind.name() == name)
    }
}

/// One checksum value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    /// The value in the first `value_len` bytes, CRCs big-endian; the rest is zero.
    bytes: [u8; 32],
}

impl Checksum {
    /// From raw bytes; `None` if the length is wrong for the algorithm.
    pub fn from_bytes(algorithm: ChecksumAlgorithm, value: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..value.len()).filter(|_| value.len() == algorithm.value_len())?.copy_from_slice(value);
        Some(Self { algorithm, bytes })
    }

    /// From standard base64 with padding; `None` if it is not that, or of the wrong length.
    pub fn from_base64(algorithm: ChecksumAlgorithm, text: &str) -> Option<Self> {
        Self::from_bytes(algorithm, &STANDARD.decode(text).ok()?)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// The value, CRCs big-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.value_len()]
    }

    /// As S3 writes it in headers and XML.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.bytes())
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm.name(), self.to_base64())
    }
}

#[cfg(test)]
mod tests;
