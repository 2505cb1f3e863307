//! Reading the journal: recovery of the tail, replay, and the metadata of sealed segments.
//!
//! Owns: finding where the journal ends, and telling a torn tail from a corrupt middle (see [`frame`](super::frame)).
//! Never changes a sealed segment.
//!
//! Flow of [`Journal::open`]:
//! 1. List the segments; check each header, and that nothing after `applied` was in a segment that is gone.
//! 2. For every sealed segment that holds records after `applied`: read its footer, then only its metadata extents.
//! 3. Read the last segment from its beginning to the first record that does not verify. If a later batch is found
//!    behind it, or the segment is known to be sealed, the middle is corrupt; else the rest is zeroed.
//! 4. Write the last segment once more and sync it, and the folder: what was read may be no more than the kernel's memory
//!    of a sync that failed or of a process that died before it, and the next power cut would take it back.
//! 5. Compare with `applied`: an end before it means that durable records are gone.

use std::io;
use std::sync::Arc;

use super::frame::{
    ALIGN, Extent, Frame, Owner, RECORD_HEADER_BYTES, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
    TRAILER_BYTES, decode_footer, decode_trailer,
};
use super::{FOLDER, Journal, JournalError, Place, SPARE, Segments};
use crate::drive::{DriveFile, DriveIo, Threads};

/// A record read back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed<'a> {
    /// Its kind.
    pub(crate) kind: RecordKind,
    /// Its sequence.
    pub(crate) sequence: u64,
    /// Where its payload lies.
    pub(crate) place: Place,
    /// The payload.
    pub(crate) payload: &'a [u8],
}

/// Called for each record, in order of sequence.
pub(super) type Visit<'a> = dyn FnMut(Replayed<'_>) -> Result<(), JournalError> + 'a;

/// Where the journal ends.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) segment: u64,
    pub(super) offset: u32,
    pub(super) next_sequence: u64,
    pub(super) extents: Vec<Extent>,
}

/// How to open a journal.
pub(crate) struct OpenOptions<'a> {
    /// Whose it is.
    pub(crate) owner: Owner,
    /// Bytes of a segment; those on the drive must have it too.
    pub(crate) segment_bytes: u32,
    /// Replay what comes after this sequence; 0 for all.
    pub(crate) applied: u64,
    /// Name for its threads.
    pub(crate) name: &'a str,
    /// Whether it has any.
    pub(crate) threads: Threads,
    /// Told once when a write or sync fails.
    pub(crate) on_failure: Box<dyn Fn(String) + Send + Sync>,
}

