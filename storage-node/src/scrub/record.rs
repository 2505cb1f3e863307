//! Where scrubbing of a drive is, in a file of the drive: `scrub.json`, replaced whole.

use std::io;
use std::sync::Arc;

use coffer_common::cluster::scrub::ScrubOrder;
use serde::{Deserialize, Serialize};

use crate::drive::DriveIo;
use crate::store::DriveStore;

const FILE: &str = "scrub.json";
const NEW: &str = "scrub.json.new";
/// Nothing that this module writes is longer: a key, in hexadecimal, and some numbers.
const MOST_BYTES: u64 = 16 << 10;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The pass that runs.
    pub(super) pass: Option<Pass>,
    /// The last whole one.
    pub(super) last: Finished,
    /// The last order that was heard of: it holds until the coordinator tells another.
    pub(super) order: ScrubOrder,
}

/// A pass that runs. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Pass {
    pub(super) began_ms: u64,
    /// The last register whose shards were read.
    #[serde(with = "hexadecimal")]
    pub(super) cursor: Vec<u8>,
    pub(super) shards_done: bool,
    /// The last journal segment that was read.
    pub(super) segment: u64,
    /// The last one to read: the newest that was sealed when all shards had been read. 0 before that.
    pub(super) last_segment: u64,
    pub(super) shards: u64,
    pub(super) bytes: u64,
    pub(super) damaged_shards: u64,
    pub(super) damaged_segments: u64,
    pub(super) unrepaired_segments: u64,
}

/// A whole pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Finished {
    pub(super) began_ms: u64,
    /// 0 if there was none yet: `began_ms` is then a period before the first is due.
    pub(super) finished_ms: u64,
    pub(super) bytes: u64,
    pub(super) damaged_shards: u64,
    pub(super) damaged_segments: u64,
    pub(super) unrepaired_segments: u64,
}

impl DriveStore {
    /// What was kept; nothing if that cannot be read.
    pub(super) async fn load_scrub(self: &Arc<Self>) -> Option<Record> {
        self.run(|store| load(&**store.io()).ok()).await.ok().flatten()
    }

    pub(super) async fn keep_scrub(self: &Arc<Self>, record: &Record) -> Result<(), String> {
        let bytes = serde_json::to_vec_pretty(record).map_err(|error| error.to_string())?;
        let kept = self.run(move |store| keep(&**store.io(), &bytes));
        kept.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

fn load(io: &dyn DriveIo) -> io::Result<Record> {
    let file = io.open(FILE)?;
    let len = file.len()?.min(MOST_BYTES);
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn keep(io: &dyn DriveIo, bytes: &[u8]) -> io::Result<()> {
    let file = io.create(NEW)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    io.rename(NEW, FILE)?;
    io.sync_dir(".")
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
