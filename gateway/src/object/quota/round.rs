//! Leading a round, and answering one; [`super::ledger`] says what it is for.
//!
//! 1. The leader begins it, knowing who lives, and waits for the answers: two seconds at most.
//! 2. If there is room now for what it was begun for, or no survey is due, it ends here.
//! 3. Else marks are taken no more, and the bucket is listed; the round ends with the count.
//!
//! A leader that cannot reach the coordinator tries to end its round until it is somebody else's, or the process stops.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::time::UnixMillis;
use tokio::time::Instant;

use super::desk::Desk;
use super::ledger::Usage;
use super::{Quota, survey};
use crate::object::bucket::Bucket;
use crate::object::core::Core;
use crate::object::error::{HeadBucketError, Unavailable};

/// How long the leader waits for answers.
const ANSWERS: Duration = Duration::from_secs(2);
/// How long a bucket that just got its quota is left alone: writes that were admitted without it end, and are counted.
const SETTLING: Duration = Duration::from_secs(1);
/// From one round to the next.
const PAUSE: Duration = Duration::from_millis(50);
/// How long until a failed end is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Says what this gateway has not used, and what has ended.
pub(super) async fn answer(core: &Core, desk: &Desk) {
    let answered = desk
        .change(core, |ledger| {
            let (holder, purse) = desk.purse()?;
            if !ledger.awaits(&holder) {
                return None;
            }
            let mut purse = purse.lock();
            purse.give_back();
            let (returned, done) = purse.told();
            ledger.answer(&holder, returned, done);
            Some(())
        })
        .await;
    if let Err(error) = answered {
        tracing::debug!(%error, "a round goes on without this gateway's answer");
    }
    // A name of an earlier session is cleared away.
    if let Err(error) = core.quotas.holders.get(core.cluster.coordinator().as_ref()).await {
        tracing::debug!(%error, "this gateway has no name to hold room under");
    }
}

/// Leads a round for a write that does not fit.
pub(super) async fn lead(
    core: &Arc<Core>,
    desk: &Arc<Desk>,
    bucket: &Arc<Bucket>,
    wanted: (Quota, u64),
    may_survey: bool,
) -> Result<(), Unavailable> {
    if desk.seen().is_none_or(|ledger| ledger.usage.is_none()) {
        tokio::time::sleep(SETTLING).await;
    } else {
        tokio::time::sleep(PAUSE).await;
    }
    let coordinator = core.cluster.coordinator();
    let holder = core.quotas.holders.get(coordinator.as_ref()).await?;
    let live = core.quotas.holders.live(coordinator.as_ref()).await?;
    let (begun, _) = desk.change(core, |ledger| ledger.begin(&holder.id, &live)).await?;
    // Somebody else leads one.
    let Some(number) = begun else { return Ok(()) };
    answer(core, desk).await;
    let mut seen = desk.subscribe();
    let collected = seen.wait_for(|(_, ledger)| ledger.as_ref().is_none_or(|ledger| ledger.is_collected()));
    if tokio::time::timeout(ANSWERS, collected).await.is_err() {
        tracing::debug!(bucket = %bucket.name, "some gateways do not say what room they have");
    }
    let (quota, size) = wanted;
    let step = desk.change(core, |ledger| {
        let fits = ledger.usage.is_some() && size > 0 && ledger.claimed().saturating_add(size) <= quota.bytes;
        if may_survey && !fits {
            return ledger.list(&holder.id, number).then_some(true);
        }
        let ended = ledger.conclude(&holder.id, number, None);
        if ended && fits {
            // It was begun for this.
            let _ = desk.take(ledger, wanted);
        }
        ended.then_some(false)
    });
    match step.await {
        Ok((Some(true), _)) => {}
        Ok((Some(false) | None, _)) => return Ok(()),
        Err(error) => {
            end(core, desk, (&holder.id, number), None, wanted).await;
            return Err(error);
        }
    }
    let began = Instant::now();
    let found = tokio::select! {
        biased;
        () = core.background.told() => return Ok(()),
        found = survey::count(core, bucket) => found,
    };
    let usage = found.as_ref().ok().map(|bytes| Usage {
        bytes: *bytes,
        surveyed_ms: UnixMillis::now().0,
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        round: number,
    });
    end(core, desk, (&holder.id, number), usage, wanted).await;
    match found {
        Ok(bytes) => {
            tracing::debug!(bucket = %bucket.name, bytes, "counted what is in a bucket with a quota");
            Ok(())
        }
        Err(HeadBucketError::NoSuchBucket) => Ok(()),
        Err(HeadBucketError::Unavailable(error)) => Err(error),
    }
}

/// Ends a round that this gateway leads.
async fn end(
    core: &Core,
    desk: &Desk,
    (holder, number): (&str, u64),
    usage: Option<Usage>,
    wanted: (Quota, u64),
) {
    loop {
        let ended = desk.change(core, |ledger| {
            let ended = ledger.conclude(holder, number, usage);
            if ended && wanted.1 > 0 {
                // If it fits now, it was begun for this.
                let _ = desk.take(ledger, wanted);
            }
            ended.then_some(())
        });
        match ended.await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "a round is not ended yet"),
        }
        tokio::select! {
            biased;
            () = core.background.told() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}
