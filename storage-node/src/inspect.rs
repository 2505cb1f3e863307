//! A drive read without touching it: who it is, what its journal holds, what is damaged.
//!
//! Owns: the fold over a journal's records that gives [`DriveInspection`], and of it what a recovery needs
//! ([`DriveReport`]). Never writes, holds no lock, reads no index (a view) and no shard file.
//!
//! 1. Read `coffer.json`; look whether somebody has the drive open.
//! 2. Read the journal's segments, oldest first; of each register the last record counts.
//! 3. If the drive is in use and something looks wrong, look again: a node may be writing at that place, or have removed a
//!    segment.
//!
//! **Memory.** About 200 bytes a register: a drive of ten million takes 2 GB while it is read.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::cluster::recovery::{
    BucketReport, CopyReport, DriveReport, PartitionReport, REPORT_FORMAT,
};
use coffer_common::coordination::generation_of;
use coffer_common::layout::SlotRole;
use coffer_common::node::{Snapshot, SnapshotKind};
use coffer_common::protocol::message::{VersionKind, VersionState};
use coffer_common::protocol::register::{PartitionState, Register, Role};
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketId, Epoch, PartitionId, RegisterKind, SlotIndex};
use xxhash_rust::xxh3::xxh3_128;

use crate::drive::{DriveIdentity, DriveProbe, DriveRefusal, FileIo, is_in_use, probe};
use crate::image::{
    CopyRecord, DecodeImageError, Entry, ShardLocation, decode_boot, decode_bucket, decode_copy,
    decode_entry, decode_forget, decode_partition,
};
use crate::journal::{self, Inspection, JournalError, Owner, RecordKind, Replayed};

/// Looks at a drive in use before what is seen counts.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// A drive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is no drive of ours.
    #[error(transparent)]
    Refused(#[from] DriveRefusal),
    /// Its files cannot be read.
    #[error("`{path}`: {reason}")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All but the inline shards of sealed segments.
    Records,
    /// Every record, each verified.
    Whole,
}

/// A segment of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number, which is its file's name in hexadecimal.
    pub number: u64,
    /// First sequence.
    pub first: u64,
    /// Last sequence that was read.
    pub last: u64,
    /// Records that were read.
    pub records: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Whether it is sealed.
    pub sealed: bool,
}

/// Sums over the registers of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registers with a record.
    pub registers: u64,
    /// Those whose newest version is an object.
    pub objects: u64,
    /// Versions, superseded ones too.
    pub versions: u64,
    /// Versions COMMITTED or LEARNED, with no STABLE one above them.
    pub unsettled: u64,
    /// Ops that are prepared and not committed.
    pub prepared: u64,
    /// Versions whose shard should be here and is not.
    pub missing_shards: u64,
    /// Shards in the journal, and their bytes.
    pub inline_shards: (u64, u64),
    /// Shards in files, and their bytes as recorded.
    pub shard_files: (u64, u64),
}

/// What was found on a drive.
#[derive(Clone, Debug)]
pub struct DriveInspection {
    /// Who it is.
    pub identity: DriveIdentity,
    /// The journal's segments.
    pub segments: Vec<Segment>,
    /// What does not verify although it had been durable.
    pub damage: Vec<String>,
    /// Remains of a write that nobody was answered: segment, offset, bytes.
    pub torn: Option<(u64, u64, u64)>,
    /// Sums over its registers.
    pub counts: Counts,
    /// What it tells of itself and of the cluster.
    pub report: DriveReport,
}

/// Reads a drive. Blocks.
///
/// # Errors
/// [`InspectError`]; damage is none, it is told in the result.
pub fn inspect(path: &Path, depth: Depth) -> Result<DriveInspection, InspectError> {
    let identity = match probe(path) {
        DriveProbe::Ours(identity) => identity,
        DriveProbe::Fresh => return Err(DriveRefusal::NotFormatted { path: path.to_owned() }.into()),
        DriveProbe::Refused(refusal) => return Err(refusal.into()),
    };
    let mut looks = 0;
    loop {
        looks += 1;
        let in_use = is_in_use(path);
        let seen = look(path, &identity, depth);
        let doubtful = seen.as_ref().map_or(true, |(found, _)| !found.damage.is_empty());
        if in_use && doubtful && looks < LOOKS {
            std::thread::sleep(BETWEEN_LOOKS);
            continue;
        }
        let unreadable = |error: JournalError| InspectError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let (found, told) = seen.map_err(unreadable)?;
        return Ok(told.into_inspection(path, identity, in_use, found));
    }
}

