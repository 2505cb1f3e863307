//! Lists versions: by key, and of each key the newest first.
//!
//! 1. A chunk of keys with their current versions, from the objects' registers.
//! 2. Then, and not before, the archived versions of these keys, in one range: what was current before 1 and is not any
//!    more was archived before 1.
//! 3. Of each key those that its current version keeps.
//!
//! A page ends anywhere within a key; the next begins with a strict read of that key. So a page costs what it shows,
//! however many versions there are.

use std::collections::VecDeque;
use std::sync::Arc;

use coffer_common::protocol::message::Version;
use coffer_common::types::{ObjectKey, RegisterKey, RegisterKind, VersionRef};

use super::archive;
use super::head::{Head, Place};
use crate::object::bucket::{Bucket, Versioning};
use crate::object::core::Core;
use crate::object::error::{ListError, Unavailable};
use crate::object::info::{listed_info, object_meta};
use crate::object::list::{Item, Listing, Range, is_rolled_up, shows_all};
use crate::object::types::{ListVersions, ListedVersion, VersionId, VersionPage};

/// Most items of a page, whatever the caller asks for.
const MAX_ITEMS: u32 = 1_000;

/// One item of a page.
enum Shown {
    /// With its place: the next page begins below it, also when it is gone by then.
    Version(Box<ListedVersion>, VersionRef),
    Prefix(String),
}

/// A page of versions.
pub(in crate::object) async fn list_versions(
    core: &Arc<Core>,
    request: ListVersions,
) -> Result<VersionPage, ListError> {
    let request = &request;
    let page = |bucket| async move { list_in(core, &bucket, request).await };
    Ok(core.read_in(&request.bucket, page).await?)
}

async fn list_in(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    request: &ListVersions,
) -> Result<VersionPage, Unavailable> {
    let limit = request.limit.min(MAX_ITEMS) as usize;
    if limit == 0 {
        return Ok(VersionPage::default());
    }
    let mut page = Page { core, bucket, request, limit, shown: Vec::new() };
    page.rest_of_marked_key().await?;
    let mut objects = page.objects();
    while !page.is_full() {
        let chunk = objects.next(limit + 1 - page.shown.len()).await?;
        if chunk.is_empty() {
            break;
        }
        page.add(chunk).await?;
    }
    Ok(page.end())
}