impl Journal {
    /// Opens (or begins) the journal of a drive and shows `visit` the records after `applied`, inline shards left out
    /// where a footer allows it.
    ///
    /// # Errors
    /// [`JournalError`]: I/O, corrupt middle, rolled back, a view that is too old, or what `visit` returned.
    pub(crate) fn open(
        io: Arc<dyn DriveIo>,
        options: OpenOptions<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<Self, JournalError> {
        let OpenOptions { owner, segment_bytes, applied, name, threads, on_failure } = options;
        io.create_dir(FOLDER)?;
        // Also if it was there: whoever made it may have died before this.
        io.sync_dir(".")?;
        io.remove(SPARE)?;
        let segments = Arc::new(Segments {
            io,
            owner,
            bytes: segment_bytes,
            open: Default::default(),
            first: Default::default(),
        });
        let recovered = recover(&segments, applied, visit)?;
        let end = recovered.next_sequence - 1;
        if end < applied {
            return Err(JournalError::RolledBack { end, applied });
        }
        Ok(Self::start(segments, recovered, (name, threads), on_failure)?)
    }

    /// Numbers of the sealed segments, ascending.
    pub(crate) fn sealed(&self) -> Vec<u64> {
        let current = self.current_segment();
        self.segments().first.lock().keys().copied().filter(|number| *number < current).collect()
    }

    /// Shows the metadata records of a sealed segment.
    pub(crate) fn read_sealed(&self, number: u64, visit: &mut Visit<'_>) -> Result<(), JournalError> {
        read_metadata(self.segments(), number, 0, visit)
    }

    /// Removes a sealed segment. Nothing live may be in it.
    pub(crate) fn remove_sealed(&self, number: u64) -> Result<(), JournalError> {
        Ok(self.segments().remove(number)?)
    }

    /// Reads part of a payload; blocks. What is read is not verified: shards carry checksums of their own.
    pub(crate) fn read(&self, segment: u64, offset: u64, buf: &mut [u8]) -> Result<(), JournalError> {
        Ok(self.segments().file(segment)?.read_at(buf, offset)?)
    }

    /// Reads and verifies a record by the place of its payload; blocks.
    pub(crate) fn read_record(&self, place: Place) -> Result<Vec<u8>, JournalError> {
        let at = place.offset - RECORD_HEADER_BYTES as u32;
        let mut bytes = vec![0; RECORD_HEADER_BYTES + place.len as usize];
        self.read(place.segment, u64::from(at), &mut bytes)?;
        let seed = self.segments().owner.seed(place.segment);
        match Frame::decode(&bytes, seed) {
            Some(frame) if frame.payload.len() == place.len as usize => {
                Ok(bytes.split_off(RECORD_HEADER_BYTES))
            }
            _ => Err(corrupt(place.segment, u64::from(at), "a record does not verify")),
        }
    }
}

pub(super) fn corrupt(segment: u64, offset: u64, reason: impl Into<String>) -> JournalError {
    JournalError::Corrupt { segment, offset, reason: reason.into() }
}

fn recover(segments: &Segments, applied: u64, visit: &mut Visit<'_>) -> Result<Recovered, JournalError> {
    segments.io.sync_dir(FOLDER)?;
    let numbers = numbers(segments)?;
    let Some(&last) = numbers.last() else {
        return begin(segments);
    };
    let mut firsts = Vec::new();
    for &number in &numbers {
        let first = first_sequence(segments, number)?;
        segments.first.lock().insert(number, first);
        firsts.push(first);
    }
    check_view(&numbers, &firsts, applied)?;
    for (index, &number) in numbers.iter().enumerate() {
        let ends_before = firsts.get(index + 1).is_some_and(|next| *next <= applied + 1);
        if number != last && !ends_before {
            read_metadata(segments, number, applied, visit)?;
        }
    }
    recover_last(segments, last, applied, visit)
}

/// The segments on the drive, ascending.
pub(super) fn numbers(segments: &Segments) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = Vec::new();
    for item in segments.io.list(FOLDER)? {
        if let (16, Ok(number)) = (item.name.len(), u64::from_str_radix(&item.name, 16)) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The first sequence of a segment, by its header.
pub(super) fn first_sequence(segments: &Segments, number: u64) -> Result<u64, JournalError> {
    let file = segments.file(number)?;
    if file.len()? != u64::from(segments.bytes) {
        return Err(corrupt(number, 0, "it does not have the length of a segment"));
    }
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    file.read_at(&mut bytes, 0)?;
    let header =
        SegmentHeader::decode(&bytes, segments.owner, number).map_err(|reason| corrupt(number, 0, reason))?;
    Ok(header.first_sequence)
}

/// A segment is removed only once the view is durable beyond it. One that ends before a removed segment was put back from
/// an older copy: what would have told it that registers are gone may be gone too.
fn check_view(numbers: &[u64], firsts: &[u64], applied: u64) -> Result<(), JournalError> {
    let before = std::iter::once(0).chain(numbers.iter().copied());
    let mut gaps =
        before.zip(numbers.iter().zip(firsts)).filter(|(before, (number, _))| before + 1 != **number);
    match gaps.find(|(_, (_, first))| applied > 0 && applied + 1 < **first) {
        None => Ok(()),
        Some((_, (number, _))) => {
            let reason = format!(
                "it ends at sequence {applied}, before what was removed in front of segment {number}"
            );
            Err(JournalError::View(reason))
        }
    }
}

/// The first segment of a new drive.
fn begin(segments: &Segments) -> Result<Recovered, JournalError> {
    super::writer::prepare_spare(segments)?;
    let file = segments.io.open(SPARE)?;
    let header = SegmentHeader { owner: segments.owner, number: 1, first_sequence: 1 };
    file.write_at(&header.encode(), 0)?;
    file.sync_data()?;
    segments.io.rename(SPARE, &Segments::path(1))?;
    segments.io.sync_dir(FOLDER)?;
    segments.first.lock().insert(1, 1);
    let offset = SEGMENT_HEADER_BYTES as u32;
    Ok(Recovered { segment: 1, offset, next_sequence: 1, extents: Vec::new() })
}

/// Replays the metadata extents of a sealed segment, found through its trailer and footer.
pub(super) fn read_metadata(
    segments: &Segments,
    number: u64,
    applied: u64,
    visit: &mut Visit<'_>,
) -> Result<(), JournalError> {
    let file = segments.file(number)?;
    let seed = segments.owner.seed(number);
    for (from, to) in read_footer(segments, &file, number)? {
        let mut bytes = vec![0; to.checked_sub(from).map_or(0, |len| len as usize)];
        file.read_at(&mut bytes, u64::from(from))?;
        let mut at = 0;
        while at < bytes.len() {
            let offset = from + at as u32;
            let frame = Frame::decode(&bytes[at..], seed)
                .ok_or_else(|| corrupt(number, u64::from(offset), "a record does not verify"))?;
            if frame.sequence > applied {
                visit(replayed(&frame, number, offset))?;
            }
            at += Frame::room(frame.payload.len());
        }
    }
    Ok(())
}

pub(super) fn read_footer(
    segments: &Segments,
    file: &Arc<dyn DriveFile>,
    number: u64,
) -> Result<Vec<Extent>, JournalError> {
    let trailer_at = u64::from(segments.bytes) - TRAILER_BYTES as u64;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_at(&mut trailer, trailer_at)?;
    let offset = decode_trailer(&trailer, number)
        .filter(|offset| u64::from(*offset) < trailer_at)
        .ok_or_else(|| corrupt(number, trailer_at, "its trailer does not verify"))?;
    let mut bytes = vec![0; (trailer_at - u64::from(offset)) as usize];
    file.read_at(&mut bytes, u64::from(offset))?;
    Frame::decode(&bytes, segments.owner.seed(number))
        .filter(|frame| frame.kind == RecordKind::Footer)
        .and_then(|frame| decode_footer(frame.payload))
        .filter(|extents| extents.iter().all(|(from, to)| from <= to && *to <= offset))
        .ok_or_else(|| corrupt(number, u64::from(offset), "its footer does not verify"))
}

pub(super) fn replayed<'a>(frame: &Frame<'a>, segment: u64, offset: u32) -> Replayed<'a> {
    let place =
        Place { segment, offset: offset + RECORD_HEADER_BYTES as u32, len: frame.payload.len() as u32 };
    Replayed { kind: frame.kind, sequence: frame.sequence, place, payload: frame.payload }
}

