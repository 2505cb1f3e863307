//! Appending: the tail, the writer thread with group commit, and the thread that prepares the next segment.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::frame::{
    Extent, Frame, RECORD_HEADER_BYTES, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES,
    encode_footer, encode_trailer,
};
use super::recovery::Recovered;
use super::{AppendError, FOLDER, JournalError, Place, SPARE, Segments};
use crate::drive::{DriveFile, Threads, is_full};

/// The writer's buffer: batches above it are written in several pieces (and synced once).
const BUFFER_BYTES: usize = 4 << 20;
/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = 1 << 20;

/// Between two looks for the next segment, on a thread that may block.
const ROOM_WAIT: Duration = Duration::from_millis(2);

const WRITER_STOPPED: &str = "the writer has stopped";

/// A record that waits for the writer.
struct Pending {
    segment: u64,
    offset: u32,
    kind: RecordKind,
    sequence: u64,
    payload: Bytes,
}

/// How far the next segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spare {
    /// The preparing thread is to make one.
    Wanted,
    /// It lies on the drive.
    Ready,
    /// The tail has entered it; the writer has not renamed it yet.
    Claimed,
    /// There was no room for it.
    NoRoom,
}

/// Where the next record goes.
struct Tail {
    segment: u64,
    offset: u32,
    next_sequence: u64,
    extents: Vec<Extent>,
    queue: Vec<Pending>,
    spare: Spare,
    stopping: bool,
}

/// Somebody who waits for a sequence.
enum Waiter {
    Task(oneshot::Sender<Result<(), String>>),
    Thread(std::sync::mpsc::SyncSender<Result<(), String>>),
}

impl Waiter {
    fn tell(self, result: Result<(), String>) {
        // Whoever waited may have gone away.
        match self {
            Self::Task(sender) => drop(sender.send(result)),
            Self::Thread(sender) => drop(sender.send(result)),
        }
    }
}

#[derive(Default)]
struct Waiters {
    failed: Option<String>,
    by_sequence: BTreeMap<u64, Vec<Waiter>>,
}

struct Shared {
    segments: Arc<Segments>,
    tail: Mutex<Tail>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes the preparing thread.
    prepare: Condvar,
    /// When the batch that is being written began.
    writing_since: Mutex<Option<Instant>>,
    /// Tells that the spare's state changed.
    room: Notify,
    durable: AtomicU64,
    /// Batches that were written and synced.
    syncs: AtomicU64,
    waiters: Mutex<Waiters>,
    /// Whether there are threads for all this.
    work_by: Threads,
    /// The writer's state, if there are none.
    inline_writer: Mutex<Writer>,
    /// Called once, with the reason, when a write or sync fails.
    on_failure: Box<dyn Fn(String) + Send + Sync>,
}

/// The journal of one drive. Dropping it writes what waits and stops its threads.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// The tail, locked: records appended through one are consecutive.
pub(crate) struct Appender<'a> {
    tail: parking_lot::MutexGuard<'a, Tail>,
    shared: &'a Shared,
}

