//! What all operations share: the cluster, the buckets, codecs, op ids, budgets. Built once, passed by reference.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coffer_common::cluster::Cluster;
use coffer_common::driver::{Driven, Driver, Latency, Payload, Peers, Target};
use coffer_common::erasure::Codecs;
use coffer_common::layout::ParitySettings;
use coffer_common::meta::{Coding, StorageClass};
use coffer_common::node::partition_of;
use coffer_common::protocol::action::Machine;
use coffer_common::protocol::fenced::Trouble;
use coffer_common::protocol::reader::{ReadOutcome, Reader};
use coffer_common::protocol::settler::Settler;
use coffer_common::protocol::tally::Current;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{BucketId, BucketName, ObjectKey, OpId, PartitionId, RegisterKey};
use tokio::sync::Semaphore;

use super::bucket::{Bucket, Buckets};
use super::coding;
use super::encryption::Keyring;
use super::error::{HeadBucketError, Unavailable};
use super::lacking::Lacking;
use super::list;
use super::quota::Quotas;
use super::reclaim::Reclaim;
use super::store::StoreSettings;
use super::turns::Turns;

/// How long an operation that carries no body may take before it is given up.
pub(super) const OPERATION_LIMIT: Duration = Duration::from_secs(20);

/// What all bodies in flight may hold in stripe buffers, in KiB: with what connections and hashing hold beside it, the
/// process stays below 256 MiB at 64 uploads.
pub(super) const STRIPE_BUDGET_KIB: u32 = 160 * 1024;

/// An inline shard as it came with a view.
pub(super) type InlineShards = Vec<(coffer_common::types::SlotIndex, OpId, bytes::Bytes)>;

/// See the module.
pub(super) struct Core {
    /// The live map and the node clients.
    pub(super) cluster: Cluster,
    /// The bucket records.
    pub(super) buckets: Buckets,
    /// Which nodes' pages speak for every partition.
    pub(super) coverage: list::Checked,
    /// Erasure codecs.
    pub(super) codecs: Codecs,
    /// Runs protocol machines.
    pub(super) driver: Driver,
    /// Permits of one KiB for stripe buffers.
    pub(super) stripes: Arc<Semaphore>,
    /// Turns to compute, one for each core.
    pub(super) computing: Semaphore,
    /// How long a block takes to come.
    pub(super) block_latency: Latency,
    /// Drives that have not had the shards that were asked for.
    lacking: Lacking,
    /// Tasks that a stop waits for.
    pub(super) background: Shutdown,
    /// Parts that may be left over.
    pub(super) reclaim: Reclaim,
    /// Changes of one key's versions, one after the other.
    pub(super) turns: Turns,
    /// The keys that objects are encrypted with.
    pub(super) keys: Keyring,
    /// Room in buckets with a quota.
    pub(super) quotas: Quotas,
    /// The parity of each class.
    parity: ParitySettings,
    session: u64,
    counter: AtomicU64,
}

impl Core {
    /// For one process; starts the driver's background work.
    pub(super) fn new(cluster: Cluster, settings: StoreSettings, background: Shutdown) -> Self {
        let StoreSettings { parity, keys } = settings;
        Self {
            driver: Driver::start(cluster.clone(), background.clone()),
            cluster,
            buckets: Buckets::default(),
            coverage: list::Checked::default(),
            codecs: Codecs::new(),
            stripes: Arc::new(Semaphore::new(STRIPE_BUDGET_KIB as usize)),
            computing: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            block_latency: Latency::default(),
            lacking: Lacking::default(),
            background,
            reclaim: Reclaim::new(),
            turns: Turns::default(),
            keys,
            quotas: Quotas::default(),
            parity,
            session: coffer_common::random::random(),
            counter: AtomicU64::new(1),
        }
    }

    /// A fresh op.
    pub(super) fn op(&self) -> OpId {
        OpId { session: self.session, counter: self.counter.fetch_add(1, Ordering::Relaxed) }
    }

    /// The partition of a key.
    pub(super) fn partition(&self, bucket: BucketId, key: &ObjectKey) -> PartitionId {
        partition_of(self.cluster.map().cluster, bucket, key)
    }

    /// A register of a bucket as a machine's target.
    pub(super) fn target(&self, bucket: &Bucket, register: RegisterKey) -> Target {
        let partition = self.partition(register.bucket, &register.key);
        Target { register, partition, bucket_revision: bucket.revision }
    }

    /// The slots of a target now.
    pub(super) fn peers(&self, target: &Target) -> Peers {
        Peers::of(&self.cluster, target.partition)
    }

    /// Runs a machine that has no shards to prepare, within the usual limit.
    pub(super) async fn run<M: Machine>(
        self: &Arc<Self>,
        target: &Target,
        peers: Peers,
        machine: M,
    ) -> Driven<M::Outcome> {
        let limit = tokio::time::sleep(OPERATION_LIMIT);
        self.driver.drive(target, peers, machine, Payload::Nothing, limit).await
    }

