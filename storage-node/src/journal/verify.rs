//! Reading a sealed segment once more, every record of it, only to see whether it still verifies.

use super::frame::{ALIGN, Frame, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::recovery::{corrupt, read_footer};
use super::{Journal, JournalError};

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;

impl Journal {
    /// Verifies the records of a sealed segment that begin in the window at `offset` (0: from the start, with header,
    /// trailer and footer). Returns where the next window begins; nothing at the end. Blocks.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`], or that it cannot be read.
    pub(crate) fn verify_sealed(&self, number: u64, offset: u32) -> Result<Option<u32>, JournalError> {
        let segments = self.segments();
        let file = segments.file(number)?;
        let mut at = offset as usize;
        if at == 0 {
            file.forget_cached();
            let mut header = [0; SEGMENT_HEADER_BYTES];
            file.read_at(&mut header, 0)?;
            SegmentHeader::decode(&header, segments.owner, number)
                .map_err(|reason| corrupt(number, 0, reason))?;
            read_footer(segments, &file, number)?;
            at = SEGMENT_HEADER_BYTES;
        }
        let (seed, end) = (segments.owner.seed(number), segments.bytes as usize);
        let mut window = vec![0; WINDOW.min(end - at)];
        file.read_at(&mut window, at as u64)?;
        let mut inside = 0;
        loop {
            let left = &window[inside..];
            let claimed = if left.len() < ALIGN { ALIGN } else { Frame::len_at(left) };
            if claimed > left.len() {
                if inside > 0 {
                    return Ok(Some((at + inside) as u32));
                }
                if window.len() < claimed && claimed <= end - at {
                    // A record longer than a window.
                    window.resize(claimed, 0);
                    file.read_at(&mut window, at as u64)?;
                    continue;
                }
            }
            let frame = Frame::decode(left, seed)
                .ok_or_else(|| corrupt(number, (at + inside) as u64, "a record does not verify"))?;
            if frame.kind == RecordKind::Footer {
                return Ok(None);
            }
            inside += Frame::room(frame.payload.len());
            if inside >= window.len() {
                return Ok(Some((at + inside) as u32));
            }
        }
    }
}
