//! Bucket records: one key per bucket at the coordinator, cached here.
//!
//! Owns: the record's form, the cache and the rules of creating and deleting. Never looks at objects, except through the
//! strict listing that a deletion rests on.
//!
//! **Cache.** A watch keeps all records in memory; a bucket that is not there is asked for at the coordinator, so that a
//! bucket just made by another gateway is found. While the coordinator is away, known records are used; an unknown
//! bucket is then "unavailable", never "no such bucket".
//! **Who tells.** The watch, listings for clients, answers to single questions, and this gateway's own changes arrive in any order.
//! Of each bucket the newest word counts, and that it is gone is a word, too: what was revoked is never in force again.
//! **Old records.** Every write, read and listing carries the record's revision; a slot that knows a newer one refuses, and
//! the cache is read again: by a read at once, which then tries again ([`Buckets::renew`]). So a bucket that was made again
//! is never mistaken for the one before it, and "no such bucket" is only ever the coordinator's word.
//! **Without the coordinator.** Nodes mirror the records; a gateway that starts while the coordinator is away takes the
//! newest copy that enough of them agree on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use coffer_common::coordination::{Coordinator, CoordinatorError, Entry, Expected, Listing, WatchEvent};
use coffer_common::protocol::fenced::Trouble;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketId, BucketName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::documents::Documents;
use super::error::{CreateBucketError, HeadBucketError, Unavailable};
use super::quota::Quota;
use super::types::{BucketInfo, BucketVersioning, CreateBucket, ObjectLock, Owner};

/// Where records lie at the coordinator.
pub(super) const PREFIX: &str = "buckets/";

/// Whether a bucket is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BucketState {
    /// In use.
    Active,
    /// Being deleted: takes no writes and is not read.
    Deleting,
}

/// Whether a bucket keeps versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Versioning {
    /// It never did.
    #[default]
    Unversioned,
    /// It never did, and is about to: every writer must take notice of versions before there is one.
    Enabling,
    /// Every write makes a version.
    Enabled,
    /// Versions stay; a write replaces the null version.
    Suspended,
}

impl Versioning {
    fn is_default(&self) -> bool {
        *self == Self::Unversioned
    }

    /// Whether it does, or did.
    pub(super) fn keeps_versions(self) -> bool {
        matches!(self, Self::Enabled | Self::Suspended)
    }
}

/// A bucket's record. JSON; unknown fields of later versions are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BucketRecord {
    /// Its id, never used again.
    pub(super) id: BucketId,
    /// When it was created, milliseconds since the Unix epoch.
    pub(super) created_ms: u64,
    /// Who owns it.
    pub(super) owner: Owner,
    /// The region it was created for.
    pub(super) region: String,
    /// Whether it is in use.
    pub(super) state: BucketState,
    /// How it is configured.
    #[serde(default, skip_serializing_if = "Documents::is_empty")]
    pub(super) documents: Documents,
    /// Whether it keeps versions.
    #[serde(default, skip_serializing_if = "Versioning::is_default")]
    pub(super) versioning: Versioning,
    /// How it protects them, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) object_lock: Option<ObjectLock>,
    /// How much may be stored in it, if there is a limit. Gateways of before quotas keep the field, and ask nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quota: Option<Quota>,
    /// What later versions of Coffer keep.
    #[serde(flatten)]
    pub(super) more: serde_json::Map<String, serde_json::Value>,
}

impl BucketRecord {
    fn new(id: BucketId, owner: Owner, region: String, documents: Documents) -> Self {
        Self {
            id,
            created_ms: UnixMillis::now().0,
            owner,
            region,
            state: BucketState::Active,
            documents,
            versioning: Versioning::default(),
            object_lock: None,
            quota: None,
            more: serde_json::Map::new(),
        }
    }
}

/// The record of a bucket in use that begins now, with an id that it has already: as its key at the coordinator holds it.
pub fn bucket_record(id: BucketId, owner: Owner, region: String) -> Bytes {
    encode(&BucketRecord::new(id, owner, region, Documents::default()))
}