fn look(path: &Path, identity: &DriveIdentity, depth: Depth) -> Result<(Inspection, Told), JournalError> {
    let owner = Owner { cluster: identity.cluster, drive: identity.drive };
    let mut told = Told::default();
    let io = Arc::new(FileIo::read_only(path));
    let mut malformed = Vec::new();
    let whole = depth == Depth::Whole;
    let mut found = journal::inspect(io, (owner, identity.segment_bytes), whole, &mut |record| {
        if let Err(error) = told.take(record) {
            malformed.push(format!("record {} {error}", record.sequence));
        }
        Ok(())
    })?;
    found.damage.extend(malformed);
    Ok((found, told))
}

/// A register in short.
#[derive(Clone, Copy, Debug)]
struct Short {
    bucket: BucketId,
    place: (PartitionId, SlotIndex),
    counts: Counts,
}

/// What the records tell, the last of each name.
#[derive(Debug, Default)]
struct Told {
    /// By a hash of the register's key.
    registers: HashMap<u128, Short>,
    partitions: HashMap<PartitionId, PartitionState>,
    /// The last epoch in which a slot was JOINING.
    taken: HashMap<PartitionId, Epoch>,
    buckets: HashMap<BucketId, u64>,
    copies: HashMap<u8, Snapshot>,
    boot_count: u64,
    generation: u32,
}

impl Told {
    fn take(&mut self, record: Replayed<'_>) -> Result<(), DecodeImageError> {
        let payload = || Bytes::copy_from_slice(record.payload);
        match record.kind {
            RecordKind::Register => {
                let entry = decode_entry(payload(), record.sequence, record.place)?;
                self.generation = self.generation.max(generation(&entry.register));
                self.registers.insert(xxh3_128(&entry.key), short(&entry));
            }
            RecordKind::Forget => {
                self.registers.remove(&xxh3_128(&decode_forget(payload())?));
            }
            RecordKind::Partition => {
                let (partition, state, taken) = decode_partition(payload())?;
                self.generation = self.generation.max(state.floor.fence.generation);
                let last = self.taken.entry(partition).or_default();
                *last = taken.max(*last);
                self.partitions.insert(partition, state);
            }
            RecordKind::Bucket => {
                let (bucket, revision) = decode_bucket(payload())?;
                self.generation = self.generation.max(generation_of(revision));
                self.buckets.insert(bucket, revision);
            }
            RecordKind::Snapshot => {
                // Only the embedded coordinator's copy has changes.
                if let CopyRecord::Whole(copy) = decode_copy(payload())? {
                    self.copies.insert(copy.kind as u8, copy);
                }
            }
            RecordKind::Boot => self.boot_count = decode_boot(payload())?,
            RecordKind::InlineShard | RecordKind::Owed | RecordKind::Footer => {}
        }
        Ok(())
    }

    fn into_inspection(
        self,
        path: &Path,
        identity: DriveIdentity,
        in_use: bool,
        found: Inspection,
    ) -> DriveInspection {
        let mut counts = Counts::default();
        let mut buckets: HashMap<BucketId, BucketReport> = HashMap::new();
        let unheard = |bucket: BucketId| BucketReport { bucket, adopted: 0, objects: 0 };
        for Short { bucket, counts: of_register, .. } in self.registers.values() {
            counts.add(of_register);
            if of_register.objects > 0 {
                buckets.entry(*bucket).or_insert_with(|| unheard(*bucket)).objects += 1;
            }
        }
        for (bucket, revision) in &self.buckets {
            buckets.entry(*bucket).or_insert_with(|| unheard(*bucket)).adopted = *revision;
        }
        let mut buckets: Vec<_> = buckets.into_values().collect();
        buckets.sort_unstable_by_key(|report| report.bucket);
        let partitions = self.partition_reports();
        let mut copies: Vec<_> = self.copies.into_values().filter_map(copy_report).collect();
        copies.sort_unstable_by_key(|copy| copy.kind as u8);
        let report = DriveReport {
            format: REPORT_FORMAT,
            read_ms: UnixMillis::now().0,
            path: path.display().to_string(),
            cluster: identity.cluster,
            drive: identity.drive,
            incarnation: identity.incarnation,
            in_use,
            boot_count: self.boot_count,
            last_sequence: found.last_sequence(),
            damage: (!found.damage.is_empty()).then(|| found.damage.join("; ")),
            generation: self.generation,
            copies,
            partitions,
            buckets,
        };
        let segments = found.segments.into_iter().map(|segment| Segment {
            number: segment.number,
            first: segment.first,
            last: segment.last,
            records: segment.records,
            used_bytes: segment.used_bytes,
            sealed: segment.sealed,
        });
        let segments = segments.collect();
        DriveInspection { identity, segments, damage: found.damage, torn: found.torn, counts, report }
    }

