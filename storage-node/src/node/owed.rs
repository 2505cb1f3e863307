//! One page of what a node owes to other slots: the pages of its drives, merged by key.
//!
//! A page speaks only up to the smallest end of the drives that have more; what lies behind is asked for again. A drive
//! that fails at that makes the page incomplete: its slots will be asked again.

use std::sync::Arc;

use bytes::Bytes;
use coffer_common::node::{NodeError, OwedPage, OwedRegister, OwedRequest};
use futures_util::future::join_all;

use super::StorageNode;

/// Most registers of a page, whatever the caller asks for.
const MAX_REGISTERS: u32 = 1_000;

impl StorageNode {
    pub(super) async fn owed_merged(&self, mut request: OwedRequest) -> Result<OwedPage, NodeError> {
        if request.cluster != self.cluster {
            return Err(NodeError::Denied(format!("this node is of cluster {}", self.cluster)));
        }
        request.limit = request.limit.clamp(1, MAX_REGISTERS);
        request.slots.sort_unstable_by_key(|(partition, _)| *partition);
        let request = Arc::new(request);
        // A failed drive has no more to say than a node that is away.
        let drives = self.drives().filter(|store| !store.is_failed());
        let pages = join_all(drives.map(|store| store.owed_page(Arc::clone(&request)))).await;
        let mut complete = true;
        let mut known = Vec::new();
        for page in pages {
            match page {
                Ok(page) => known.push(page),
                Err(error) => {
                    tracing::debug!(%error, "a drive is left out of what is owed");
                    complete = false;
                }
            }
        }
        complete &= known.iter().all(|page| page.complete);
        let next = known.iter().map(|page| &page.next).filter(|next| !next.is_empty()).min().cloned();
        let key = |owed: &OwedRegister| Bytes::from(owed.register.encode());
        let mut registers: Vec<(Bytes, OwedRegister)> =
            known.into_iter().flat_map(|page| page.registers).map(|owed| (key(&owed), owed)).collect();
        if let Some(next) = &next {
            registers.retain(|(key, _)| key <= next);
        }
        registers.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(OwedPage {
            registers: registers.into_iter().map(|(_, owed)| owed).collect(),
            next: next.unwrap_or_default(),
            complete,
        })
    }
}