/// A bucket as this gateway knows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bucket {
    /// Its name.
    pub(super) name: BucketName,
    /// Its record.
    pub(super) record: BucketRecord,
    /// The coordinator's revision of the record.
    pub(super) revision: u64,
}

impl Bucket {
    /// Its id.
    pub(super) fn id(&self) -> BucketId {
        self.record.id
    }

    /// What callers see.
    pub(super) fn info(&self) -> BucketInfo {
        BucketInfo {
            name: self.name.clone(),
            id: self.record.id,
            revision: self.revision,
            created: UnixMillis(self.record.created_ms),
            owner: self.record.owner.clone(),
            region: self.record.region.clone(),
            documents: self.record.documents.clone(),
            versioning: match self.record.versioning {
                Versioning::Unversioned | Versioning::Enabling => BucketVersioning::Never,
                Versioning::Enabled => BucketVersioning::Enabled,
                Versioning::Suspended => BucketVersioning::Suspended,
            },
            object_lock: self.record.object_lock.clone(),
        }
    }

    pub(super) fn from_entry(entry: &Entry) -> Result<Self, Unavailable> {
        let malformed = |what: &dyn std::fmt::Display| {
            Unavailable::new(format!("bucket record `{}` cannot be read: {what}", entry.key))
        };
        let name = entry.key.strip_prefix(PREFIX).unwrap_or(&entry.key);
        let name = BucketName::new(name).map_err(|error| malformed(&error))?;
        let record = serde_json::from_slice(&entry.value).map_err(|error| malformed(&error))?;
        Ok(Self { name, record, revision: entry.revision })
    }
}

/// All records, by name.
type Table = BTreeMap<String, Arc<Bucket>>;

/// What tells whether something that arrives is older than what was heard before.
#[derive(Default)]
struct Past {
    /// The revision of the newest listing that was taken.
    listed: u64,
    /// That of the watch's last one: these never go back, unless the coordinator was set back to an old copy.
    watched: u64,
    /// Records that are gone, by name: all up to this revision. Only what the listing before the last one was not newer than: an
    /// answer may have been on its way that long.
    forgotten: BTreeMap<String, u64>,
}

impl Past {
    fn is_gone(&self, name: &str, revision: u64) -> bool {
        self.forgotten.get(name).is_some_and(|gone| revision <= *gone)
    }
}

/// The cache.
#[derive(Default)]
pub(super) struct Buckets {
    table: ArcSwap<Table>,
    /// Whether the table has once been complete.
    complete: AtomicBool,
    /// Whether the nodes' copies have been read.
    restored: AtomicBool,
    /// Serialises changes of the table, and tells which of them come late.
    changing: Mutex<Past>,
    /// A slot knows a newer record: read them again.
    pub(super) stale: Notify,
}

impl Buckets {
    /// The record if it is cached.
    pub(super) fn cached(&self, name: &BucketName) -> Option<Arc<Bucket>> {
        self.table.load().get(name.as_str()).cloned()
    }

    /// All records that are cached.
    pub(super) fn known(&self) -> Vec<Arc<Bucket>> {
        self.table.load().values().cloned().collect()
    }

    /// Whether the coordinator has told all records.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether the records are known, from the coordinator or from the nodes' copies.
    pub(super) fn are_known(&self) -> bool {
        self.is_complete() || self.restored.load(Ordering::Acquire)
    }

    /// Has the records read again if a slot said that they are old.
    pub(super) fn suspect(&self, trouble: Trouble) {
        if matches!(trouble, Trouble::BucketChanged(_)) {
            self.stale.notify_one();
        }
    }

    /// Takes what a watch tells.
    pub(super) fn apply(&self, event: WatchEvent) {
        match event {
            WatchEvent::Reset(listing) => self.replace(&listing, true),
            WatchEvent::Put(entry) => match Bucket::from_entry(&entry) {
                Ok(bucket) => self.learn(Arc::new(bucket)),
                Err(error) => tracing::error!(%error, "bucket record ignored"),
            },
            WatchEvent::Delete { key, revision } => {
                self.forget(key.strip_prefix(PREFIX).unwrap_or(&key), revision);
            }
        }
    }

