//! What a caller may do: the one point that every request passes before its handler.
//!
//! Owns: the caller, which actions an operation needs, what is known of a request for policies, and the verdict. Never:
//! proves who the caller is ([`super::auth`]), or knows the language of policies ([`crate::policy`]).
//!
//! 1. The bucket's policy is asked; an explicit deny ends it, for everybody but root and the owner when they look after the
//!    policy itself.
//! 2. Root and the bucket's owner may do everything else.
//! 3. Others may do what the policy allows, unless the bucket's public access block keeps a public policy out.
//! 4. And what the bucket's list, or the object's own, grants, where lists count. Whoever owns an object may read and
//!    change it.
//! 5. Who has begun an upload may list its parts and abort it.
//! 6. Else `AccessDenied`.
//!
//! An access control list that goes with a new object is an action of its own, which a policy may deny. It need not be allowed,
//! as it must with AWS: whoever may write an object may say who else reads it.
//!
//! Whoever may not list a bucket is not told which objects it lacks: for them "no such key" is "denied". What was judged by
//! an object, its owner, list or tags, is judged once more by the one that is read ([`Access::confirm`]): it may have been
//! written since.

mod actions;
mod facts;
mod verdict;

use std::sync::Arc;

use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey};

use super::attributes::parse_version;
use super::error::{Code, S3Error};
use super::multipart::upload_ref;
use super::operation::{BucketOperation, Operation};
use super::request::S3Request;
use super::settings::{BucketSettings, SettingsCache};
use crate::object::{
    BucketInfo, GetError, GetObject, ObjectInfo, ObjectStore, Owner, ReadCondition, Select, Unlock,
    UploadError,
};
use crate::policy::{Decision, Facts, Principal};
use crate::users::{Identity, root_owner};

use actions::Need;
pub(crate) use actions::{Action, of_list, of_write};
use facts::Head;
use verdict::{Asked, Verdict, decision, verdict};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The gateway's own key pair.
    Root,
    /// A user.
    User(Owner),
    /// Nobody has signed.
    Anonymous,
}

impl From<Identity> for Caller {
    fn from(identity: Identity) -> Self {
        match identity {
            Identity::Root => Self::Root,
            Identity::User(owner) => Self::User(owner),
        }
    }
}

impl Caller {
    /// Who owns what this caller creates: nobody has an owner of their own, too.
    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::Root => root_owner(),
            Self::User(owner) => owner.clone(),
            Self::Anonymous => {
                // S3's own, of anonymous uploads.
                let id = "65a011a29cdf8ec533ec3d1ccaae921c";
                Owner { id: id.to_owned(), display_name: "anonymous".to_owned() }
            }
        }
    }

    fn principal(&self) -> Option<Principal> {
        match self {
            Self::Anonymous => None,
            Self::Root | Self::User(_) => {
                let owner = self.owner();
                Some(Principal { id: owner.id, name: owner.display_name })
            }
        }
    }
}

/// A caller in front of a bucket.
#[derive(Clone)]
pub(crate) struct Access {
    cache: SettingsCache,
    caller: Caller,
    bucket: Arc<BucketInfo>,
    settings: Arc<BucketSettings>,
    /// Empty if there is no policy.
    facts: Arc<Facts>,
    /// What was demanded, and judged by the object as it was then.
    by_object: Vec<Action>,
}

impl Access {
    /// Looks the bucket up, and gathers what a policy may ask for. Without an operation the source of a copy is read.
    ///
    /// # Errors
    /// `NoSuchBucket` or 503.
    pub(crate) async fn open(
        (store, cache): (&ObjectStore, &SettingsCache),
        bucket: &BucketName,
        request: &S3Request,
        operation: Option<&Operation>,
    ) -> Result<Self, S3Error> {
        let bucket = Arc::new(store.head_bucket(bucket).await?);
        let settings = cache.of(&bucket).await?;
        let head = || Head {
            caller: request.caller(),
            peer: request.peer(),
            verified: request.verified(),
            headers: &request.headers,
            query: &request.query,
            bucket: &bucket,
            operation,
            now: UnixMillis::now(),
        };
        let facts = settings.policy.as_ref().map(|_| facts::of_head(&head())).unwrap_or_default();
        let (cache, caller) = (cache.clone(), request.caller().clone());
        Ok(Self { cache, caller, bucket, settings, facts: Arc::new(facts), by_object: Vec::new() })
    }

