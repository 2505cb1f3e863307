//! Counts what clients have stored in a bucket.
//!
//! By listings of the kind that clients get: each register decided by R0 slots or more of its partition, or settled. So
//! whatever was acknowledged before it began is counted, and an answer that rests on too few slots is none.
//!
//! 1. Bytes are counted where they lie: in the objects' registers those that have no parts, in the archives those of versions from
//!    before the bucket kept versions, and in the registers of parts everything else: parts of open uploads, of completed ones, and
//!    versions, which are part 0 of an upload of their own.
//! 2. A part that nothing is made of any more counts until `reclaim` has ended it, a moment later.
//! 3. Pages are read one after the other, with a rest after each, so that requests have the nodes for themselves half of the time.
//!
//! What changes during the listing may be seen or not; the ledger has it, too. One thing can be missed until the next survey:
//! a version from before the bucket kept versions that becomes current again while the archives are being listed, since
//! it moves from there to where the listing has been.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::meta::RegisterMeta;
use coffer_common::protocol::message::Version;
use coffer_common::types::RegisterKind;
use tokio::time::Instant;

use crate::object::bucket::Bucket;
use crate::object::core::Core;
use crate::object::error::{HeadBucketError, Unavailable};
use crate::object::list::{Item, Listing, Range, shows_all};

/// Registers of a page.
const PAGE: usize = 1_000;
/// Longest rest after a page.
const LONGEST_REST: Duration = Duration::from_millis(200);

/// Counts, with a newer record of the bucket if slots ask for it.
pub(super) async fn count(core: &Arc<Core>, bucket: &Arc<Bucket>) -> Result<u64, HeadBucketError> {
    let mut bucket = Arc::clone(bucket);
    loop {
        match count_in(core, &bucket).await {
            Err(error) => bucket = core.renewed(&bucket, error).await?,
            Ok(bytes) => return Ok(bytes),
        }
    }
}

async fn count_in(core: &Arc<Core>, bucket: &Arc<Bucket>) -> Result<u64, Unavailable> {
    let mut bytes = 0;
    // Objects before archives: a version is in one or the other from then on.
    for kind in [RegisterKind::Object, RegisterKind::Version, RegisterKind::Part] {
        let mut listing = Listing::new(core, bucket, Range::all(kind), shows_all, PAGE as u32);
        loop {
            let began = Instant::now();
            let items = listing.next(PAGE).await?;
            if items.is_empty() {
                break;
            }
            for item in &items {
                if let Item::Entry(_, version) = item {
                    bytes += lies_in(version)?;
                }
            }
            if items.len() == PAGE {
                tokio::time::sleep(began.elapsed().min(LONGEST_REST)).await;
            }
        }
    }
    Ok(bytes)
}

/// Plain bytes that lie in a register with this version.
fn lies_in(version: &Version) -> Result<u64, Unavailable> {
    match RegisterMeta::decode(version.metadata.clone()) {
        Ok(RegisterMeta::Object(object)) => Ok(if object.parts.is_some() { 0 } else { object.size }),
        Ok(RegisterMeta::Part(part)) => Ok(part.size),
        Ok(_) => Ok(0),
        Err(error) => Err(Unavailable::new(format!("op {}: {error}", version.op))),
    }
}
