//! Hashing beside the uploads: threads that advance the MD5s of many uploads together.
//!
//! Owns: the hashing threads, which upload goes to which, and how far an upload may run ahead of its hash.
//! Never: looks at what is hashed, or at a socket.
//!
//! ```text
//! upload ─ update(piece) ─► queue of its worker ─► one piece of each upload ─► md5::update_many, the others
//!        ◄─ waits while 128 KiB of it are unhashed                                        │
//!        ─ finish() ──────────────────────────────────────────────────────────► Digests ◄─┘
//! ```
//!
//! 1. [`HashPool::hasher`] hashes small objects where they are (a thread hop costs more than their MD5), and
//!    gives each other one to the worker with the fewest uploads.
//! 2. A worker takes what is queued, then at most [`PASS_BYTES`] of each upload in one pass. Nothing waits
//!    for company: the busier the machine, the fuller the passes.
//! 3. Memory: pieces are shared with the upload, not copied; at most [`BACKLOG_BYTES`] of each are held.
//! 4. Dropping a hasher abandons its upload. Dropping the pool and all hashers ends the threads.

use super::md5::{Kernel, update_many};
use super::{DigestSet, Digests};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Objects up to this size, in bytes, are hashed by the caller.
const INLINE_BYTES: u64 = 64 * 1024;

/// An upload may be this far ahead of its hash, in bytes.
const BACKLOG_BYTES: u32 = 128 * 1024;

/// Bytes of one upload in one pass: sixteen of them fit the L2 cache, and none keeps the others waiting.
const PASS_BYTES: usize = 64 * 1024;

/// The hashing thread of this upload has died; the digest is lost and the upload must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hashing thread has ended")]
pub struct HashLost;

/// A set of hashing threads; cloning shares it.
#[derive(Clone, Debug)]
pub struct HashPool {
    workers: Arc<[Worker]>,
}

#[derive(Debug)]
struct Worker {
    /// Bounded by the uploads' backlogs.
    jobs: UnboundedSender<Job>,
    uploads: Arc<AtomicUsize>,
    next: AtomicU64,
}

#[derive(Debug)]
enum Job {
    Open { upload: u64, set: DigestSet },
    Piece { upload: u64, piece: Piece },
    Finish { upload: u64, reply: oneshot::Sender<Digests> },
    Abandon { upload: u64 },
}

#[derive(Debug)]
struct Piece {
    data: Bytes,
    /// Returned to the upload when the piece is hashed.
    _backlog: OwnedSemaphorePermit,
}

impl HashPool {
    /// Starts `threads` hashing threads, at least one.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        Self::start_with(threads, Kernel::detect())
    }

    /// A pool without threads: every upload is hashed by its caller.
    pub fn in_place() -> Self {
        Self { workers: Arc::default() }
    }

    /// How many threads suit this machine: a quarter of its cores, one to four.
    pub fn threads_for_this_machine() -> usize {
        std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).clamp(1, 4))
    }

    fn start_with(threads: usize, kernel: Kernel) -> std::io::Result<Self> {
        let workers = (0..threads.max(1)).map(|index| {
            let (jobs, receiver) = unbounded_channel();
            let name = format!("hash-{index}");
            std::thread::Builder::new().name(name).spawn(move || Uploads::new(kernel).run(receiver))?;
            Ok(Worker { jobs, uploads: Arc::default(), next: AtomicU64::new(0) })
        });
        Ok(Self { workers: workers.collect::<std::io::Result<_>>()? })
    }

    /// A hasher for one upload of `len` bytes, if the length is known.
    pub fn hasher(&self, set: DigestSet, len: Option<u64>) -> ObjectHasher {
        let fewest = self.workers.iter().min_by_key(|worker| worker.uploads.load(Ordering::Relaxed));
        match fewest {
            Some(worker) if len.is_none_or(|len| len > INLINE_BYTES) => {
                ObjectHasher(Place::Remote(Remote::open(worker, set)))
            }
            _ => ObjectHasher(Place::Inline(set)),
        }
    }
}

/// The digests of one upload in the making.
#[derive(Debug)]
pub struct ObjectHasher(Place);

#[derive(Debug)]
enum Place {
    Inline(DigestSet),
    Remote(Remote),
}

impl ObjectHasher {
    /// Adds the next piece, which is shared. Waits while too much of the upload is unhashed.
    ///
    /// # Errors
    /// [`HashLost`].
    pub async fn update(&mut self, piece: &Bytes) -> Result<(), HashLost> {
        match &mut self.0 {
            Place::Inline(set) => {
                set.update(piece);
                Ok(())
            }
            Place::Remote(remote) => remote.update(piece).await,
        }
    }

    /// The digests of everything that was added.
    ///
    /// # Errors
    /// [`HashLost`].
    pub async fn finish(self) -> Result<Digests, HashLost> {
        match self.0 {
            Place::Inline(set) => Ok(set.finish()),
            Place::Remote(remote) => remote.finish().await,
        }
    }
}

