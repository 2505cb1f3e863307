//! Copies on the server's side: the source's bytes are read, checked, and written as a new op.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::core::Core;
use super::encryption::Unlock;
use super::error::{BodyError, CopyError, GetError};
use super::get::get;
use super::put::{MAX_BODY_BYTES, put};
use super::types::{
    Attributes, Body, ByteSource, CopyAttributes, CopyObject, CopySource, GetObject, ObjectBytes, ObjectInfo,
    ObjectRead, PutObject, Select,
};

/// An object's bytes as the body of a write.
pub(super) struct ObjectSource(pub(super) Box<dyn ObjectBytes>);

#[async_trait]
impl ByteSource for ObjectSource {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.0.next().await.map_err(|error| BodyError::Broken(error.reason))
    }
}

/// Opens the source of a copy.
pub(super) async fn open(
    core: &Arc<Core>,
    source: CopySource,
    select: Select,
) -> Result<ObjectRead, GetError> {
    let CopySource { bucket, key, version, condition, customer_key } = source;
    let unlock = Unlock::With(customer_key);
    let request = GetObject { bucket, key, version, select, condition, unlock };
    match get(core, &request).await {
        // A copy has no "not modified": the condition is just false.
        Err(GetError::NotModified(_)) => Err(GetError::ConditionFailed),
        other => other,
    }
}

/// Copies an object.
pub(super) async fn copy(core: &Arc<Core>, request: CopyObject) -> Result<ObjectInfo, CopyError> {
    let CopyObject { source, bucket, key, attributes, owner, condition, encrypt, digester } = request;
    let ObjectRead { info, bytes, .. } = open(core, source, Select::All).await.map_err(CopyError::Source)?;
    if info.size > MAX_BODY_BYTES {
        return Err(CopyError::SourceTooLarge { size: info.size, limit: MAX_BODY_BYTES });
    }
    let attributes = target_attributes(attributes, &info);
    let digester = digester(&info, None).map_err(|error| CopyError::Target(error.into()))?;
    let body = Body { length: info.size, source: Box::new(ObjectSource(bytes)), digester };
    let write = PutObject { bucket, key, attributes, owner, condition, encrypt, body };
    put(core, write).await.map_err(CopyError::Target)
}

fn target_attributes(wanted: CopyAttributes, source: &ObjectInfo) -> Attributes {
    match wanted {
        CopyAttributes::FromSource {
            storage_class,
            tags,
            access,
            retention,
            legal_hold,
            website_redirect,
        } => {
            let mut attributes = source.attributes.clone();
            attributes.storage_class = storage_class;
            attributes.retention = retention;
            attributes.legal_hold = legal_hold;
            attributes.access = access;
            attributes.website_redirect = website_redirect;
            if let Some(tags) = tags {
                attributes.tags = tags;
            }
            attributes
        }
        CopyAttributes::Replace { mut attributes, keep_tags } => {
            if keep_tags {
                attributes.tags = source.attributes.tags.clone();
            }
            attributes
        }
    }
}
