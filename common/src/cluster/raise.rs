//! Changing partition records: a new epoch, and with it a slot's role.
//!
//! Each record is compared and swapped, so that of two who change one partition at a time both come through, one after the
//! other, and an epoch never names two states. A change whose outcome is unknown may be made again: epochs only rise.

use bytes::Bytes;

use super::record::{PARTITIONS_PREFIX, partition_key};
use crate::coordination::{Change, Coordinator, CoordinatorError, Expected, Write};
use crate::layout::{PartitionRecord, SlotRole};
use crate::types::{Epoch, PartitionId, SlotIndex};

/// Records that are changed at once: etcd takes 128 operations in a transaction.
pub const RAISES_AT_ONCE: usize = 100;
/// How often a change is tried again because another came in between.
const TRIES: usize = 10;

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
    assert!(slots.len() <= RAISES_AT_ONCE, "{} records do not fit into a transaction", slots.len());
    if slots.is_empty() {
        return Ok(Vec::new());
    }
    let mut tries = 0;
    loop {
        let known = coordinator.list(PARTITIONS_PREFIX).await?.entries;
        let mut writes = Vec::with_capacity(slots.len());
        let mut epochs = Vec::with_capacity(slots.len());
        for (partition, slot) in slots {
            let key = partition_key(*partition);
            let held = known.binary_search_by(|entry| entry.key.as_str().cmp(&key));
            let (mut record, expected) = match held.map(|at| &known[at]) {
                Ok(entry) => {
                    let record = PartitionRecord::decode(&entry.value)
                        .map_err(|error| CoordinatorError::Refused(format!("`{}`: {error}", entry.key)))?;
                    (record, Expected::Revision(entry.revision))
                }
                Err(_) => (PartitionRecord::new(n), Expected::Absent),
            };
            record.epoch.0 += 1;
            record.slots[usize::from(slot.0)].role = role;
            epochs.push(record.epoch);
            let change = Change::Put { value: Bytes::from(record.encode()), leased: false };
            writes.push(Write { key, expected, change });
        }
        tries += 1;
        match coordinator.transaction(writes).await {
            Ok(_) => return Ok(epochs),
            Err(CoordinatorError::Conflict { .. }) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}
