use coffer_common::types::{OpId, VersionRef};
use proptest::prelude::*;

use super::*;
use crate::lifecycle::rules::{Filter, Noncurrent, Rule, When};
use crate::object::{Attributes, ObjectInfo, Retention, RetentionMode, VersionId};

/// Days of one millisecond, so that they end at once.
const DAY: u64 = 1;
const NOW: UnixMillis = UnixMillis(1_000);

/// A version that was written `age` days ago.
#[derive(Clone, Copy, Debug)]
struct Made {
    age: u64,
    marker: bool,
    protected: bool,
}

fn data(age: u64) -> Made {
    Made { age, marker: false, protected: false }
}

fn marker(age: u64) -> Made {
    Made { marker: true, ..data(age) }
}

fn locked(age: u64) -> Made {
    Made { protected: true, ..data(age) }
}

/// A key's versions, the newest first.
fn listing(key: &str, versions: &[Made]) -> Vec<ListedVersion> {
    let listed = |(place, made): (usize, &Made)| {
        let op = OpId { session: 1, counter: place as u64 };
        let until = UnixMillis(NOW.0 + 1);
        let retention = made.protected.then_some(Retention { mode: RetentionMode::Governance, until });
        let info = ObjectInfo {
            last_modified: UnixMillis(NOW.0 - made.age),
            attributes: Attributes { retention, ..Attributes::default() },
            versioned: true,
            version: VersionId::Op(VersionRef { ordinal: (versions.len() - place) as u64, op }),
            ..ObjectInfo::empty()
        };
        let key = ObjectKey::new(key.to_owned()).unwrap();
        ListedVersion { key, info, latest: place == 0, delete_marker: made.marker }
    };
    versions.iter().enumerate().map(listed).collect()
}

fn walk(rules: &Rules, versions: Vec<ListedVersion>) -> Vec<Due> {
    let (mut walk, mut due) = (Walk::new(rules, DAY), Vec::new());
    for version in versions {
        walk.look(version, NOW, &mut due);
    }
    walk.end(NOW, &mut due);
    due
}

/// What becomes of which version: their places in `versions`.
fn due(rules: &Rules, versions: &[Made]) -> Vec<(usize, Action)> {
    let listed = listing("k", versions);
    let place = |version: &ListedVersion| listed.iter().position(|listed| listed == version).unwrap();
    walk(rules, listed.clone()).iter().map(|due| (place(&due.version), due.action)).collect()
}

fn rules(rule: Rule) -> Rules {
    Rules(vec![Rule { enabled: true, ..rule }])
}

fn noncurrent(days: u32, newer: u32) -> Rules {
    rules(Rule { noncurrent: Some(Noncurrent { days, newer }), ..Rule::default() })
}

use Action::{Expire, RemoveMarker, RemoveVersion};

#[test]
fn versions_are_removed_by_the_age_of_what_came_after_them() {
    let rules = noncurrent(10, 0);
    assert_eq!(due(&rules, &[data(9), data(500)]), [], "superseded 9 days ago, however old it is");
    assert_eq!(due(&rules, &[data(10), data(500)]), [(1, RemoveVersion)]);
    assert_eq!(due(&rules, &[data(500)]), [], "the current version is none of this rule's");
    assert_eq!(due(&rules, &[marker(11), data(12)]), [(1, RemoveVersion)], "a delete marker supersedes");
    let many = [data(1), data(9), marker(10), data(11), data(12)];
    assert_eq!(due(&rules, &many), [(3, RemoveVersion), (4, RemoveVersion)]);
    assert_eq!(due(&rules, &[data(11), marker(12), data(13)]), [(1, RemoveVersion), (2, RemoveVersion)]);
}

#[test]
fn so_many_versions_stay_whatever_their_age() {
    let rules = noncurrent(1, 2);
    let all = [data(10), data(11), data(12), data(13), data(14)];
    assert_eq!(due(&rules, &all), [(3, RemoveVersion), (4, RemoveVersion)]);
    let markers = [marker(10), data(11), marker(12), data(13), marker(14), data(15)];
    assert_eq!(due(&rules, &markers), [(4, RemoveVersion), (5, RemoveVersion)], "markers are not counted");
}

#[test]
fn what_is_protected_stays_and_counts() {
    assert_eq!(due(&noncurrent(1, 0), &[data(10), locked(11), data(12)]), [(2, RemoveVersion)]);
    assert_eq!(due(&noncurrent(1, 1), &[data(10), locked(11), data(12)]), [(2, RemoveVersion)]);
}

