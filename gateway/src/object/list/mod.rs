//! Listing: ordered, strict, at a cost per page that does not grow with the bucket (PROTOCOL §10).
//!
//! 1. [`scan`] merges the nodes' pages; [`coverage`] says whether they may speak for every partition.
//! 2. Each register is decided by the slots' answers, or else settled, many at a time.
//! 3. A rolled-up prefix is shown only if a live register below it is confirmed: by the witnesses themselves, by a strict
//!    read of a witness, or by a scan below the prefix.
//! 4. Tombstones, and what the caller does not want to see, hide.
//! 5. Where much is hidden, nodes tell how far they have looked and are asked on from there. A client's page may end there,
//!    too, if what names the place cannot be taken for anything else; not while a prefix is confirmed.
//!
//! **Memory.** A scan holds a page of each node. Nodes cut their pages where metadata is long, and of what they tell at most
//! [`BATCH_BYTES`] are put together at a time; a caller keeps of each item what it shows, which is never a part table. Scans
//! below prefixes, of which up to [`CONCURRENCY`] run beside the listing's own, have at most [`NESTED_ITEMS`] in a page.

mod coverage;
mod scan;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use coffer_common::node::ListEntry;
use coffer_common::protocol::message::{Version, VersionKind};
use coffer_common::types::{BucketId, DriveId, PartitionId, RegisterKey, RegisterKind};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

pub(super) use self::coverage::Checked;
use self::scan::{Merged, Scan, ScanRequest, top};
use super::bucket::{Bucket, Versioning};
use super::core::Core;
use super::error::{HeadBucketError, ListError, Unavailable};
use super::info::{listed_info, object_meta};
use super::types::{ListObjects, ListedObject, ObjectPage};

/// Registers that are settled or confirmed at the same time.
const CONCURRENCY: usize = 32;
/// Most items that a scan below a prefix asks for in one page.
const NESTED_ITEMS: u32 = 128;
/// How often a bucket is listed until nothing in it has to be settled.
const SETTLING_LISTINGS: usize = 5;
/// Most items of a page, whatever the caller asks for.
const MAX_ITEMS: u32 = 1_000;
/// What all slots tell of the registers that are decided together ends with the one that exceeds this.
const BATCH_BYTES: usize = 8 << 20;

