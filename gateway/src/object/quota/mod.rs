//! Quotas: what is stored in a bucket stays below a limit, exact to what is in flight.
//!
//! Owns: the quota in a bucket's record, its [`ledger`] at the coordinator, this gateway's room in each bucket, and counting what
//! is stored. Never: refuses a delete, frees anything, or is on the way of a bucket without a quota.
//!
//! 1. The bytes of objects, older versions and parts of uploads count, plain, where they lie ([`survey`]).
//! 2. Every write of bytes passes [`admit`] with its length before its body is read. It is admitted from the room that this
//!    gateway has ([`purse`]), without asking anybody.
//! 3. What is missing is taken from the ledger, with a share of what is left beyond.
//! 4. If too little is left, a round ([`round`]) has all gateways give back what they have not used, and if that is not
//!    enough counts what is stored now: so that what was deleted, replaced or never stored is room again.
//! 5. If it still does not fit, the write is refused. That rests on a recall since which nobody took room, or that ended after the
//!    write was found not to fit; and on a survey not older than three times as long as it took, or two seconds. A write
//!    waits for five seconds; if it is not known by then whether there is room, the client is told to come again.
//!
//! A write that replaces something must fit beside it: only the survey knows that what was there is gone.
//!
//! **Consistency.** What is stored exceeds the quota by no more than what had been admitted before the quota was set or
//! lowered (each gateway hears of it by its watch, well within a second), or by a gateway whose lease ended afterwards. A
//! gateway admits only while its own clock says that its session lives ([`holder`]). The numbers are argued in [`ledger`].
//! **Retries.** A change of the ledger is tried again until it was made or the coordinator does not answer. A survey that
//! cannot be made is tried again when a write asks for it.
//! **Cancellation.** A request that is dropped counts as stored until the next survey. A round goes on without who wanted it.
//! **Crash consistency.** Room of a gateway that dies comes back with the first survey after its lease has ended, at once if
//! it could say so. A round whose leader died is begun again by whoever needs one. If the ledger is lost with the
//! coordinator's data, the next write begins another one with a survey.
//! **Without the coordinator** a gateway admits what it has room for while its session lives, up to ten seconds, and then
//! tells clients to come again.

mod desk;
mod holder;
mod ledger;
mod manage;
mod purse;
mod round;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coffer_common::coordination::WatchEvent;
use coffer_common::types::BucketId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::desk::{Admission, Asked, Desk, Refill};
use self::holder::Holders;
use self::ledger::Usage;
use super::bucket::Bucket;
use super::core::Core;
use super::error::{QuotaExceeded, Unavailable};

pub(super) use self::manage::{forget, set, show};

/// Where ledgers lie at the coordinator.
const PREFIX: &str = "quotas/";
/// How long a write waits for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until the coordinator is watched anew.
const RETRY: Duration = Duration::from_secs(1);

/// A bucket's quota, in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quota {
    /// Bytes.
    pub(super) bytes: u64,
    /// Rises whenever the bucket gets a quota and had none: what was counted before is not true any more.
    pub(super) term: u64,
}

/// Why a write was not admitted.
pub(super) enum NotAdmitted {
    /// It does not fit.
    Exceeded(QuotaExceeded),
    /// It is not known whether it does.
    Unavailable(Unavailable),
}

impl From<Unavailable> for NotAdmitted {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
}

/// This gateway's part in all quotas.
#[derive(Default)]
pub(super) struct Quotas {
    holders: Holders,
    desks: Mutex<HashMap<BucketId, Arc<Desk>>>,
}

impl Quotas {
    /// The desk of a bucket for this setting of its quota, or a later one.
    fn desk(&self, bucket: BucketId, term: u64) -> Arc<Desk> {
        let mut desks = self.desks.lock();
        let desk = desks.entry(bucket).or_insert_with(|| Arc::new(Desk::new(bucket, term)));
        if desk.term < term {
            *desk = Arc::new(Desk::new(bucket, term));
        }
        Arc::clone(desk)
    }

    fn known(&self, key: &str) -> Option<Arc<Desk>> {
        let bucket = key.strip_prefix(PREFIX)?.parse().ok()?;
        self.desks.lock().get(&bucket).cloned()
    }
}

