//! What the coordinator keeps of a bucket with a quota: what is in use, and who has been handed room. Pure.
//!
//! Owns: the record's form and its changes, each of which is one compare-and-swap. Never: I/O, a clock, a decision about a
//! request; what a gateway does with its room is in [`super::purse`].
//!
//! ```text
//! quota ≥ usage (by the last survey) + for every account: taken − returned − settled
//! ```
//!
//! Room is taken only as far as that holds afterwards. A survey that counts what is still outstanding, or a quota that is
//! lowered, may leave more claimed than there is: then nothing can be taken until that is over. An account's numbers only ever grow, and all but `settled` are written by its owner: a
//! change whose outcome is unknown can be made again.
//!
//! **A round** is how room comes back. (1) *Collecting*: every gateway gives back what it has not used, and marks how much of
//! the rest belongs to requests that have ended. (2) *Listing*, if that was not enough: one gateway counts what is
//! stored. (3) The end: the count is the usage, and what was marked is settled. The marks are older than the listing, so
//! whatever they stand for was in the bucket before the listing began, or never will be: the listing has counted it. What
//! was not marked, requests under way and room taken since, counts on; if the listing has seen some of it, it counts
//! twice until the next one. A gateway that does not answer keeps its room; one whose lease has ended has everything
//! marked, since it admits no more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Of what is left, one taker gets this part, if that is enough for what it wants to write.
const SHARE: u64 = 8;

/// What a survey found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    /// Bytes that clients have stored.
    pub(super) bytes: u64,
    /// When it was concluded, milliseconds since the Unix epoch; for people.
    pub(super) surveyed_ms: u64,
    /// How long it took.
    pub(super) took_ms: u64,
    /// Its round.
    pub(super) round: u64,
}

/// What one gateway has been handed, in bytes since it began. See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    /// Handed out.
    pub(super) taken: u64,
    /// Given back unused.
    pub(super) returned: u64,
    /// Known to be counted in the usage, or never to be stored.
    pub(super) settled: u64,
    /// In the present round: how much will be settled when it ends with a count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<u64>,
    /// Its owner will never admit anything again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) gone: bool,
}

impl Account {
    /// Bytes that it may yet store, or has stored since they were counted.
    pub(super) fn outstanding(&self) -> u64 {
        self.taken - self.returned - self.settled
    }
}

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// Gateways give back and mark.
    Collecting,
    /// The bucket is being listed: marks are not taken any more.
    Listing,
}

/// The round that is going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Round {
    /// Who leads it.
    pub(super) by: String,
    /// How far it has come.
    pub(super) stage: Stage,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    /// Bytes that are left to be taken; `None` while nobody has counted yet.
    pub(super) left: Option<u64>,
}

/// See the module. JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// Which setting of a quota it belongs to: of two, the higher one is the later.
    pub(super) term: u64,
    /// What is in use; `None` before the first survey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
    /// The gateways that have been handed room.
    #[serde(default)]
    pub(super) accounts: BTreeMap<String, Account>,
    /// Bytes handed out since the last round ended: while there are none, nobody has any that a recall would bring.
    #[serde(default)]
    pub(super) handed: u64,
    /// How many rounds have begun; the number of the present one.
    #[serde(default)]
    pub(super) rounds: u64,
    /// The last round that has ended.
    #[serde(default)]
    pub(super) concluded: u64,
    /// The present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) round: Option<Round>,
}

impl Ledger {
    pub(super) fn new(term: u64) -> Self {
        Self { term, ..Self::default() }
    }

    /// Bytes that are in use or may be: what was counted, and what was handed out since.
    pub(super) fn claimed(&self) -> u64 {
        self.usage.map_or(0, |usage| usage.bytes) + self.outstanding()
    }

    /// Bytes handed out that no survey has settled.
    pub(super) fn outstanding(&self) -> u64 {
        self.accounts.values().map(Account::outstanding).sum()
    }

    /// Hands out room for `size` bytes and a share of what is left beyond. `returned` is all that the taker has given back.
    pub(super) fn take(&mut self, holder: &str, returned: u64, size: u64, quota: u64) -> Result<(), Short> {
        if let Some(account) = self.accounts.get_mut(holder) {
            account.returned = returned;
        }
        if self.usage.is_none() {
            return Err(Short { left: None });
        }
        let left = quota.saturating_sub(self.claimed());
        if left < size {
            return Err(Short { left: Some(left) });
        }
        let grant = size.max(left / SHARE);
        self.accounts.entry(holder.to_owned()).or_default().taken += grant;
        self.handed += grant;
        Ok(())
    }

    /// Begins a round led by `by`, unless a living gateway leads one. Who is not in `live` will never admit anything again.
    pub(super) fn begin(&mut self, by: &str, live: &BTreeSet<String>) -> Option<u64> {
        if self.round.as_ref().is_some_and(|round| round.by != by && live.contains(&round.by)) {
            return None;
        }
        for (holder, account) in &mut self.accounts {
            account.gone = !live.contains(holder);
            account.mark = account.gone.then(|| account.taken - account.returned);
        }
        self.rounds += 1;
        self.round = Some(Round { by: by.to_owned(), stage: Stage::Collecting });
        Some(self.rounds)
    }

    /// Whether this gateway is to say what it has not used.
    pub(super) fn awaits(&self, holder: &str) -> bool {
        let collecting = self.round.as_ref().is_some_and(|round| round.stage == Stage::Collecting);
        collecting && self.accounts.get(holder).is_some_and(|account| account.mark.is_none())
    }

    /// A gateway's answer: all that it has given back, and all that its ended requests had.
    pub(super) fn answer(&mut self, holder: &str, returned: u64, done: u64) {
        assert!(self.awaits(holder), "only who is awaited answers");
        if let Some(account) = self.accounts.get_mut(holder) {
            assert!(done <= account.taken - returned, "no more ends than was taken and kept");
            account.returned = returned;
            account.mark = Some(done);
        }
    }

    /// Whether all have answered.
    pub(super) fn is_collected(&self) -> bool {
        self.accounts.values().all(|account| account.mark.is_some())
    }

    fn is_led(&self, by: &str, number: u64) -> bool {
        self.rounds == number && self.round.as_ref().is_some_and(|round| round.by == by)
    }

    /// Ends the collecting of the round, so that the bucket can be listed; `false` if it is not this gateway's any more.
    pub(super) fn list(&mut self, by: &str, number: u64) -> bool {
        if !self.is_led(by, number) {
            return false;
        }
        self.round = Some(Round { by: by.to_owned(), stage: Stage::Listing });
        true
    }

    /// Ends the round, with what the listing found, if there was one; `false` if it is not this gateway's any more.
    pub(super) fn conclude(&mut self, by: &str, number: u64, found: Option<Usage>) -> bool {
        if !self.is_led(by, number) {
            return false;
        }
        if found.is_some() {
            assert!(
                self.round.as_ref().is_some_and(|round| round.stage == Stage::Listing),
                "a count is of a listing that began after the marks"
            );
            self.usage = found;
            for account in self.accounts.values_mut() {
                account.settled = account.settled.max(account.mark.unwrap_or(0));
            }
            // Of the living, totals go on.
            self.accounts.retain(|_, account| !account.gone || account.outstanding() > 0);
        }
        for account in self.accounts.values_mut() {
            account.mark = None;
        }
        self.concluded = number;
        self.handed = 0;
        self.round = None;
        true
    }
}
