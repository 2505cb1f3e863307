//! S3's error codes, each with its status and message, and the one error type of all handlers.
//!
//! Owns: the code table and the XML answer. Never: decides; [`map`] turns the errors of the layers below into codes,
//! exhaustively. A HEAD answer has the status and no body; 503 always says when to come back.

mod map;

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::response::{self, S3Response};
use super::xml;

pub(crate) use map::{beyond_source, delete_marker_as_source};

/// Seconds a client should wait after a 503.
const RETRY_AFTER_S: &str = "1";

/// The text of a code: its name, unless that cannot be one of Rust's.
macro_rules! text_of {
    ($name:ident) => {
        stringify!($name)
    };
    ($name:ident $text:literal) => {
        $text
    };
}

macro_rules! codes {
    ($($name:ident $(($text:literal))? $status:ident $message:literal),+ $(,)?) => {
        /// A code of S3's table of errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Code {
            $(#[doc = $message] $name),+
        }

        impl Code {
            /// As it stands in `<Code>`.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => text_of!($name $($text)?)),+ }
            }

            /// The HTTP status.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),+ }
            }

            /// The default message.
            pub(crate) fn message(self) -> &'static str {
                match self { $(Self::$name => $message),+ }
            }

            /// The code of this name.
            #[cfg(test)]
            pub(crate) fn from_name(name: &str) -> Option<Self> {
                match name { $(text_of!($name $($text)?) => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

codes! {
    AccessControlListNotSupported BAD_REQUEST "The bucket does not allow ACLs.",
    AccessDenied FORBIDDEN "Access Denied.",
    AccessForbidden FORBIDDEN "CORSResponse: CORS is not enabled for this bucket.",
    AuthorizationHeaderMalformed BAD_REQUEST "The authorization header is malformed.",
    AuthorizationQueryParametersError BAD_REQUEST "The authorization query parameters are malformed.",
    BadDigest BAD_REQUEST "The digest you specified did not match what we received.",
    BadRequest BAD_REQUEST "Bad request.",
    BucketAlreadyExists CONFLICT "The requested bucket name is not available.",
    BucketAlreadyOwnedByYou CONFLICT "The bucket you tried to create already exists, and you own it.",
    BucketNotEmpty CONFLICT "The bucket you tried to delete is not empty.",
    ConditionalRequestConflict CONFLICT "A conflicting operation occurred on this key; retry the request.",
    EntityTooLarge BAD_REQUEST "Your proposed upload exceeds the maximum allowed object size.",
    EntityTooSmall BAD_REQUEST "Your proposed upload is smaller than the minimum allowed object size.",
    ExpiredToken BAD_REQUEST "The provided token has expired.",
    IllegalVersioningConfigurationException BAD_REQUEST "The versioning configuration specified in the request is invalid.",
    IncompleteBody BAD_REQUEST "You did not provide the number of bytes specified by the Content-Length HTTP header.",
    InsufficientStorage INSUFFICIENT_STORAGE "The drives are full. Delete objects or add room; space of deleted objects \
                                              is free again within a minute.",
    InternalError INTERNAL_SERVER_ERROR "We encountered an internal error. Please try again.",
    InvalidAccessKeyId FORBIDDEN "The access key id you provided does not exist in our records.",
    InvalidArgument BAD_REQUEST "Invalid argument.",
    InvalidBucketAclWithObjectOwnership BAD_REQUEST "Bucket cannot have ACLs set with ObjectOwnership's \
                                                     BucketOwnerEnforced setting.",
    InvalidBucketName BAD_REQUEST "The specified bucket is not valid.",
    InvalidBucketState CONFLICT "The request is not valid with the current state of the bucket.",
    InvalidChunkSizeError FORBIDDEN "Only the last chunk is allowed to have a size less than 8192 bytes.",
    InvalidDigest BAD_REQUEST "The Content-MD5 you specified is not valid.",
    InvalidLocationConstraint BAD_REQUEST "The specified location constraint is not valid.",
    InvalidObjectState FORBIDDEN "The operation is not valid for the object's storage class.",
    InvalidPart BAD_REQUEST "One or more of the specified parts could not be found. The part may not have been \
                             uploaded, or the specified entity tag may not match the part's entity tag.",
    InvalidPartNumber RANGE_NOT_SATISFIABLE "The requested partnumber is not satisfiable.",
    InvalidPartOrder BAD_REQUEST "The list of parts was not in ascending order.",
    InvalidPolicyDocument BAD_REQUEST "The content of the form does not meet the conditions specified in the policy \
                                       document.",
    InvalidRange RANGE_NOT_SATISFIABLE "The requested range is not satisfiable.",
    InvalidRequest BAD_REQUEST "Invalid request.",
    InvalidRetentionPeriod BAD_REQUEST "The retention period must be a positive integer value.",
    InvalidStorageClass BAD_REQUEST "The storage class you specified is not valid.",
    InvalidTag BAD_REQUEST "The tag provided was not a valid tag.",
    InvalidToken BAD_REQUEST "The provided token is malformed or otherwise not valid.",
    InvalidURI BAD_REQUEST "Couldn't parse the specified URI.",
    KmsNotFoundException ("KMS.NotFoundException") BAD_REQUEST "The key does not exist.",
    KeyTooLongError BAD_REQUEST "Your key is too long.",
    MalformedPOSTRequest BAD_REQUEST "The body of your POST request is not well-formed multipart/form-data.",
    MalformedPolicy BAD_REQUEST "This policy contains invalid JSON.",
    MalformedTrailerError BAD_REQUEST "The request contained trailing data that was not well-formed.",
    MalformedXML BAD_REQUEST "The XML you provided was not well-formed or did not validate against our published schema.",
    MaxMessageLengthExceeded BAD_REQUEST "Your request was too large.",
    MetadataTooLarge BAD_REQUEST "Your metadata headers exceed the maximum allowed metadata size.",
    MethodNotAllowed METHOD_NOT_ALLOWED "The specified method is not allowed against this resource.",
    MissingContentLength LENGTH_REQUIRED "You must provide the Content-Length HTTP header.",
    MissingRequestBodyError BAD_REQUEST "Request body is empty.",
    NoSuchBucket NOT_FOUND "The specified bucket does not exist.",
    NoSuchBucketPolicy NOT_FOUND "The bucket policy does not exist.",
    NoSuchCORSConfiguration NOT_FOUND "The CORS configuration does not exist.",
    NoSuchKey NOT_FOUND "The specified key does not exist.",
    NoSuchLifecycleConfiguration NOT_FOUND "The lifecycle configuration does not exist.",
    NoSuchObjectLockConfiguration NOT_FOUND "The specified object does not have an ObjectLock configuration.",
    NoSuchPublicAccessBlockConfiguration NOT_FOUND "The public access block configuration was not found.",
    NoSuchTagSet NOT_FOUND "The TagSet does not exist.",
    NoSuchUpload NOT_FOUND "The specified multipart upload does not exist. The upload ID might not be valid, or the \
                            multipart upload might have been aborted or completed.",
    NoSuchVersion NOT_FOUND "The specified version does not exist.",
    NoSuchWebsiteConfiguration NOT_FOUND "The specified bucket does not have a website configuration.",
    NotImplemented NOT_IMPLEMENTED "A header or query you provided implies functionality that is not implemented.",
    NotModified NOT_MODIFIED "Not modified.",
    ObjectLockConfigurationNotFoundError NOT_FOUND "Object Lock configuration does not exist for this bucket.",
    OperationAborted CONFLICT "A conflicting conditional operation is currently in progress against this resource. \
                               Try again.",
    OwnershipControlsNotFoundError NOT_FOUND "The bucket ownership controls were not found.",
    PreconditionFailed PRECONDITION_FAILED "At least one of the preconditions you specified did not hold.",
    ReplicationConfigurationNotFoundError NOT_FOUND "The replication configuration was not found.",
    RequestTimeTooSkewed FORBIDDEN "The difference between the request time and the server's time is too large.",
    RequestTimeout BAD_REQUEST "Your socket connection to the server was not read from or written to within the timeout \
                                period.",
    ServerSideEncryptionConfigurationNotFoundError NOT_FOUND "The server side encryption configuration was not found.",
    ServiceUnavailable SERVICE_UNAVAILABLE "Service is unable to handle request. Please try again.",
    SignatureDoesNotMatch FORBIDDEN "The request signature we calculated does not match the signature you provided.",
    SlowDown SERVICE_UNAVAILABLE "Please reduce your request rate.",
    XMinioAdminBucketQuotaExceeded BAD_REQUEST "Bucket quota exceeded.",
    XAmzContentSHA256Mismatch BAD_REQUEST "The provided 'x-amz-content-sha256' header does not match what was computed.",
}

/// What a handler answers instead of success.
#[derive(Clone, Debug)]
pub(crate) struct S3Error {
    code: Code,
    message: Cow<'static, str>,
    details: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl S3Error {
    /// The code with its own message.
    pub(crate) fn new(code: Code) -> Self {
        Self { code, message: Cow::Borrowed(code.message()), details: Vec::new(), headers: Vec::new() }
    }

    /// With a message that says more.
    pub(crate) fn with(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), ..Self::new(code) }
    }

    /// `InvalidArgument` that names the argument.
    pub(crate) fn argument(name: &'static str, value: &str, message: impl Into<Cow<'static, str>>) -> Self {
        let error = Self::with(Code::InvalidArgument, message);
        error.detail("ArgumentName", name).detail("ArgumentValue", value)
    }

    /// `NotImplemented` that names what.
    pub(crate) fn not_implemented(what: &str) -> Self {
        Self::with(Code::NotImplemented, format!("{} ({what})", Code::NotImplemented.message()))
    }

    /// Adds an element to the XML body.
    pub(crate) fn detail(mut self, element: &'static str, value: impl Into<String>) -> Self {
        self.details.push((element, value.into()));
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// The message.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The `<Error>` document.
    pub(crate) fn document(&self, resource: &str, request_id: &str, host_id: &str) -> String {
        let mut out = String::from(xml::DECLARATION);
        out.push_str("<Error>");
        xml::push_element(&mut out, "Code", self.code.name());
        xml::push_element(&mut out, "Message", &self.message);
        for (element, value) in &self.details {
            xml::push_element(&mut out, element, value);
        }
        xml::push_element(&mut out, "Resource", resource);
        xml::push_element(&mut out, "RequestId", request_id);
        xml::push_element(&mut out, "HostId", host_id);
        out.push_str("</Error>");
        out
    }

    /// The HTTP answer; `head` leaves the body out, and so does 304.
    pub(crate) fn into_response(
        self,
        head: bool,
        resource: &str,
        request_id: &str,
        host_id: &str,
    ) -> S3Response {
        let bodiless = head || self.code.status() == StatusCode::NOT_MODIFIED;
        let mut answer = if bodiless {
            response::empty(self.code.status())
        } else {
            response::xml(self.code.status(), self.document(resource, request_id, host_id))
        };
        if self.code.status() == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        for (name, value) in self.headers {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

impl From<Code> for S3Error {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_escapes_what_the_client_sent() {
        let error = S3Error::argument("max-keys", "<a&b>", "bad");
        let text = error.document("/b/\u{1}k\r", "R", "H");
        assert!(text.contains("<ArgumentValue>&lt;a&amp;b&gt;</ArgumentValue>"), "{text}");
        assert!(text.contains("<Resource>/b/&#x1;k&#13;</Resource>"), "{text}");
    }

    #[test]
    fn unavailable_says_when_to_come_back() {
        let answer = S3Error::new(Code::SlowDown).into_response(false, "/", "R", "H");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], RETRY_AFTER_S);
    }
}
