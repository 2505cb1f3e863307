//! A bucket's configuration as the edge reads it: from the texts in the bucket's record to what requests are judged by.
//!
//! Owns: the names of the texts, and a cache of what they mean, by the record's revision. Never: changes one (see
//! [`super::bucket::config`]). A text that cannot be read, because a later version wrote it, fails the request: to go on
//! without it could grant what it denies.

use std::sync::Arc;

use coffer_common::time::UnixMillis;
use coffer_common::types::BucketId;
use moka::future::Cache;

use super::acl::{self, Ownership};
use super::cors::Cors;
use super::encryption::DefaultEncryption;
use super::error::{Code, S3Error};
use super::response::http_date;
use super::xml::Element;
use crate::lifecycle::{self, Rules};
use crate::notify;
use crate::object::{Access, BucketInfo, Documents, ObjectInfo};
use crate::policy::{Policy, Scope};

/// Configurations of so many buckets are kept as they were read last.
const CACHED: u64 = 10_000;

/// Names of the texts.
pub(crate) mod names {
    pub(crate) const ACL: &str = "acl";
    pub(crate) const CORS: &str = "cors";
    pub(crate) const ENCRYPTION: &str = "encryption";
    pub(crate) const LIFECYCLE: &str = "lifecycle";
    pub(crate) const NOTIFICATION: &str = "notification";
    pub(crate) const OWNERSHIP: &str = "ownership";
    pub(crate) const POLICY: &str = "policy";
    pub(crate) const PUBLIC_ACCESS: &str = "public-access-block";
    pub(crate) const TAGGING: &str = "tagging";
}

/// The text of [`names::OWNERSHIP`] after the controls were removed: the writer owns. A bucket without any text is its
/// owner's, with all that is in it.
pub(crate) const OWNERSHIP_REMOVED: &str = "none";

/// What public access is kept out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the four switches that S3 has")]
pub(crate) struct PublicAccess {
    /// Public lists are refused.
    pub(crate) block_acls: bool,
    /// Public lists do not count.
    pub(crate) ignore_acls: bool,
    /// Public policies are refused.
    pub(crate) block_policy: bool,
    /// A public policy allows nothing to others than the owner.
    pub(crate) restrict: bool,
}

impl PublicAccess {
    /// Reads `<PublicAccessBlockConfiguration>`.
    ///
    /// # Errors
    /// `MalformedXML`.
    pub(crate) fn parse(document: &Element) -> Result<Self, S3Error> {
        let switch = |name: &str| match document.text_of(name).map(str::trim) {
            None => Ok(false),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(super::xml::malformed()),
        };
        Ok(Self {
            block_acls: switch("BlockPublicAcls")?,
            ignore_acls: switch("IgnorePublicAcls")?,
            block_policy: switch("BlockPublicPolicy")?,
            restrict: switch("RestrictPublicBuckets")?,
        })
    }
}

/// What a bucket is configured to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BucketSettings {
    /// Its policy.
    pub(crate) policy: Option<Policy>,
    /// Whether the policy is public.
    pub(crate) policy_is_public: bool,
    /// Its access control list.
    pub(crate) access: Access,
    /// Who owns what others write.
    pub(crate) ownership: Ownership,
    /// What public access is kept out.
    pub(crate) public_access: PublicAccess,
    /// What browsers of other origins may do.
    pub(crate) cors: Option<Cors>,
    /// How what comes without headers of encryption is encrypted.
    pub(crate) encryption: Option<DefaultEncryption>,
    /// What expires.
    pub(crate) lifecycle: Option<Rules>,
    /// Which events go where.
    pub(crate) notifications: Option<notify::Rules>,
}

