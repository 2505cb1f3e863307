//! One bucket's quota at this gateway: its purse, what is known of the ledger, and the changes that it makes there.
//!
//! Owns: the purse and which account it belongs to, and how often rounds are asked for. Never: does anything for the bucket
//! unless a write or a round asks.
//!
//! 1. [`Desk::learn`] takes every state of the ledger that is seen, newest last: from the watch, and before and after each change.
//! 2. A purse whose account is gone there, or whose holder's name is not good any more, is replaced; admissions keep the old one.
//! 3. [`Desk::change`] reads, has a pure change made, and writes if nobody else has; else it begins anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coffer_common::coordination::{CoordinatorError, Entry, Expected};
use coffer_common::types::BucketId;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;

use super::holder::Holder;
use super::ledger::{Ledger, Short};
use super::purse::Purse;
use super::{PREFIX, Quota, round};
use crate::object::bucket::{Bucket, unreachable};
use crate::object::core::Core;
use crate::object::error::Unavailable;

/// From one survey to the next, at least.
const SURVEY: Duration = Duration::from_secs(2);
/// And so many times as long as the last one took.
const SURVEY_PAUSES: u32 = 3;
/// How often a change of the ledger is tried again because somebody else has changed it.
const TRIES: usize = 64;

/// Room that a request has; dropped when the request has ended.
#[derive(Default)]
pub(in crate::object) struct Admission {
    of: Option<(Arc<Mutex<Purse>>, u64)>,
}

impl Admission {
    /// The request has certainly stored nothing.
    pub(in crate::object) fn release(mut self) {
        if let Some((purse, size)) = self.of.take() {
            purse.lock().release(size);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((purse, size)) = self.of.take() {
            purse.lock().finish(size);
        }
    }
}

/// What came of taking room.
pub(super) enum Refill {
    /// The request has it.
    Admitted(Admission),
    /// There is too little.
    Short(Arc<Ledger>),
    /// Others have it already, or the purse is worth nothing any more.
    Again,
}

/// What came of asking for a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// One is made.
    Begun,
    /// The last one says enough.
    Enough,
    /// None says anything: nobody has counted yet, or it failed.
    InVain,
}

/// Whose purse it is.
#[derive(Default)]
struct Purses {
    holder: Option<Arc<Holder>>,
    purse: Arc<Mutex<Purse>>,
    /// The quota under which the room was taken.
    quota: u64,
}

/// What is known of rounds.
#[derive(Default)]
struct Pace {
    /// The round of the last survey; 0 if there was none yet.
    surveyed: Option<u64>,
    /// When a survey was last seen to end, or to fail, and how long to wait for the next.
    survey: Option<(Instant, Duration)>,
    /// Whether the last one has failed here.
    failed: bool,
}

/// See the module.
pub(super) struct Desk {
    bucket: BucketId,
    pub(super) term: u64,
    /// One change after the other: each begins with all that the one before has done to the purse.
    changing: AsyncMutex<()>,
    /// Who may take room for this gateway.
    pub(super) turn: AsyncMutex<()>,
    purses: Mutex<Purses>,
    pace: Mutex<Pace>,
    /// The newest state of the ledger that was seen, by its revision.
    seen: watch::Sender<(u64, Option<Arc<Ledger>>)>,
    /// Whether this gateway is about to lead a round, or leads one.
    leading: AtomicBool,
}

impl Desk {
    pub(super) fn new(bucket: BucketId, term: u64) -> Self {
        Self {
            bucket,
            term,
            changing: AsyncMutex::default(),
            turn: AsyncMutex::default(),
            purses: Mutex::default(),
            pace: Mutex::default(),
            seen: watch::Sender::new((0, None)),
            leading: AtomicBool::new(false),
        }
    }

    /// The ledger's key.
    pub(super) fn key(&self) -> String {
        format!("{PREFIX}{}", self.bucket)
    }

    /// The newest state of the ledger that was seen.
    pub(super) fn seen(&self) -> Option<Arc<Ledger>> {
        self.seen.borrow().1.clone()
    }

    /// Follows the states of the ledger.
    pub(super) fn subscribe(&self) -> watch::Receiver<(u64, Option<Arc<Ledger>>)> {
        self.seen.subscribe()
    }