    /// The same caller in front of another bucket: that of a copy's source.
    ///
    /// # Errors
    /// `NoSuchBucket`, `AccessDenied` if it is not of the owner that the request expects, or 503.
    pub(crate) async fn of_source(
        &self,
        store: &ObjectStore,
        bucket: &BucketName,
        request: &S3Request,
    ) -> Result<Self, S3Error> {
        let source = Self::open((store, &self.cache), bucket, request, None).await?;
        source.check_owner(request.text("x-amz-source-expected-bucket-owner"))?;
        Ok(source)
    }

    /// The caller that a form's policy has proven, in front of the same bucket; the request has the form's fields now.
    ///
    /// # Errors
    /// `NoSuchBucket` or 503.
    pub(crate) async fn of_form(
        &self,
        store: &ObjectStore,
        bucket: &BucketName,
        request: &S3Request,
    ) -> Result<Self, S3Error> {
        let operation = Operation::Bucket(bucket.clone(), BucketOperation::PostObject);
        Self::open((store, &self.cache), bucket, request, Some(&operation)).await
    }

    /// Gathers what the body tells, if the policy asks for it.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub(crate) async fn read_body(
        &mut self,
        operation: &Operation,
        request: &mut S3Request,
    ) -> Result<(), S3Error> {
        if facts::in_body(operation).is_some_and(|keys| self.is_asked_for(keys)) {
            let body = request.peek_xml_body().await?;
            facts::of_body(Arc::make_mut(&mut self.facts), operation, &body, UnixMillis::now())?;
        }
        Ok(())
    }

    /// The same caller, asking about a version that the request names elsewhere than in its query.
    pub(crate) fn about_version(&self, version: Option<&str>) -> Self {
        let mut this = self.clone();
        if version.is_some() && self.is_asked_for("s3:VersionId") {
            facts::of_version(Arc::make_mut(&mut this.facts), version);
        }
        this
    }

    /// Whether the policy asks for a key that begins with this.
    fn is_asked_for(&self, keys: &str) -> bool {
        self.settings.policy.as_ref().is_some_and(|policy| policy.asks_for(keys))
    }

    /// The bucket as it was looked up.
    pub(crate) fn bucket(&self) -> &BucketInfo {
        &self.bucket
    }

    /// What the bucket is configured to.
    pub(crate) fn settings(&self) -> &BucketSettings {
        &self.settings
    }

    /// Refuses a request that is meant for a bucket of somebody else; `expected` is the header's value.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub(crate) fn check_owner(&self, expected: Option<&str>) -> Result<(), S3Error> {
        match expected {
            Some(expected) if expected != self.bucket.owner.id => Err(S3Error::new(Code::AccessDenied)),
            _ => Ok(()),
        }
    }

    /// Demands all that an operation on this bucket needs, except what its handler demands for each key.
    ///
    /// # Errors
    /// `AccessDenied`, that the object is not there if the caller may know that, or 503.
    pub(crate) async fn demand_operation(
        &mut self,
        store: &ObjectStore,
        operation: &Operation,
        request: &S3Request,
    ) -> Result<(), S3Error> {
        if matches!(operation, Operation::Bucket(_, BucketOperation::DeleteObjects)) && !self.may_delete_any()
        {
            return Err(S3Error::new(Code::AccessDenied));
        }
        let version = request.query.get("versionId").filter(|version| !version.is_empty());
        for Need { action, key } in actions::needs(operation, request) {
            match self.ask(store, action, key.map(|key| (key, version))).await? {
                (Verdict::Allowed, by_object) => self.by_object.extend(by_object.then_some(action)),
                (Verdict::AskUpload, _) if self.has_begun(store, key, request).await? => {}
                (Verdict::Denied | Verdict::AskObject | Verdict::AskUpload, _) => {
                    return Err(S3Error::new(Code::AccessDenied));
                }
            }
        }
        match actions::list(operation, request) {
            Some(Need { action, key: Some(key) }) => self.refuse_denied(store, action, (key, version)).await,
            Some(Need { key: None, .. }) | None => Ok(()),
        }
    }

    /// Whether there may be a key that the caller may delete. Nobody's request is refused before its body is read where nothing
    /// lets everybody in: it would cost the gateway far more than its sender.
    fn may_delete_any(&self) -> bool {
        self.caller != Caller::Anonymous
            || self.settings.policy.is_some()
            || self.judge(Action::DeleteObject, None, None) == Verdict::Allowed
    }

    /// Demands one action, on the bucket or on a key of it (with the version that is named).
    ///
    /// # Errors
    /// As [`Self::demand_operation`].
    pub(crate) async fn demand(
        &self,
        store: &ObjectStore,
        action: Action,
        key: Option<(&ObjectKey, Option<&str>)>,
    ) -> Result<(), S3Error> {
        self.clone().demand_to_read(store, action, key).await
    }

    /// The same of what is read then, which [`Self::confirm`] is asked about.
    ///
    /// # Errors
    /// As [`Self::demand_operation`].
    pub(crate) async fn demand_to_read(
        &mut self,
        store: &ObjectStore,
        action: Action,
        key: Option<(&ObjectKey, Option<&str>)>,
    ) -> Result<(), S3Error> {
        match self.ask(store, action, key).await? {
            (Verdict::Allowed, by_object) => {
                self.by_object.extend(by_object.then_some(action));
                Ok(())
            }
            (Verdict::Denied | Verdict::AskObject | Verdict::AskUpload, _) => {
                Err(S3Error::new(Code::AccessDenied))
            }
        }
    }

    /// Refuses what the policy denies; nothing needs to allow it.
    ///
    /// # Errors
    /// `AccessDenied`, or 503.
    pub(crate) async fn refuse_denied(
        &self,
        store: &ObjectStore,
        action: Action,
        (key, version): (&ObjectKey, Option<&str>),
    ) -> Result<(), S3Error> {
        let found = match self.tags_matter() {
            true => self.look_at(store, key, version).await?.ok(),
            false => None,
        };
        match self.consider(action, Some(key), found.as_ref(), decision) {
            Decision::Deny => Err(S3Error::new(Code::AccessDenied)),
            Decision::Allow | Decision::Silent => Ok(()),
        }
    }

    /// Judges once more what was judged by an object: by the one that was read now.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub(crate) fn confirm(&self, key: &ObjectKey, found: &ObjectInfo) -> Result<(), S3Error> {
        match self.by_object.iter().all(|&action| self.may(action, key, found)) {
            true => Ok(()),
            false => Err(S3Error::new(Code::AccessDenied)),
        }
    }

    /// Whether the caller may do this with an object that was read.
    pub(crate) fn may(&self, action: Action, key: &ObjectKey, found: &ObjectInfo) -> bool {
        self.judge(action, Some(key), Some(found)) == Verdict::Allowed
    }

    /// Whether the caller has begun the upload that the request names.
    async fn has_begun(
        &self,
        store: &ObjectStore,
        key: Option<&ObjectKey>,
        request: &S3Request,
    ) -> Result<bool, S3Error> {
        let Some(key) = key else { return Ok(false) };
        let upload = upload_ref(self.bucket.name.clone(), key.clone(), request)?;
        match store.head_upload(&upload).await {
            Ok(upload) => Ok(upload.initiator.id == self.caller.owner().id),
            Err(UploadError::Unavailable(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// The verdict, and whether it was given by the object as it is now, or by that there is none.
    async fn ask(
        &self,
        store: &ObjectStore,
        action: Action,
        key: Option<(&ObjectKey, Option<&str>)>,
    ) -> Result<(Verdict, bool), S3Error> {
        let Some((name, version)) = key else { return Ok((self.judge(action, None, None), false)) };
        if !self.tags_matter() {
            let said = self.judge(action, Some(name), None);
            if said != Verdict::AskObject {
                return Ok((said, false));
            }
        }
        let found = self.look_at(store, name, version).await?;
        let said = self.judge(action, Some(name), found.as_ref().ok());
        match found {
            // What is not there has no list of its own: who may list is told that, and others are not.
            Err(absent) if said == Verdict::AskObject && self.may_list() => Err(absent.into()),
            Ok(_) | Err(_) => Ok((said, true)),
        }
    }

    /// Whether the policy asks for an object's tags.
    fn tags_matter(&self) -> bool {
        self.is_asked_for("s3:ExistingObjectTag")
    }

    fn judge(&self, action: Action, key: Option<&ObjectKey>, object: Option<&ObjectInfo>) -> Verdict {
        self.consider(action, key, object, verdict)
    }

    /// Puts an action with all that is known of it before who `says` something about it.
    fn consider<T>(
        &self,
        action: Action,
        key: Option<&ObjectKey>,
        object: Option<&ObjectInfo>,
        says: impl FnOnce(&Asked<'_>) -> T,
    ) -> T {
        let mut facts = Arc::clone(&self.facts);
        if let Some(object) = object.filter(|_| self.tags_matter()) {
            facts::of_tags(Arc::make_mut(&mut facts), &object.attributes.tags);
        }
        let bucket = self.bucket.name.as_str();
        let resource = match key {
            None => format!("arn:aws:s3:::{bucket}"),
            Some(key) => format!("arn:aws:s3:::{bucket}/{}", key.as_str()),
        };
        says(&Asked {
            caller: &self.caller,
            principal: self.caller.principal().as_ref(),
            bucket_owner: &self.bucket.owner.id,
            settings: &self.settings,
            action,
            resource: &resource,
            facts: &facts,
            object,
        })
    }

    /// The object that is asked for, or why it is not there.
    async fn look_at(
        &self,
        store: &ObjectStore,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Result<ObjectInfo, GetError>, S3Error> {
        let read = GetObject {
            bucket: self.bucket.name.clone(),
            key: key.clone(),
            version: parse_version(version)?,
            select: Select::All,
            condition: ReadCondition::default(),
            unlock: Unlock::Nothing,
        };
        match store.head_object(read).await {
            Ok((info, _)) => Ok(Ok(info)),
            Err(GetError::Unavailable(error)) => Err(error.into()),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Whether the caller may list the bucket, and so may know what is not in it.
    pub(crate) fn may_list(&self) -> bool {
        self.judge(Action::ListBucket, None, None) == Verdict::Allowed
    }

    /// What the caller is told of an error: that a key is not there only if it may list.
    pub(crate) fn concealed(&self, error: S3Error) -> S3Error {
        match error.code() {
            Code::NoSuchKey if !self.may_list() => S3Error::new(Code::AccessDenied),
            _ => error,
        }
    }

    /// Who will own what the caller writes with this list.
    pub(crate) fn new_owner(&self, access: crate::object::Access) -> Owner {
        use super::acl::Ownership;
        let given_away = access == crate::object::Access::BucketOwnerFullControl;
        match self.settings.ownership {
            Ownership::BucketOwnerEnforced => self.bucket.owner.clone(),
            Ownership::BucketOwnerPreferred if given_away => self.bucket.owner.clone(),
            Ownership::BucketOwnerPreferred | Ownership::ObjectWriter => self.caller.owner(),
        }
    }
}