impl Journal {
    /// Starts the threads behind a recovered tail. `on_failure` is told when a write or sync fails.
    pub(super) fn start(
        segments: Arc<Segments>,
        recovered: Recovered,
        (name, work_by): (&str, Threads),
        on_failure: Box<dyn Fn(String) + Send + Sync>,
    ) -> io::Result<Self> {
        let tail = Tail {
            segment: recovered.segment,
            offset: recovered.offset,
            next_sequence: recovered.next_sequence,
            extents: recovered.extents,
            queue: Vec::new(),
            spare: Spare::Wanted,
            stopping: false,
        };
        let shared = Arc::new(Shared {
            segments,
            durable: AtomicU64::new(tail.next_sequence - 1),
            syncs: AtomicU64::new(0),
            tail: Mutex::new(tail),
            work: Condvar::new(),
            prepare: Condvar::new(),
            writing_since: Mutex::default(),
            room: Notify::new(),
            waiters: Mutex::default(),
            work_by,
            inline_writer: Mutex::default(),
            on_failure,
        });
        if matches!(shared.work_by, Threads::Inline(_)) {
            return Ok(Self { shared, threads: Vec::new() });
        }
        let spawn = |role: &str, run: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("{role}-{name}")).spawn(move || run(&shared))
        };
        let threads = vec![spawn("journal", write_batches)?, spawn("segment", prepare_segments)?];
        Ok(Self { shared, threads })
    }

    /// Locks the tail, to append consecutive records. Not to be held over anything slow.
    pub(crate) fn appender(&self) -> Appender<'_> {
        Appender { tail: self.shared.tail.lock(), shared: &self.shared }
    }

    /// Waits until the next segment is ready or is known not to fit.
    ///
    /// # Errors
    /// [`AppendError::Full`] if there is no room for it.
    pub(crate) async fn room(&self) -> Result<(), AppendError> {
        loop {
            let notified = self.shared.room.notified();
            if let Some(reason) = self.failed() {
                return Err(AppendError::Poisoned(reason));
            }
            let spare = self.shared.tail.lock().spare;
            match spare {
                Spare::Ready => return Ok(()),
                Spare::NoRoom => return Err(AppendError::Full),
                Spare::Wanted | Spare::Claimed => self.work_later(),
            }
            notified.await;
        }
    }

    /// Waits a little for the next segment, on a thread that may block.
    pub(crate) fn room_blocking(&self) {
        if !self.work_now() {
            std::thread::sleep(ROOM_WAIT);
        }
    }

    /// Asks for another attempt at preparing a segment, after room was made.
    pub(crate) fn retry_room(&self) {
        let mut tail = self.shared.tail.lock();
        if tail.spare == Spare::NoRoom {
            tail.spare = Spare::Wanted;
            self.shared.prepare.notify_all();
        }
    }

    /// How long the batch that is being written has been under way.
    pub(crate) fn stalled(&self) -> Duration {
        self.shared.writing_since.lock().map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Waits until the record of this sequence, and all before it, are durable.
    ///
    /// # Errors
    /// The reason, if the writer has failed.
    pub(crate) async fn durable(&self, sequence: u64) -> Result<(), JournalError> {
        let (sender, receiver) = oneshot::channel();
        if self.wait(sequence, Waiter::Task(sender))? {
            self.work_later();
            let result = receiver.await.unwrap_or_else(|_| Err(WRITER_STOPPED.to_owned()));
            return result.map_err(JournalError::Poisoned);
        }
        Ok(())
    }

    /// [`Self::durable`] for threads that may block.
    pub(crate) fn durable_blocking(&self, sequence: u64) -> Result<(), JournalError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        if self.wait(sequence, Waiter::Thread(sender))? {
            self.work_now();
            let result = receiver.recv().unwrap_or_else(|_| Err(WRITER_STOPPED.to_owned()));
            return result.map_err(JournalError::Poisoned);
        }
        Ok(())
    }

    /// Leaves the waiter with the writer; false if the sequence is durable already.
    fn wait(&self, sequence: u64, waiter: Waiter) -> Result<bool, JournalError> {
        if self.durable_sequence() >= sequence {
            return Ok(false);
        }
        let mut waiters = self.shared.waiters.lock();
        if let Some(reason) = &waiters.failed {
            return Err(JournalError::Poisoned(reason.clone()));
        }
        // Again under the lock: the writer raises it before it takes the waiters.
        if self.durable_sequence() >= sequence {
            return Ok(false);
        }
        waiters.by_sequence.entry(sequence).or_default().push(waiter);
        Ok(true)
    }

    fn failed(&self) -> Option<String> {
        self.shared.waiters.lock().failed.clone()
    }

    /// How often records were synced, since the start: one sync makes all records durable that waited for it.
    pub(crate) fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    /// Without threads: has their work done as soon as the drive gets to it.
    fn work_later(&self) {
        let shared = Arc::clone(&self.shared);
        self.shared.work_by.do_inline(move || work(&shared));
    }

    /// Without threads: does their work here; false if there are some.
    fn work_now(&self) -> bool {
        let inline = matches!(self.shared.work_by, Threads::Inline(_));
        if inline {
            work(&self.shared);
        }
        inline
    }

    /// The last durable sequence.
    pub(crate) fn durable_sequence(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// The last sequence given to a record.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.shared.tail.lock().next_sequence - 1
    }

    /// Bytes of a segment.
    pub(crate) fn segment_bytes(&self) -> u32 {
        self.shared.segments.bytes
    }

    pub(super) fn segments(&self) -> &Arc<Segments> {
        &self.shared.segments
    }

    /// The segment that records go to now.
    pub(crate) fn current_segment(&self) -> u64 {
        self.shared.tail.lock().segment
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.tail.lock().stopping = true;
        self.shared.work.notify_all();
        self.shared.prepare.notify_all();
        self.work_now();
        for thread in self.threads.drain(..) {
            // A panic there has already failed all waiters.
            let _ = thread.join();
        }
    }
}

