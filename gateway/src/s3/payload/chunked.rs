//! `aws-chunked` framing as a state machine over arbitrary pieces of input.
//!
//! ```text
//! 10000;chunk-signature=<64 hex>\r\n   Header      size in hex; the signature only in signed modes
//! <65536 bytes>\r\n                    Data, DataEnd
//! 0;chunk-signature=<64 hex>\r\n       Header      size 0 ends the data
//! x-amz-checksum-crc32c:sOO8/Q==\r\n   Trailer     only in trailer modes
//! x-amz-trailer-signature:<64 hex>\r\n             only in the signed one
//! \r\n                                 Trailer     ends the body -> Ended
//! ```
//!
//! Data leaves as slices of the input. A chunk's signature covers all of its data, so it is judged after
//! the last byte was handed out; the caller commits only after [`ChunkedDecoder::finish`].
//!
//! One well-known client ends trailer lines with `\n`, sends an empty line before the trailer's signature,
//! and an extra empty line at the end of unsigned trailers; these three are accepted, nothing else is.

use super::super::auth::ChunkSigning;
use super::{PayloadError, Trailers};
use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};

/// Longest chunk header, in bytes with CRLF; a signed one takes at most 99.
pub const MAX_CHUNK_HEADER_BYTES: usize = 256;

/// Longest trailer, in bytes with all line ends.
pub const MAX_TRAILER_BYTES: usize = 4096;

/// Smallest size of a chunk that is not the last one with data, in bytes (S3).
pub const MIN_CHUNK_BYTES: u64 = 8192;

const CHUNK_SIGNATURE: &str = ";chunk-signature=";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// Incremental decoder of one body.
#[derive(Debug)]
pub struct ChunkedDecoder {
    signing: Option<ChunkSigning>,
    /// Announced trailer names; `None` in the mode without trailer.
    declared: Option<Vec<String>>,
    /// Object bytes still to come.
    remaining: u64,
    state: State,
    /// The line being collected.
    line: Vec<u8>,
    chunk: u64,
    chunk_size: u64,
    chunk_signature: String,
    chunk_hash: Option<Sha256>,
    trailer_bytes: usize,
    trailers: Trailers,
    trailer_signature: Option<String>,
    blank_seen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Data {
        left: u64,
    },
    DataEnd,
    Trailer,
    /// Complete; `slack` bytes of one more CRLF have been seen.
    Ended {
        slack: usize,
    },
}

impl ChunkedDecoder {
    /// A decoder for a body of `decoded_len` object bytes. `trailer` lists the announced trailer names in
    /// lower case, and is `None` in the mode without trailer.
    pub fn new(signing: Option<ChunkSigning>, trailer: Option<Vec<String>>, decoded_len: u64) -> Self {
        Self {
            signing,
            declared: trailer,
            remaining: decoded_len,
            state: State::Header,
            line: Vec::new(),
            chunk: 0,
            chunk_size: 0,
            chunk_signature: String::new(),
            chunk_hash: None,
            trailer_bytes: 0,
            trailers: Trailers::new(),
            trailer_signature: None,
            blank_seen: false,
        }
    }

