//! Changing partition records: a new epoch, and with it a slot's role, or its drive.
//!
//! Each record is compared and swapped, so that of two who change one partition at a time both come through, one after the
//! other, and an epoch never names two states. A change whose outcome is unknown may be made again: epochs only rise.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::record::{PARTITIONS_PREFIX, parse_partition_key, partition_key, partition_neighbours};
use crate::coordination::{Change, Coordinator, CoordinatorError, Expected, Revision, Write};
use crate::layout::{PartitionRecord, SlotRole};
use crate::types::{Epoch, PartitionId, SlotIndex};

/// Records that are changed at once: etcd takes 128 operations in a transaction.
pub const RAISES_AT_ONCE: usize = 100;
/// How often a change is tried again because another came in between.
const TRIES: usize = 10;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its epoch: the new one, if it was changed.
    pub epoch: Epoch,
    /// Whether it was changed.
    pub changed: bool,
}

/// Raises the epoch of each of these partitions by one, and gives the slot this role. Returns the new epochs, in order.
///
/// # Errors
/// [`CoordinatorError`]; what was changed is unknown then. `Refused` if a record is not readable.
///
/// # Panics
/// If there are more than [`RAISES_AT_ONCE`].
pub async fn raise_epochs(
    coordinator: &dyn Coordinator,
    n: u8,
    slots: &[(PartitionId, SlotIndex)],
    role: SlotRole,
) -> Result<Vec<Epoch>, CoordinatorError> {
    let partitions: Vec<PartitionId> = slots.iter().map(|(partition, _)| *partition).collect();
    let raise = |at: usize, record: &mut PartitionRecord| {
        record.slots[usize::from(slots[at].1.0)].role = role;
        true
    };
    let changed = change_partitions(coordinator, n, &partitions, None, &raise).await?;
    Ok(changed.into_iter().map(|changed| changed.epoch).collect())
}

/// Lets `change` have its way with the present record of each of these partitions, named by its place among them; what it
/// says to have changed gets a new epoch and is written, all at once, and only if `guard` holds too. Returns what became of
/// each, in order.
///
/// # Errors
/// [`CoordinatorError`]; what was changed is unknown then. `Refused` if a record is not readable, `Conflict` if the guard does
/// not hold.
///
/// # Panics
/// If there are more than [`RAISES_AT_ONCE`].
pub async fn change_partitions(
    coordinator: &dyn Coordinator,
    n: u8,
    partitions: &[PartitionId],
    guard: Option<&Write>,
    change: &(dyn Fn(usize, &mut PartitionRecord) -> bool + Send + Sync),
) -> Result<Vec<Changed>, CoordinatorError> {
    assert!(partitions.len() <= RAISES_AT_ONCE, "{} records do not fit into a transaction", partitions.len());
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let mut tries = 0;
    loop {
        let known = records_around(coordinator, partitions).await?;
        let (mut writes, mut results) = (Vec::new(), Vec::new());
        for (at, partition) in partitions.iter().enumerate() {
            let (mut record, expected) = match known.get(partition) {
                Some((record, revision)) => (record.clone(), Expected::Revision(*revision)),
                None => (PartitionRecord::new(n), Expected::Absent),
            };
            let changed = change(at, &mut record);
            record.epoch.0 += u64::from(changed);
            results.push(Changed { epoch: record.epoch, changed });
            if changed {
                let change = Change::Put { value: Bytes::from(record.encode()), leased: false };
                writes.push(Write { key: partition_key(*partition), expected, change });
            }
        }
        if writes.is_empty() {
            return Ok(results);
        }
        writes.extend(guard.cloned());
        tries += 1;
        match coordinator.transaction(writes).await {
            Ok(_) => return Ok(results),
            Err(CoordinatorError::Conflict { .. }) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

type Records = BTreeMap<PartitionId, (PartitionRecord, Revision)>;

/// The partition records as the coordinator has them now (linearizable), each with the revision that wrote it.
///
/// # Errors
/// [`CoordinatorError`]; `Refused` if a record is not readable.
pub async fn partition_records(coordinator: &dyn Coordinator) -> Result<Records, CoordinatorError> {
    records_below(coordinator, PARTITIONS_PREFIX).await
}

/// The records of these partitions and of their neighbours: what is changed at a time mostly lies side by side, and to read
/// all of them each time would cost more than the change.
async fn records_around(
    coordinator: &dyn Coordinator,
    partitions: &[PartitionId],
) -> Result<Records, CoordinatorError> {
    let prefixes: BTreeSet<String> = partitions.iter().map(|p| partition_neighbours(*p)).collect();
    let read = prefixes.iter().map(|prefix| records_below(coordinator, prefix));
    Ok(try_join_all(read).await?.into_iter().flatten().collect())
}

async fn records_below(coordinator: &dyn Coordinator, prefix: &str) -> Result<Records, CoordinatorError> {
    let entries = coordinator.list(prefix).await?.entries;
    let records = entries.into_iter().map(|entry| {
        let unreadable = |reason: String| CoordinatorError::Refused(format!("`{}`: {reason}", entry.key));
        let partition =
            parse_partition_key(&entry.key).ok_or_else(|| unreadable("not a partition".to_owned()))?;
        let record = PartitionRecord::decode(&entry.value).map_err(|error| unreadable(error.to_string()))?;
        Ok((partition, (record, entry.revision)))
    });
    records.collect()
}