impl Appender<'_> {
    /// Makes sure that records of these payload lengths, among them an inline shard, will lie in one segment. While the
    /// drive has no room for another segment, the last quarter of this one is kept for commits and deletes.
    ///
    /// # Errors
    /// [`AppendError`]; nothing has changed.
    pub(crate) fn reserve(&mut self, payloads: &[usize]) -> Result<(), AppendError> {
        let room: usize = payloads.iter().map(|len| Frame::room(*len)).sum();
        if room > self.shared.segments.bytes as usize / 2 {
            return Err(AppendError::TooLong(room));
        }
        let kept = self.shared.segments.bytes / 4 * 3;
        if self.tail.spare == Spare::NoRoom && self.tail.offset as usize + room > kept as usize {
            return Err(AppendError::Full);
        }
        if self.fits(room) { Ok(()) } else { self.roll() }
    }

    /// Gives the record its sequence and place, and hands it to the writer.
    ///
    /// # Errors
    /// [`AppendError`]; nothing has changed.
    pub(crate) fn append(&mut self, kind: RecordKind, payload: Bytes) -> Result<(u64, Place), AppendError> {
        let capacity = self.shared.segments.bytes;
        let room = Frame::room(payload.len());
        if room > capacity as usize / 2 {
            return Err(AppendError::TooLong(payload.len()));
        }
        if !self.fits(room) {
            self.roll()?;
        }
        Ok(self.push(kind, payload))
    }

    /// Whether the record, the footer that would then be needed, and the trailer fit in the segment.
    fn fits(&self, room: usize) -> bool {
        // Two more extents: a reservation may be for a shard with a record on either side.
        let footer = Frame::room((self.tail.extents.len() + 2) * size_of::<Extent>());
        self.tail.offset as usize + room + footer + TRAILER_BYTES <= self.shared.segments.bytes as usize
    }

    /// Seals the segment and enters the spare.
    fn roll(&mut self) -> Result<(), AppendError> {
        match self.tail.spare {
            Spare::Ready => {}
            Spare::NoRoom => return Err(AppendError::Full),
            Spare::Wanted | Spare::Claimed => {
                return match &self.shared.waiters.lock().failed {
                    Some(reason) => Err(AppendError::Poisoned(reason.clone())),
                    None => Err(AppendError::NotReady),
                };
            }
        }
        let footer = encode_footer(&std::mem::take(&mut self.tail.extents));
        self.push(RecordKind::Footer, footer.into());
        self.tail.spare = Spare::Claimed;
        self.tail.segment += 1;
        self.tail.offset = SEGMENT_HEADER_BYTES as u32;
        Ok(())
    }

    fn push(&mut self, kind: RecordKind, payload: Bytes) -> (u64, Place) {
        let tail = &mut *self.tail;
        let (sequence, offset) = (tail.next_sequence, tail.offset);
        let len = payload.len() as u32;
        let end = offset + Frame::room(payload.len()) as u32;
        if !matches!(kind, RecordKind::InlineShard | RecordKind::Footer) {
            match tail.extents.last_mut() {
                Some((_, last)) if *last == offset => *last = end,
                _ => tail.extents.push((offset, end)),
            }
        }
        if tail.queue.is_empty() {
            self.shared.work.notify_all();
        }
        tail.queue.push(Pending { segment: tail.segment, offset, kind, sequence, payload });
        tail.next_sequence += 1;
        tail.offset = end;
        (sequence, Place { segment: tail.segment, offset: offset + RECORD_HEADER_BYTES as u32, len })
    }
}

/// What the writer keeps between batches.
#[derive(Default)]
struct Writer {
    buffer: Vec<u8>,
    current: Option<(u64, Arc<dyn DriveFile>)>,
}

/// The writer thread.
fn write_batches(shared: &Shared) {
    let mut writer = Writer::default();
    loop {
        {
            let mut tail = shared.tail.lock();
            while tail.queue.is_empty() {
                if tail.stopping {
                    return;
                }
                shared.work.wait(&mut tail);
            }
        }
        if !write_batch(shared, &mut writer) {
            return;
        }
    }
}

/// Both threads' work, for a journal that has none.
fn work(shared: &Shared) {
    let mut writer = shared.inline_writer.lock();
    if shared.waiters.lock().failed.is_none() && write_batch(shared, &mut writer) {
        let wanted = shared.tail.lock().spare == Spare::Wanted;
        if wanted {
            prepare_segment(shared);
        }
    }
}

/// Writes what waits, syncs it, and tells those who wait for it; false if that failed.
fn write_batch(shared: &Shared, writer: &mut Writer) -> bool {
    let batch = std::mem::take(&mut shared.tail.lock().queue);
    let Some(last) = batch.last().map(|pending| pending.sequence) else { return true };
    *shared.writing_since.lock() = Some(Instant::now());
    for run in batch.chunk_by(|a, b| a.segment == b.segment) {
        if let Err(error) = write_run(shared, run, writer) {
            fail(shared, format!("writing the journal failed: {error}"));
            return false;
        }
        shared.syncs.fetch_add(1, Ordering::Relaxed);
    }
    *shared.writing_since.lock() = None;
    shared.durable.store(last, Ordering::Release);
    let woken = {
        let mut waiters = shared.waiters.lock();
        let later = waiters.by_sequence.split_off(&(last + 1));
        std::mem::replace(&mut waiters.by_sequence, later)
    };
    for waiter in woken.into_values().flatten() {
        waiter.tell(Ok(()));
    }
    true
}

