//! The source of a copy: whether the caller may read it, and what is told of it.
//!
//! It is judged when it is looked for, and once more when it was opened, before anything is written: it may be another then.

use std::sync::{Arc, OnceLock};

use coffer_common::types::ObjectKey;
use http::{HeaderMap, HeaderName};

use super::super::access::{Access, Action};
use super::super::body::refused;
use super::super::error::{Code, S3Error, delete_marker_as_source};
use super::super::request::S3Request;
use super::super::response;
use crate::object::{CopySource, MakeDigester, ObjectStore, VersionId};

/// The source of a copy as its caller sees it.
pub(crate) struct Source {
    access: Access,
    key: ObjectKey,
    /// Whether the request names a version.
    named: bool,
    /// The version that is copied, if its bucket keeps versions, or did.
    version: Arc<OnceLock<VersionId>>,
    /// Whether the caller may write its tags, if they are copied.
    tags: Option<bool>,
}

impl Source {
    /// Demands that the caller may read what it copies.
    ///
    /// # Errors
    /// `AccessDenied`, `NoSuchBucket`, and that it is not there if the caller may know that.
    pub(crate) async fn demand(
        store: &ObjectStore,
        source: &CopySource,
        request: &S3Request,
    ) -> Result<Self, S3Error> {
        let mut access = request.access()?.of_source(store, &source.bucket, request).await?;
        let version = source.version.map(|version| version.to_string());
        let action = if version.is_some() { Action::GetObjectVersion } else { Action::GetObject };
        access = access.about_version(version.as_deref());
        let asked = access.demand_to_read(store, action, Some((&source.key, version.as_deref()))).await;
        asked.map_err(|error| match error.code() {
            Code::MethodNotAllowed => delete_marker_as_source(),
            _ => error,
        })?;
        let (key, named) = (source.key.clone(), version.is_some());
        Ok(Self { access, key, named, version: Arc::default(), tags: None })
    }

    /// Demands of a source that has tags that the caller may read them, and write them to the target.
    ///
    /// # Errors
    /// 503.
    pub(crate) async fn with_tags(
        self,
        store: &ObjectStore,
        target: &ObjectKey,
        request: &S3Request,
    ) -> Result<Self, S3Error> {
        let written = request.access()?.demand(store, Action::PutObjectTagging, Some((target, None))).await;
        let may = match written {
            Ok(()) => true,
            Err(error) if error.code() == Code::AccessDenied => false,
            Err(error) => return Err(error),
        };
        Ok(Self { tags: Some(may), ..self })
    }

    /// What `make` makes, if the caller may read what was opened.
    pub(crate) fn checked(&self, make: MakeDigester) -> MakeDigester {
        let (access, key, version) = (self.access.clone(), self.key.clone(), Arc::clone(&self.version));
        let reads_tags = if self.named { Action::GetObjectVersionTagging } else { Action::GetObjectTagging };
        let tags = self.tags;
        Box::new(move |found, upload| {
            access.confirm(&key, found).map_err(refused)?;
            if let Some(may_write) = tags.filter(|_| !found.attributes.tags.is_empty())
                && !(may_write && access.may(reads_tags, &key, found))
            {
                return Err(refused(S3Error::new(Code::AccessDenied)));
            }
            if found.versioned {
                version.get_or_init(|| found.version);
            }
            make(found, upload)
        })
    }

    /// What the caller is told of an error of the source.
    pub(crate) fn concealed(&self, error: S3Error) -> S3Error {
        self.access.concealed(error)
    }

    /// Tells which version was copied.
    pub(crate) fn version_to_headers(&self, headers: &mut HeaderMap) {
        if let Some(version) = self.version.get() {
            let name = HeaderName::from_static("x-amz-copy-source-version-id");
            response::set(headers, name, &version.to_string());
        }
    }
}
