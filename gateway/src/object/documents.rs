//! How a bucket is configured: texts by name, in the bucket's record.
//!
//! Owns: their form in the record, and their change by compare-and-swap. Never: knows what they say; the edge writes and
//! reads them. They decide who may ask for what and how answers look, not what is stored: no slot has to know them, so
//! that a change of them disturbs no request that is under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use coffer_common::coordination::{CoordinatorError, Expected};
use coffer_common::types::{BucketId, BucketName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bucket::{Bucket, BucketRecord, encode, key, unreachable};
use super::core::Core;
use super::error::{HeadBucketError, Unavailable};
use super::types::BucketInfo;

/// How often a change is tried again because the record was changed by somebody else.
const TRIES: usize = 64;

/// Texts by name; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents(Arc<BTreeMap<String, String>>);

impl Documents {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that they take in the record.
    pub fn encoded_bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |text| text.len())
    }

    /// The text of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Replaces the text of this name.
    pub fn set(&mut self, name: &str, text: impl Into<String>) {
        Arc::make_mut(&mut self.0).insert(name.to_owned(), text.into());
    }

    /// Removes the text of this name.
    pub fn remove(&mut self, name: &str) {
        if self.0.contains_key(name) {
            Arc::make_mut(&mut self.0).remove(name);
        }
    }
}

impl Serialize for Documents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Documents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|texts| Self(Arc::new(texts)))
    }
}

/// Changes a bucket's documents in its record as the coordinator has it now. Another bucket of the same name is not meant.
pub(super) async fn configure(
    core: &Core,
    (name, id): (&BucketName, BucketId),
    change: &(dyn Fn(&mut Documents) + Sync),
) -> Result<BucketInfo, HeadBucketError> {
    let coordinator = core.cluster.coordinator();
    // The cached record first: if it is old, its revision is refused.
    let mut bucket = core.bucket(name).await?;
    for _ in 0..TRIES {
        if bucket.id() != id {
            return Err(HeadBucketError::NoSuchBucket);
        }
        let mut documents = bucket.record.documents.clone();
        change(&mut documents);
        let record = BucketRecord { documents, ..bucket.record.clone() };
        if record == bucket.record {
            return Ok(bucket.info());
        }
        let expected = Expected::Revision(bucket.revision);
        match coordinator.put(&key(name), encode(&record), expected, false).await {
            Ok(revision) => {
                let changed = Arc::new(Bucket { name: name.clone(), record, revision });
                core.buckets.learn(Arc::clone(&changed));
                return Ok(changed.info());
            }
            Err(CoordinatorError::Conflict { .. }) => {
                bucket = core.buckets.renew(coordinator.as_ref(), &bucket).await?;
            }
            Err(error) => return Err(unreachable(error).into()),
        }
    }
    Err(Unavailable::new("the bucket's record is being changed by many at once").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_documents_read_and_write_as_before() {
        let old = r#"{"id":"00000000000000000000000000000007","created_ms":1,"owner":{"id":"o","display_name":"d"},
                      "region":"r","state":"active"}"#;
        let record: BucketRecord = serde_json::from_str(old).unwrap();
        assert!(record.documents.is_empty() && record.more.is_empty());
        assert!(!String::from_utf8(encode(&record).to_vec()).unwrap().contains("documents"));
        let mut changed = record;
        changed.documents.set("policy", "{}");
        let read: BucketRecord = serde_json::from_slice(&encode(&changed)).unwrap();
        assert_eq!(read.documents.get("policy"), Some("{}"));
    }
}
