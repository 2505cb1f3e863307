//! Which versions of a listing are due: pure. The listing may be long and in pages; of it only the key that it is at is kept.

use coffer_common::time::UnixMillis;
use coffer_common::types::ObjectKey;

use super::rules::Rules;
use crate::object::ListedVersion;

/// What becomes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The current object is deleted as a client would.
    Expire,
    /// A version that is not current is removed.
    RemoveVersion,
    /// A delete marker is removed below which there is nothing.
    RemoveMarker,
}

/// A version that is due.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    /// What becomes of it.
    pub(super) action: Action,
    /// The version.
    pub(super) version: ListedVersion,
}

/// A walk over versions, by key, and of each key the newest first.
pub(super) struct Walk<'a> {
    rules: &'a Rules,
    day_ms: u64,
    at: Option<At>,
}

/// The key that the walk is at.
struct At {
    key: ObjectKey,
    /// When the last version of it was written that was seen: the next one is not current since then.
    written: UnixMillis,
    /// Versions so far that are not current, no delete markers, and stay.
    newer: u32,
    /// Its current version, if that is a delete marker and nothing was seen below it yet.
    marker: Option<ListedVersion>,
}

impl<'a> Walk<'a> {
    /// Begins. A day is shorter in tests.
    pub(super) fn new(rules: &'a Rules, day_ms: u64) -> Self {
        Self { rules, day_ms, at: None }
    }

    /// Looks at the next version; adds what is due by now.
    pub(super) fn look(&mut self, version: ListedVersion, now: UnixMillis, due: &mut Vec<Due>) {
        if version.latest {
            self.end(now, due);
            self.look_at_current(version, now, due);
        } else {
            self.look_below(version, now, due);
        }
    }

    /// Nothing follows.
    pub(super) fn end(&mut self, now: UnixMillis, due: &mut Vec<Due>) {
        let marker = self.at.take().and_then(|at| at.marker);
        let ended = |marker: &ListedVersion| self.rules.marker_end(marker, self.day_ms);
        due.extend(
            marker
                .filter(|marker| ended(marker).is_some_and(|end| end <= now))
                .map(|version| Due { action: Action::RemoveMarker, version }),
        );
    }

    fn look_at_current(&mut self, version: ListedVersion, now: UnixMillis, due: &mut Vec<Due>) {
        let (key, written) = (version.key.clone(), version.info.last_modified);
        let mut at = At { key, written, newer: 0, marker: None };
        if version.delete_marker {
            at.marker = Some(version);
        } else {
            let expiry = self.rules.expiry(version.key.as_str(), &version.info, self.day_ms);
            if expiry.is_some_and(|(time, _)| time <= now) {
                due.push(Due { action: Action::Expire, version });
            }
        }
        self.at = Some(at);
    }

    fn look_below(&mut self, version: ListedVersion, now: UnixMillis, due: &mut Vec<Due>) {
        let written = version.info.last_modified;
        let Some(at) = self.at.as_mut().filter(|at| at.key == version.key) else {
            // The versions above it went while the listing was read: since when it is not current is not known.
            let key = version.key;
            self.end(now, due);
            self.at = Some(At { key, written, newer: 0, marker: None });
            return;
        };
        at.marker = None;
        let end = self.rules.removal(&version, (at.written, at.newer), self.day_ms);
        at.written = written;
        if end.is_some_and(|end| end <= now) && !is_protected(&version, now) {
            due.push(Due { action: Action::RemoveVersion, version });
        } else if !version.delete_marker {
            at.newer = at.newer.saturating_add(1);
        }
    }
}

/// Whether the object layer would refuse to remove it: it has the last word, this saves asking.
fn is_protected(version: &ListedVersion, now: UnixMillis) -> bool {
    let attributes = &version.info.attributes;
    attributes.legal_hold || attributes.retention.is_some_and(|retention| retention.until > now)
}

#[cfg(test)]
mod tests;