    fn partition_reports(&self) -> Vec<PartitionReport> {
        let mut slots: HashMap<PartitionId, BTreeSet<SlotIndex>> = HashMap::new();
        for Short { place: (partition, slot), .. } in self.registers.values() {
            slots.entry(*partition).or_default().insert(*slot);
        }
        let report = |(partition, state): (&PartitionId, &PartitionState)| PartitionReport {
            partition: *partition,
            epoch: state.epoch,
            role: slot_role(state.role),
            slots: Some(slots.get(partition).into_iter().flatten().copied().collect()),
            taken: self.taken.get(partition).copied().unwrap_or_default(),
            purge_epoch: state.purge_epoch,
        };
        let mut partitions: Vec<_> = self.partitions.iter().map(report).collect();
        partitions.sort_unstable_by_key(|report| report.partition);
        partitions
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.registers += other.registers;
        self.objects += other.objects;
        self.versions += other.versions;
        self.unsettled += other.unsettled;
        self.prepared += other.prepared;
        self.missing_shards += other.missing_shards;
        self.inline_shards.0 += other.inline_shards.0;
        self.inline_shards.1 += other.inline_shards.1;
        self.shard_files.0 += other.shard_files.0;
        self.shard_files.1 += other.shard_files.1;
    }
}

fn short(entry: &Entry) -> Short {
    let register = &entry.register;
    let newest = register.versions.last();
    let object = entry.kind() == RegisterKind::Object
        && newest.is_some_and(|held| held.version.kind == VersionKind::Data);
    let unsettled = register.versions.iter().rev().take_while(|held| held.state != VersionState::Stable);
    let mut counts = Counts {
        registers: 1,
        objects: u64::from(object),
        versions: register.versions.len() as u64,
        unsettled: unsettled.count() as u64,
        prepared: register.prepared.len() as u64,
        missing_shards: register.versions.iter().filter(|held| !held.shard_present).count() as u64,
        ..Counts::default()
    };
    for shard in &entry.shards {
        let (sum, bytes) = match shard.location {
            ShardLocation::Inline(place) => (&mut counts.inline_shards, u64::from(place.len)),
            ShardLocation::File { len } => (&mut counts.shard_files, len),
        };
        *sum = (sum.0 + 1, sum.1 + bytes);
    }
    let bucket = entry.key.first_chunk::<16>().map_or(BucketId(0), |id| BucketId::from_bytes(*id));
    Short { bucket, place: (entry.partition, entry.slot), counts }
}

/// The highest generation that a register names.
fn generation(register: &Register) -> u32 {
    let tags = register.versions.iter().map(|held| held.tag).chain(register.learn);
    let fences = tags.map(|tag| tag.fence).chain(register.exclusive.map(|(fence, _)| fence));
    fences.map(|fence| fence.generation).max().unwrap_or_default().max(register.fence.generation)
}

fn slot_role(role: Role) -> SlotRole {
    match role {
        Role::Voter => SlotRole::Voter,
        Role::Joining => SlotRole::Joining,
        Role::Out => SlotRole::Out,
    }
}

/// Copies of the embedded coordinator are not what a cluster is recovered from.
fn copy_report(copy: Snapshot) -> Option<CopyReport> {
    let Snapshot { kind, generation, revision, data } = copy;
    if kind == SnapshotKind::Coordinator {
        return None;
    }
    let data = String::from_utf8(data.to_vec()).ok()?;
    Some(CopyReport { kind, generation, revision, data })
}