/// A page that is being made: one item more than it shows, to know whether there is one.
struct Page<'a> {
    core: &'a Arc<Core>,
    bucket: &'a Arc<Bucket>,
    request: &'a ListVersions,
    limit: usize,
    shown: Vec<Shown>,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.shown.len() > self.limit
    }

    /// Keys behind the marker.
    fn objects(&self) -> Listing {
        let ListVersions { prefix, delimiter, after_key, .. } = self.request;
        let kind = RegisterKind::Object;
        let mut after = Vec::new();
        if !after_key.is_empty() {
            after = RegisterKey::encode_prefix(self.bucket.id(), kind, after_key.as_bytes());
            match is_rolled_up(after_key, prefix, delimiter) {
                true => after.push(0xFF),
                false => after.extend_from_slice(&[0x00, 0x01]),
            }
        }
        let (prefix, delimiter) = (prefix.clone().into(), delimiter.clone().into());
        let range = Range { prefix, delimiter, after, ..Range::all(kind) };
        Listing::new(self.core, self.bucket, range, shows_all, self.limit as u32 + 1)
    }

    /// The archived versions of all keys from the first item of a chunk on.
    fn archived(&self, first: &Item) -> Listing {
        let (bucket, kind) = (self.bucket.id(), RegisterKind::Version);
        let after = match first {
            Item::Entry(register, _) => {
                let mut after = RegisterKey::encode_prefix(bucket, kind, register.key.as_bytes());
                after.extend_from_slice(&[0x00, 0x01]);
                after
            }
            Item::Prefix(prefix) => RegisterKey::encode_prefix(bucket, kind, prefix.as_bytes()),
        };
        let ListVersions { prefix, delimiter, .. } = self.request;
        let (prefix, delimiter) = (prefix.clone().into(), delimiter.clone().into());
        let range = Range { prefix, delimiter, after, ..Range::all(kind) };
        Listing::new(self.core, self.bucket, range, shows_all, self.limit as u32 + 1)
    }

    /// Versions of the key that the page before ended in.
    async fn rest_of_marked_key(&mut self) -> Result<(), Unavailable> {
        let Some(marker) = self.request.after_version else { return Ok(()) };
        let Ok(key) = ObjectKey::new(self.request.after_key.clone()) else { return Ok(()) };
        if !self.request.after_key.starts_with(&self.request.prefix) {
            return Ok(());
        }
        let target = self.core.target(self.bucket, RegisterKey::object(self.bucket.id(), key.clone()));
        let head = Head::of(self.core.read(&target, false).await?.0)?;
        let Some(current) = head.at() else { return Ok(()) };
        let after = match (head.place(marker), marker) {
            (Place::Archived(at), _) => at,
            // It is gone, and an older one has come in its place.
            (_, VersionId::Op(marker)) if marker.ordinal > current.ordinal => {
                self.show_current(&key, &head);
                current
            }
            (_, VersionId::Op(marker)) => marker,
            // No page ends in this any more: a client's own marker.
            (_, VersionId::Null) => current,
        };
        let expected = self.limit as u32 + 1;
        let mut listing = archive::listing(self.core, self.bucket, &key, Some(after), expected);
        while !self.is_full() {
            let items = listing.next(self.limit + 1).await?;
            if items.is_empty() {
                return Ok(());
            }
            for item in items {
                let Some((of, at, version)) = archived(item) else { return Ok(()) };
                if of != key {
                    return Ok(());
                }
                self.show_archived(&head, (&key, at), &version)?;
            }
        }
        Ok(())
    }

    /// Adds keys and their versions.
    async fn add(&mut self, chunk: Vec<Item>) -> Result<(), Unavailable> {
        let keeps_versions = self.bucket.record.versioning != Versioning::Unversioned;
        let mut older = Older::default();
        if let Some(first) = chunk.first().filter(|_| keeps_versions) {
            older.listing = Some(self.archived(first));
        }
        for item in chunk {
            if self.is_full() {
                return Ok(());
            }
            let (register, version) = match item {
                Item::Entry(register, version) => (register, version),
                Item::Prefix(prefix) => {
                    self.shown.push(Shown::Prefix(prefix));
                    continue;
                }
            };
            let head = Head::of_decided(version)?;
            self.show_current(&register.key, &head);
            while !self.is_full()
                && let Some((at, version)) = older.next_of(&register.key, self.limit + 1).await?
            {
                self.show_archived(&head, (&register.key, at), &version)?;
            }
        }
        Ok(())
    }

    fn show_current(&mut self, key: &ObjectKey, head: &Head) {
        if let Some((object, at)) = head.version().zip(head.at()) {
            let delete_marker = object.delete_marker;
            let (key, info) = (key.clone(), listed_info(object.clone()));
            let listed = ListedVersion { key, info, latest: true, delete_marker };
            self.shown.push(Shown::Version(Box::new(listed), at));
        }
    }

    fn show_archived(
        &mut self,
        head: &Head,
        (key, at): (&ObjectKey, VersionRef),
        version: &Version,
    ) -> Result<(), Unavailable> {
        let object = object_meta(version)?;
        if head.keeps(at, &object) {
            let delete_marker = object.delete_marker;
            let (key, info) = (key.clone(), listed_info(object));
            let listed = ListedVersion { key, info, latest: false, delete_marker };
            self.shown.push(Shown::Version(Box::new(listed), at));
        }
        Ok(())
    }

    fn end(mut self) -> VersionPage {
        let more = self.is_full();
        self.shown.truncate(self.limit);
        let mut page = VersionPage::default();
        if more {
            page.next = self.shown.last().map(|last| match last {
                Shown::Version(listed, at) => (listed.key.as_str().to_owned(), Some(VersionId::Op(*at))),
                Shown::Prefix(prefix) => (prefix.clone(), None),
            });
        }
        for shown in self.shown {
            match shown {
                Shown::Version(listed, _) => page.versions.push(*listed),
                Shown::Prefix(prefix) => page.prefixes.push(prefix),
            }
        }
        page
    }
}

fn archived(item: Item) -> Option<(ObjectKey, VersionRef, Version)> {
    let Item::Entry(register, version) = item else { return None };
    let at = register.version_ref()?;
    Some((register.key, at, version))
}

/// Archived versions of many keys, in order.
#[derive(Default)]
struct Older {
    listing: Option<Listing>,
    ready: VecDeque<Item>,
}

impl Older {
    /// The next one of this key; those of keys before it are left out.
    async fn next_of(
        &mut self,
        key: &ObjectKey,
        most: usize,
    ) -> Result<Option<(VersionRef, Version)>, Unavailable> {
        loop {
            if self.ready.is_empty() {
                let Some(listing) = &mut self.listing else { return Ok(None) };
                self.ready = listing.next(most).await?.into();
            }
            match self.ready.front() {
                None => {
                    self.listing = None;
                    return Ok(None);
                }
                Some(Item::Entry(register, _)) if register.key > *key => return Ok(None),
                Some(Item::Prefix(prefix)) if prefix.as_bytes() > key.as_bytes() => return Ok(None),
                Some(_) => {}
            }
            if let Some((of, at, version)) = self.ready.pop_front().and_then(archived)
                && of == *key
            {
                return Ok(Some((at, version)));
            }
        }
    }
}
