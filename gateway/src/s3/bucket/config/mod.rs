//! The configurations of a bucket: its sub-resources.
//!
//! Owns: which there are, how they are read, written and removed. Never: carries one out; [`super::super::settings`] reads
//! them for those who do. What Coffer would not carry out is refused when it is written, after it was checked: a rule
//! that is accepted and not carried out is a lie.
//!
//! They lie as texts in the bucket's record and change by compare-and-swap (`ObjectStore::configure_bucket`).

pub(crate) mod acl;
mod encryption;
mod fixed;
mod lifecycle;
mod notification;
mod object_lock;
mod ownership;
mod policy;
mod public_access;
mod simple;
mod versioning;

use coffer_common::random;
use http::StatusCode;

use super::super::error::{Code, S3Error};
use super::super::operation::{BucketConfig, ConfigVerb};
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::settings::names;
use super::super::xml::{DECLARATION, Element, NAMESPACE};
use crate::object::{Documents, ObjectStore};

/// Longest CORS configuration, in bytes (S3).
const MAX_CORS_BYTES: usize = 64 * 1024;

/// What all configurations of a bucket may have together, in bytes as its record has them: a thousand lifecycle rules take half of
/// it. A request to etcd may have 1.5 MiB.
const MAX_BYTES: usize = 1024 * 1024;

/// What handlers of configurations work with.
struct Context<'a> {
    store: &'a ObjectStore,
    request: S3Request,
    verb: ConfigVerb,
}

/// Serves a configuration.
///
/// # Errors
/// What is wrong with the document, that there is none, or that Coffer does not do what it says.
pub(crate) async fn serve(
    store: &ObjectStore,
    (verb, config): (ConfigVerb, BucketConfig),
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let context = Context { store, request, verb };
    match config {
        BucketConfig::Acl => acl::serve(context).await,
        BucketConfig::Cors => simple::cors(context).await,
        BucketConfig::Tagging => simple::tagging(context).await,
        BucketConfig::Policy => policy::serve(context).await,
        BucketConfig::PolicyStatus => policy::status(&context),
        BucketConfig::PublicAccess => public_access::serve(context).await,
        BucketConfig::Ownership => ownership::serve(context).await,
        BucketConfig::Lifecycle => lifecycle::serve(context).await,
        BucketConfig::Accelerate => fixed::accelerate(context).await,
        BucketConfig::Encryption => encryption::serve(context).await,
        BucketConfig::Logging => fixed::logging(context).await,
        BucketConfig::Notification => notification::serve(context).await,
        BucketConfig::ObjectLock => object_lock::serve(context).await,
        BucketConfig::Replication => fixed::absent(&context, Code::ReplicationConfigurationNotFoundError),
        BucketConfig::RequestPayment => fixed::request_payment(context).await,
        BucketConfig::Versioning => versioning::serve(context).await,
        BucketConfig::Website => fixed::absent(&context, Code::NoSuchWebsiteConfiguration),
    }
}

impl Context<'_> {
    /// The text of this name.
    ///
    /// # Errors
    /// `absent` if there is none.
    fn text(&self, name: &str, absent: Code) -> Result<&str, S3Error> {
        let bucket = self.request.access()?.bucket();
        let none = || S3Error::new(absent).detail("BucketName", bucket.name.as_str());
        bucket.documents.get(name).ok_or_else(none)
    }

    /// Replaces the text of this name, or removes it.
    async fn set(&self, name: &str, text: Option<&str>) -> Result<(), S3Error> {
        self.set_all(&[(name, text.map(str::to_owned))]).await
    }

    /// Replaces or removes several texts at once.
    async fn set_all(&self, texts: &[(&str, Option<String>)]) -> Result<(), S3Error> {
        let bucket = self.request.access()?.bucket();
        let change = |documents: &mut Documents| {
            for (name, text) in texts {
                match text {
                    Some(text) => documents.set(name, text.as_str()),
                    None => documents.remove(name),
                }
            }
        };
        if texts.iter().any(|(_, text)| text.is_some()) {
            let mut changed = bucket.documents.clone();
            change(&mut changed);
            check_size(&bucket.documents, &changed)?;
        }
        self.store.configure_bucket(bucket, &change).await?;
        Ok(())
    }

    /// Removes the text of this name; one that is not there is removed, too.
    async fn remove(&self, name: &str) -> Result<S3Response, S3Error> {
        self.set(name, None).await?;
        Ok(response::empty(StatusCode::NO_CONTENT))
    }
}

/// Refuses what is too long to be kept: every gateway keeps the record, and etcd takes no longer one. What was that long before the
/// change may get shorter, and is no reason to refuse another configuration.
fn check_size(before: &Documents, changed: &Documents) -> Result<(), S3Error> {
    let too_long = |what: &str, bytes: usize, limit: usize| {
        let message = format!("{what} would have {bytes} bytes, and may have {limit}.");
        Err(S3Error::with(Code::MaxMessageLengthExceeded, message))
    };
    let cors_of = |documents: &Documents| documents.get(names::CORS).map_or(0, str::len);
    let cors = cors_of(changed);
    if cors > MAX_CORS_BYTES && cors > cors_of(before) {
        return too_long("The CORS configuration", cors, MAX_CORS_BYTES);
    }
    let all = changed.encoded_bytes();
    if all > MAX_BYTES && all > before.encoded_bytes() {
        return too_long("All configurations of the bucket together", all, MAX_BYTES);
    }
    Ok(())
}

/// The name of a rule, the text of its `tag`; one that has none is given one.
fn id_of(rule: &mut Element, tag: &str) -> String {
    if let Some(id) = rule.text_of(tag).filter(|id| !id.is_empty()) {
        return id.to_owned();
    }
    rule.children.retain(|child| child.name != tag);
    let id = format!("{:032x}", random::random::<u128>());
    rule.children.insert(0, Element { name: tag.to_owned(), text: id.clone(), ..Element::default() });
    id
}

/// An element without content.
fn empty_document(root: &str) -> S3Response {
    response::xml(StatusCode::OK, format!("{DECLARATION}<{root} xmlns=\"{NAMESPACE}\"></{root}>"))
}