    /// How a body is coded on these slots now.
    pub(super) fn choose_coding(&self, peers: &Peers, class: StorageClass, size: u64) -> Coding {
        let room = self.stripes.available_permits() as u64 * 1024;
        coding::choose(&self.parity, peers.geometry, class, peers.alive().len(), size, room)
    }

    /// A strict read of a register; with `inline`, shards that came along.
    pub(super) async fn read(
        self: &Arc<Self>,
        target: &Target,
        inline: bool,
    ) -> Result<(Option<Current>, InlineShards), Unavailable> {
        let peers = self.peers(target);
        let geometry = peers.geometry;
        let first = peers.first(geometry.r0().max(geometry.n() / 2), self.lacking.of(&peers));
        let reader = Reader::new(geometry, peers.epochs, self.op(), first, inline);
        let asked: Vec<_> =
            first.iter().filter_map(|slot| Some((slot, peers.get(slot)?.address.drive))).collect();
        let driven = self.run(target, peers, reader).await;
        match driven.outcome {
            ReadOutcome::Decided(current) => {
                if let Some(current) = current.as_ref().filter(|current| current.version.k > 0) {
                    self.lacking.note(&asked, current.holders, current.lacking);
                }
                Ok((current, driven.inline))
            }
            ReadOutcome::Unavailable(trouble) => Err(self.undecided(trouble)),
        }
    }

    /// Settles a register that a listing found undecided.
    pub(super) async fn settle(self: &Arc<Self>, target: &Target) -> Result<Option<Current>, Unavailable> {
        let peers = self.peers(target);
        let settler = Settler::new(peers.geometry, peers.epochs, self.op());
        match self.run(target, peers, settler).await.outcome {
            ReadOutcome::Decided(current) => Ok(current),
            ReadOutcome::Unavailable(trouble) => Err(self.undecided(trouble)),
        }
    }

    /// What a read's trouble means; an old bucket record is read again.
    pub(super) fn undecided(&self, trouble: Trouble) -> Unavailable {
        self.buckets.suspect(trouble);
        unavailable(trouble)
    }

    /// A bucket in use; see [`Buckets::find`].
    pub(super) async fn bucket(&self, name: &BucketName) -> Result<Arc<Bucket>, HeadBucketError> {
        self.buckets.find(self.cluster.coordinator().as_ref(), name).await
    }

    /// Reads in a bucket, again with its newer record where slots say that the known one is old.
    ///
    /// # Errors
    /// That there is no such bucket, or that of the read.
    pub(super) async fn read_in<T, F: Future<Output = Result<T, Unavailable>>>(
        &self,
        name: &BucketName,
        read: impl Fn(Arc<Bucket>) -> F,
    ) -> Result<T, HeadBucketError> {
        let mut bucket = self.bucket(name).await?;
        loop {
            match read(Arc::clone(&bucket)).await {
                Err(error) => bucket = self.renewed(&bucket, error).await?,
                Ok(found) => return Ok(found),
            }
        }
    }

    /// The record to read with once more, after a read with `used` ended in `error`. Each try needs a newer one, so that
    /// they come to an end. Nothing goes on in another bucket of the name: the request was admitted to this one, and what it has
    /// written lies below this one's id.
    ///
    /// # Errors
    /// The error itself, unless slots said that the record is old and a newer one of this bucket is had from the coordinator.
    pub(super) async fn renewed(
        &self,
        used: &Bucket,
        error: Unavailable,
    ) -> Result<Arc<Bucket>, HeadBucketError> {
        if error.newer_bucket.is_none() {
            return Err(error.into());
        }
        let renewed = self.buckets.renew(self.cluster.coordinator().as_ref(), used).await?;
        if renewed.id() != used.id() {
            return Err(Unavailable::new("the bucket was deleted and made again").into());
        }
        if renewed.revision > used.revision { Ok(renewed) } else { Err(error.into()) }
    }
}

/// What a machine's trouble means to a caller.
pub(super) fn unavailable(trouble: Trouble) -> Unavailable {
    let reason = match trouble {
        Trouble::NoQuorum => "too few drives of the key's partition answer",
        Trouble::Full => "too few drives of the key's partition have room",
        Trouble::Fenced => "another operation holds the key",
        Trouble::NoLock => "the coordinator gives no lock",
        Trouble::StaleMap => "the cluster map is changing",
        Trouble::BucketChanged(_) => "the bucket is being changed",
        Trouble::GaveUp => "the operation took too long",
    };
    let newer_bucket = if let Trouble::BucketChanged(revision) = trouble { Some(revision) } else { None };
    Unavailable { newer_bucket, ..Unavailable::new(reason) }
}
