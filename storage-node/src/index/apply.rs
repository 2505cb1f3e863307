//! Applying a layer to redb: one batch, one transaction.

use std::collections::BTreeMap;

use redb::{Durability, ReadableTable, Table, WriteTransaction};

use super::layers::{Held, Layer};
use super::{
    ATTENTION, Applied, FILES, Index, IndexError, META, PARTITIONS, REGISTERS, SEGMENTS, STATE, decode_value,
    join_value, split_value,
};
use crate::image::{Entry, ShardLocation, encode_entry};
use crate::journal::Place;

/// Every so many batches are synced: a restart replays at most that much.
const BATCHES_PER_SYNC: u32 = 8;

/// The tables a register touches.
struct Tables<'a> {
    registers: Table<'a, &'static [u8], &'static [u8]>,
    partitions: Table<'a, (u16, u64), &'static [u8]>,
    attention: Table<'a, &'static [u8], ()>,
    files: Table<'a, &'static [u8], &'static [u8]>,
    /// Change of live bytes by segment.
    live: BTreeMap<u64, i64>,
}

/// The name of a shard file in the `files` table: op and slot.
pub(crate) fn file_name(entry: &Entry, shard: &crate::image::StoredShard) -> [u8; 17] {
    let mut name = [0; 17];
    name[..16].copy_from_slice(&shard.op.to_bytes());
    name[16] = entry.slot.0;
    name
}

impl Index {
    /// Applies what is in the layers; blocks. `durable` waits until a sequence is durable in the journal.
    ///
    /// # Errors
    /// [`IndexError`]; the layer stays and is applied by the next call.
    pub(crate) fn apply(
        &self,
        sync: bool,
        durable: impl FnOnce(u64) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut applied = self.applied.lock();
        let Some(layer) = self.layers.freeze() else {
            if sync && applied.unsynced_batches > 0 {
                self.guarded(|| self.commit(&mut applied, None, true))?;
            }
            return Ok(());
        };
        durable(layer.sequence)?;
        let sync = sync || applied.unsynced_batches + 1 >= BATCHES_PER_SYNC;
        self.guarded(|| self.commit(&mut applied, Some(&layer), sync))?;
        self.layers.thaw();
        Ok(())
    }

    fn commit(&self, applied: &mut Applied, layer: Option<&Layer>, sync: bool) -> Result<(), IndexError> {
        let mut txn = self.database.begin_write().map_err(IndexError::engine)?;
        let durability = if sync { Durability::Immediate } else { Durability::None };
        txn.set_durability(durability).map_err(IndexError::engine)?;
        // A synced commit carries what makes an open after a crash quick.
        txn.set_quick_repair(sync);
        let mut next = *applied;
        if let Some(layer) = layer {
            next.sequence = layer.sequence;
            write_layer(&txn, layer, &mut next)?;
            write_meta(&txn, &next)?;
        }
        txn.commit().map_err(IndexError::engine)?;
        (next.synced, next.unsynced_batches) =
            if sync { (next.sequence, 0) } else { (next.synced, next.unsynced_batches + 1) };
        *applied = next;
        Ok(())
    }
}

fn write_layer(txn: &WriteTransaction, layer: &Layer, next: &mut Applied) -> Result<(), IndexError> {
    let mut tables = Tables {
        registers: txn.open_table(REGISTERS).map_err(IndexError::engine)?,
        partitions: txn.open_table(PARTITIONS).map_err(IndexError::engine)?,
        attention: txn.open_table(ATTENTION).map_err(IndexError::engine)?,
        files: txn.open_table(FILES).map_err(IndexError::engine)?,
        live: BTreeMap::new(),
    };
    for (key, held) in &layer.registers {
        let old = match tables.registers.get(key.as_ref()).map_err(IndexError::engine)? {
            Some(value) => Some(decode_value(value.value())?),
            None => None,
        };
        let before = old.as_ref().map(Entry::census).unwrap_or_default();
        let after = held.as_ref().map(|entry| entry.census()).unwrap_or_default();
        next.census = next.census.moved(before, after);
        if let Some(old) = &old {
            tables.remove(old)?;
        }
        tables.add(key, held, old.is_some())?;
    }
    let mut live = tables.live;
    let mut state = txn.open_table(STATE).map_err(IndexError::engine)?;
    for (key, row) in &layer.state {
        let key = key.to_bytes();
        let old = match row {
            Some(row) => {
                account(&mut live, row.place, 1);
                let value = join_value(row.sequence, row.place, &row.payload);
                state.insert(key.as_slice(), value.as_slice()).map_err(IndexError::engine)?
            }
            None => state.remove(key.as_slice()).map_err(IndexError::engine)?,
        };
        if let Some(old) = old {
            account(&mut live, split_value(old.value())?.1, -1);
        }
    }
    let mut segments = txn.open_table(SEGMENTS).map_err(IndexError::engine)?;
    for (segment, change) in live {
        let before = segments.get(segment).map_err(IndexError::engine)?.map_or(0, |value| value.value());
        segments.insert(segment, before + change).map_err(IndexError::engine)?;
    }
    Ok(())
}

fn write_meta(txn: &WriteTransaction, next: &Applied) -> Result<(), IndexError> {
    let mut meta = txn.open_table(META).map_err(IndexError::engine)?;
    let numbers = [
        ("applied", next.sequence as i64),
        ("registers", next.census.registers),
        ("unstable", next.census.unstable),
        ("missing_shards", next.census.missing_shards),
    ];
    for (name, number) in numbers {
        meta.insert(name, number).map_err(IndexError::engine)?;
    }
    Ok(())
}

fn account(live: &mut BTreeMap<u64, i64>, place: Place, sign: i64) {
    *live.entry(place.segment).or_default() += sign * place.room() as i64;
}

fn is_file(location: ShardLocation) -> bool {
    matches!(location, ShardLocation::File { .. })
}

impl Tables<'_> {
    fn remove(&mut self, old: &Entry) -> Result<(), IndexError> {
        self.partitions.remove((old.partition.0, old.sequence)).map_err(IndexError::engine)?;
        for place in old.places() {
            account(&mut self.live, place, -1);
        }
        for shard in old.shards.iter().filter(|shard| is_file(shard.location)) {
            self.files.remove(file_name(old, shard).as_slice()).map_err(IndexError::engine)?;
        }
        if old.needs_attention() {
            self.attention.remove(old.key.as_ref()).map_err(IndexError::engine)?;
        }
        Ok(())
    }

    fn add(&mut self, key: &[u8], held: &Held, existed: bool) -> Result<(), IndexError> {
        let Some(entry) = held else {
            if existed {
                self.registers.remove(key).map_err(IndexError::engine)?;
            }
            return Ok(());
        };
        let value = join_value(entry.sequence, entry.place, &encode_entry(entry));
        self.registers.insert(key, value.as_slice()).map_err(IndexError::engine)?;
        self.partitions.insert((entry.partition.0, entry.sequence), key).map_err(IndexError::engine)?;
        for place in entry.places() {
            account(&mut self.live, place, 1);
        }
        for shard in entry.shards.iter().filter(|shard| is_file(shard.location)) {
            self.files.insert(file_name(entry, shard).as_slice(), key).map_err(IndexError::engine)?;
        }
        if entry.needs_attention() {
            self.attention.insert(key, ()).map_err(IndexError::engine)?;
        }
        Ok(())
    }
}
