//! The body of a WriteShard stream, written without copying payload.
//!
//! tonic's codecs encode into one buffer, which copies every payload byte. Here a message that carries data is emitted
//! as [gRPC prefix, field header] and the pieces as they are; the bytes on the wire are those of the stock encoder.
//! Pieces that wait are put into one message up to about 256 KiB; tiny ones are joined with what stands before them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio::sync::oneshot;
use tonic::Status;

use super::settings::BULK_MESSAGE_BYTES;
use crate::node::{PrepareShard, ShardPiece, ShardPieces};
use crate::proto::storage_v1 as wire;
use wire::write_shard_request::{End, Part};

/// `WriteShardRequest.data`.
const DATA_FIELD: u32 = 2;

/// Pieces below this size are copied behind the header instead of getting a frame of their own.
const JOIN_BELOW_BYTES: usize = 2048;

/// A WriteShard request: header, pieces, end.
pub(super) struct ShardBody {
    pieces: ShardPieces,
    ready: VecDeque<Bytes>,
    done: bool,
    sent: Option<oneshot::Sender<()>>,
}

impl ShardBody {
    /// The body, and what completes when its last byte has been taken (or it was dropped).
    pub(super) fn new(header: PrepareShard, pieces: ShardPieces) -> (Self, oneshot::Receiver<()>) {
        let header = encode(Part::Header(header.into()));
        let (sent, all_sent) = oneshot::channel();
        (Self { pieces, ready: VecDeque::from([header]), done: false, sent: Some(sent) }, all_sent)
    }

    /// Takes what waits, up to a message. `Pending` only if nothing does.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut pieces = Vec::new();
        let mut len_bytes = 0;
        let mut end = None;
        while len_bytes < BULK_MESSAGE_BYTES {
            match self.pieces.poll_recv(cx) {
                Poll::Ready(Some(ShardPiece::Data(piece))) => {
                    len_bytes += piece.len();
                    pieces.push(piece);
                }
                Poll::Ready(Some(ShardPiece::End)) => {
                    end = Some(Ok(()));
                    break;
                }
                Poll::Ready(None) => {
                    end = Some(Err(Status::cancelled("the shard was given up")));
                    break;
                }
                Poll::Pending if pieces.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        match end {
            Some(Err(status)) => return Poll::Ready(Err(status)),
            Some(Ok(())) => self.done = true,
            None => {}
        }
        if len_bytes > 0 {
            self.push_message(pieces, len_bytes);
        }
        if self.done {
            self.ready.push_back(encode(Part::End(End {})));
        }
        Poll::Ready(Ok(()))
    }

    fn push_message(&mut self, pieces: Vec<Bytes>, len_bytes: usize) {
        let message_len = 1 + encoded_len_varint(len_bytes as u64) + len_bytes;
        let mut head = BytesMut::with_capacity(64);
        put_prefix(&mut head, message_len);
        encode_key(DATA_FIELD, WireType::LengthDelimited, &mut head);
        encode_varint(len_bytes as u64, &mut head);
        for piece in pieces {
            if piece.len() < JOIN_BELOW_BYTES {
                head.extend_from_slice(&piece);
                continue;
            }
            if !head.is_empty() {
                self.ready.push_back(head.split().freeze());
            }
            self.ready.push_back(piece);
        }
        if !head.is_empty() {
            self.ready.push_back(head.freeze());
        }
    }
}

impl Body for ShardBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                if self.done && self.ready.is_empty() {
                    self.sent.take().map(|sent| sent.send(()));
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if self.done {
                return Poll::Ready(None);
            }
            match self.fill(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(status)) => return Poll::Ready(Some(Err(status))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.ready.is_empty()
    }
}

fn put_prefix(buffer: &mut BytesMut, message_len: usize) {
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(message_len).expect("a message of pieces of at most 1 MiB fits u32"));
}

fn encode(part: Part) -> Bytes {
    let message = wire::WriteShardRequest { part: Some(part) };
    let mut buffer = BytesMut::with_capacity(5 + message.encoded_len());
    put_prefix(&mut buffer, message.encoded_len());
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::node::SlotAddress;
    use crate::types::*;

    fn header() -> PrepareShard {
        let address = SlotAddress {
            cluster: ClusterId(1),
            drive: DriveId(2),
            incarnation: Incarnation(3),
            partition: PartitionId(4),
            slot: SlotIndex(5),
            epoch: Epoch(6),
        };
        let register = RegisterKey::object(BucketId(7), ObjectKey::new("key").unwrap());
        PrepareShard { address, register, bucket_revision: 8, op: OpId::default() }
    }

    #[tokio::test]
    async fn the_bytes_are_those_of_the_stock_encoder() {
        for sizes in [vec![], vec![1], vec![64, 16, 5000, 16, 100], vec![700_000, 16, 600_000, 16, 3]] {
            let pieces: Vec<Bytes> = sizes.iter().map(|&len| Bytes::from(vec![len as u8; len])).collect();
            let (sender, receiver) = tokio::sync::mpsc::channel(16);
            for piece in &pieces {
                sender.try_send(ShardPiece::Data(piece.clone())).unwrap();
            }
            sender.try_send(ShardPiece::End).unwrap();
            let body = ShardBody::new(header(), receiver).0.collect().await.unwrap().to_bytes();

            let mut rest = body;
            let mut data = BytesMut::new();
            let mut parts = Vec::new();
            while !rest.is_empty() {
                let prefix = rest.split_to(5);
                let len = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                let message = rest.split_to(len);
                let decoded = wire::WriteShardRequest::decode(message.clone()).unwrap();
                assert_eq!(decoded.encode_to_vec(), message);
                match decoded.part.unwrap() {
                    Part::Header(sent) => {
                        assert_eq!(PrepareShard::try_from(sent), Ok(header()));
                        parts.push("header");
                    }
                    Part::Data(piece) => data.extend_from_slice(&piece),
                    Part::End(End {}) => parts.push("end"),
                }
            }
            assert_eq!(parts, ["header", "end"]);
            assert_eq!(data.freeze(), pieces.concat());
        }
    }

    #[tokio::test]
    async fn a_shard_that_is_given_up_is_an_error_and_never_an_end() {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        sender.try_send(ShardPiece::Data(Bytes::from_static(b"half"))).unwrap();
        drop(sender);
        assert!(ShardBody::new(header(), receiver).0.collect().await.is_err());
    }
}
