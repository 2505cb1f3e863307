//! Brings what is queued for one target to it.
//!
//! 1. One gateway at a time, by a lock at the coordinator.
//! 2. Every second, and whenever this gateway has queued something, a page of the queue is read and posted, some at a time.
//! 3. The first time, and every ten minutes, that begins at the queue's beginning; in between where nothing was left a minute
//!    ago. So a pass does not go over all that has been deleted since the last purge, and what a gateway whose clock is late has
//!    queued behind this place is found by the next whole pass.
//! 4. A test event ([`super::record`]) holds up nothing, and is given up after an hour: nobody has been promised it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::Cluster;
use coffer_common::coordination::{Kept, KeptLock};
use coffer_common::random;
use coffer_common::time::UnixMillis;
use coffer_common::types::ObjectKey;
use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::targets::Webhook;
use super::webhook::{Answer, Post};
use super::{queue, record};
use crate::object::{ObjectStore, Unavailable};

/// From one look at the queue to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// From one try at the lock to the next.
const LOCK_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause before a target that is away is tried again; the first one is [`PAUSE`], and each twice the last.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// From one whole pass to the next.
const WHOLE_PASS: Duration = Duration::from_secs(10 * 60);
/// After what the target has refused, a whole pass, which tries it again.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Most deliveries that are remembered as refused; others are tried more often.
const MAX_REFUSED: usize = 10_000;
/// How far behind the clock a pass that is not a whole one begins.
const MARGIN_MS: u64 = 60_000;
/// How long a test event is tried.
const TEST_LIFE: Duration = Duration::from_secs(60 * 60);
/// Deliveries that are listed at a time.
const PAGE: u32 = 200;
/// Deliveries that are posted at the same time.
const CONCURRENCY: usize = 8;

const DELIVERED: &str = "coffer_notify_delivered_total";
const FAILED: &str = "coffer_notify_failures_total";
const OLDEST: &str = "coffer_notify_oldest_seconds";

/// Delivers to one target.
pub(super) struct Courier {
    store: ObjectStore,
    cluster: Cluster,
    target: String,
    post: Post,
    wake: Arc<Notify>,
}

/// What is known between passes.
#[derive(Default)]
struct Progress {
    /// Nothing that is due lies before this; empty for the beginning.
    from: String,
    /// When the last whole pass began that came to its end.
    whole: Option<Instant>,
    /// What the target has refused since `refused_at`.
    refused: HashSet<ObjectKey>,
    /// When the first of it was refused.
    refused_at: Option<Instant>,
}

impl Progress {
    /// Whether a pass that begins now is to be a whole one.
    fn is_whole_due(&self, now: Instant) -> bool {
        self.whole.is_none_or(|last| last + WHOLE_PASS <= now)
            || self.refused_at.is_some_and(|first| first + REFUSED_PAUSE <= now)
    }

    fn refuse(&mut self, delivery: ObjectKey, now: Instant) {
        self.refused_at.get_or_insert(now);
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert(delivery);
        }
    }
}

/// What a pass has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pass {
    /// The target takes nothing now.
    away: bool,
    /// The earliest time of what is left.
    oldest: Option<UnixMillis>,
}

/// What came of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    GivenUp,
    Refused,
    Away,
}

impl Courier {
    /// Made once for each target.
    pub(super) fn new(store: ObjectStore, cluster: Cluster, webhook: Webhook, wake: Arc<Notify>) -> Self {
        let target = webhook.name.clone();
        Self { store, cluster, target, post: Post::new(webhook), wake }
    }