/// The bucket's record as it is known now, if it is the same bucket: a request may hold an older one.
fn newest(core: &Core, bucket: &Arc<Bucket>) -> Arc<Bucket> {
    match core.buckets.cached(&bucket.name) {
        Some(known) if known.id() == bucket.id() && known.revision > bucket.revision => known,
        _ => Arc::clone(bucket),
    }
}

/// Has a write of so many bytes wait until there is room for it. The admission is kept until the write has ended.
pub(super) async fn admit(
    core: &Arc<Core>,
    bucket: &Arc<Bucket>,
    size: u64,
) -> Result<Admission, NotAdmitted> {
    let bucket = newest(core, bucket);
    let Some(quota) = bucket.record.quota.filter(|_| size > 0) else { return Ok(Admission::default()) };
    let desk = core.quotas.desk(bucket.id(), quota.term);
    match desk.try_admit(quota, size) {
        Some(admission) => Ok(admission),
        None => wait_for_room(core, &desk, &bucket, (quota, size)).await,
    }
}

async fn wait_for_room(
    core: &Arc<Core>,
    desk: &Arc<Desk>,
    bucket: &Arc<Bucket>,
    (quota, size): (Quota, u64),
) -> Result<Admission, NotAdmitted> {
    let deadline = Instant::now() + PATIENCE;
    let mut since = None;
    loop {
        let ledger = {
            let turn = tokio::time::timeout_at(deadline, desk.turn.lock()).await;
            let _turn = turn.map_err(|_| Unavailable::new("many wait for room in the bucket"))?;
            if let Some(admission) = desk.try_admit(quota, size) {
                return Ok(admission);
            }
            match desk.refill(core, (quota, size)).await? {
                Refill::Admitted(admission) => return Ok(admission),
                Refill::Short(ledger) => ledger,
                Refill::Again if Instant::now() < deadline => continue,
                Refill::Again => return Err(Unavailable::new("many wait for room in the bucket").into()),
            }
        };
        let exceeded = || {
            let in_use = ledger.usage.map(|_| ledger.claimed());
            NotAdmitted::Exceeded(QuotaExceeded { bucket: bucket.name.clone(), quota: quota.bytes, in_use })
        };
        let waited = ledger.concluded > *since.get_or_insert(ledger.concluded);
        let asked = desk.ask_for_round(core, bucket, (quota, size), ledger.handed > 0 && !waited);
        if size > quota.bytes || asked == Asked::Enough {
            return Err(exceeded());
        }
        if asked == Asked::InVain || !desk.round_ends(ledger.concluded, deadline).await {
            let is_full = |usage: Usage| usage.bytes.saturating_add(size) > quota.bytes;
            return Err(match ledger.usage {
                Some(usage) if asked == Asked::Begun && is_full(usage) => exceeded(),
                Some(_) | None => Unavailable::new("what the bucket's quota leaves is being counted").into(),
            });
        }
    }
}

/// Follows the ledgers of buckets that this gateway has written to, and answers rounds, until the stop is told.
pub(super) async fn follow(core: Arc<Core>) {
    let coordinator = core.cluster.coordinator();
    let mut events = coordinator.watch(PREFIX);
    loop {
        tokio::select! {
            biased;
            () = core.background.told() => return,
            event = events.recv() => match event {
                Some(event) => apply(&core, event),
                None => {
                    tokio::time::sleep(RETRY).await;
                    events = coordinator.watch(PREFIX);
                }
            },
        }
    }
}

fn apply(core: &Arc<Core>, event: WatchEvent) {
    match event {
        WatchEvent::Put(entry) => {
            if let Some(desk) = core.quotas.known(&entry.key) {
                desk.hear(core, Some(&entry), entry.revision);
            }
        }
        WatchEvent::Delete { key, revision } => {
            if let Some(desk) = core.quotas.known(&key) {
                desk.hear(core, None, revision);
            }
        }
        WatchEvent::Reset(listing) => {
            let desks: Vec<Arc<Desk>> = core.quotas.desks.lock().values().cloned().collect();
            for desk in desks {
                let key = desk.key();
                let entry = listing.entries.iter().find(|entry| entry.key == key);
                desk.hear(core, entry, listing.revision);
            }
        }
    }
}