/// Writes and syncs the records of one batch that go to one segment.
fn write_run(shared: &Shared, run: &[Pending], writer: &mut Writer) -> io::Result<()> {
    let Some(first) = run.first() else { return Ok(()) };
    let segments = &shared.segments;
    let Writer { buffer, current } = writer;
    let file = match current {
        Some((number, file)) if *number == first.segment => Arc::clone(file),
        _ => {
            let file = enter(shared, first)?;
            *current = Some((first.segment, Arc::clone(&file)));
            file
        }
    };
    let seed = segments.owner.seed(first.segment);
    let mut at = u64::from(first.offset);
    buffer.clear();
    for pending in run {
        let frame = Frame {
            kind: pending.kind,
            sequence: pending.sequence,
            batch: first.sequence,
            payload: &pending.payload,
        };
        frame.encode_into(buffer, seed);
        if buffer.len() >= BUFFER_BYTES {
            file.write_at(buffer, at)?;
            at += buffer.len() as u64;
            buffer.clear();
        }
        if pending.kind == RecordKind::Footer {
            let trailer = encode_trailer(pending.segment, pending.offset);
            file.write_at(&trailer, u64::from(segments.bytes) - TRAILER_BYTES as u64)?;
        }
    }
    if !buffer.is_empty() {
        file.write_at(buffer, at)?;
    }
    buffer.shrink_to(BUFFER_BYTES);
    file.sync_data()
}

/// The file of the segment of this record: the one recovery ended in, or the spare that becomes it now.
fn enter(shared: &Shared, first: &Pending) -> io::Result<Arc<dyn DriveFile>> {
    let segments = &shared.segments;
    if segments.first.lock().contains_key(&first.segment) {
        return segments.file(first.segment);
    }
    let header =
        SegmentHeader { owner: segments.owner, number: first.segment, first_sequence: first.sequence };
    let file = segments.io.open(SPARE)?;
    file.write_at(&header.encode(), 0)?;
    // The header before the name: a segment that has its number has its header.
    file.sync_data()?;
    segments.io.rename(SPARE, &Segments::path(first.segment))?;
    segments.io.sync_dir(FOLDER)?;
    segments.open.write().insert(first.segment, Arc::clone(&file));
    segments.first.lock().insert(first.segment, first.sequence);
    shared.tail.lock().spare = Spare::Wanted;
    shared.prepare.notify_all();
    Ok(file)
}

fn fail(shared: &Shared, reason: String) {
    // First of all: whoever is told of the failure finds the drive failed.
    (shared.on_failure)(reason.clone());
    let waiting = {
        let mut waiters = shared.waiters.lock();
        waiters.failed = Some(reason.clone());
        std::mem::take(&mut waiters.by_sequence)
    };
    for waiter in waiting.into_values().flatten() {
        waiter.tell(Err(reason.clone()));
    }
    shared.room.notify_waiters();
}

/// The thread that keeps one spare segment ready.
fn prepare_segments(shared: &Shared) {
    loop {
        {
            let mut tail = shared.tail.lock();
            while tail.spare != Spare::Wanted {
                if tail.stopping {
                    return;
                }
                shared.prepare.wait(&mut tail);
            }
            if tail.stopping {
                return;
            }
        }
        if !prepare_segment(shared) {
            return;
        }
    }
}

/// Makes the spare that is wanted; false if the drive has failed over it.
fn prepare_segment(shared: &Shared) -> bool {
    let spare = match prepare_spare(&shared.segments) {
        Ok(()) => Spare::Ready,
        Err(error) if is_full(&error) => {
            // What was written of it is room that deletes may need.
            let _ = shared.segments.io.remove(SPARE);
            Spare::NoRoom
        }
        Err(error) => {
            fail(shared, format!("preparing a journal segment failed: {error}"));
            return false;
        }
    };
    shared.tail.lock().spare = spare;
    shared.room.notify_waiters();
    true
}

/// Writes a segment full of zeros: later syncs then move data only, no file system metadata.
pub(super) fn prepare_spare(segments: &Segments) -> io::Result<()> {
    let file = segments.io.create(SPARE)?;
    let len = u64::from(segments.bytes);
    file.allocate(len)?;
    let zeros = vec![0; ZERO_BYTES.min(segments.bytes as usize)];
    let mut at = 0;
    while at < len {
        let piece = zeros.len().min((len - at) as usize);
        file.write_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    file.sync_data()
}
