//! Census: which slots hold a verified shard of every version of every object and of every part of an open upload.
//!
//! Owns: a walk over all buckets that believes nobody, neither counters nor records of what is missing: each slot's shard
//! is read to its end and checked here against its bound checksums. Never repairs anything; a node whose shard turns out
//! to be damaged marks it as missing, as on any read.
//!
//! 1. Buckets, and in each of them objects and open uploads, come from a strict listing: what is undecided is settled by
//!    it.
//! 2. An object is one [`Holding`], or one per part it was made of; so is each part of an open upload.
//! 3. All slots of a holding are read at the same time, a few holdings at a time.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::driver::{Peer, Peers, Target};
use coffer_common::meta::Coding;
use coffer_common::node::{NodeError, ReadShard, ShardBlocks, SlotAddress, SlotCall};
use coffer_common::protocol::message::{SlotReply, SlotRequest, Version, VersionState};
use coffer_common::shard::{ShardHeader, ShardId, StripeGeometry};
use coffer_common::types::{BucketName, ObjectKey, OpId, RegisterKey, RegisterKind, SlotIndex};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::bucket::{Bucket, BucketState};
use super::coding;
use super::core::Core;
use super::error::Unavailable;
use super::info::object_meta;
use super::list::{Item, Listing, Range, Shows, shows_all};
use super::multipart::{all_parts, part_meta, shows_open};

/// Registers that are listed at a time.
const BATCH: usize = 1_000;
/// Holdings that are read at the same time.
const CONCURRENCY: usize = 8;
/// How long a slot may take for an answer, or for the next block.
const SLOT_LIMIT: Duration = Duration::from_secs(30);

/// What one slot holds of an op's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotFinding {
    /// Its shard, read to the end and verified; or, where there are no bytes, the version's record.
    Verified,
    /// No shard that verifies, and why.
    Lacking(String),
    /// It does not answer, and why: what it holds is not known.
    Silent(String),
}

/// The shards of one op: an object's, or one part's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The bucket.
    pub bucket: BucketName,
    /// The key.
    pub key: ObjectKey,
    /// The number, if it is a part of an object or of an open upload.
    pub part: Option<u16>,
    /// The op that wrote the shards.
    pub op: OpId,
    /// Shards that a read needs; 0 if there are no bytes.
    pub k: u8,
    /// By slot.
    pub slots: Vec<SlotFinding>,
}

impl Holding {
    /// Slots whose shard verifies.
    pub fn verified(&self) -> usize {
        self.slots.iter().filter(|slot| **slot == SlotFinding::Verified).count()
    }

    /// How many of the verified shards may yet be lost; negative if it cannot be read as it is.
    pub fn spare(&self) -> i32 {
        self.verified() as i32 - i32::from(self.k.max(1))
    }

    /// Whether every slot holds what it should.
    pub fn is_complete(&self) -> bool {
        self.verified() == self.slots.len()
    }
}

/// An op whose shards are to be read.
pub(super) struct Subject {
    target: Target,
    part: Option<u16>,
    op: OpId,
    coding: Coding,
    size: u64,
}

/// Walks over everything; `tell` gets each holding.
pub(super) async fn walk(
    core: &Arc<Core>,
    tell: &mut (dyn FnMut(Holding) + Send),
) -> Result<(), Unavailable> {
    core.buckets.list(core.cluster.coordinator().as_ref()).await?;
    for bucket in core.buckets.known() {
        if bucket.record.state == BucketState::Active {
            walk_kind(core, &bucket, (RegisterKind::Object, shows_all), tell).await?;
            walk_kind(core, &bucket, (RegisterKind::Version, shows_all), tell).await?;
            walk_kind(core, &bucket, (RegisterKind::Upload, shows_open), tell).await?;
        }
    }
    Ok(())
}

async fn walk_kind(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (kind, shows): (RegisterKind, Shows),
    tell: &mut (dyn FnMut(Holding) + Send),
) -> Result<(), Unavailable> {
    let mut listing = Listing::new(core, bucket, Range::all(kind), shows, BATCH as u32);
    loop {
        let items = listing.next(BATCH).await?;
        if items.is_empty() {
            return Ok(());
        }
        for item in items {
            let Item::Entry(register, version) = item else { continue };
            let subjects = match kind {
                RegisterKind::Object | RegisterKind::Version => of_object(core, bucket, register, &version)?,
                _ => of_upload(core, bucket, &register).await?,
            };
            let examined = subjects.into_iter().map(|subject| examine(core, bucket, subject));
            let mut holdings = stream::iter(examined).buffered(CONCURRENCY);
            while let Some(holding) = holdings.try_next().await? {
                tell(holding);
            }
        }
    }
}

/// An object's own op, or those of its parts.
pub(super) fn of_object(
    core: &Core,
    bucket: &Bucket,
    register: RegisterKey,
    version: &Version,
) -> Result<Vec<Subject>, Unavailable> {
    let object = object_meta(version)?;
    let Some(table) = object.parts else {
        // The shards of a version that was there before its bucket kept versions stay where they were.
        let register = match register.kind {
            RegisterKind::Version if object.size > 0 => RegisterKey::object(bucket.id(), register.key),
            _ => register,
        };
        let (target, op) = (core.target(bucket, register), version.op);
        return Ok(vec![Subject { target, part: None, op, coding: object.coding, size: object.size }]);
    };
    let of_part = |part: coffer_common::meta::ObjectPart| {
        let register = RegisterKey::part(bucket.id(), register.key.clone(), table.upload, part.number);
        Subject {
            target: core.target(bucket, register),
            part: Some(part.number),
            op: part.op,
            coding: part.coding,
            size: part.size,
        }
    };
    Ok(table.parts.into_iter().map(of_part).collect())
}