/// Reads the last segment to its end, makes what follows zero again, and makes all of it durable.
fn recover_last(
    segments: &Segments,
    number: u64,
    applied: u64,
    visit: &mut Visit<'_>,
) -> Result<Recovered, JournalError> {
    let file = segments.file(number)?;
    let (bytes, recovered) = walk_last(segments, number, applied, visit)?;
    file.write_at(&bytes[..recovered.offset as usize], 0)?;
    clear_rest(&file, &bytes, recovered.offset as usize)?;
    file.sync_data()?;
    Ok(recovered)
}

/// Reads the last segment to its end: its bytes, and where they end.
pub(super) fn walk_last(
    segments: &Segments,
    number: u64,
    applied: u64,
    visit: &mut Visit<'_>,
) -> Result<(Vec<u8>, Recovered), JournalError> {
    let file = segments.file(number)?;
    let mut bytes = read_used(&file, segments.bytes as usize)?;
    let seed = segments.owner.seed(number);
    let first_sequence = segments.first.lock().get(&number).copied().unwrap_or(1);
    let mut recovered = Recovered {
        segment: number,
        offset: SEGMENT_HEADER_BYTES as u32,
        next_sequence: first_sequence,
        extents: Vec::new(),
    };
    loop {
        // Trailing zeros were not read; a payload may end in some.
        let end = recovered.offset as usize + Frame::len_at(&bytes[recovered.offset as usize..]);
        if end > bytes.len() && end <= segments.bytes as usize {
            bytes.resize(end, 0);
        }
        let Some(frame) = Frame::decode(&bytes[recovered.offset as usize..], seed) else { break };
        if frame.sequence != recovered.next_sequence {
            break;
        }
        let end = recovered.offset + Frame::room(frame.payload.len()) as u32;
        match frame.kind {
            // Sealed, and the next segment was not begun: the writer goes on behind the footer's place.
            RecordKind::Footer => break,
            RecordKind::InlineShard => {}
            _ => {
                match recovered.extents.last_mut() {
                    Some((_, last)) if *last == recovered.offset => *last = end,
                    _ => recovered.extents.push((recovered.offset, end)),
                }
                if frame.sequence > applied {
                    visit(replayed(&frame, number, recovered.offset))?;
                }
            }
        }
        recovered.next_sequence += 1;
        recovered.offset = end;
    }
    if let Some(offset) = later_batch(&bytes, seed, &recovered) {
        let reason = format!("a record does not verify, but a later batch lies at offset {offset}");
        return Err(corrupt(number, u64::from(recovered.offset), reason));
    }
    Ok((bytes, recovered))
}

/// The segment up to its last piece that is not zero: most of a segment may not have been written yet.
fn read_used(file: &Arc<dyn DriveFile>, len: usize) -> io::Result<Vec<u8>> {
    const PIECE: usize = 1 << 20;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let mut piece = vec![0; PIECE.min(len)];
    for at in (0..len).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(len - at)];
        file.read_at(piece, at as u64)?;
        if piece.iter().any(|byte| *byte != 0) {
            bytes.resize(at, 0);
            bytes.extend_from_slice(piece);
        }
    }
    Ok(bytes)
}

/// Whether a record of a batch that began after the first missing sequence lies behind the end.
fn later_batch(bytes: &[u8], seed: u64, end: &Recovered) -> Option<usize> {
    let mut at = end.offset as usize;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        // Most of it is zeros.
        if bytes[at..at + ALIGN] != [0; ALIGN]
            && let Some(frame) = Frame::decode(&bytes[at..], seed)
        {
            if frame.batch > end.next_sequence {
                return Some(at);
            }
            at += Frame::room(frame.payload.len());
        } else {
            at += ALIGN;
        }
    }
    None
}

/// Zeroes a torn tail, so that its remains are never taken for records of a later batch.
fn clear_rest(file: &Arc<dyn DriveFile>, bytes: &[u8], from: usize) -> io::Result<()> {
    const PIECE: usize = 64 << 10;
    for (index, piece) in bytes[from..].chunks(PIECE).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_at(&vec![0; piece.len()], (from + index * PIECE) as u64)?;
        }
    }
    Ok(())
}