    /// Admits a request from the room that is here.
    pub(super) fn try_admit(&self, quota: Quota, size: u64) -> Option<Admission> {
        let purses = self.purses.lock();
        let is_good = purses.holder.as_ref().is_some_and(|holder| holder.is_good());
        if !is_good || purses.quota != quota.bytes || !purses.purse.lock().admit(size) {
            return None;
        }
        Some(Admission { of: Some((Arc::clone(&purses.purse), size)) })
    }

    /// The name and the purse of this gateway, as they are now.
    pub(super) fn purse(&self) -> Option<(String, Arc<Mutex<Purse>>)> {
        let purses = self.purses.lock();
        purses.holder.as_ref().map(|holder| (holder.id.clone(), Arc::clone(&purses.purse)))
    }

    /// Has the purse be this holder's, and of this quota.
    fn hold(&self, holder: &Arc<Holder>, quota: Quota) {
        let mut purses = self.purses.lock();
        if purses.holder.as_ref().is_none_or(|held| held.id != holder.id) {
            *purses = Purses { holder: Some(Arc::clone(holder)), ..Purses::default() };
        }
        if purses.quota > quota.bytes {
            purses.purse.lock().give_back();
        }
        purses.quota = quota.bytes;
    }

    /// Takes a state of the ledger that was seen; see the module.
    fn learn(&self, revision: u64, ledger: Option<Arc<Ledger>>) {
        let mut purses = self.purses.lock();
        if self.seen.borrow().0 >= revision {
            return;
        }
        let ledger = ledger.filter(|ledger| ledger.term == self.term);
        let account = ledger.as_ref().zip(purses.holder.as_ref());
        match account.and_then(|(ledger, holder)| ledger.accounts.get(&holder.id)) {
            Some(account) => purses.purse.lock().learn(account.taken),
            None => {
                let is_used = purses.purse.lock().is_used();
                if is_used {
                    purses.purse = Arc::default();
                }
            }
        }
        if let Some(ledger) = &ledger {
            self.pace.lock().learn(ledger);
        }
        self.seen.send_replace((revision, ledger));
    }

    /// There is no ledger: what was taken from an earlier one is worth nothing.
    fn lose(&self) {
        let mut purses = self.purses.lock();
        if purses.purse.lock().is_used() {
            purses.purse = Arc::default();
        }
    }

    /// Takes what the watch tells; answers if a round asks.
    pub(super) fn hear(self: &Arc<Self>, core: &Arc<Core>, entry: Option<&Entry>, revision: u64) {
        let Ok(ledger) = entry.map(decode).transpose().inspect_err(|error| tracing::error!(%error)) else {
            return;
        };
        self.learn(revision, ledger.map(Arc::new));
        let awaited = |ledger: Arc<Ledger>| self.purse().is_some_and(|(holder, _)| ledger.awaits(&holder));
        if self.seen().is_some_and(awaited) {
            let (core, desk) = (Arc::clone(core), Arc::clone(self));
            core.background.clone().spawn(async move { round::answer(&core, &desk).await });
        }
    }

    /// Changes the ledger; `change` may be asked again, and `None` changes nothing.
    pub(super) async fn change<T: Send>(
        &self,
        core: &Core,
        mut change: impl FnMut(&mut Ledger) -> Option<T> + Send,
    ) -> Result<(Option<T>, Arc<Ledger>), Unavailable> {
        let coordinator = core.cluster.coordinator();
        let _changing = self.changing.lock().await;
        for _ in 0..TRIES {
            let entry = coordinator.get(&self.key()).await.map_err(unreachable)?;
            let known = entry.as_ref().map(decode).transpose()?;
            let expected = match &entry {
                Some(entry) => Expected::Revision(entry.revision),
                None => Expected::Absent,
            };
            if known.as_ref().is_some_and(|known| known.term > self.term) {
                core.buckets.stale.notify_one();
                return Err(Unavailable::new("the bucket's quota is being changed"));
            }
            if let (Some(entry), Some(known)) = (&entry, &known) {
                self.learn(entry.revision, Some(Arc::new(known.clone())));
            }
            let before = known.filter(|known| known.term == self.term);
            if before.is_none() {
                self.lose();
            }
            let mut ledger = before.clone().unwrap_or_else(|| Ledger::new(self.term));
            let result = change(&mut ledger);
            let ledger = Arc::new(ledger);
            if result.is_none() || before.as_ref() == Some(&*ledger) {
                return Ok((result, before.map_or(ledger, Arc::new)));
            }
            let value = serde_json::to_vec(&*ledger).expect("numbers and names are JSON").into();
            match coordinator.put(&self.key(), value, expected, false).await {
                Ok(revision) => {
                    self.learn(revision, Some(Arc::clone(&ledger)));
                    return Ok((result, ledger));
                }
                Err(CoordinatorError::Conflict { .. }) => {}
                Err(error) => return Err(unreachable(error)),
            }
        }
        Err(Unavailable::new("the bucket's quota is being used by many at once"))
    }