    /// Takes a listing that did not come from a watch.
    pub(super) fn relist(&self, listing: &Listing) {
        self.replace(listing, false);
    }

    /// Takes the complete state at a revision, except for what is known to be newer: a listing may have been on its way while
    /// others were told. It is never left aside because of them, for it may be what tells a watch of everybody else. Records
    /// that are known already are not read again: there may be 10,000, and they are listed for every page of them.
    fn replace(&self, listing: &Listing, is_watch: bool) {
        let mut past = self.changing.lock();
        let mut known = self.table.load_full();
        if is_watch && listing.revision < past.watched {
            (*past, known) = (Past::default(), Arc::default());
        }
        if is_watch {
            past.watched = listing.revision;
        }
        if listing.revision < past.listed {
            return;
        }
        let mut table = Table::new();
        for entry in &listing.entries {
            let name = entry.key.strip_prefix(PREFIX).unwrap_or(&entry.key);
            if past.is_gone(name, entry.revision) {
                continue;
            }
            let newer = known.get(name).filter(|bucket| bucket.revision >= entry.revision);
            let bucket = newer.map(|bucket| Ok(Arc::clone(bucket)));
            match bucket.unwrap_or_else(|| Bucket::from_entry(entry).map(Arc::new)) {
                Ok(bucket) => {
                    table.insert(bucket.name.as_str().to_owned(), bucket);
                }
                Err(error) => tracing::error!(%error, "bucket record ignored"),
            }
        }
        for (name, bucket) in known.iter().filter(|(_, bucket)| bucket.revision >= listing.revision) {
            table.entry(name.clone()).or_insert_with(|| Arc::clone(bucket));
        }
        self.table.store(Arc::new(table));
        let before = std::mem::replace(&mut past.listed, listing.revision);
        past.forgotten.retain(|_, gone| *gone >= before);
        self.complete.store(true, Ordering::Release);
    }

    /// Takes the nodes' copies of the records, unless the coordinator has told them already.
    pub(super) fn restore(&self, entries: &[Entry]) {
        for entry in entries {
            match Bucket::from_entry(entry) {
                Ok(bucket) if !self.is_complete() => self.learn(Arc::new(bucket)),
                Ok(_) => return,
                Err(error) => tracing::error!(%error, "bucket record ignored"),
            }
        }
        self.restored.store(true, Ordering::Release);
    }

    /// Takes one record, unless a newer one is known, or that it is gone.
    pub(super) fn learn(&self, bucket: Arc<Bucket>) {
        let past = self.changing.lock();
        let mut table = Table::clone(&self.table.load());
        let name = bucket.name.as_str();
        let newer = table.get(name).is_none_or(|known| known.revision < bucket.revision);
        if newer && !past.is_gone(name, bucket.revision) {
            table.insert(name.to_owned(), bucket);
            self.table.store(Arc::new(table));
        }
    }

    /// Drops a record that was removed by this revision.
    pub(super) fn forget(&self, name: &str, revision: u64) {
        let mut past = self.changing.lock();
        let gone = past.forgotten.entry(name.to_owned()).or_default();
        *gone = revision.max(*gone);
        let mut table = Table::clone(&self.table.load());
        if table.get(name).is_some_and(|known| known.revision <= revision) {
            table.remove(name);
            self.table.store(Arc::new(table));
        }
    }

    /// A bucket in use, from the cache or else from the coordinator: what became of one that was being deleted, too.
    pub(super) async fn find(
        &self,
        coordinator: &dyn Coordinator,
        name: &BucketName,
    ) -> Result<Arc<Bucket>, HeadBucketError> {
        match self.cached(name) {
            Some(bucket) if bucket.record.state == BucketState::Active => Ok(bucket),
            Some(bucket) => self.renew(coordinator, &bucket).await,
            None => in_use(self.ask(coordinator, name).await?),
        }
    }

