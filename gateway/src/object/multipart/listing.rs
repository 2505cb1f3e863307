//! Lists the parts of an upload (all in one partition) and the open uploads of a bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coffer_common::meta::UploadState;
use coffer_common::protocol::message::Version;
use coffer_common::types::{BucketId, ObjectKey, RegisterKey, RegisterKind, UploadId};

use super::part::{part_info, part_meta};
use super::{find, upload_info, upload_meta};
use crate::object::bucket::Bucket;
use crate::object::core::Core;
use crate::object::error::{ListError, Unavailable, UploadError};
use crate::object::list::{Item, Listing, Range, is_rolled_up, take};
use crate::object::types::{ListParts, ListUploads, PartPage, UploadPage, UploadRef};

/// Most items of a page.
const MAX_ITEMS: u32 = 1_000;

/// Whether a version of an upload register is an open upload.
pub(in crate::object) fn shows_open(version: &Version) -> Result<bool, Unavailable> {
    Ok(matches!(upload_meta(version)?.state, UploadState::Open))
}

fn shows_parts(_: &Version) -> Result<bool, Unavailable> {
    Ok(true)
}

/// A page of an open upload's parts.
pub(in crate::object) async fn list_parts(
    core: &Arc<Core>,
    request: ListParts,
) -> Result<PartPage, UploadError> {
    let ListParts { upload, after, limit } = request;
    let found = find(core, &upload).await?;
    if !matches!(found.upload.state, UploadState::Open) {
        return Err(UploadError::NoSuchUpload);
    }
    let limit = limit.min(MAX_ITEMS) as usize;
    let mut listing = parts(core, &found.bucket, (&upload.key, upload.upload), after, limit as u32 + 1);
    let (items, more) = take(&mut listing, limit, Ok).await?;
    let encryption = found.upload.encryption.clone();
    let mut page = PartPage { upload: upload_info(&upload, found.upload), parts: Vec::new(), next: None };
    let taken = items.len();
    for item in items {
        if let Some((number, version)) = part_of((&upload.key, upload.upload), item) {
            page.parts.push(part_info(number, part_meta(&version)?, encryption.as_ref()));
        }
    }
    if more && page.parts.len() == taken {
        page.next = page.parts.last().map(|part| part.number);
    }
    Ok(page)
}

/// All parts of an upload, whatever its state.
pub(in crate::object) async fn all_parts(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
    upload: UploadId,
) -> Result<BTreeMap<u16, Version>, Unavailable> {
    let mut listing = parts(core, bucket, (key, upload), 0, MAX_ITEMS);
    let mut found = BTreeMap::new();
    loop {
        let items = listing.next(MAX_ITEMS as usize).await?;
        let taken = items.len();
        let before = found.len();
        found.extend(items.into_iter().filter_map(|item| part_of((key, upload), item)));
        if taken == 0 || found.len() - before < taken {
            return Ok(found);
        }
    }
}

/// Parts of one upload come first, then those of later uploads and of longer keys.
fn parts(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    (key, upload): (&ObjectKey, UploadId),
    after: u16,
    expected: u32,
) -> Listing {
    let first = RegisterKey::part(bucket.id(), key.clone(), upload, after);
    let range = Range {
        prefix: Bytes::copy_from_slice(key.as_bytes()),
        only: Some(core.partition(bucket.id(), key)),
        after: first.encode(),
        ..Range::all(RegisterKind::Part)
    };
    Listing::new(core, bucket, range, shows_parts, expected)
}

fn part_of((key, upload): (&ObjectKey, UploadId), item: Item) -> Option<(u16, Version)> {
    let Item::Entry(register, version) = item else { return None };
    let (of, number) = register.upload_part()?;
    (register.key == *key && of == upload).then_some((number, version))
}

/// A page of a bucket's open uploads.
pub(in crate::object) async fn list_uploads(
    core: &Arc<Core>,
    request: ListUploads,
) -> Result<UploadPage, ListError> {
    let request = &request;
    let page = |bucket| async move { list_uploads_in(core, &bucket, request).await };
    Ok(core.read_in(&request.bucket, page).await?)
}

async fn list_uploads_in(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    request: &ListUploads,
) -> Result<UploadPage, Unavailable> {
    let limit = request.limit.min(MAX_ITEMS) as usize;
    if limit == 0 {
        return Ok(UploadPage::default());
    }
    let range = Range {
        after: after(bucket.id(), request),
        prefix: request.prefix.clone().into(),
        delimiter: request.delimiter.clone().into(),
        ..Range::all(RegisterKind::Upload)
    };
    let mut listing = Listing::new(core, bucket, range, shows_open, limit as u32 + 1);
    let (items, more) = take(&mut listing, limit, Ok).await?;
    let mut page = UploadPage::default();
    for item in items {
        match item {
            Item::Prefix(prefix) => {
                page.next = Some((prefix.clone(), None));
                page.prefixes.push(prefix);
            }
            Item::Entry(register, version) => {
                let upload = register
                    .upload_id()
                    .ok_or_else(|| Unavailable::new("an upload register has no upload id"))?;
                let upload = UploadRef { bucket: request.bucket.clone(), key: register.key, upload };
                page.next = Some((upload.key.as_str().to_owned(), Some(upload.upload)));
                page.uploads.push(upload_info(&upload, upload_meta(&version)?));
            }
        }
    }
    if !more {
        page.next = None;
    }
    Ok(page)
}

/// After an upload of a key, after all uploads of a key, or after everything below a rolled-up prefix.
fn after(bucket: BucketId, request: &ListUploads) -> Vec<u8> {
    let key = &request.after_key;
    if key.is_empty() {
        return Vec::new();
    }
    let mut after = RegisterKey::encode_prefix(bucket, RegisterKind::Upload, key.as_bytes());
    if is_rolled_up(key, &request.prefix, &request.delimiter) {
        after.push(0xFF);
        return after;
    }
    after.extend_from_slice(&[0x00, 0x01]);
    match request.after_upload {
        Some(upload) => after.extend_from_slice(&upload.to_bytes()),
        None => after.extend_from_slice(&[0xFF; 17]),
    }
    after
}
