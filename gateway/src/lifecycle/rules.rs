//! Rules and when they make something due. Pure.
//!
//! Source: "Lifecycle configuration elements" of the Amazon S3 User Guide: days count from the creation, and end at the next
//! midnight UTC.

use std::collections::BTreeMap;

use coffer_common::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::object::{ListedVersion, ObjectInfo};

/// A day.
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The rules of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rules(pub(crate) Vec<Rule>);

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Its name.
    pub(crate) id: String,
    /// Whether it is carried out.
    pub(crate) enabled: bool,
    /// What it is about.
    pub(crate) filter: Filter,
    /// When objects expire.
    pub(crate) expiration: Option<When>,
    /// Whether delete markers below which there is nothing are removed.
    #[serde(default)]
    pub(crate) lone_markers: bool,
    /// When versions expire that are not current any more.
    #[serde(default)]
    pub(crate) noncurrent: Option<Noncurrent>,
    /// When uploads are given up.
    pub(crate) abort_after_days: Option<u32>,
}

/// When an object expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum When {
    /// So many days after it was written.
    Days(u32),
    /// At a time, in milliseconds since the Unix epoch.
    At(u64),
}

/// When a version expires that is not current any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noncurrent {
    /// So many days after the next one was written.
    pub(crate) days: u32,
    /// And only below so many others that are not current, are no delete markers, and stay.
    pub(crate) newer: u32,
}

/// What a rule is about; all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// What the key begins with.
    pub(crate) prefix: String,
    /// Tags that it has.
    pub(crate) tags: BTreeMap<String, String>,
    /// More bytes than these.
    pub(crate) larger_than: Option<u64>,
    /// Fewer bytes than these.
    pub(crate) smaller_than: Option<u64>,
}

impl Filter {
    /// Whether it is about more than keys: never about delete markers then, which have neither tags nor a size.
    pub(crate) fn is_narrow(&self) -> bool {
        !self.tags.is_empty() || self.larger_than.is_some() || self.smaller_than.is_some()
    }

    fn holds_of(&self, listed: &ListedVersion) -> bool {
        self.holds(listed.key.as_str(), &listed.info) && !(listed.delete_marker && self.is_narrow())
    }

    fn holds(&self, key: &str, info: &ObjectInfo) -> bool {
        let tag = |(name, value): (&String, &String)| info.attributes.tags.get(name) == Some(value);
        key.starts_with(&self.prefix)
            && self.tags.iter().all(tag)
            && self.larger_than.is_none_or(|least| info.size > least)
            && self.smaller_than.is_none_or(|most| info.size < most)
    }
}

/// `days` after `from`. Real days end at the next midnight; those that a test makes shorter end at once.
fn after(from: UnixMillis, days: u32, day_ms: u64) -> UnixMillis {
    let end = from.0.saturating_add(u64::from(days).saturating_mul(day_ms));
    UnixMillis(if day_ms == DAY_MS { end.div_ceil(DAY_MS).saturating_mul(DAY_MS) } else { end })
}

impl Rules {
    /// As a bucket's record keeps it.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// The inverse of [`Self::encode`].
    pub(crate) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn enabled(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().filter(|rule| rule.enabled)
    }

    /// When an object expires first, and by which rule.
    pub(crate) fn expiry(&self, key: &str, info: &ObjectInfo, day_ms: u64) -> Option<(UnixMillis, &str)> {
        let of = |rule: &Rule| match rule.expiration? {
            When::Days(days) => Some(after(info.last_modified, days, day_ms)),
            When::At(time) => Some(UnixMillis(time)),
        };
        let matching = self.enabled().filter(|rule| rule.filter.holds(key, info));
        matching.filter_map(|rule| Some((of(rule)?, rule.id.as_str()))).min()
    }

    /// When a version is removed that is not current since `superseded`, and has `newer` above it that stay.
    pub(super) fn removal(
        &self,
        listed: &ListedVersion,
        (superseded, newer): (UnixMillis, u32),
        day_ms: u64,
    ) -> Option<UnixMillis> {
        let matching = self.enabled().filter(|rule| rule.filter.holds_of(listed));
        let rules = matching.filter_map(|rule| rule.noncurrent).filter(|rule| newer >= rule.newer);
        rules.map(|rule| after(superseded, rule.days, day_ms)).min()
    }

    /// When a delete marker is removed below which there is nothing: at once, or when an object of its age would expire.
    pub(super) fn marker_end(&self, marker: &ListedVersion, day_ms: u64) -> Option<UnixMillis> {
        let of = |rule: &Rule| match (rule.lone_markers, rule.expiration) {
            (true, _) => Some(UnixMillis(0)),
            (false, Some(When::Days(days))) => Some(after(marker.info.last_modified, days, day_ms)),
            (false, Some(When::At(_)) | None) => None,
        };
        self.enabled().filter(|rule| rule.filter.holds_of(marker)).filter_map(of).min()
    }