#[derive(Debug)]
struct Remote {
    upload: u64,
    jobs: UnboundedSender<Job>,
    uploads: Arc<AtomicUsize>,
    backlog: Arc<Semaphore>,
}

impl Remote {
    fn open(worker: &Worker, set: DigestSet) -> Self {
        let upload = worker.next.fetch_add(1, Ordering::Relaxed);
        worker.uploads.fetch_add(1, Ordering::Relaxed);
        // A dead worker is noticed at the first piece, or at the end.
        let _ = worker.jobs.send(Job::Open { upload, set });
        Self {
            upload,
            jobs: worker.jobs.clone(),
            uploads: Arc::clone(&worker.uploads),
            backlog: Arc::new(Semaphore::new(BACKLOG_BYTES as usize)),
        }
    }

    async fn update(&mut self, piece: &Bytes) -> Result<(), HashLost> {
        if piece.is_empty() {
            return Ok(());
        }
        let size = u32::try_from(piece.len()).unwrap_or(BACKLOG_BYTES).min(BACKLOG_BYTES);
        let backlog = Arc::clone(&self.backlog).acquire_many_owned(size).await.map_err(|_| HashLost)?;
        let piece = Piece { data: piece.clone(), _backlog: backlog };
        self.jobs.send(Job::Piece { upload: self.upload, piece }).map_err(|_| HashLost)
    }

    async fn finish(self) -> Result<Digests, HashLost> {
        let (reply, digests) = oneshot::channel();
        self.jobs.send(Job::Finish { upload: self.upload, reply }).map_err(|_| HashLost)?;
        digests.await.map_err(|_| HashLost)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.uploads.fetch_sub(1, Ordering::Relaxed);
        // Of a finished upload the worker knows nothing any more; a dead worker needs no word.
        let _ = self.jobs.send(Job::Abandon { upload: self.upload });
    }
}

/// What one worker knows.
#[derive(Debug)]
struct Uploads {
    kernel: Kernel,
    by_id: BTreeMap<u64, Upload>,
}

#[derive(Debug)]
struct Upload {
    set: DigestSet,
    pieces: VecDeque<Piece>,
    reply: Option<oneshot::Sender<Digests>>,
}

impl Uploads {
    fn new(kernel: Kernel) -> Self {
        Self { kernel, by_id: BTreeMap::new() }
    }

    fn run(mut self, mut jobs: UnboundedReceiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            self.apply(job);
            loop {
                while let Ok(job) = jobs.try_recv() {
                    self.apply(job);
                }
                if !self.pass() {
                    break;
                }
            }
        }
    }

    fn apply(&mut self, job: Job) {
        match job {
            Job::Open { upload, set } => {
                self.by_id.insert(upload, Upload { set, pieces: VecDeque::new(), reply: None });
            }
            Job::Piece { upload, piece } => {
                if let Some(upload) = self.by_id.get_mut(&upload) {
                    upload.pieces.push_back(piece);
                }
            }
            Job::Finish { upload, reply } => {
                if let Some(upload) = self.by_id.get_mut(&upload) {
                    upload.reply = Some(reply);
                }
                self.answer(upload);
            }
            // One that waits for its digests has left only if it dropped the receiver: then none is sent.
            Job::Abandon { upload } => drop(self.by_id.remove(&upload)),
        }
    }

    /// Sends the digests of an upload that waits for them and is hashed to its end.
    fn answer(&mut self, id: u64) {
        let ready = |upload: &Upload| upload.reply.is_some() && upload.pieces.is_empty();
        if !self.by_id.get(&id).is_some_and(ready) {
            return;
        }
        if let Some(Upload { set, reply: Some(reply), .. }) = self.by_id.remove(&id) {
            // The upload may have gone away meanwhile.
            let _ = reply.send(set.finish());
        }
    }

    /// Hashes some bytes of every upload that has any; false if none has.
    fn pass(&mut self) -> bool {
        let mut taken: Vec<(u64, Bytes)> = Vec::new();
        for (id, upload) in &mut self.by_id {
            if let Some(piece) = upload.pieces.front_mut() {
                taken.push((*id, piece.data.split_to(piece.data.len().min(PASS_BYTES))));
            }
        }
        if taken.is_empty() {
            return false;
        }
        // Both are ordered by id.
        let mut bytes = taken.iter().peekable();
        let mut jobs = Vec::with_capacity(taken.len());
        for (id, upload) in &mut self.by_id {
            let Some((_, data)) = bytes.next_if(|(taken, _)| taken == id) else {
                continue;
            };
            upload.set.update_rest(data);
            jobs.extend(upload.set.md5_mut().map(|md5| (md5, data.as_ref())));
        }
        update_many(self.kernel, &mut jobs);
        for (id, _) in taken {
            if let Some(upload) = self.by_id.get_mut(&id) {
                upload.pieces.pop_front_if(|piece| piece.data.is_empty());
            }
            self.answer(id);
        }
        true
    }
}

#[cfg(test)]
mod tests;
