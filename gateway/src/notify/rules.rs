//! Which changes have events, and for which targets: pure.
//!
//! Source: "Amazon S3 Event Notifications" of the Amazon S3 User Guide.

use serde::{Deserialize, Serialize};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It was written by PutObject.
    CreatedByPut,
    /// It was written by a form.
    CreatedByPost,
    /// It was written by CopyObject.
    CreatedByCopy,
    /// It was written by CompleteMultipartUpload.
    CreatedByUpload,
    /// It, or a version of it, was removed.
    Removed,
    /// A delete marker was put on top of it.
    Marked,
    /// Its tags were replaced.
    Tagged,
    /// Its tags were removed.
    Untagged,
    /// Its access control list was replaced.
    AclPut,
    /// It, or a version of it, was removed by a lifecycle rule.
    Expired,
    /// A delete marker was put on top of it by a lifecycle rule.
    ExpiredByMarker,
}

impl Kind {
    /// All there are.
    pub(crate) const ALL: [Self; 11] = [
        Self::CreatedByPut,
        Self::CreatedByPost,
        Self::CreatedByCopy,
        Self::CreatedByUpload,
        Self::Removed,
        Self::Marked,
        Self::Tagged,
        Self::Untagged,
        Self::AclPut,
        Self::Expired,
        Self::ExpiredByMarker,
    ];

    /// Its name in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CreatedByPut => "ObjectCreated:Put",
            Self::CreatedByPost => "ObjectCreated:Post",
            Self::CreatedByCopy => "ObjectCreated:Copy",
            Self::CreatedByUpload => "ObjectCreated:CompleteMultipartUpload",
            Self::Removed => "ObjectRemoved:Delete",
            Self::Marked => "ObjectRemoved:DeleteMarkerCreated",
            Self::Tagged => "ObjectTagging:Put",
            Self::Untagged => "ObjectTagging:Delete",
            Self::AclPut => "ObjectAcl:Put",
            Self::Expired => "LifecycleExpiration:Delete",
            Self::ExpiredByMarker => "LifecycleExpiration:DeleteMarkerCreated",
        }
    }

    /// The version of the form of its records.
    pub(super) fn record_version(self) -> &'static str {
        match self {
            Self::CreatedByPut
            | Self::CreatedByPost
            | Self::CreatedByCopy
            | Self::CreatedByUpload
            | Self::Removed
            | Self::Marked => "2.1",
            Self::Tagged | Self::Untagged | Self::AclPut | Self::Expired | Self::ExpiredByMarker => "2.3",
        }
    }

    /// Whether a pattern such as `s3:ObjectCreated:*` means it.
    fn is_meant_by(self, pattern: &str) -> bool {
        let pattern = pattern.strip_prefix("s3:").unwrap_or(pattern);
        match pattern.strip_suffix(":*") {
            Some(family) => self.name().split_once(':').is_some_and(|(own, _)| own == family),
            None => self.name() == pattern,
        }
    }
}

/// What is known of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It means some kinds.
    Some,
    /// S3 has it, and what it means never happens here.
    Never,
    /// Nobody knows it.
    Unknown,
}

/// Events of S3 that never happen here.
const NEVER: [&str; 5] = [
    "s3:ReducedRedundancyLostObject",
    "s3:ObjectRestore:",
    "s3:Replication:",
    "s3:LifecycleTransition",
    "s3:IntelligentTiering",
];

/// What is known of a pattern such as `s3:ObjectCreated:*`.
pub(crate) fn known(pattern: &str) -> Known {
    if pattern.starts_with("s3:") && Kind::ALL.into_iter().any(|kind| kind.is_meant_by(pattern)) {
        Known::Some
    } else if NEVER.iter().any(|never| pattern.starts_with(never)) {
        Known::Never
    } else {
        Known::Unknown
    }
}

/// The rules of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rules(pub(crate) Vec<Rule>);

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Its name.
    pub(crate) id: String,
    /// The target.
    pub(crate) target: String,
    /// Patterns of events.
    pub(crate) events: Vec<String>,
    /// What the key begins with.
    pub(crate) prefix: String,
    /// What it ends with.
    pub(crate) suffix: String,
}

impl Rule {
    fn means(&self, kind: Kind) -> bool {
        self.events.iter().any(|pattern| kind.is_meant_by(pattern))
    }

