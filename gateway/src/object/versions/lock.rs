//! Object lock: what a version's retention and legal hold forbid. Pure; the caller tells the time.
//!
//! Source: the Amazon S3 user guide, "Locking objects with Object Lock".

use coffer_common::time::UnixMillis;

use crate::object::bucket::Bucket;
use crate::object::types::{Attributes, DefaultRetention, Retention, RetentionMode, RetentionPeriod};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Why a lock stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockRefused {
    /// The bucket has no object lock.
    #[error("the bucket has no object lock")]
    NoObjectLock,
    /// The version is protected.
    #[error("the version is protected by object lock")]
    Protected,
}

/// The attributes of a new version: with the bucket's default retention, unless they say something else.
///
/// # Errors
/// [`LockRefused::NoObjectLock`] if they ask for protection that the bucket does not give.
pub(in crate::object) fn with_default(
    bucket: &Bucket,
    attributes: Attributes,
    now: UnixMillis,
) -> Result<Attributes, LockRefused> {
    may_protect(bucket, &attributes)?;
    let default = bucket.record.object_lock.as_ref().and_then(|lock| lock.default);
    let by_default = default.map(|default| starting(default, now));
    Ok(Attributes { retention: attributes.retention.or(by_default), ..attributes })
}

/// Whether the bucket gives the protection that is asked for.
///
/// # Errors
/// [`LockRefused::NoObjectLock`].
pub(in crate::object) fn may_protect(bucket: &Bucket, attributes: &Attributes) -> Result<(), LockRefused> {
    let asks = attributes.retention.is_some() || attributes.legal_hold;
    if asks && bucket.record.object_lock.is_none() { Err(LockRefused::NoObjectLock) } else { Ok(()) }
}

fn starting(default: DefaultRetention, now: UnixMillis) -> Retention {
    let days = match default.period {
        RetentionPeriod::Days(days) => u64::from(days),
        RetentionPeriod::Years(years) => u64::from(years) * 365,
    };
    Retention { mode: default.mode, until: UnixMillis(now.0.saturating_add(days * DAY_MS)) }
}

/// Whether a version may be deleted.
///
/// # Errors
/// [`LockRefused::Protected`].
pub(super) fn may_delete(attributes: &Attributes, bypass: bool, now: UnixMillis) -> Result<(), LockRefused> {
    let retained = attributes.retention.is_some_and(|retention| {
        retention.until > now && (retention.mode == RetentionMode::Compliance || !bypass)
    });
    if retained || attributes.legal_hold { Err(LockRefused::Protected) } else { Ok(()) }
}

/// Whether a retention may be put in the place of another: a longer one of the same mode always.
///
/// # Errors
/// [`LockRefused::Protected`].
pub(super) fn may_change(
    old: Option<Retention>,
    new: Option<Retention>,
    bypass: bool,
    now: UnixMillis,
) -> Result<(), LockRefused> {
    let Some(old) = old.filter(|old| old.until > now) else { return Ok(()) };
    let extends = new.is_some_and(|new| new.mode == old.mode && new.until >= old.until);
    let bypasses = old.mode == RetentionMode::Governance && bypass;
    if extends || bypasses { Ok(()) } else { Err(LockRefused::Protected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);

    fn retention(mode: RetentionMode, until: u64) -> Option<Retention> {
        Some(Retention { mode, until: UnixMillis(until) })
    }

    #[test]
    fn what_is_retained_or_held_is_not_deleted() {
        use RetentionMode::{Compliance, Governance};
        for (retention, legal_hold, bypass, allowed) in [
            (None, false, false, true),
            (None, true, true, false),
            (retention(Governance, 1_001), false, false, false),
            (retention(Governance, 1_001), false, true, true),
            (retention(Governance, 1_001), true, true, false),
            (retention(Governance, 1_000), false, false, true),
            (retention(Compliance, 1_001), false, true, false),
            (retention(Compliance, 1_000), false, false, true),
            (retention(Compliance, 1_000), true, false, false),
        ] {
            let attributes = Attributes { retention, legal_hold, ..Attributes::default() };
            assert_eq!(may_delete(&attributes, bypass, NOW).is_ok(), allowed, "{attributes:?} {bypass}");
        }
    }

    #[test]
    fn a_retention_is_only_ever_extended_unless_it_is_bypassed() {
        use RetentionMode::{Compliance, Governance};
        for (old, new, bypass, allowed) in [
            (None, retention(Compliance, 2_000), false, true),
            (retention(Compliance, 1_000), None, false, true),
            (retention(Compliance, 2_000), retention(Compliance, 2_000), false, true),
            (retention(Compliance, 2_000), retention(Compliance, 3_000), false, true),
            (retention(Compliance, 2_000), retention(Compliance, 1_999), true, false),
            (retention(Compliance, 2_000), retention(Governance, 3_000), true, false),
            (retention(Compliance, 2_000), None, true, false),
            (retention(Governance, 2_000), retention(Governance, 3_000), false, true),
            (retention(Governance, 2_000), retention(Governance, 1_500), false, false),
            (retention(Governance, 2_000), retention(Compliance, 3_000), false, false),
            (retention(Governance, 2_000), retention(Compliance, 3_000), true, true),
            (retention(Governance, 2_000), None, true, true),
        ] {
            assert_eq!(may_change(old, new, bypass, NOW).is_ok(), allowed, "{old:?} {new:?} {bypass}");
        }
    }

    #[test]
    fn a_default_begins_with_the_write() {
        let default = |period| starting(DefaultRetention { mode: RetentionMode::Governance, period }, NOW);
        assert_eq!(default(RetentionPeriod::Days(2)).until, UnixMillis(1_000 + 2 * DAY_MS));
        assert_eq!(default(RetentionPeriod::Years(1)).until, UnixMillis(1_000 + 365 * DAY_MS));
    }
}