impl BucketSettings {
    /// Reads the texts.
    fn parse(bucket: &str, documents: &Documents) -> Result<Self, S3Error> {
        let unreadable = |name: &'static str| {
            tracing::error!(bucket, name, "a bucket's configuration cannot be read");
            S3Error::new(Code::InternalError)
        };
        let mut settings = Self::default();
        if let Some(text) = documents.get(names::POLICY) {
            let policy = Policy::parse(text, Scope::Bucket(bucket)).map_err(|_| unreadable(names::POLICY))?;
            settings.policy_is_public = crate::policy::is_public(&policy);
            settings.policy = Some(policy);
        }
        if let Some(name) = documents.get(names::ACL) {
            settings.access = acl::from_name(name).ok_or_else(|| unreadable(names::ACL))?;
        }
        if let Some(name) = documents.get(names::OWNERSHIP) {
            settings.ownership = match name {
                OWNERSHIP_REMOVED => Ownership::ObjectWriter,
                _ => Ownership::from_name(name).ok_or_else(|| unreadable(names::OWNERSHIP))?,
            };
        }
        if let Some(text) = documents.get(names::PUBLIC_ACCESS) {
            let document = Element::parse(text.as_bytes(), "PublicAccessBlockConfiguration");
            let read = document.and_then(|document| PublicAccess::parse(&document));
            settings.public_access = read.map_err(|_| unreadable(names::PUBLIC_ACCESS))?;
        }
        if let Some(text) = documents.get(names::CORS) {
            settings.cors = Some(Cors::parse(text.as_bytes()).map_err(|_| unreadable(names::CORS))?);
        }
        if let Some(text) = documents.get(names::ENCRYPTION) {
            let default = DefaultEncryption::parse(text.as_bytes());
            settings.encryption = Some(default.map_err(|_| unreadable(names::ENCRYPTION))?);
        }
        if let Some(text) = documents.get(lifecycle::DOCUMENT) {
            settings.lifecycle = Some(Rules::decode(text).ok_or_else(|| unreadable(names::LIFECYCLE))?);
        }
        if let Some(text) = documents.get(notify::DOCUMENT) {
            let rules = notify::Rules::decode(text).ok_or_else(|| unreadable(names::NOTIFICATION))?;
            settings.notifications = Some(rules);
        }
        Ok(settings)
    }

    /// The value of `x-amz-expiration`, if the object will expire. Rules for objects are about current versions only.
    pub(crate) fn expiration_header(&self, key: &str, info: &ObjectInfo) -> Option<String> {
        if info.archived {
            return None;
        }
        let (time, rule) = self.lifecycle.as_ref()?.expiry(key, info, lifecycle::DAY_MS)?;
        Some(format!("expiry-date=\"{}\", rule-id=\"{}\"", http_date(time), printable(rule)))
    }

    /// The values of `x-amz-abort-date` and `x-amz-abort-rule-id`, if an upload that was begun then will be given up.
    pub(crate) fn abort_headers(&self, key: &str, initiated: UnixMillis) -> Option<(String, String)> {
        let (time, rule) = self.lifecycle.as_ref()?.upload_end(key, initiated, lifecycle::DAY_MS)?;
        Some((http_date(time), printable(rule)))
    }

    /// The bucket's list, where lists count at all.
    pub(crate) fn effective_access(&self, access: Access) -> Access {
        let ignored = !self.ownership.has_acls() || self.public_access.ignore_acls && acl::is_public(access);
        if ignored { Access::Private } else { access }
    }
}

/// A rule's name as a header can carry it.
fn printable(rule: &str) -> String {
    percent_encoding::utf8_percent_encode(rule, percent_encoding::CONTROLS).to_string()
}

/// The settings of buckets, by record.
#[derive(Clone)]
pub(crate) struct SettingsCache {
    cache: Cache<(BucketId, u64), Arc<BucketSettings>>,
    plain: Arc<BucketSettings>,
}

impl SettingsCache {
    /// An empty cache.
    pub(crate) fn new() -> Self {
        Self { cache: Cache::new(CACHED), plain: Arc::default() }
    }

    /// What the bucket's record says.
    ///
    /// # Errors
    /// `InternalError` if it cannot be read.
    pub(crate) async fn of(&self, bucket: &BucketInfo) -> Result<Arc<BucketSettings>, S3Error> {
        if bucket.documents.is_empty() {
            return Ok(Arc::clone(&self.plain));
        }
        let key = (bucket.id, bucket.revision);
        if let Some(known) = self.cache.get(&key).await {
            return Ok(known);
        }
        let settings = Arc::new(BucketSettings::parse(bucket.name.as_str(), &bucket.documents)?);
        self.cache.insert(key, Arc::clone(&settings)).await;
        Ok(settings)
    }
}
