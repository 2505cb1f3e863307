//! Every way in which authentication fails: one enum, which the S3 error map turns into codes.

use coffer_common::time::UnixMillis;

/// Why a request was not accepted. Each case names its S3 code; messages say what S3 says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// `AccessDenied`: no credentials at all.
    #[error("Access Denied.")]
    Anonymous,
    /// `InvalidArgument`: header and query, or several headers, carry credentials.
    #[error(
        "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string \
         parameter or the Authorization header should be specified"
    )]
    SeveralMechanisms,
    /// `InvalidArgument`: the `Authorization` header names a scheme we do not know.
    #[error("Unsupported Authorization Type")]
    UnsupportedAuthorization,
    /// `InvalidRequest`: Signature Version 2 is switched off.
    #[error("The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.")]
    SignatureVersionOff,
    /// `NotImplemented`: Signature Version 4A (ECDSA), in the signature or in the payload mode.
    #[error("A header you provided implies functionality that is not implemented: AWS4-ECDSA-P256-SHA256")]
    AsymmetricUnsupported,
    /// `InvalidAccessKeyId`.
    #[error("The AWS Access Key Id you provided does not exist in our records.")]
    UnknownAccessKey {
        /// The key as sent.
        access_key: String,
    },
    /// `SignatureDoesNotMatch`.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your key and \
         signing method."
    )]
    SignatureMismatch {
        /// The key as sent.
        access_key: String,
    },
    /// `RequestTimeTooSkewed`.
    #[error("The difference between the request time and the server's time is too large.")]
    TimeTooSkewed {
        /// When the request says it was made.
        request_time: UnixMillis,
        /// Our clock.
        server_time: UnixMillis,
    },
    /// `AccessDenied`: a presigned URL after its end.
    #[error("Request has expired")]
    Expired {
        /// When it ended.
        expires: UnixMillis,
        /// Our clock.
        server_time: UnixMillis,
    },
    /// `AccessDenied`: a presigned URL dated in the future.
    #[error("Request is not valid yet")]
    NotYetValid,
    /// `AccessDenied`: neither `x-amz-date` nor `Date`, or neither is a date.
    #[error("AWS authentication requires a valid Date or x-amz-date header")]
    MissingDate,
    /// `AuthorizationHeaderMalformed`.
    #[error("The authorization header is malformed; {0}")]
    HeaderMalformed(&'static str),
    /// `AuthorizationHeaderMalformed` (with `Region`): the scope names another region.
    #[error("The authorization header is malformed; the region '{region}' is wrong; expecting '{expected}'")]
    HeaderRegion {
        /// The region in the scope.
        region: String,
        /// Ours.
        expected: String,
    },
    /// `AuthorizationQueryParametersError`.
    #[error("{0}")]
    QueryMalformed(&'static str),
    /// `AuthorizationQueryParametersError` (with `Region`): the scope names another region.
    #[error(
        "Error parsing the X-Amz-Credential parameter; the region '{region}' is wrong; expecting '{expected}'"
    )]
    QueryRegion {
        /// The region in the scope.
        region: String,
        /// Ours.
        expected: String,
    },
    /// `AccessDenied`: a Version 2 presigned URL lacks or garbles one of its three parameters.
    #[error("Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters")]
    QueryV2Malformed,
    /// `AccessDenied` (with `HeadersNotSigned`): a header that must be signed is not.
    #[error("There were headers present in the request which were not signed")]
    HeaderNotSigned {
        /// The header's name, lower case.
        header: String,
    },
    /// `InvalidRequest`: `x-amz-content-sha256` is absent.
    #[error("Missing required header for this request: x-amz-content-sha256")]
    MissingContentSha256,
    /// `InvalidArgument`: `x-amz-content-sha256` is none of the known values.
    #[error(
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
         STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value."
    )]
    InvalidContentSha256,
    /// `InvalidToken`: a session token that does not belong to the key.
    #[error("The provided token is malformed or otherwise invalid.")]
    InvalidToken,
    /// `ExpiredToken`: a temporary credential after its end.
    #[error("The provided token has expired.")]
    ExpiredToken,
}

impl AuthError {
    /// The S3 error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Anonymous
            | Self::Expired { .. }
            | Self::NotYetValid
            | Self::MissingDate
            | Self::QueryV2Malformed
            | Self::HeaderNotSigned { .. } => "AccessDenied",
            Self::SeveralMechanisms | Self::UnsupportedAuthorization | Self::InvalidContentSha256 => {
                "InvalidArgument"
            }
            Self::SignatureVersionOff | Self::MissingContentSha256 => "InvalidRequest",
            Self::AsymmetricUnsupported => "NotImplemented",
            Self::UnknownAccessKey { .. } => "InvalidAccessKeyId",
            Self::SignatureMismatch { .. } => "SignatureDoesNotMatch",
            Self::TimeTooSkewed { .. } => "RequestTimeTooSkewed",
            Self::HeaderMalformed(_) | Self::HeaderRegion { .. } => "AuthorizationHeaderMalformed",
            Self::QueryMalformed(_) | Self::QueryRegion { .. } => "AuthorizationQueryParametersError",
            Self::InvalidToken => "InvalidToken",
            Self::ExpiredToken => "ExpiredToken",
        }
    }
}
