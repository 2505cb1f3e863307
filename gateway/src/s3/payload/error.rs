//! Every way in which a body is wrong.

/// Any error of the transport below.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body was refused. Each case names its S3 code.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// `MissingContentLength`: no (valid) `Content-Length`, or `x-amz-decoded-content-length` if chunked.
    #[error("You must provide the Content-Length HTTP header.")]
    MissingContentLength,
    /// `IncompleteBody`: the body is shorter or longer than announced, or its framing is broken.
    #[error("The request body terminated unexpectedly")]
    IncompleteBody,
    /// `InvalidChunkSizeError`: a chunk before the last one is too small.
    #[error("Only the last chunk is allowed to have a size less than 8192 bytes")]
    ChunkTooSmall {
        /// Number of the chunk, from 1.
        chunk: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// `SignatureDoesNotMatch`: of a chunk or of the trailer.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your key and \
         signing method."
    )]
    SignatureMismatch,
    /// `MalformedTrailerError`: fields that were not announced, announced fields that are absent, bad lines.
    #[error(
        "The request contained trailing data that was not well-formed or did not conform to our published \
         schema."
    )]
    MalformedTrailer,
    /// `XAmzContentSHA256Mismatch`: the body is not the one that was signed.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    Sha256Mismatch,
    /// `IncompleteBody`: the connection failed or timed out while the body was read.
    #[error("the request body could not be read: {0}")]
    Transport(#[source] BoxError),
}

impl PayloadError {
    /// The S3 error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingContentLength => "MissingContentLength",
            Self::IncompleteBody | Self::Transport(_) => "IncompleteBody",
            Self::ChunkTooSmall { .. } => "InvalidChunkSizeError",
            Self::SignatureMismatch => "SignatureDoesNotMatch",
            Self::MalformedTrailer => "MalformedTrailerError",
            Self::Sha256Mismatch => "XAmzContentSHA256Mismatch",
        }
    }
}