    /// Whether one event of one key could be both rules'.
    fn overlaps(&self, other: &Self) -> bool {
        let prefixes = self.prefix.starts_with(&other.prefix) || other.prefix.starts_with(&self.prefix);
        let suffixes = self.suffix.ends_with(&other.suffix) || other.suffix.ends_with(&self.suffix);
        prefixes && suffixes && Kind::ALL.into_iter().any(|kind| self.means(kind) && other.means(kind))
    }
}

impl Rules {
    /// As a bucket's record keeps it.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("texts are JSON")
    }

    /// The inverse of [`Self::encode`].
    pub(crate) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The rules that ask for an event.
    pub(crate) fn of(&self, kind: Kind, key: &str) -> impl Iterator<Item = &Rule> {
        self.0.iter().filter(move |rule| {
            rule.means(kind) && key.starts_with(&rule.prefix) && key.ends_with(&rule.suffix)
        })
    }

    /// Two rules that ask for the same event, which S3 refuses.
    pub(crate) fn overlapping(&self) -> Option<(&Rule, &Rule)> {
        let mut pairs = self
            .0
            .iter()
            .enumerate()
            .flat_map(|(at, rule)| self.0[at + 1..].iter().map(move |other| (rule, other)));
        pairs.find(|(rule, other)| rule.overlaps(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(events: &[&str], prefix: &str, suffix: &str) -> Rule {
        let events = events.iter().map(|event| (*event).to_owned()).collect();
        let (prefix, suffix) = (prefix.to_owned(), suffix.to_owned());
        Rule { id: "r".to_owned(), target: "t".to_owned(), events, prefix, suffix }
    }

    #[test]
    fn patterns_mean_one_kind_or_a_family() {
        let meant = |pattern: &str| Kind::ALL.into_iter().filter(|kind| kind.is_meant_by(pattern)).count();
        for (pattern, count, expected) in [
            ("s3:ObjectCreated:*", 4, Known::Some),
            ("s3:ObjectCreated:Put", 1, Known::Some),
            ("s3:ObjectRemoved:*", 2, Known::Some),
            ("s3:LifecycleExpiration:*", 2, Known::Some),
            ("s3:ObjectTagging:Delete", 1, Known::Some),
            ("s3:ObjectAcl:Put", 1, Known::Some),
            ("s3:ObjectRestore:Post", 0, Known::Never),
            ("s3:Replication:*", 0, Known::Never),
            ("s3:ObjectCreated", 0, Known::Unknown),
            ("s3:*", 0, Known::Unknown),
            ("s3:ObjectCreated:put", 0, Known::Unknown),
            ("", 0, Known::Unknown),
        ] {
            assert_eq!((meant(pattern), known(pattern)), (count, expected), "{pattern}");
        }
    }

    #[test]
    fn rules_ask_by_kind_prefix_and_suffix() {
        let rules = Rules(vec![
            rule(&["s3:ObjectCreated:*"], "a/", ".jpg"),
            rule(&["s3:ObjectRemoved:Delete"], "", ""),
        ]);
        let count = |kind, key| rules.of(kind, key).count();
        assert_eq!(count(Kind::CreatedByCopy, "a/b.jpg"), 1);
        assert_eq!(count(Kind::CreatedByCopy, "a/b.png") + count(Kind::CreatedByCopy, "b.jpg"), 0);
        assert_eq!((count(Kind::Removed, "x"), count(Kind::Marked, "x")), (1, 0));
        assert_eq!(Rules::decode(&rules.encode()), Some(rules));
    }

    #[test]
    fn rules_that_ask_for_the_same_overlap() {
        let overlap = |a: Rule, b: Rule| Rules(vec![a, b]).overlapping().is_some();
        let put = "s3:ObjectCreated:Put";
        let all = "s3:ObjectCreated:*";
        assert!(overlap(rule(&[put], "", ""), rule(&[all], "", "")));
        assert!(overlap(rule(&[put], "a", ""), rule(&[put], "a/b", "")));
        assert!(overlap(rule(&[put], "a", ""), rule(&[put], "", ".jpg")));
        assert!(!overlap(rule(&[put], "a", ""), rule(&[put], "b", "")));
        assert!(!overlap(rule(&[put], "a", ".png"), rule(&[put], "a", ".jpg")));
        assert!(!overlap(rule(&[put], "", ""), rule(&["s3:ObjectCreated:Copy"], "", "")));
    }
}
