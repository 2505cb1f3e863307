//! Under which name this gateway holds room, and since when nobody may count on it.
//!
//! A name is good for one session with the coordinator. A lock says to this process whether that session lives, by its own
//! monotonic clock and never later than the coordinator believes ([`LockGuard::held`]); a leased key says it to the
//! others. So a name whose key is gone admits nothing, even if its gateway was paused: it takes another name, and what it
//! held under the old one is counted by the next survey. (The key may come back with the next session for a moment; that
//! holds up a round, and does no harm.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::coordination::{Coordinator, Expected, LockGuard};
use coffer_common::random;
use tokio::sync::Mutex;

use crate::object::bucket::unreachable;
use crate::object::error::Unavailable;

/// Where the leased keys lie.
const LIVE: &str = "quota-holders/";
/// The names are fresh: nobody else wants the lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// One name.
pub(super) struct Holder {
    /// The name.
    pub(super) id: String,
    lock: LockGuard,
}

impl Holder {
    /// Whether room under this name can be used.
    pub(super) fn is_good(&self) -> bool {
        self.lock.held()
    }
}

/// The name of this process.
#[derive(Default)]
pub(super) struct Holders {
    current: Mutex<Option<Current>>,
}

struct Current {
    holder: Arc<Holder>,
    /// Whether its key is there.
    is_known: bool,
}

impl Holders {
    /// A name that is good now.
    pub(super) async fn get(&self, coordinator: &dyn Coordinator) -> Result<Arc<Holder>, Unavailable> {
        let mut current = self.current.lock().await;
        if let Some(old) = current.as_ref().filter(|current| !current.holder.is_good()) {
            // It is of an earlier session, and must not come to life again with the next one.
            let key = format!("{LIVE}{}", old.holder.id);
            coordinator.delete(&key, Expected::Any).await.map_err(unreachable)?;
            *current = None;
        }
        let current = match current.as_mut() {
            Some(current) => current,
            None => {
                let id = format!("{:016x}", random::random::<u64>());
                let lock = coordinator.lock(&format!("{LIVE}{id}"), LOCK_WAIT).await.map_err(unreachable)?;
                current.insert(Current { holder: Arc::new(Holder { id, lock }), is_known: false })
            }
        };
        let holder = Arc::clone(&current.holder);
        if !current.is_known {
            let key = format!("{LIVE}{}", holder.id);
            coordinator.put(&key, Bytes::new(), Expected::Any, true).await.map_err(unreachable)?;
            current.is_known = true;
        }
        // If the lock's session lives on now, the key is bound to it and to no other.
        if holder.is_good() { Ok(holder) } else { Err(Unavailable::new("the coordinator's session ended")) }
    }

    /// The names whose keys are there.
    pub(super) async fn live(&self, coordinator: &dyn Coordinator) -> Result<BTreeSet<String>, Unavailable> {
        let listing = coordinator.list(LIVE).await.map_err(unreachable)?;
        let name = |key: &str| key.strip_prefix(LIVE).unwrap_or(key).to_owned();
        Ok(listing.entries.iter().map(|entry| name(&entry.key)).collect())
    }
}