impl From<HeadBucketError> for ListError {
    fn from(error: HeadBucketError) -> Self {
        match error {
            HeadBucketError::NoSuchBucket => Self::NoSuchBucket,
            HeadBucketError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

/// Whether a live version is to be shown.
pub(super) type Shows = fn(&Version) -> Result<bool, Unavailable>;

/// One decided, visible item.
pub(super) enum Item {
    /// A register and its version.
    Entry(RegisterKey, Version),
    /// A rolled-up prefix.
    Prefix(String),
}

/// What a visible listing ranges over.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// The kind of register.
    pub(super) kind: RegisterKind,
    /// Only keys that begin with this.
    pub(super) prefix: Bytes,
    /// Rolls keys up; empty for none.
    pub(super) delimiter: Bytes,
    /// Only what comes after this encoded register key.
    pub(super) after: Vec<u8>,
    /// The partition, if all registers are in one.
    pub(super) only: Option<PartitionId>,
    /// The drives whose answers count, if not all do.
    pub(super) among: Option<Arc<BTreeSet<DriveId>>>,
}

impl Range {
    /// All registers of a kind.
    pub(super) fn all(kind: RegisterKind) -> Self {
        let (prefix, delimiter, after) = (Bytes::new(), Bytes::new(), Vec::new());
        Self { kind, prefix, delimiter, after, only: None, among: None }
    }
}

/// Visible items of a bucket in order.
pub(super) struct Listing {
    core: Arc<Core>,
    bucket: Arc<Bucket>,
    range: Range,
    shows: Shows,
    scan: Scan,
    /// Whether something had to be settled.
    settled: AtomicBool,
}

impl Listing {
    /// Begins a listing; the caller hopes for `expected` items.
    pub(super) fn new(
        core: &Arc<Core>,
        bucket: &Arc<Bucket>,
        range: Range,
        shows: Shows,
        expected: u32,
    ) -> Self {
        let request = ScanRequest {
            bucket: bucket.id(),
            bucket_revision: bucket.revision,
            kind: range.kind,
            prefix: range.prefix.clone(),
            delimiter: range.delimiter.clone(),
            after: range.after.clone(),
            expected,
            only: range.only,
            among: range.among.clone(),
        };
        let scan = Scan::new(Arc::clone(core), request);
        Self {
            core: Arc::clone(core),
            bucket: Arc::clone(bucket),
            range,
            shows,
            scan,
            settled: AtomicBool::new(false),
        }
    }

    /// The next items, at most `most` and at least one unless there is none, or the scan has paused.
    pub(super) async fn next(&mut self, most: usize) -> Result<Vec<Item>, Unavailable> {
        loop {
            let (mut batch, mut bytes) = (Vec::with_capacity(most), 0);
            while batch.len() < most && bytes <= BATCH_BYTES {
                match self.scan.next().await? {
                    Some(merged) => {
                        bytes += merged.memory();
                        batch.push(merged);
                    }
                    None => break,
                }
            }
            if batch.is_empty() {
                return Ok(Vec::new());
            }
            let visible = self.decide_all(batch).await?;
            if !visible.is_empty() {
                return Ok(visible);
            }
        }
    }

    /// What is visible of a batch. Mostly the answers say it all, and nobody has to be asked.
    async fn decide_all(&self, batch: Vec<Merged>) -> Result<Vec<Item>, Unavailable> {
        let (m, _) = coverage::counts(&self.core.cluster);
        let mut judged = Vec::with_capacity(batch.len());
        for merged in batch {
            judged.push(self.judge(merged, m)?);
        }
        if judged.iter().all(Result::is_ok) {
            return Ok(judged.into_iter().flatten().flatten().collect());
        }
        let decide = |judged| async move {
            match judged {
                Ok(item) => Ok(item),
                Err(open) => self.decide(open).await,
            }
        };
        let decided = stream::iter(judged.into_iter().map(decide)).buffered(CONCURRENCY);
        let decided: Vec<Option<Item>> = decided.try_collect().await?;
        Ok(decided.into_iter().flatten().collect())
    }

    /// The item, if it is visible, or else what has to be asked for first.
    fn judge(&self, merged: Merged, m: usize) -> Result<Result<Option<Item>, Merged>, Unavailable> {
        let Merged::Entry(entry) = merged else { return Ok(Err(merged)) };
        let version = match top(&entry, m) {
            None => return Ok(Ok(None)),
            Some((version, true)) => version.clone(),
            Some((_, false)) => return Ok(Err(Merged::Entry(entry))),
        };
        let visible = self.is_visible(&version)?;
        Ok(Ok(visible.then(|| Item::Entry(entry.register, version))))
    }

    async fn decide(&self, merged: Merged) -> Result<Option<Item>, Unavailable> {
        match merged {
            Merged::Entry(entry) => {
                let version = self.settle(&entry).await?;
                Ok(version.map(|version| Item::Entry(entry.register, version)))
            }
            Merged::Prefix { prefix, witnesses } => {
                if !self.confirm(&prefix, &witnesses).await? {
                    return Ok(None);
                }
                let text = String::from_utf8(prefix.to_vec())
                    .map_err(|_| Unavailable::new("a rolled-up prefix is not UTF-8"))?;
                Ok(Some(Item::Prefix(text)))
            }
        }
    }

    /// The visible current version of a register that the answers leave open.
    async fn settle(&self, entry: &ListEntry) -> Result<Option<Version>, Unavailable> {
        self.settled.store(true, Ordering::Relaxed);
        let target = self.core.target(&self.bucket, entry.register.clone());
        let Some(current) = self.core.settle(&target).await? else { return Ok(None) };
        Ok(self.is_visible(&current.version)?.then_some(current.version))
    }

    fn is_visible(&self, version: &Version) -> Result<bool, Unavailable> {
        Ok(version.kind == VersionKind::Data && (self.shows)(version)?)
    }

    /// Whether anything visible lies below a rolled-up prefix.
    async fn confirm(&self, prefix: &Bytes, witnesses: &[ListEntry]) -> Result<bool, Unavailable> {
        for witness in witnesses {
            let (m, r0) = coverage::counts(&self.core.cluster);
            if witness.slots.len() >= r0
                && let Some((version, true)) = top(witness, m)
                && self.is_visible(version)?
            {
                return Ok(true);
            }
        }
        let first = witnesses.iter().min_by(|a, b| a.register.cmp(&b.register));
        if let Some(witness) = first {
            let target = self.core.target(&self.bucket, witness.register.clone());
            let (current, _) = self.core.read(&target, false).await?;
            if let Some(current) = current
                && self.is_visible(&current.version)?
            {
                return Ok(true);
            }
        }
        let below = Range {
            prefix: prefix.clone(),
            delimiter: Bytes::new(),
            after: self.range.after.clone(),
            ..self.range.clone()
        };
        let mut below = Listing::new(&self.core, &self.bucket, below, self.shows, 8);
        below.scan.limit_pages(NESTED_ITEMS);
        Ok(!Box::pin(below.next(1)).await?.is_empty())
    }
}

/// Everything live is shown.
pub(super) fn shows_all(_: &Version) -> Result<bool, Unavailable> {
    Ok(true)
}

/// Delete markers are not shown.
fn shows_live(version: &Version) -> Result<bool, Unavailable> {
    Ok(!object_meta(version)?.delete_marker)
}

/// Whether a bucket holds nothing of a kind. If only some drives' answers count, what had to be settled is listed again: a
/// strict read asks any slots, so that alone it would not do.
pub(super) async fn is_empty(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    kind: RegisterKind,
    shows: Shows,
    among: Option<&Arc<BTreeSet<DriveId>>>,
) -> Result<bool, Unavailable> {
    let range = Range { among: among.cloned(), ..Range::all(kind) };
    for _ in 0..SETTLING_LISTINGS {
        let mut listing = Listing::new(core, bucket, range.clone(), shows, 100);
        if !listing.next(1).await?.is_empty() {
            return Ok(false);
        }
        if among.is_none() || !listing.settled.load(Ordering::Relaxed) {
            return Ok(true);
        }
    }
    Err(Unavailable::new("what is in the bucket does not come to rest"))
}

/// A page of objects.
pub(super) async fn list_objects(core: &Arc<Core>, request: ListObjects) -> Result<ObjectPage, ListError> {
    let request = &request;
    // The time does not begin anew where the bucket's record was old.
    let until = request.pause_after.map(|pause_after| Instant::now() + pause_after);
    let page = |bucket| async move { list_in(core, &bucket, request, until).await };
    Ok(core.read_in(&request.bucket, page).await?)
}

async fn list_in(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    request: &ListObjects,
    until: Option<Instant>,
) -> Result<ObjectPage, Unavailable> {
    let limit = request.limit.min(MAX_ITEMS) as usize;
    if limit == 0 {
        return Ok(ObjectPage::default());
    }
    let kind = RegisterKind::Object;
    let range = Range {
        after: after(bucket.id(), kind, request),
        prefix: request.prefix.clone().into(),
        delimiter: request.delimiter.clone().into(),
        ..Range::all(kind)
    };
    let shows = match bucket.record.versioning {
        Versioning::Unversioned => shows_all,
        Versioning::Enabling | Versioning::Enabled | Versioning::Suspended => shows_live,
    };
    let mut listing = Listing::new(core, bucket, range, shows, limit as u32 + 1);
    if let Some(until) = until {
        listing.scan.pause_at(until);
    }
    let (mut page, mut ends_in_prefix) = (ObjectPage::default(), false);
    let keep = |item: Item| -> Result<(), Unavailable> {
        ends_in_prefix = matches!(item, Item::Prefix(_));
        match item {
            Item::Entry(register, version) => {
                let info = listed_info(object_meta(&version)?);
                page.objects.push(ListedObject { key: register.key, info });
            }
            Item::Prefix(prefix) => page.prefixes.push(prefix),
        }
        Ok(())
    };
    let (_, more) = take(&mut listing, limit, keep).await?;
    if more {
        let (object, prefix) = (page.objects.last(), page.prefixes.last());
        let key = object.map(|object| object.key.as_str().to_owned());
        page.next = if ends_in_prefix { prefix.cloned() } else { key };
    } else {
        page.next = listing.scan.paused().map(str::to_owned);
    }
    Ok(page)
}

/// What is kept of the first `limit` items, and whether there are more.
pub(super) async fn take<T>(
    listing: &mut Listing,
    limit: usize,
    mut keep: impl FnMut(Item) -> Result<T, Unavailable>,
) -> Result<(Vec<T>, bool), Unavailable> {
    let mut kept: Vec<T> = Vec::new();
    loop {
        let items = listing.next(limit + 1 - kept.len()).await?;
        if items.is_empty() {
            return Ok((kept, false));
        }
        for item in items {
            if kept.len() == limit {
                return Ok((kept, true));
            }
            kept.push(keep(item)?);
        }
    }
}

/// Where a page begins: after a key, or after everything below a rolled-up prefix.
fn after(bucket: BucketId, kind: RegisterKind, request: &ListObjects) -> Vec<u8> {
    let start = &request.start_after;
    if start.is_empty() {
        return Vec::new();
    }
    let mut after = RegisterKey::encode_prefix(bucket, kind, start.as_bytes());
    if is_rolled_up(start, &request.prefix, &request.delimiter) {
        after.push(0xFF);
    } else {
        after.extend_from_slice(&[0x00, 0x01]);
    }
    after
}

/// Whether `text` is a prefix that a listing with this prefix and delimiter rolls keys up to.
pub(super) fn is_rolled_up(text: &str, prefix: &str, delimiter: &str) -> bool {
    let Some(rest) = text.strip_prefix(prefix) else { return false };
    !delimiter.is_empty() && rest.find(delimiter).is_some_and(|at| at + delimiter.len() == rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_at_its_first_delimiter_is_a_rolled_up_prefix() {
        assert!(is_rolled_up("a/", "", "/"));
        assert!(is_rolled_up("p/a/", "p/", "/"));
        assert!(!is_rolled_up("p/a/", "", "/"));
        assert!(!is_rolled_up("a/b", "", "/"));
        assert!(!is_rolled_up("a", "", ""));
        assert!(is_rolled_up("a--", "", "--"));
        assert!(!is_rolled_up("x/", "y", "/"));
    }
}
