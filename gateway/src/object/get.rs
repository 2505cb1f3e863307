//! GET and HEAD: a strict read of the key's register, then its bytes, lazily.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coffer_common::types::{RegisterKey, SlotSet};

use super::bucket::Bucket;
use super::core::{Core, InlineShards};
use super::encryption::{DataKey, EncryptionError, Keystream, Place, Unlock, open, prove};
use super::error::{GetError, HeadBucketError, ReadBroken, Unavailable};
use super::info::{check_read, object_info, select};
use super::segment::{Segment, SegmentReader};
use super::types::{GetObject, ObjectBytes, ObjectInfo, ObjectRead, Selected};
use super::versions::{self, Kept};
use super::write::compute;

impl From<HeadBucketError> for GetError {
    fn from(error: HeadBucketError) -> Self {
        match error {
            HeadBucketError::NoSuchBucket => Self::NoSuchBucket,
            HeadBucketError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

/// Pieces up to this are decrypted where they are: a hand-over costs as much.
const DECRYPT_IN_PLACE_BYTES: u64 = 64 * 1024;

/// A live object as a read found it.
pub(super) struct Found {
    bucket: Arc<Bucket>,
    kept: Kept,
    /// What callers see of it.
    pub(super) info: ObjectInfo,
    /// The bytes that were asked for.
    pub(super) selected: Selected,
    /// The key of its bytes, if they are encrypted and asked for.
    data_key: Option<DataKey>,
}

/// Finds the object, and judges condition and selection.
pub(super) async fn find(core: &Arc<Core>, request: &GetObject, with_data: bool) -> Result<Found, GetError> {
    let mut bucket = core.bucket(&request.bucket).await?;
    loop {
        match find_in(core, &bucket, request, with_data).await {
            Err(GetError::Unavailable(error)) => bucket = core.renewed(&bucket, error).await?,
            other => return other,
        }
    }
}

async fn find_in(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    request: &GetObject,
    with_data: bool,
) -> Result<Found, GetError> {
    let kept = versions::find(core, bucket, &request.key, (request.version, with_data)).await?;
    let mut info = object_info(kept.object.clone());
    info.versioned |= bucket.record.versioning.keeps_versions();
    info.archived = kept.archived;
    check_read(&request.condition, &info)?;
    let selected = select(request.select, &info)?;
    let data_key = unlocked(core, bucket, request, (&kept, with_data))?;
    Ok(Found { bucket: Arc::clone(bucket), kept, info, selected, data_key })
}

/// The key of an object's bytes, or only the proof that the request may know of it.
fn unlocked(
    core: &Core,
    bucket: &Bucket,
    request: &GetObject,
    (kept, with_data): (&Kept, bool),
) -> Result<Option<DataKey>, EncryptionError> {
    let place = match &kept.object.parts {
        Some(table) => Place::upload(bucket.id(), &request.key, table.upload),
        None => Place::op(bucket.id(), &request.key, kept.op),
    };
    let encryption = kept.object.encryption.as_ref();
    if !with_data {
        return prove(encryption, &request.unlock, place).map(|()| None);
    }
    let brought = match &request.unlock {
        Unlock::Nothing => None,
        Unlock::With(key) => key.as_ref(),
    };
    open(&core.keys, encryption, brought, place)
}

/// Reads an object.
pub(super) async fn get(core: &Arc<Core>, request: &GetObject) -> Result<ObjectRead, GetError> {
    let found = find(core, request, true).await?;
    let (info, selected) = (found.info.clone(), found.selected);
    let segments = segments(core, &found, request);
    let bytes = Reading {
        core: Arc::clone(core),
        segments,
        reader: None,
        data_key: found.data_key,
        keystream: None,
        ready: VecDeque::new(),
        left: selected.length,
    };
    Ok(ObjectRead { info, selected, bytes: Box::new(bytes) })
}

/// The segments that the selection touches, each with the range inside it.
fn segments(core: &Arc<Core>, found: &Found, request: &GetObject) -> VecDeque<(Segment, Range<u64>)> {
    let (first, end) = (found.selected.first, found.selected.first + found.selected.length);
    let bucket = &found.bucket;
    let mut segments = VecDeque::new();
    let kept = &found.kept;
    let Some(table) = &kept.object.parts else {
        let segment = Segment {
            target: kept.target.clone(),
            op: kept.op,
            coding: kept.object.coding,
            size: kept.object.size,
            holders: kept.holders,
            inline: kept.inline.clone(),
        };
        segments.push_back((segment, first..end));
        return segments;
    };
    let mut base = 0;
    for part in &table.parts {
        let range = first.max(base)..end.min(base + part.size);
        if range.start < range.end {
            let register = RegisterKey::part(bucket.id(), request.key.clone(), table.upload, part.number);
            let segment = Segment {
                target: core.target(bucket, register),
                op: part.op,
                coding: part.coding,
                size: part.size,
                holders: SlotSet::default(),
                inline: InlineShards::new(),
            };
            segments.push_back((segment, range.start - base..range.end - base));
        }
        base += part.size;
    }
    segments
}

/// An object's bytes on their way.
struct Reading {
    core: Arc<Core>,
    segments: VecDeque<(Segment, Range<u64>)>,
    reader: Option<SegmentReader>,
    /// The key of encrypted bytes.
    data_key: Option<DataKey>,
    /// What the segment that is being read is decrypted with, and from which of its bytes on.
    keystream: Option<(Arc<Keystream>, u64)>,
    ready: VecDeque<Bytes>,
    left: u64,
}

#[async_trait]
impl ObjectBytes for Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, ReadBroken> {
        while self.left > 0 {
            if let Some(piece) = self.ready.pop_front() {
                let piece_len = piece.len() as u64;
                if piece_len > self.left {
                    return Err(ReadBroken { reason: "more bytes than the object has".to_owned() });
                }
                self.left -= piece_len;
                return Ok(Some(piece));
            }
            match &mut self.reader {
                Some(reader) => match reader.next_stripe().await? {
                    Some(pieces) => {
                        let pieces = self.decrypted(pieces).await?;
                        self.ready.extend(pieces);
                    }
                    None => self.reader = None,
                },
                None => match self.segments.pop_front() {
                    Some((segment, range)) => {
                        self.keystream = match &self.data_key {
                            Some(key) => Some((Arc::new(key.keystream(segment.op)?), range.start)),
                            None => None,
                        };
                        self.reader = Some(SegmentReader::new(Arc::clone(&self.core), segment, range)?);
                    }
                    None => return Err(ReadBroken { reason: "fewer bytes than the object has".to_owned() }),
                },
            }
        }
        Ok(None)
    }
}

impl Reading {
    /// The pieces of a stripe as they were before they were encrypted.
    async fn decrypted(&mut self, pieces: Vec<Bytes>) -> Result<Vec<Bytes>, ReadBroken> {
        let Some((keystream, next)) = &mut self.keystream else { return Ok(pieces) };
        let (keystream, offset) = (Arc::clone(keystream), *next);
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        *next += length;
        if length <= DECRYPT_IN_PLACE_BYTES {
            return decrypt(&keystream, offset, pieces);
        }
        let work = move || decrypt(&keystream, offset, pieces);
        compute(&self.core, work).await.map_err(|Unavailable { reason, .. }| ReadBroken { reason })?
    }
}

fn decrypt(keystream: &Keystream, mut offset: u64, pieces: Vec<Bytes>) -> Result<Vec<Bytes>, ReadBroken> {
    let one = |piece: Bytes| {
        let piece = keystream.applied(offset, piece)?;
        offset += piece.len() as u64;
        Ok(piece)
    };
    pieces.into_iter().map(one).collect()
}