    /// Takes room, and admits a request from it. Call with the turn.
    pub(super) async fn refill(
        &self,
        core: &Core,
        (quota, size): (Quota, u64),
    ) -> Result<Refill, Unavailable> {
        let holder = core.quotas.holders.get(core.cluster.coordinator().as_ref()).await?;
        self.hold(&holder, quota);
        let (taken, ledger) = self.change(core, |ledger| Some(self.take(ledger, (quota, size)))).await?;
        match taken {
            Some(Ok(())) => Ok(self.try_admit(quota, size).map_or(Refill::Again, Refill::Admitted)),
            Some(Err(_)) | None => Ok(Refill::Short(ledger)),
        }
    }

    /// Takes room from a ledger that this desk has just learned.
    pub(super) fn take(&self, ledger: &mut Ledger, (quota, size): (Quota, u64)) -> Result<(), Short> {
        let purses = self.purses.lock();
        let Some(holder) = purses.holder.as_ref().filter(|holder| holder.is_good()) else {
            return Err(Short { left: None });
        };
        let (returned, _) = purses.purse.lock().told();
        ledger.take(&holder.id, returned, size, quota.bytes)
    }

    /// Has a round made for a request that does not fit, unless the last one says enough. `recall` says that others may
    /// have room that they do not use.
    pub(super) fn ask_for_round(
        self: &Arc<Self>,
        core: &Arc<Core>,
        bucket: &Arc<Bucket>,
        wanted: (Quota, u64),
        recall: bool,
    ) -> Asked {
        let survey = self.is_survey_due();
        if survey || recall {
            self.begin_round(core, bucket, wanted, survey);
            return Asked::Begun;
        }
        let pace = self.pace.lock();
        if pace.failed || pace.surveyed.is_none_or(|round| round == 0) {
            Asked::InVain
        } else {
            Asked::Enough
        }
    }

    /// Whether a survey may be made.
    pub(super) fn is_survey_due(&self) -> bool {
        self.pace.lock().survey.is_none_or(|(at, pause)| at.elapsed() >= pause)
    }

    /// Begins a round in the background, unless this gateway leads one.
    pub(super) fn begin_round(
        self: &Arc<Self>,
        core: &Arc<Core>,
        bucket: &Arc<Bucket>,
        wanted: (Quota, u64),
        survey: bool,
    ) {
        if self.leading.swap(true, Ordering::AcqRel) {
            return;
        }
        let (core, desk, bucket) = (Arc::clone(core), Arc::clone(self), Arc::clone(bucket));
        core.background.clone().spawn(async move {
            if let Err(error) = round::lead(&core, &desk, &bucket, wanted, survey).await {
                tracing::warn!(bucket = %bucket.name, %error, "what the bucket's quota leaves was not found out");
                let mut pace = desk.pace.lock();
                (pace.survey, pace.failed) = (Some((Instant::now(), SURVEY)), true);
            }
            desk.leading.store(false, Ordering::Release);
        });
    }

    /// Waits until a round has ended after this one; `false` at the deadline.
    pub(super) async fn round_ends(&self, concluded: u64, deadline: Instant) -> bool {
        let mut seen = self.subscribe();
        let ended =
            seen.wait_for(|(_, ledger)| ledger.as_ref().is_some_and(|ledger| ledger.concluded > concluded));
        tokio::time::timeout_at(deadline, ended).await.is_ok()
    }
}

impl Pace {
    fn learn(&mut self, ledger: &Ledger) {
        let (round, took_ms) = ledger.usage.map_or((0, 0), |usage| (usage.round, usage.took_ms));
        if self.surveyed.is_some_and(|surveyed| surveyed < round) {
            let pause = Duration::from_millis(took_ms) * SURVEY_PAUSES;
            (self.survey, self.failed) = (Some((Instant::now(), pause.max(SURVEY))), false);
        }
        self.surveyed = Some(round);
    }
}

/// Reads a ledger.
pub(super) fn decode(entry: &Entry) -> Result<Ledger, Unavailable> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| Unavailable::new(format!("the ledger `{}` cannot be read: {error}", entry.key)))
}
