//! Writes a body as the shards of one op, and commits it: what PUT, UploadPart and copies share.
//!
//! 1. Its length is admitted against the bucket's quota ([`super::quota`]), stripe buffers against the process's budget.
//! 2. Small: the body is read whole, hashed and coded; its shards travel inside PREPARE.
//!    Large: [`super::pump`] streams stripes into one channel per slot while the machine's PREPAREs carry them off.
//! 3. What is to be encrypted is, after it was hashed and before it is coded. The digester has the last word before any
//!    shard is complete; a refused body leaves no PREPARE that could count.
//! 4. The machine chooses the tag and commits; the metadata is made then, when digests and the previous version are known.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coffer_common::blocking;
use coffer_common::driver::{Payload, Peers, Target};
use coffer_common::limits::MAX_METADATA_BYTES;
use coffer_common::meta::Coding;
use coffer_common::protocol::action::Machine;
use coffer_common::protocol::fenced::{FencedWriter, Trouble, Verdict, WriteOutcome};
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::protocol::tally::Current;
use coffer_common::protocol::writer::PlainWriter;
use coffer_common::shard::{ShardId, StripeGeometry};
use coffer_common::types::{OpId, SlotIndex, Tag};
use tokio::sync::OwnedSemaphorePermit;

use super::bucket::Bucket;
use super::coding;
use super::core::{Core, OPERATION_LIMIT, unavailable};
use super::encryption::Keystream;
use super::error::{BodyError, QuotaExceeded, Unavailable};
use super::pump::{Pump, PumpError, channels};
use super::quota::{self, NotAdmitted};
use super::types::{Body, Digester, Digests};

/// How long a body waits for stripe buffers before the client is told to slow down.
const ADMISSION_WAIT: Duration = Duration::from_secs(30);
/// How long a write whose slots take no more data waits for what they say.
const VERDICT_WAIT: Duration = Duration::from_secs(1);
/// Small bodies up to this are hashed where they are: a hand-over costs as much.
const HASH_IN_PLACE_BYTES: u64 = 64 * 1024;

/// Makes a version's metadata from the body's digests and the version it replaces.
pub(super) type MakeMetadata = Arc<dyn Fn(&Digests, Option<&Current>) -> Bytes + Send + Sync>;
/// Whether the write may go on top of the current version.
pub(super) type Holds = Arc<dyn Fn(Option<&Current>) -> bool + Send + Sync>;

/// One write.
pub(super) struct Write {
    /// The bucket, whose quota it must fit into.
    pub(super) bucket: Arc<Bucket>,
    /// The register.
    pub(super) target: Target,
    /// Its slots when the coding was chosen.
    pub(super) peers: Peers,
    /// The op.
    pub(super) op: OpId,
    /// How the body is coded.
    pub(super) coding: Coding,
    /// What it is encrypted with, if it is to be.
    pub(super) keystream: Option<Arc<Keystream>>,
    /// Whether a newer version frees this one.
    pub(super) null_version: bool,
    /// Makes the metadata.
    pub(super) metadata: MakeMetadata,
    /// The condition, if there is one: the write then goes under the lock.
    pub(super) condition: Option<Holds>,
}

/// Why a write did not succeed.
pub(super) enum WriteError {
    /// The client's body.
    Body(BodyError),
    /// No stripe buffers.
    Overloaded,
    /// The metadata is too long for a slot.
    MetadataTooLarge,
    /// The bucket's quota leaves too little.
    Quota(QuotaExceeded),
    /// The condition is false on this version.
    Rejected(Option<Current>),
    /// See [`Unavailable`].
    Unavailable(Unavailable),
}

impl From<Unavailable> for WriteError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
}

