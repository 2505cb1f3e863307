//! Reading a journal without touching it: of a drive that nobody has open, or that a node is writing at this moment.
//!
//! Owns: a walk over all segments that tells what is in them and what is damaged, and goes on behind damage. Never writes, and
//! never repairs: a torn tail stays as it is.
//!
//! A node that has the drive open may seal, begin and remove segments meanwhile, and half of a record may be seen. Such sights are
//! gone when one looks again; the caller does.

use std::sync::Arc;

use super::frame::{Frame, RecordKind, SEGMENT_HEADER_BYTES, TRAILER_BYTES};
use super::recovery::{
    Visit, corrupt, first_sequence, numbers, read_footer, read_metadata, replayed, walk_last,
};
use super::{JournalError, Owner, Segments};
use crate::drive::DriveIo;

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFound {
    /// Its number.
    pub(crate) number: u64,
    /// First sequence, by its header.
    pub(crate) first: u64,
    /// Last sequence that was read; one below the first if there is none.
    pub(crate) last: u64,
    /// Records that were read.
    pub(crate) records: u64,
    /// Bytes in use.
    pub(crate) used_bytes: u64,
    /// Whether it is sealed.
    pub(crate) sealed: bool,
}

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// The segments, ascending; a damaged one as far as it was read.
    pub(crate) segments: Vec<SegmentFound>,
    /// What does not verify although it had been durable.
    pub(crate) damage: Vec<String>,
    /// Remains of a write that nobody was answered: segment, offset, bytes.
    pub(crate) torn: Option<(u64, u64, u64)>,
}

impl Inspection {
    /// The last sequence.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.segments.iter().map(|segment| segment.last).max().unwrap_or_default()
    }
}

/// Shows `visit` the records of a journal, oldest first; if `whole` every one, else without the inline shards of sealed
/// segments, which are then not verified.
///
/// # Errors
/// [`JournalError`] of the file system, or what `visit` returned; damage is none, it is told in the result.
pub(crate) fn inspect(
    io: Arc<dyn DriveIo>,
    (owner, segment_bytes): (Owner, u32),
    whole: bool,
    visit: &mut Visit<'_>,
) -> Result<Inspection, JournalError> {
    let (open, first) = Default::default();
    let segments = Segments { io, owner, bytes: segment_bytes, open, first };
    let numbers = numbers(&segments)?;
    let mut found = Inspection::default();
    for &number in &numbers {
        let first = match first_sequence(&segments, number) {
            Ok(first) => first,
            Err(damage @ JournalError::Corrupt { .. }) => {
                found.damage.push(damage.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        segments.first.lock().insert(number, first);
        let sealed = Some(&number) != numbers.last();
        let mut segment =
            SegmentFound { number, first, last: first.saturating_sub(1), records: 0, used_bytes: 0, sealed };
        let mut count = |record: super::Replayed<'_>| {
            segment.records += 1;
            segment.last = segment.last.max(record.sequence);
            visit(record)
        };
        let read = match (sealed, whole) {
            (true, true) => walk_sealed(&segments, number, &mut count).map(Some),
            (true, false) => read_metadata(&segments, number, 0, &mut count).map(|()| None),
            (false, _) => walk_last(&segments, number, 0, &mut count).map(|(bytes, end)| {
                let rest = &bytes[(end.offset as usize).min(bytes.len())..];
                // A footer may be there already, before the next segment is.
                let footer = Frame::decode(rest, owner.seed(number)).is_some();
                let torn = rest.iter().rposition(|byte| *byte != 0).filter(|_| !footer);
                found.torn = torn.map(|last| (number, u64::from(end.offset), last as u64 + 1));
                segment.last = end.next_sequence - 1;
                Some(u64::from(end.offset))
            }),
        };
        match read {
            Ok(used) => segment.used_bytes = used.unwrap_or(u64::from(segment_bytes)),
            Err(damage @ JournalError::Corrupt { .. }) => found.damage.push(damage.to_string()),
            Err(error) => return Err(error),
        }
        found.segments.push(segment);
    }
    let gaps = found.segments.windows(2).filter(|pair| pair[0].last >= pair[1].first);
    let gaps: Vec<_> = gaps.map(|pair| format!("segment {} begins too early", pair[1].number)).collect();
    found.damage.extend(gaps);
    Ok(found)
}

/// Reads a sealed segment from its beginning to its footer. Returns the bytes in use.
fn walk_sealed(segments: &Segments, number: u64, visit: &mut Visit<'_>) -> Result<u64, JournalError> {
    let file = segments.file(number)?;
    let seed = segments.owner.seed(number);
    read_footer(segments, &file, number)?;
    let mut bytes = vec![0; segments.bytes as usize - TRAILER_BYTES];
    file.read_at(&mut bytes, 0)?;
    let mut at = SEGMENT_HEADER_BYTES;
    loop {
        let frame = Frame::decode(&bytes[at.min(bytes.len())..], seed)
            .ok_or_else(|| corrupt(number, at as u64, "a record does not verify"))?;
        if frame.kind == RecordKind::Footer {
            return Ok(at as u64);
        }
        visit(replayed(&frame, number, at as u32))?;
        at += Frame::room(frame.payload.len());
    }
}
