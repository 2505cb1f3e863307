//! The bytes of an object, or of a part of one, on their way from store to store.
//!
//! Owns: their framing as `aws-chunked` with a CRC-32C as trailer, and what is known of them once they are through. Never: holds more than
//! the source sent at once. Bytes that are too few, too many or not those of the source's ETag break the request off before its
//! trailer, so that the destination keeps nothing.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use coffer_gateway::s3::checksum::md5::Md5;
use coffer_gateway::s3::checksum::{ChecksumAlgorithm, DigestSet};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::oneshot;

/// How long a store may be silent.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of a chunk; stores take 8 KiB to 16 MiB.
const CHUNK_BYTES: u64 = 1 << 20;
const TRAILER: &str = "x-amz-checksum-crc32c";

/// The body of a request.
pub(super) type Body = UnsyncBoxBody<Bytes, anyhow::Error>;

/// What passes through.
pub(super) struct Passing<B> {
    pub(super) body: B,
    /// What the source has announced, in bytes.
    pub(super) length: u64,
    /// The MD5 that must come out, in hex.
    pub(super) etag: Option<String>,
    /// The MD5 of what was before, where that of the whole is wanted, too.
    pub(super) whole: Option<Md5>,
}

/// What has passed through.
pub(super) struct Sums {
    pub(super) md5: [u8; 16],
    /// The MD5 in hex.
    pub(super) etag: String,
    /// In base64.
    pub(super) crc32c: String,
    pub(super) whole: Option<Md5>,
}

/// A body of these bytes.
pub(super) fn full(data: Bytes) -> Body {
    Full::new(data).map_err(|never| match never {}).boxed_unsync()
}

/// The framed body; the sums come when all of it has been taken.
pub(super) fn framed<B>(passing: Passing<B>) -> (Body, oneshot::Receiver<Sums>)
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (sums, known) = oneshot::channel();
    let digests = DigestSet::new(true, [ChecksumAlgorithm::Crc32c]);
    let left = passing.length;
    let framer = Framer { passing, left, in_chunk: 0, digests, ready: VecDeque::new(), sums: Some(sums) };
    let pieces = stream::try_unfold(framer, |mut framer| async move {
        Ok(framer.next().await?.map(|piece| (Frame::data(piece), framer)))
    });
    (StreamBody::new(pieces).boxed_unsync(), known)
}

/// Bytes of the framed body of so many.
pub(super) fn framed_bytes(length: u64) -> u64 {
    let chunk = |bytes: u64| format!("{bytes:x}\r\n\r\n").len() as u64 + bytes;
    let last = length % CHUNK_BYTES;
    let end = format!("0\r\n{TRAILER}:AAAAAA==\r\n\r\n").len() as u64;
    length / CHUNK_BYTES * chunk(CHUNK_BYTES) + if last > 0 { chunk(last) } else { 0 } + end
}

struct Framer<B> {
    passing: Passing<B>,
    /// Bytes that have not come yet.
    left: u64,
    /// Of those, bytes of the chunk that has begun.
    in_chunk: u64,
    digests: DigestSet,
    ready: VecDeque<Bytes>,
    /// `None` once the body is over.
    sums: Option<oneshot::Sender<Sums>>,
}

impl<B> Framer<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        while self.ready.is_empty() && self.sums.is_some() {
            let frame = tokio::time::timeout(PATIENCE, self.passing.body.frame()).await;
            match frame.context("the source has stopped sending")? {
                Some(frame) => {
                    let frame = frame.map_err(|error| anyhow!(error).context("the source broke off"))?;
                    self.take(frame.into_data().unwrap_or_default())?;
                }
                None => self.end()?,
            }
        }
        Ok(self.ready.pop_front())
    }

    fn take(&mut self, mut data: Bytes) -> anyhow::Result<()> {
        ensure!(data.len() as u64 <= self.left, "the source sends more than it has announced");
        self.digests.update(&data);
        if let Some(whole) = &mut self.passing.whole {
            whole.update(&data);
        }
        while !data.is_empty() {
            if self.in_chunk == 0 {
                self.in_chunk = self.left.min(CHUNK_BYTES);
                self.ready.push_back(format!("{:x}\r\n", self.in_chunk).into());
            }
            let piece = data.split_to(usize::try_from(self.in_chunk)?.min(data.len()));
            self.left -= piece.len() as u64;
            self.in_chunk -= piece.len() as u64;
            self.ready.push_back(piece);
            if self.in_chunk == 0 {
                self.ready.push_back(Bytes::from_static(b"\r\n"));
            }
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        ensure!(self.left == 0, "the source sends less than it has announced");
        let digests = std::mem::replace(&mut self.digests, DigestSet::new(false, [])).finish();
        let known = digests.md5().zip(digests.etag()).zip(digests.get(ChecksumAlgorithm::Crc32c));
        let ((md5, etag), crc32c) = known.context("no digests")?;
        if let Some(expected) = &self.passing.etag {
            ensure!(*expected == etag, "its bytes have the MD5 {etag}, its ETag is {expected}");
        }
        let crc32c = crc32c.to_base64();
        self.ready.push_back(format!("0\r\n{TRAILER}:{crc32c}\r\n\r\n").into());
        let sums = Sums { md5, etag, crc32c, whole: self.passing.whole.take() };
        // Nobody waits for them any more if the request was given up.
        if let Some(waiting) = self.sums.take() {
            let _ = waiting.send(sums);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(data: &[u8], length: u64, etag: Option<&str>) -> Passing<Full<Bytes>> {
        Passing {
            body: Full::new(Bytes::copy_from_slice(data)),
            length,
            etag: etag.map(str::to_owned),
            whole: None,
        }
    }

    #[tokio::test]
    async fn bytes_are_framed_and_summed() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 77] {
            let data = vec![7; length as usize];
            let (body, sums) = framed(passing(&data, length, None));
            let framed = body.collect().await.unwrap().to_bytes();
            assert_eq!(framed.len() as u64, framed_bytes(length), "{length}");
            let sums = sums.await.unwrap();
            let end = format!("0\r\nx-amz-checksum-crc32c:{}\r\n\r\n", sums.crc32c);
            assert!(framed.ends_with(end.as_bytes()));
        }
        let (body, sums) = framed(passing(b"123456789", 9, Some("25f9e794323b453885f5181f1b624d0b")));
        assert_eq!(
            body.collect().await.unwrap().to_bytes(),
            "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32c:4waSgw==\r\n\r\n"
        );
        assert_eq!(sums.await.unwrap().etag, "25f9e794323b453885f5181f1b624d0b");
    }

    #[tokio::test]
    async fn what_is_not_whole_or_not_the_same_breaks_off() {
        for wrong in [passing(b"12", 3, None), passing(b"1234", 3, None), passing(b"123", 3, Some("00"))] {
            let (body, sums) = framed(wrong);
            assert!(body.collect().await.is_err());
            assert!(sums.await.is_err());
        }
    }
}