impl From<NotAdmitted> for WriteError {
    fn from(error: NotAdmitted) -> Self {
        match error {
            NotAdmitted::Exceeded(error) => Self::Quota(error),
            NotAdmitted::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

impl WriteError {
    /// Whether nothing was committed, and nothing will be.
    fn is_certain(&self) -> bool {
        match self {
            Self::Body(_)
            | Self::Overloaded
            | Self::MetadataTooLarge
            | Self::Quota(_)
            | Self::Rejected(_) => true,
            Self::Unavailable(_) => false,
        }
    }
}

impl Write {
    /// Writes the body and commits it; returns the version and its tag.
    pub(super) async fn run(self, core: &Arc<Core>, body: Body) -> Result<(Version, Tag), WriteError> {
        if (self.metadata)(&Digests::default(), None).len() > MAX_METADATA_BYTES / 2 {
            return Err(WriteError::MetadataTooLarge);
        }
        let admission = quota::admit(core, &self.bucket, body.length).await?;
        let result = self.run_admitted(core, body).await;
        if result.as_ref().is_err_and(WriteError::is_certain) {
            admission.release();
        }
        result
    }

    async fn run_admitted(self, core: &Arc<Core>, body: Body) -> Result<(Version, Tag), WriteError> {
        if self.coding.k == 0 {
            return self.run_small(core, body, None).await;
        }
        let stripes =
            coding::stripes(self.coding, body.length).map_err(|error| Unavailable::new(error.to_string()))?;
        let buffers = admit(core, &stripes).await?;
        if coding::is_inline(&stripes) {
            self.run_small(core, body, Some(stripes)).await
        } else {
            self.run_large(core, body, stripes, buffers).await
        }
    }

    async fn run_small(
        self,
        core: &Arc<Core>,
        body: Body,
        stripes: Option<StripeGeometry>,
    ) -> Result<(Version, Tag), WriteError> {
        let (data, digests) = read_whole(core, body).await.map_err(WriteError::Body)?;
        let data = encrypted(self.keystream.as_deref(), data)?;
        let payload = match &stripes {
            None => Payload::Nothing,
            Some(stripes) => {
                let shards = encode_whole(core, &self, stripes, &data)?;
                Payload::Inline { op: self.op, shards }
            }
        };
        let known = Arc::new(OnceLock::from(digests));
        self.commit(core, stripes, known, payload, tokio::time::sleep(OPERATION_LIMIT)).await
    }

    async fn run_large(
        self,
        core: &Arc<Core>,
        body: Body,
        stripes: StripeGeometry,
        buffers: OwnedSemaphorePermit,
    ) -> Result<(Version, Tag), WriteError> {
        let known = Arc::new(OnceLock::new());
        let (senders, receivers) = channels(self.peers.slots.len());
        let pump = Pump {
            core: Arc::clone(core),
            op: self.op,
            stripes,
            senders,
            need: self.peers.geometry.write_quorum(self.coding.k),
            keystream: self.keystream.clone(),
            digests: Arc::clone(&known),
        };
        let payload = Payload::Streams { op: self.op, pieces: receivers };
        let (pumped, after_pump) = tokio::sync::oneshot::channel::<()>();
        let deadline = async move {
            // The client's pace is not ours to limit; what follows the last byte is.
            let _ = after_pump.await;
            tokio::time::sleep(OPERATION_LIMIT).await;
        };
        let commit = self.commit(core, Some(stripes), known, payload, deadline);
        let mut pump = Box::pin(pump.run(body));
        tokio::pin!(commit);
        tokio::select! {
            biased;
            result = &mut pump => match result {
                Ok(()) => {
                    let _ = pumped.send(());
                    commit.await
                }
                Err(PumpError::Body(error)) => Err(WriteError::Body(error)),
                // A slot closes its stream when it refuses; what it said is on its way.
                Err(PumpError::Unavailable(error)) => {
                    match tokio::time::timeout(VERDICT_WAIT, commit).await {
                        Ok(Err(WriteError::Unavailable(told))) if told.full => Err(told.into()),
                        Ok(Ok(written)) => Ok(written),
                        Ok(Err(_)) | Err(_) => Err(error.into()),
                    }
                }
            },
            result = &mut commit => {
                if result.is_ok() {
                    // The slots that are slower than W others get the rest of their shards all the same.
                    core.background.spawn(async move {
                        let _ = pump.await;
                        drop(buffers);
                    });
                }
                result
            }
        }
    }

    async fn commit(
        &self,
        core: &Arc<Core>,
        stripes: Option<StripeGeometry>,
        digests: Arc<OnceLock<Digests>>,
        payload: Payload,
        deadline: impl Future<Output = ()> + Send,
    ) -> Result<(Version, Tag), WriteError> {
        let (op, k, null_version) = (self.op, self.coding.k, self.null_version);
        let metadata = Arc::clone(&self.metadata);
        let make = move |seen: Option<&Current>| Version {
            op,
            kind: VersionKind::Data,
            k,
            shard_len_bytes: stripes.map_or(0, |stripes| stripes.shard_len_bytes()),
            block_len_bytes: stripes.map_or(0, |stripes| stripes.block_len_bytes()),
            null_version,
            // Before the body's end only a read asks, and it uses no more than whether the condition holds.
            metadata: metadata(digests.get().unwrap_or(&Digests::default()), seen),
        };
        let (geometry, epochs) = (self.peers.geometry, self.peers.epochs);
        let outcome = match &self.condition {
            None => {
                let machine = PlainWriter::new(geometry, epochs, op, k, make);
                self.drive(core, machine, payload, deadline).await
            }
            Some(holds) => {
                let holds = Arc::clone(holds);
                let decide = move |current: Option<&Current>| {
                    if holds(current) { Verdict::Commit(make(current)) } else { Verdict::Reject }
                };
                let shards = (k > 0).then_some(k);
                let machine = FencedWriter::new(geometry, epochs, op, shards, true, decide);
                self.drive(core, machine, payload, deadline).await
            }
        };
        written_at(core, outcome)
    }

    async fn drive<M: Machine>(
        &self,
        core: &Arc<Core>,
        machine: M,
        payload: Payload,
        deadline: impl Future<Output = ()> + Send,
    ) -> M::Outcome {
        core.driver.drive(&self.target, self.peers.clone(), machine, payload, deadline).await.outcome
    }
}

/// What an outcome means to a writer.
pub(super) fn written(core: &Core, outcome: WriteOutcome) -> Result<Version, WriteError> {
    written_at(core, outcome).map(|(version, _)| version)
}

/// The same with the version's tag.
pub(super) fn written_at(core: &Core, outcome: WriteOutcome) -> Result<(Version, Tag), WriteError> {
    match outcome {
        WriteOutcome::Committed { version, tag, .. } => Ok((version, tag)),
        WriteOutcome::Rejected(current) => Err(WriteError::Rejected(current)),
        WriteOutcome::NotCommitted(trouble @ Trouble::Full) => {
            Err(Unavailable { full: true, ..unavailable(trouble) }.into())
        }
        WriteOutcome::NotCommitted(trouble) | WriteOutcome::Unknown(trouble) => {
            core.buckets.suspect(trouble);
            Err(unavailable(trouble).into())
        }
    }
}

async fn admit(core: &Core, stripes: &StripeGeometry) -> Result<OwnedSemaphorePermit, WriteError> {
    let (k, m) = (stripes.k(), stripes.m());
    let bytes = if coding::is_inline(stripes) {
        // The body and its encoded shards.
        stripes.size_bytes() + (u64::from(k) + u64::from(m)) * stripes.shard_len_bytes()
    } else {
        coding::buffers_bytes(k, m, stripes.block_len_bytes())
    };
    let permits = bytes.div_ceil(1024) as u32;
    let permit = Arc::clone(&core.stripes).acquire_many_owned(permits);
    match tokio::time::timeout(ADMISSION_WAIT, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(WriteError::Overloaded),
    }
}

/// Reads a small body and hashes it.
async fn read_whole(core: &Core, body: Body) -> Result<(Bytes, Digests), BodyError> {
    let Body { length, mut source, mut digester } = body;
    let mut whole = Bytes::new();
    let mut rest = BytesMut::new();
    let mut received = 0;
    while let Some(piece) = source.next().await? {
        received += piece.len() as u64;
        if received > length {
            return Err(BodyError::Length { expected: length, received });
        }
        if piece.len() as u64 == length {
            whole = piece;
        } else {
            rest.reserve(length as usize - rest.len());
            rest.extend_from_slice(&piece);
        }
    }
    if received != length {
        return Err(BodyError::Length { expected: length, received });
    }
    let whole = if rest.is_empty() { whole } else { rest.freeze() };
    let digests = if length <= HASH_IN_PLACE_BYTES {
        digester.update(&whole);
        digester.finish()?
    } else {
        let data = whole.clone();
        compute(core, move || hash(digester, &data))
            .await
            .map_err(|error| BodyError::Broken(error.reason))??
    };
    Ok((whole, digests))
}

/// Small bodies are encrypted where they are: that takes less than coding them does.
fn encrypted(keystream: Option<&Keystream>, data: Bytes) -> Result<Bytes, Unavailable> {
    let Some(keystream) = keystream else { return Ok(data) };
    Ok(keystream.applied(0, data)?)
}

fn hash(mut digester: Box<dyn Digester>, data: &[u8]) -> Result<Digests, BodyError> {
    digester.update(data);
    digester.finish()
}

/// Runs work that takes longer than a hand-over away from the async threads, on no more threads than there are cores:
/// more would compute no faster, and each keeps freed buffers of its own.
pub(super) async fn compute<T: Send + 'static>(
    core: &Core,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unavailable> {
    let failed = |error: &dyn std::fmt::Display| Unavailable::new(format!("computing failed: {error}"));
    let _turn = core.computing.acquire().await.map_err(|error| failed(&error))?;
    blocking::run(work).await.map_err(|error| failed(&error))
}

/// All encoded shards of a small body, by slot.
fn encode_whole(
    core: &Core,
    write: &Write,
    stripes: &StripeGeometry,
    data: &Bytes,
) -> Result<Vec<Bytes>, Unavailable> {
    let failed = |error: coffer_common::erasure::CodecError| Unavailable::new(error.to_string());
    let codec = core.codecs.get(stripes.k(), stripes.m()).map_err(failed)?;
    let blocks = stripes.data_blocks(0, data);
    let parity = codec.encode(&blocks).map_err(failed)?;
    let cluster = core.cluster.map().cluster;
    let header = |slot: usize| stripes.header(ShardId { cluster, op: write.op, slot: SlotIndex(slot as u8) });
    let all = blocks.iter().map(|block| &block[..]).chain(parity.iter().map(|block| &block[..]));
    Ok(all.enumerate().map(|(slot, block)| header(slot).encode_shard(block)).collect())
}
