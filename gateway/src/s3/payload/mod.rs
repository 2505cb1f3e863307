//! The body of an S3 request, with its framing removed and everything that protects it checked.
//!
//! Owns: `aws-chunked` decoding (signed, signed with trailer, unsigned with trailer), the length of the
//! body, its SHA-256, chunk and trailer signatures. Never: verifies the request itself (see
//! [`super::auth`]), or the checksums a trailer names (see [`super::checksum`]).
//!
//! Flow:
//! 1. [`PayloadPlan::new`] turns the verified payload mode and the headers into a plan, and refuses
//!    requests that do not say how long the object is.
//! 2. [`PayloadStream`] pulls frames from the body and hands out the object's bytes without copying them.
//! 3. After the last byte [`PayloadStream::next`] checks length, hash and signatures, and only then answers
//!    `None`. Bytes handed out before are not proven: **commit nothing before `None`.**
//! 4. [`PayloadStream::trailers`] then holds the trailer fields.
//!
//! Memory: one frame of the body and one line of framing. Cancellation: dropping `next` loses nothing.

mod chunked;
mod error;

pub use chunked::{ChunkedDecoder, MAX_CHUNK_HEADER_BYTES, MAX_TRAILER_BYTES, MIN_CHUNK_BYTES};
pub use error::{BoxError, PayloadError};

use super::auth::PayloadMode;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

/// Trailer fields in order: lower-case name and trimmed value.
pub type Trailers = Vec<(String, String)>;

/// What is known about a body before it is read.
#[derive(Debug)]
pub struct PayloadPlan {
    framing: Framing,
    len: Option<u64>,
}

#[derive(Debug)]
enum Framing {
    Plain { sha256: Option<[u8; 32]> },
    Chunked(Box<ChunkedDecoder>),
}

impl PayloadPlan {
    /// Plans how to read the body of a request that was verified with `mode`.
    ///
    /// # Errors
    /// [`PayloadError::MissingContentLength`] if a chunked body comes without a valid
    /// `x-amz-decoded-content-length`, or any body with an invalid `Content-Length`;
    /// [`PayloadError::MalformedTrailer`] if `x-amz-trailer` is not readable.
    pub fn new(mode: &PayloadMode, headers: &HeaderMap) -> Result<Self, PayloadError> {
        let (signing, trailer) = match mode {
            PayloadMode::Hashed(hash) => return Self::plain(Some(*hash), headers),
            PayloadMode::Unsigned => return Self::plain(None, headers),
            PayloadMode::Chunked { signing, trailer } => (signing.clone(), *trailer),
        };
        let len =
            length(headers, "x-amz-decoded-content-length")?.ok_or(PayloadError::MissingContentLength)?;
        let trailer = if trailer { Some(declared_trailers(headers)?) } else { None };
        let decoder = Box::new(ChunkedDecoder::new(signing, trailer, len));
        Ok(Self { framing: Framing::Chunked(decoder), len: Some(len) })
    }

    fn plain(sha256: Option<[u8; 32]>, headers: &HeaderMap) -> Result<Self, PayloadError> {
        let len = length(headers, "content-length")?;
        Ok(Self { framing: Framing::Plain { sha256 }, len })
    }

    /// Length of the object in bytes; `None` only for a plain body without `Content-Length` (S3 refuses such
    /// an upload with `MissingContentLength`; requests without a body have none either).
    pub fn object_len(&self) -> Option<u64> {
        self.len
    }

    /// Leaves the check of a signed payload hash to the caller, which then must compare the SHA-256 itself
    /// before it commits: for callers that compute it on another thread anyway. `None` if there is none.
    pub fn take_sha256(&mut self) -> Option<[u8; 32]> {
        match &mut self.framing {
            Framing::Plain { sha256 } => sha256.take(),
            Framing::Chunked(_) => None,
        }
    }
}

/// A length header: absent, or exactly one run of digits.
fn length(headers: &HeaderMap, name: &str) -> Result<Option<u64>, PayloadError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().map(str::trim).filter(|_| values.next().is_none());
    let digits = text.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok());
    number.map(Some).ok_or(PayloadError::MissingContentLength)
}

/// The names in `x-amz-trailer`, lower case.
fn declared_trailers(headers: &HeaderMap) -> Result<Vec<String>, PayloadError> {
    let mut names = Vec::new();
    for value in headers.get_all("x-amz-trailer") {
        let text = value.to_str().map_err(|_| PayloadError::MalformedTrailer)?;
        names.extend(
            text.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()),
        );
    }
    Ok(names)
}

/// The object's bytes, pulled from a request body.
#[derive(Debug)]
pub struct PayloadStream<B> {
    body: B,
    framing: Framing,
    hash: Option<Sha256>,
    len: Option<u64>,
    received: u64,
    input: Bytes,
    trailers: Trailers,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

impl<B> PayloadStream<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads `body` by `plan`.
    pub fn new(body: B, plan: PayloadPlan) -> Self {
        let hash = matches!(plan.framing, Framing::Plain { sha256: Some(_) }).then(Sha256::new);
        Self {
            body,
            framing: plan.framing,
            hash,
            len: plan.len,
            received: 0,
            input: Bytes::new(),
            trailers: Trailers::new(),
            state: State::Open,
        }
    }

    /// Length of the object in bytes, if the request says it.
    pub fn object_len(&self) -> Option<u64> {
        self.len
    }

    /// The trailer fields; complete after [`next`](Self::next) has answered `None`.
    pub fn trailers(&self) -> &Trailers {
        &self.trailers
    }

    /// The next piece of the object, never empty; `None` once the whole body was received and proven.
    ///
    /// # Errors
    /// Every way a body can be wrong is one case of [`PayloadError`]. After an error the stream is dead.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PayloadError> {
        let result = match self.state {
            State::Open => self.advance().await,
            State::Ended => return Ok(None),
            State::Failed => return Err(PayloadError::IncompleteBody),
        };
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        result
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, PayloadError> {
        loop {
            if let Some(piece) = self.decode()? {
                return Ok(Some(piece));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|error| PayloadError::Transport(error.into()))?;
                    self.input = frame.into_data().unwrap_or_default();
                }
                None => return self.finish().map(|()| None),
            }
        }
    }

    /// Decodes what is in hand; `None` asks for more.
    fn decode(&mut self) -> Result<Option<Bytes>, PayloadError> {
        let piece = match &mut self.framing {
            Framing::Chunked(decoder) => return decoder.decode(&mut self.input),
            Framing::Plain { .. } => std::mem::take(&mut self.input),
        };
        self.received += piece.len() as u64;
        if self.len.is_some_and(|len| self.received > len) {
            return Err(PayloadError::IncompleteBody);
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&piece);
        }
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// The body has ended: is all of it there, and is it what was signed?
    fn finish(&mut self) -> Result<(), PayloadError> {
        match &mut self.framing {
            Framing::Chunked(decoder) => self.trailers = decoder.finish()?,
            Framing::Plain { sha256 } => {
                if self.len.is_some_and(|len| self.received != len) {
                    return Err(PayloadError::IncompleteBody);
                }
                let computed = self.hash.take().map(|hash| <[u8; 32]>::from(hash.finalize()));
                if let (Some(expected), Some(computed)) = (sha256, computed)
                    && *expected != computed
                {
                    return Err(PayloadError::Sha256Mismatch);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
