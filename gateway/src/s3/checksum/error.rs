//! Every way in which a checksum is unacceptable.

use super::ChecksumAlgorithm;

/// Why checksums of a request were refused. Each case names its S3 code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// `InvalidDigest`: `Content-MD5` is not the base64 of 16 bytes.
    #[error("The Content-MD5 you specified was invalid.")]
    InvalidContentMd5,
    /// `BadDigest`: the body has another MD5.
    #[error("The Content-MD5 you specified did not match what we received.")]
    ContentMd5Mismatch,
    /// `InvalidRequest`: a checksum value, algorithm or type header cannot be read.
    #[error("Value for {header} header is invalid.")]
    InvalidHeader {
        /// The header's name.
        header: String,
    },
    /// `InvalidRequest`: a checksum value in the trailer cannot be read.
    #[error("Value for {header} trailing header is invalid.")]
    InvalidTrailer {
        /// The field's name.
        header: &'static str,
    },
    /// `InvalidRequest`: more than one checksum in headers and trailer.
    #[error("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")]
    Several,
    /// `InvalidRequest`: `x-amz-trailer` names a field we do not take.
    #[error("The value specified in the x-amz-trailer header is not supported")]
    UnsupportedTrailer,
    /// `InvalidRequest`: an algorithm S3 may know and we do not.
    #[error(
        "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, \
         CRC32C, CRC64NVME, SHA1, SHA256]"
    )]
    UnsupportedAlgorithm,
    /// `InvalidRequest`: the algorithm is announced, its value is nowhere.
    #[error(
        "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
         headers were found."
    )]
    ValueMissing,
    /// `InvalidRequest`: S3 does not offer this type for this algorithm.
    #[error("The {kind} checksum type cannot be used with the {} checksum algorithm.", algorithm.name().to_lowercase())]
    UnsupportedType {
        /// The type's S3 name.
        kind: &'static str,
        /// The algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// `BadDigest`: the body has another checksum.
    #[error("The {} you specified did not match the calculated checksum.", algorithm.name())]
    Mismatch {
        /// The algorithm.
        algorithm: ChecksumAlgorithm,
    },
}

impl ChecksumError {
    /// The S3 error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidContentMd5 => "InvalidDigest",
            Self::ContentMd5Mismatch | Self::Mismatch { .. } => "BadDigest",
            Self::InvalidHeader { .. }
            | Self::InvalidTrailer { .. }
            | Self::Several
            | Self::UnsupportedTrailer
            | Self::UnsupportedAlgorithm
            | Self::ValueMissing
            | Self::UnsupportedType { .. } => "InvalidRequest",
        }
    }
}