    /// Delivers for ever.
    pub(super) async fn work(self) {
        let mut lock = KeptLock::new(format!("notify/{}", self.target));
        let mut progress = Progress::default();
        let mut backoff = PAUSE;
        loop {
            match lock.keep(&*self.cluster.coordinator()).await {
                Kept::Still => {}
                Kept::Anew => progress = Progress::default(),
                Kept::No => {
                    tokio::time::sleep(LOCK_PAUSE.mul_f64(random::between(0.8..1.2))).await;
                    continue;
                }
            }
            let away = match self.pass(&mut progress).await {
                Ok(pass) => {
                    let age = pass.oldest.map_or(0, |due| UnixMillis::now().0.saturating_sub(due.0));
                    metrics::gauge!(OLDEST, "target" => self.target.clone()).set(age as f64 / 1e3);
                    pass.away
                }
                Err(error) => {
                    tracing::debug!(webhook = self.target, %error, "events wait: the queue cannot be read");
                    true
                }
            };
            if away {
                tokio::time::sleep(backoff.mul_f64(random::between(0.8..1.2))).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            } else {
                backoff = PAUSE;
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }

    /// Delivers what is due, unless the target is away.
    async fn pass(&self, progress: &mut Progress) -> Result<Pass, Unavailable> {
        let (began, now) = (Instant::now(), UnixMillis::now());
        let whole = progress.is_whole_due(began);
        if whole {
            progress.from = String::new();
            progress.refused.clear();
            progress.refused_at = None;
        }
        let mut after = progress.from.clone();
        let mut pass = Pass::default();
        loop {
            let page = queue::page(&self.store, &self.target, after, PAGE).await?;
            let is_due = |delivery: &ObjectKey| queue::due(delivery).is_none_or(|due| due <= now);
            let count = page.deliveries.len();
            let mut due: Vec<ObjectKey> = page.deliveries.into_iter().filter(is_due).collect();
            let all_due = due.len() == count;
            due.retain(|delivery| !progress.refused.contains(delivery));
            let mut fates = stream::iter(due).map(|delivery| self.deliver(delivery)).buffered(CONCURRENCY);
            while let Some((delivery, fate)) = fates.next().await {
                if matches!(fate, Fate::Refused | Fate::Away) {
                    pass.oldest = pass.oldest.or(queue::due(&delivery));
                }
                match fate {
                    Fate::Done | Fate::GivenUp => {}
                    Fate::Refused => progress.refuse(delivery, began),
                    Fate::Away => {
                        pass.away = true;
                        return Ok(pass);
                    }
                }
            }
            match page.next {
                // What follows is due later, too.
                Some(next) if all_due => after = next,
                Some(_) | None => break,
            }
        }
        if whole {
            progress.whole = Some(began);
        }
        progress.from = queue::since(&self.target, UnixMillis(now.0.saturating_sub(MARGIN_MS)));
        Ok(pass)
    }

    async fn deliver(&self, delivery: ObjectKey) -> (ObjectKey, Fate) {
        let fate = self.try_to_deliver(&delivery).await.unwrap_or_else(|error| {
            tracing::debug!(webhook = self.target, %delivery, %error, "an event waits");
            Fate::Away
        });
        let counter = if fate == Fate::Done { DELIVERED } else { FAILED };
        metrics::counter!(counter, "target" => self.target.clone()).increment(1);
        (delivery, fate)
    }

    async fn try_to_deliver(&self, delivery: &ObjectKey) -> Result<Fate, Unavailable> {
        let Some(message) = queue::read(&self.store, delivery).await? else { return Ok(Fate::Done) };
        let is_test = record::is_test(&message);
        match self.post.post(message).await {
            Answer::Taken => {
                queue::remove(&self.store, delivery).await?;
                Ok(Fate::Done)
            }
            _ if is_test && is_older(delivery, TEST_LIFE) => {
                tracing::warn!(webhook = self.target, "a target has not taken a test event within an hour");
                queue::remove(&self.store, delivery).await?;
                Ok(Fate::GivenUp)
            }
            answer if is_test => {
                tracing::warn!(
                    webhook = self.target,
                    ?answer,
                    "a target does not take a test event; it is tried again"
                );
                Ok(Fate::Refused)
            }
            Answer::Refused(status) => {
                tracing::warn!(webhook = self.target, %delivery, %status, "a target refuses an event; it is tried again");
                Ok(Fate::Refused)
            }
            Answer::Away => Ok(Fate::Away),
        }
    }
}

/// Whether a delivery has been due for longer than this.
fn is_older(delivery: &ObjectKey, age: Duration) -> bool {
    let age_ms = age.as_millis() as u64;
    queue::due(delivery).is_none_or(|due| due.0 + age_ms < UnixMillis::now().0)
}