/// The ops of an open upload's parts.
async fn of_upload(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    register: &RegisterKey,
) -> Result<Vec<Subject>, Unavailable> {
    let upload =
        register.upload_id().ok_or_else(|| Unavailable::new("an upload register has no upload id"))?;
    let parts = all_parts(core, bucket, &register.key, upload).await?;
    let of_part = |(number, version): (u16, Version)| {
        let part = part_meta(&version)?;
        let register = RegisterKey::part(bucket.id(), register.key.clone(), upload, number);
        Ok(Subject {
            target: core.target(bucket, register),
            part: Some(number),
            op: version.op,
            coding: part.coding,
            size: part.size,
        })
    };
    parts.into_iter().map(of_part).collect()
}

/// Reads what every slot holds of an op.
pub(super) async fn examine(core: &Core, bucket: &Bucket, subject: Subject) -> Result<Holding, Unavailable> {
    let peers = core.peers(&subject.target);
    let stripes = if subject.size == 0 {
        None
    } else {
        let stripes = coding::stripes(subject.coding, subject.size);
        Some(stripes.map_err(|error| Unavailable::new(format!("op {}: {error}", subject.op)))?)
    };
    let cluster = core.cluster.map().cluster;
    let slots = peers.slots.iter().enumerate().map(async |(index, peer)| {
        let id = ShardId { cluster, op: subject.op, slot: SlotIndex(index as u8) };
        let found = match &stripes {
            Some(stripes) => read(&peers, peer, &subject, (stripes.header(id), stripes)).await,
            None => holds_record(&peers, peer, &subject).await,
        };
        found.map_or_else(|finding| finding, |()| SlotFinding::Verified)
    });
    Ok(Holding {
        bucket: bucket.name.clone(),
        key: subject.target.register.key.clone(),
        part: subject.part,
        op: subject.op,
        k: stripes.as_ref().map_or(0, StripeGeometry::k),
        slots: join_all(slots).await,
    })
}

/// Reads one slot's shard to its end.
async fn read(
    peers: &Peers,
    peer: &Peer,
    subject: &Subject,
    (header, stripes): (ShardHeader, &StripeGeometry),
) -> Result<(), SlotFinding> {
    let client = peer.client.as_ref().ok_or_else(no_client)?;
    let request = ReadShard {
        address: SlotAddress { epoch: peers.epochs.epoch, ..peer.address },
        register: subject.target.register.clone(),
        op: subject.op,
        first_block: 0,
        block_count: stripes.stripes(),
    };
    let mut blocks: ShardBlocks = in_time(client.read_shard(request)).await?.map_err(finding)?;
    for number in 0..stripes.stripes() {
        let block = in_time(blocks.recv()).await?;
        let block = block.ok_or_else(|| SlotFinding::Silent("the stream ended early".to_owned()))?;
        let block = block.map_err(finding)?;
        header
            .verify(number, block.checksum, &block.data)
            .map_err(|error| SlotFinding::Lacking(error.to_string()))?;
    }
    Ok(())
}

/// Asks whether a slot knows the op as committed.
async fn holds_record(peers: &Peers, peer: &Peer, subject: &Subject) -> Result<(), SlotFinding> {
    let client = peer.client.as_ref().ok_or_else(no_client)?;
    let call = SlotCall {
        address: SlotAddress { epoch: peers.epochs.epoch, ..peer.address },
        register: subject.target.register.clone(),
        bucket_revision: subject.target.bucket_revision,
        request: SlotRequest::Query { inline_data: false },
    };
    match in_time(client.call(call)).await?.map_err(finding)? {
        SlotReply::View(view, _) => {
            let holds = |held: &coffer_common::protocol::message::SlotVersion| {
                held.version.op == subject.op && held.state >= VersionState::Committed
            };
            let behind = || SlotFinding::Lacking("its record is behind".to_owned());
            view.current.as_ref().is_some_and(holds).then_some(()).ok_or_else(behind)
        }
        SlotReply::Refused(refusal) => Err(SlotFinding::Silent(format!("it refuses: {refusal:?}"))),
        SlotReply::Committed { .. } | SlotReply::Done => {
            Err(SlotFinding::Silent("it answers another question".to_owned()))
        }
    }
}

pub(super) async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, SlotFinding> {
    let late = |_| SlotFinding::Silent("it does not answer in time".to_owned());
    tokio::time::timeout(SLOT_LIMIT, answer).await.map_err(late)
}

pub(super) fn no_client() -> SlotFinding {
    SlotFinding::Silent("its node has no known address".to_owned())
}

/// What a node's error says of the shard.
pub(super) fn finding(error: NodeError) -> SlotFinding {
    match error {
        NodeError::ShardUnavailable { reason, .. } => SlotFinding::Lacking(reason),
        other => SlotFinding::Silent(other.to_string()),
    }
}
