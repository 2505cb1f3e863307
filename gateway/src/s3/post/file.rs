//! The file of a form: what is left of the request, up to the closing delimiter.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

use super::form::find;
use crate::s3::body::RequestBody;
use crate::s3::payload::BoxError;

/// The form does not end where its length says.
#[derive(Debug, thiserror::Error)]
#[error("the file is not the last field of the form, or the form is not closed by its delimiter")]
struct NotLast;

/// The file's bytes as a body; an error unless exactly so many come before the closing delimiter.
pub(crate) struct FileBody {
    body: RequestBody,
    /// Bytes that were read with the fields, or were kept back.
    ready: Bytes,
    left: u64,
    delimiter: Vec<u8>,
    /// The last bytes handed out: a delimiter must not hide at the border of two pieces.
    tail: BytesMut,
    ended: bool,
}

impl FileBody {
    /// The file begins with `ready` and has `length` bytes.
    pub(super) fn new(body: RequestBody, ready: Bytes, length: u64, delimiter: String) -> Self {
        let delimiter = delimiter.into_bytes();
        Self { body, ready, left: length, delimiter, tail: BytesMut::new(), ended: false }
    }

    /// Whether the file goes on with `piece`, and no delimiter is in it.
    fn is_clean(&mut self, piece: &[u8]) -> bool {
        let border = self.delimiter.len() - 1;
        let mut seam = std::mem::take(&mut self.tail);
        seam.extend_from_slice(&piece[..piece.len().min(border)]);
        let clean = find(&seam, &self.delimiter).is_none() && find(piece, &self.delimiter).is_none();
        if piece.len() >= border {
            seam.clear();
            seam.extend_from_slice(&piece[piece.len() - border..]);
        } else if seam.len() > border {
            let _ = seam.split_to(seam.len() - border);
        }
        self.tail = seam;
        clean
    }

    /// Whether these bytes, which are the request's last, close the form.
    fn closes(&self, rest: &[u8]) -> bool {
        rest.strip_prefix(self.delimiter.as_slice()) == Some(b"--\r\n")
    }

    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => Ok(None),
                Some(Err(error)) => Err(error.into()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => Ok(Some(piece)),
                    _ => continue,
                },
            });
        }
    }

    /// Reads what comes after the file.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // What is kept is bounded: more than a closing delimiter is wrong anyway.
        while self.ready.len() <= self.delimiter.len() + 4 {
            match ready!(self.poll_more(context))? {
                None => break,
                Some(piece) => self.ready = [self.ready.as_ref(), &piece].concat().into(),
            }
        }
        Poll::Ready(if self.closes(&self.ready) { Ok(()) } else { Err(NotLast.into()) })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if this.left == 0 {
            this.ended = true;
            return Poll::Ready(match this.poll_end(context) {
                Poll::Pending => {
                    this.ended = false;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => None,
                Poll::Ready(Err(error)) => Some(Err(error)),
            });
        }
        if this.ready.is_empty() {
            match ready!(this.poll_more(context)) {
                Ok(Some(piece)) => this.ready = piece,
                Ok(None) => return Poll::Ready(Some(Err(NotLast.into()))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let take = usize::try_from(this.left).unwrap_or(usize::MAX).min(this.ready.len());
        let piece = this.ready.split_to(take);
        this.left -= piece.len() as u64;
        let clean = this.is_clean(&piece);
        Poll::Ready(Some(if clean { Ok(Frame::data(piece)) } else { Err(NotLast.into()) }))
    }
}