    /// The bucket as the coordinator knows it now, instead of a record that is old.
    pub(super) async fn renew(
        &self,
        coordinator: &dyn Coordinator,
        old: &Bucket,
    ) -> Result<Arc<Bucket>, HeadBucketError> {
        let found = self.ask(coordinator, &old.name).await?;
        if found.is_none() {
            self.forget(old.name.as_str(), old.revision);
        }
        in_use(found)
    }

    /// All buckets in use, by name: as the coordinator knows them, with what has been told since it was asked, or while it is
    /// away as they were known last.
    pub(super) async fn list(&self, coordinator: &dyn Coordinator) -> Result<Vec<BucketInfo>, Unavailable> {
        match coordinator.list(PREFIX).await {
            Ok(listing) => self.relist(&listing),
            Err(_) if self.are_known() => {}
            Err(error) => return Err(unreachable(error)),
        }
        let table = self.table.load_full();
        let active = table.values().filter(|bucket| bucket.record.state == BucketState::Active);
        Ok(active.map(|bucket| bucket.info()).collect())
    }

    /// The buckets in use that have a text of this name, as they are cached.
    pub(super) fn with(&self, document: &str) -> Vec<BucketInfo> {
        let table = self.table.load();
        let active = table.values().filter(|bucket| bucket.record.state == BucketState::Active);
        active
            .filter(|bucket| bucket.record.documents.get(document).is_some())
            .map(|bucket| bucket.info())
            .collect()
    }

    /// Asks the coordinator for a record, and caches it.
    pub(super) async fn ask(
        &self,
        coordinator: &dyn Coordinator,
        name: &BucketName,
    ) -> Result<Option<Arc<Bucket>>, Unavailable> {
        let entry = coordinator.get(&key(name)).await.map_err(unreachable)?;
        let Some(entry) = entry else { return Ok(None) };
        let bucket = Arc::new(Bucket::from_entry(&entry)?);
        self.learn(Arc::clone(&bucket));
        Ok(Some(bucket))
    }

    /// Creates a bucket; with object lock, it keeps versions from the start.
    pub(super) async fn create(
        &self,
        coordinator: &dyn Coordinator,
        request: CreateBucket,
    ) -> Result<BucketInfo, CreateBucketError> {
        let CreateBucket { name, owner, region, documents, object_lock } = request;
        let mut record = BucketRecord::new(BucketId::random(), owner, region, documents);
        if object_lock {
            (record.versioning, record.object_lock) = (Versioning::Enabled, Some(ObjectLock::default()));
        }
        match coordinator.put(&key(&name), encode(&record), Expected::Absent, false).await {
            Ok(revision) => {
                let bucket = Arc::new(Bucket { name, record, revision });
                self.learn(Arc::clone(&bucket));
                Ok(bucket.info())
            }
            Err(CoordinatorError::Conflict { .. }) => match self.ask(coordinator, &name).await? {
                // A create that was answered late, by this very call.
                Some(bucket) if bucket.record.id == record.id => Ok(bucket.info()),
                Some(bucket) if bucket.record.state == BucketState::Active => {
                    Err(CreateBucketError::Exists(Box::new(bucket.info())))
                }
                _ => Err(CreateBucketError::Busy),
            },
            Err(error) => Err(unreachable(error).into()),
        }
    }
}

/// The bucket, if there is one. While it is being deleted nothing can be said: to read it might bring to light what the
/// deletion has not met, and it may yet be in use again.
fn in_use(found: Option<Arc<Bucket>>) -> Result<Arc<Bucket>, HeadBucketError> {
    let bucket = found.ok_or(HeadBucketError::NoSuchBucket)?;
    match bucket.record.state {
        BucketState::Active => Ok(bucket),
        BucketState::Deleting => Err(Unavailable::new("the bucket is being deleted").into()),
    }
}

/// A record's bytes.
pub(super) fn encode(record: &BucketRecord) -> Bytes {
    serde_json::to_vec(record).expect("a record of strings and numbers is JSON").into()
}

/// A record's key at the coordinator.
pub(super) fn key(name: &BucketName) -> String {
    format!("{PREFIX}{name}")
}

