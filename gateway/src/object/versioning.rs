//! Requests and responses of the object layer about versions and their protection. No S3 word, no HTTP.

use coffer_common::meta::RetentionMode;
use coffer_common::types::{BucketName, ObjectKey};
use serde::{Deserialize, Serialize};

use super::types::{ObjectInfo, VersionId};

/// Whether a bucket keeps versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BucketVersioning {
    /// It never did.
    #[default]
    Never,
    /// It does.
    Enabled,
    /// It did, and still has those of then.
    Suspended,
}

/// How a bucket protects versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLock {
    /// The retention of versions that are written without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultRetention>,
}

/// The retention of versions that are written without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    /// How firmly.
    pub mode: RetentionMode,
    /// How long.
    pub period: RetentionPeriod,
}

/// How long a retention lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetentionPeriod {
    /// Days of 24 hours.
    Days(u32),
    /// Years of 365 days.
    Years(u32),
}

/// Names a version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedVersion {
    /// Where.
    pub bucket: BucketName,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` for the current one.
    pub version: Option<VersionId>,
}

/// Lists versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListVersions {
    /// Where.
    pub bucket: BucketName,
    /// Only keys that begin with this.
    pub prefix: String,
    /// Rolls keys up; empty for none.
    pub delimiter: String,
    /// Only items (keys and rolled-up prefixes) greater than this; empty for all.
    pub after_key: String,
    /// Also versions of that very key that are older than this one.
    pub after_version: Option<VersionId>,
    /// Most items (versions and prefixes together).
    pub limit: u32,
}

/// One version of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersion {
    /// Its key.
    pub key: ObjectKey,
    /// The version.
    pub info: ObjectInfo,
    /// Whether it is the current one.
    pub latest: bool,
    /// Whether it is a delete marker.
    pub delete_marker: bool,
}

/// A page of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionPage {
    /// Versions by key, and of one key the newest first.
    pub versions: Vec<ListedVersion>,
    /// Rolled-up prefixes in order, delimiter included.
    pub prefixes: Vec<String>,
    /// If more follows: the `after_key` and `after_version` of the next page.
    pub next: Option<(String, Option<VersionId>)>,
}