    /// Takes framing and at most one piece of data from the front of `input`. `None` means that `input` is
    /// used up.
    ///
    /// # Errors
    /// [`PayloadError`]; the decoder must not be used again.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, PayloadError> {
        while !input.is_empty() {
            match self.state {
                State::Data { left } => return Ok(Some(self.take_data(left, input))),
                State::Ended { slack } => self.take_slack(slack, input)?,
                State::Header | State::DataEnd | State::Trailer => {
                    if self.take_line(input)? {
                        let line = std::mem::take(&mut self.line);
                        self.on_line(&line)?;
                        self.line = line;
                        self.line.clear();
                    }
                }
            }
        }
        Ok(None)
    }

    /// The input has ended. Returns the trailer fields if the body was complete.
    ///
    /// # Errors
    /// [`PayloadError::IncompleteBody`] if it was not.
    pub fn finish(&mut self) -> Result<Trailers, PayloadError> {
        match self.state {
            State::Ended { slack: 0 | 2 } => Ok(std::mem::take(&mut self.trailers)),
            // An end where only the trailer's signature is still due: the trailer is at fault.
            State::Trailer if self.blank_seen && self.line.is_empty() => Err(PayloadError::MalformedTrailer),
            _ => Err(PayloadError::IncompleteBody),
        }
    }

    fn take_data(&mut self, left: u64, input: &mut Bytes) -> Bytes {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let piece = input.split_to(take);
        if let Some(hash) = &mut self.chunk_hash {
            hash.update(&piece);
        }
        let left = left - take as u64;
        self.remaining -= take as u64;
        self.state = if left == 0 { State::DataEnd } else { State::Data { left } };
        piece
    }

    /// Accepts one more CRLF after the end of an unsigned trailer.
    fn take_slack(&mut self, slack: usize, input: &mut Bytes) -> Result<(), PayloadError> {
        let allowed = self.signing.is_none() && !self.trailers.is_empty();
        let expected = b"\r\n".get(slack).filter(|_| allowed);
        if expected != input.first() {
            return Err(PayloadError::IncompleteBody);
        }
        input.advance(1);
        self.state = State::Ended { slack: slack + 1 };
        Ok(())
    }

    /// Moves bytes up to a line feed into `line`; true when the line is complete.
    fn take_line(&mut self, input: &mut Bytes) -> Result<bool, PayloadError> {
        let limit = match self.state {
            State::Trailer => MAX_TRAILER_BYTES - self.trailer_bytes,
            _ => MAX_CHUNK_HEADER_BYTES,
        };
        let end = input.iter().position(|&byte| byte == b'\n');
        let take = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + take > limit {
            return Err(match self.state {
                State::Trailer => PayloadError::MalformedTrailer,
                _ => PayloadError::IncompleteBody,
            });
        }
        self.line.extend_from_slice(&input.split_to(take));
        Ok(end.is_some())
    }

    fn on_line(&mut self, line: &[u8]) -> Result<(), PayloadError> {
        match self.state {
            State::Header => self.on_header(line),
            State::DataEnd if line == b"\r\n" => {
                self.end_chunk()?;
                self.state = State::Header;
                Ok(())
            }
            State::Trailer => self.on_trailer_line(line),
            _ => Err(PayloadError::IncompleteBody),
        }
    }

    fn on_header(&mut self, line: &[u8]) -> Result<(), PayloadError> {
        let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
        let line = line.ok_or(PayloadError::IncompleteBody)?;
        let size = match (self.signing.is_some(), line.split_once(CHUNK_SIGNATURE)) {
            (true, Some((size, signature))) => {
                signature.clone_into(&mut self.chunk_signature);
                size
            }
            // A missing signature in a signed mode is a broken signature, not broken framing.
            (true, None) => return Err(PayloadError::SignatureMismatch),
            (false, _) => line,
        };
        let size = chunk_size(size).ok_or(PayloadError::IncompleteBody)?;
        if size > 0 && self.chunk > 0 && self.chunk_size < MIN_CHUNK_BYTES {
            return Err(PayloadError::ChunkTooSmall { chunk: self.chunk, size: self.chunk_size });
        }
        if size > self.remaining || (size == 0 && self.remaining > 0) {
            return Err(PayloadError::IncompleteBody);
        }
        self.chunk += 1;
        self.chunk_size = size;
        self.chunk_hash = self.signing.is_some().then(Sha256::new);
        if size == 0 {
            self.end_chunk()?;
            self.state = State::Trailer;
        } else {
            self.state = State::Data { left: size };
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), PayloadError> {
        if let (Some(signing), Some(hash)) = (&mut self.signing, self.chunk_hash.take()) {
            let hash = <[u8; 32]>::from(hash.finalize());
            if !signing.verify_chunk(&hash, &self.chunk_signature) {
                return Err(PayloadError::SignatureMismatch);
            }
        }
        Ok(())
    }

    fn on_trailer_line(&mut self, line: &[u8]) -> Result<(), PayloadError> {
        self.trailer_bytes += line.len();
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if self.declared.is_none() {
            // The mode without trailer: only the final CRLF may follow.
            self.state = State::Ended { slack: 0 };
            return if line == b"\r\n" { Ok(()) } else { Err(PayloadError::IncompleteBody) };
        }
        if !text.is_empty() {
            return self.on_trailer_field(text);
        }
        if self.signing.is_some() && self.trailer_signature.is_none() {
            if self.blank_seen {
                return Err(PayloadError::MalformedTrailer);
            }
            self.blank_seen = true;
            return Ok(());
        }
        self.end_trailer()
    }

    fn on_trailer_field(&mut self, text: &[u8]) -> Result<(), PayloadError> {
        let malformed = PayloadError::MalformedTrailer;
        let text = std::str::from_utf8(text).map_err(|_| PayloadError::MalformedTrailer)?;
        let (name, value) = text.split_once(':').ok_or(malformed)?;
        let blank = [' ', '\t'];
        let (name, value) =
            (name.trim_matches(blank).to_ascii_lowercase(), value.trim_matches(blank).to_owned());
        let repeated = self.trailers.iter().any(|(other, _)| *other == name);
        // Nothing may follow the signature, which covers all fields.
        if name.is_empty() || repeated || self.trailer_signature.is_some() {
            return Err(PayloadError::MalformedTrailer);
        }
        if self.signing.is_some() && name == TRAILER_SIGNATURE {
            self.trailer_signature = Some(value);
        } else {
            self.trailers.push((name, value));
        }
        Ok(())
    }

    fn end_trailer(&mut self) -> Result<(), PayloadError> {
        if let Some(signing) = &mut self.signing {
            let lines: String =
                self.trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
            let signature = self.trailer_signature.as_deref().unwrap_or_default();
            if !signing.verify_trailer(lines.as_bytes(), signature) {
                return Err(PayloadError::SignatureMismatch);
            }
        }
        let declared = self.declared.as_deref().unwrap_or_default();
        let known = self.trailers.iter().all(|(name, _)| declared.contains(name));
        let present = declared.iter().all(|name| self.trailers.iter().any(|(other, _)| other == name));
        if !known || !present {
            return Err(PayloadError::MalformedTrailer);
        }
        self.state = State::Ended { slack: 0 };
        Ok(())
    }
}

/// One to sixteen hex digits, nothing else.
fn chunk_size(text: &str) -> Option<u64> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits)
}