/// What a coordinator's error means to a caller.
pub(super) fn unreachable(error: CoordinatorError) -> Unavailable {
    Unavailable::new(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, revision: u64) -> Entry {
        let value = bucket_record(BucketId::random(), Owner::default(), "r".to_owned());
        Entry { key: format!("{PREFIX}{name}"), value, revision, create_revision: revision }
    }

    fn learn(buckets: &Buckets, name: &str, revision: u64) {
        buckets.learn(Arc::new(Bucket::from_entry(&entry(name, revision)).unwrap()));
    }

    fn listing(revision: u64, entries: &[(&str, u64)]) -> Listing {
        let entries = entries.iter().map(|(name, revision)| entry(name, *revision)).collect();
        Listing { entries, revision }
    }

    fn list(buckets: &Buckets, revision: u64, entries: &[(&str, u64)]) {
        buckets.apply(WatchEvent::Reset(listing(revision, entries)));
    }

    fn relist(buckets: &Buckets, revision: u64, entries: &[(&str, u64)]) {
        buckets.relist(&listing(revision, entries));
    }

    fn known(buckets: &Buckets) -> Vec<(String, u64)> {
        buckets.known().iter().map(|bucket| (bucket.name.to_string(), bucket.revision)).collect()
    }

    fn check(buckets: &Buckets, expected: &[(&str, u64)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, revision)| (name.to_string(), *revision)).collect();
        assert_eq!(known(buckets), expected);
    }

    #[test]
    fn a_listing_from_before_a_change_undoes_nothing_and_tells_of_all_others() {
        let buckets = Buckets::default();
        list(&buckets, 8, &[("changed", 5), ("deleted", 6), ("other", 7)]);
        learn(&buckets, "changed", 11);
        learn(&buckets, "made", 12);
        buckets.forget("deleted", 13);
        list(&buckets, 10, &[("changed", 5), ("deleted", 6), ("new", 9), ("other", 10)]);
        check(&buckets, &[("changed", 11), ("made", 12), ("new", 9), ("other", 10)]);
        // The watch goes on from there.
        let (key, revision) = (format!("{PREFIX}deleted"), 13);
        buckets.apply(WatchEvent::Put(entry("changed", 11)));
        buckets.apply(WatchEvent::Put(entry("made", 12)));
        buckets.apply(WatchEvent::Delete { key, revision });
        check(&buckets, &[("changed", 11), ("made", 12), ("new", 9), ("other", 10)]);
        relist(&buckets, 14, &[("deleted", 14), ("made", 12), ("other", 10)]);
        check(&buckets, &[("deleted", 14), ("made", 12), ("other", 10)]);
    }

    #[test]
    fn a_listing_that_is_older_than_another_says_nothing() {
        let buckets = Buckets::default();
        assert!(!buckets.is_complete());
        list(&buckets, 12, &[("kept", 3)]);
        relist(&buckets, 10, &[("gone", 4), ("kept", 3)]);
        check(&buckets, &[("kept", 3)]);
        assert!(buckets.is_complete());
    }

    #[test]
    fn a_coordinator_that_was_set_back_is_followed_again() {
        let buckets = Buckets::default();
        list(&buckets, 12, &[("changed", 11), ("kept", 3), ("made", 12)]);
        buckets.forget("deleted", 12);
        list(&buckets, 9, &[("changed", 5), ("deleted", 4), ("kept", 3)]);
        check(&buckets, &[("changed", 5), ("deleted", 4), ("kept", 3)]);
        learn(&buckets, "made", 10);
        check(&buckets, &[("changed", 5), ("deleted", 4), ("kept", 3), ("made", 10)]);
    }

    #[test]
    fn an_answer_from_before_a_deletion_brings_nothing_back() {
        let buckets = Buckets::default();
        list(&buckets, 8, &[("bucket", 5)]);
        buckets.forget("bucket", 9);
        list(&buckets, 10, &[]);
        learn(&buckets, "bucket", 5);
        check(&buckets, &[]);
        learn(&buckets, "bucket", 11);
        check(&buckets, &[("bucket", 11)]);
    }
}