#[test]
fn a_marker_is_removed_only_if_nothing_is_below_it() {
    let at_once = rules(Rule { lone_markers: true, ..Rule::default() });
    assert_eq!(due(&at_once, &[marker(0)]), [(0, RemoveMarker)]);
    assert_eq!(due(&at_once, &[marker(0), marker(1)]), []);
    assert_eq!(due(&at_once, &[marker(0), data(1)]), []);
    assert_eq!(due(&at_once, &[data(500)]), []);
    let by_age = rules(Rule { expiration: Some(When::Days(10)), ..Rule::default() });
    assert_eq!(due(&by_age, &[marker(9)]), []);
    assert_eq!(due(&by_age, &[marker(10)]), [(0, RemoveMarker)]);
    assert_eq!(due(&by_age, &[marker(10), data(500)]), []);
    assert_eq!(due(&by_age, &[data(10), data(500)]), [(0, Expire)], "a current object, and only that");
    let by_date = rules(Rule { expiration: Some(When::At(1)), ..Rule::default() });
    assert_eq!(due(&by_date, &[marker(10)]), []);
    let filter = Filter { smaller_than: Some(100), ..Filter::default() };
    let narrow = rules(Rule { filter, expiration: Some(When::Days(1)), ..Rule::default() });
    assert_eq!(due(&narrow, &[marker(10)]), [], "a marker has no size");
}

#[test]
fn a_version_whose_successor_is_not_known_stays() {
    let rules = noncurrent(1, 0);
    let mut listed = listing("k", &[data(10), data(11), data(12)]);
    listed.remove(0);
    let found = walk(&rules, listed.clone());
    assert_eq!(found.into_iter().map(|due| due.version).collect::<Vec<_>>(), listed[1..]);
}

fn made() -> impl Strategy<Value = Made> {
    (0..40_u64, any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(age, marker, locked)| Made {
        age,
        marker,
        protected: locked && !marker,
    })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let expiration = prop::option::of((1..30_u32).prop_map(When::Days));
    let noncurrent =
        prop::option::of((1..30_u32, 0..4_u32).prop_map(|(days, newer)| Noncurrent { days, newer }));
    let rule = (expiration, any::<bool>(), noncurrent).prop_map(|(expiration, lone_markers, noncurrent)| {
        Rule { enabled: true, expiration, lone_markers, noncurrent, ..Rule::default() }
    });
    prop::collection::vec(rule, 1..3).prop_map(Rules)
}

proptest! {
    #[test]
    fn nothing_goes_that_must_stay(
        keys in prop::collection::vec(prop::collection::vec(made(), 1..8), 1..4),
        rules in any_rules(),
    ) {
        let mut all = Vec::new();
        for (name, mut versions) in keys.into_iter().enumerate() {
            versions.sort_by_key(|made| made.age);
            all.extend(listing(&format!("k{name}"), &versions));
        }
        let due = walk(&rules, all.clone());
        let removed = |version: &ListedVersion| due.iter().any(|due| due.version == *version);
        for Due { action, version } in &due {
            let of_key: Vec<_> = all.iter().filter(|other| other.key == version.key).collect();
            match action {
                Expire => prop_assert!(version.latest && !version.delete_marker),
                RemoveMarker => prop_assert!(version.delete_marker && of_key == [version]),
                RemoveVersion => {
                    prop_assert!(!version.latest && !is_protected(version, NOW));
                    let place = of_key.iter().position(|other| *other == version).unwrap();
                    let superseded = of_key[place - 1].info.last_modified;
                    let stay = of_key[1..place].iter().filter(|v| !v.delete_marker && !removed(v)).count();
                    let by_one = rules.0.iter().filter_map(|rule| rule.noncurrent).any(|rule| {
                        superseded.0 + u64::from(rule.days) <= NOW.0 && stay >= rule.newer as usize
                    });
                    prop_assert!(by_one);
                }
            }
        }
    }

    #[test]
    fn a_walk_after_what_it_said_was_done_has_less_to_say_and_comes_to_rest(
        versions in prop::collection::vec(made(), 1..8),
        rules in any_rules(),
    ) {
        let mut versions = versions;
        versions.sort_by_key(|made| made.age);
        for _ in 0..versions.len() + 2 {
            let found = due(&rules, &versions);
            if found.is_empty() {
                return Ok(());
            }
            for (place, action) in found.into_iter().rev() {
                match action {
                    Expire => versions.insert(0, marker(0)),
                    RemoveVersion | RemoveMarker => { versions.remove(place); }
                }
            }
        }
        prop_assert!(false, "it never comes to rest: {versions:?}");
    }
}