    /// When an upload is given up, and by which rule.
    pub(crate) fn upload_end(
        &self,
        key: &str,
        initiated: UnixMillis,
        day_ms: u64,
    ) -> Option<(UnixMillis, &str)> {
        let matching = self.enabled().filter(|rule| key.starts_with(&rule.filter.prefix));
        let ends = matching
            .filter_map(|rule| Some((after(initiated, rule.abort_after_days?, day_ms), rule.id.as_str())));
        ends.min()
    }

    /// Prefixes that hold everything that rules about objects and their versions are about, none below another.
    pub(crate) fn object_prefixes(&self) -> Vec<&str> {
        let about_objects =
            |rule: &&Rule| rule.expiration.is_some() || rule.lone_markers || rule.noncurrent.is_some();
        outermost(self.enabled().filter(about_objects))
    }

    /// The same of uploads.
    pub(crate) fn upload_prefixes(&self) -> Vec<&str> {
        outermost(self.enabled().filter(|rule| rule.abort_after_days.is_some()))
    }
}

fn outermost<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<&'a str> {
    let mut prefixes: Vec<&str> = rules.map(|rule| rule.filter.prefix.as_str()).collect();
    prefixes.sort_unstable();
    // In order, what lies below a prefix follows it.
    prefixes.dedup_by(|next, kept| next.starts_with(*kept));
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Attributes;

    fn object(size: u64, written_ms: u64, tags: &[(&str, &str)]) -> ObjectInfo {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let attributes = Attributes { tags, ..Attributes::default() };
        ObjectInfo { size, last_modified: UnixMillis(written_ms), attributes, ..ObjectInfo::empty() }
    }

    fn rule(id: &str, prefix: &str, expiration: Option<When>) -> Rule {
        let filter = Filter { prefix: prefix.to_owned(), ..Filter::default() };
        Rule { id: id.to_owned(), enabled: true, filter, expiration, ..Rule::default() }
    }

    #[test]
    fn days_end_at_midnight_and_the_earliest_rule_wins() {
        let rules = Rules(vec![
            rule("long", "", Some(When::Days(10))),
            rule("short", "a/", Some(When::Days(1))),
            Rule { enabled: false, ..rule("off", "", Some(When::Days(0))) },
            rule("date", "b/", Some(When::At(7))),
        ]);
        let of = |key, written| rules.expiry(key, &object(1, written, &[]), DAY_MS);
        assert_eq!(of("a/k", 1), Some((UnixMillis(2 * DAY_MS), "short")));
        assert_eq!(of("a/k", DAY_MS), Some((UnixMillis(2 * DAY_MS), "short")));
        assert_eq!(of("x", 1), Some((UnixMillis(11 * DAY_MS), "long")));
        assert_eq!(of("b/k", DAY_MS), Some((UnixMillis(7), "date")));
        assert_eq!(rules.expiry("a/k", &object(1, 5, &[]), 10_000), Some((UnixMillis(10_005), "short")));
        assert_eq!(Rules::decode(&rules.encode()), Some(rules));
    }

    #[test]
    fn filters_must_hold_in_all_they_say() {
        let mut only = rule("r", "a", Some(When::Days(1)));
        only.filter.tags = [("t".to_owned(), "1".to_owned())].into();
        (only.filter.larger_than, only.filter.smaller_than) = (Some(10), Some(20));
        let rules = Rules(vec![only]);
        let due =
            |key, size, tags: &[(&str, &str)]| rules.expiry(key, &object(size, 0, tags), DAY_MS).is_some();
        assert!(due("a", 11, &[("t", "1"), ("u", "2")]));
        assert!(!due("b", 11, &[("t", "1")]) && !due("a", 10, &[("t", "1")]) && !due("a", 20, &[("t", "1")]));
        assert!(!due("a", 11, &[("t", "2")]) && !due("a", 11, &[]));
    }

    #[test]
    fn uploads_are_given_up_by_their_own_rules() {
        let abort = Rule { abort_after_days: Some(2), ..rule("r", "up/", None) };
        let rules = Rules(vec![abort, rule("s", "up/x", Some(When::Days(1)))]);
        assert_eq!(rules.upload_end("up/k", UnixMillis(1), DAY_MS), Some((UnixMillis(3 * DAY_MS), "r")));
        assert_eq!(rules.upload_end("k", UnixMillis(1), DAY_MS), None);
        assert_eq!((rules.upload_prefixes(), rules.object_prefixes()), (vec!["up/"], vec!["up/x"]));
        let many =
            Rules(["b", "a/1", "a/", "b2", "a/"].map(|prefix| rule("", prefix, Some(When::Days(1)))).into());
        assert_eq!(many.object_prefixes(), ["a/", "b"]);
    }
}
