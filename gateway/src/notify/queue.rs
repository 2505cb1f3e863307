//! The queue: objects `<target>/<when it is due><a random number>` in a bucket of the cluster's own.

use async_trait::async_trait;
use bytes::Bytes;
use coffer_common::random;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey};

use crate::object::{
    Attributes, Body, BodyError, ByteSource, CreateBucket, CreateBucketError, DeleteError, DeleteObject,
    Digester, Digests, Documents, Encrypt, GetError, GetObject, ListError, ListObjects, ObjectStore, Owner,
    PutObject, ReadCondition, Select, Unavailable, Unlock, WriteCondition,
};

/// The bucket. S3 has never let anybody make one of such a name, with a hyphen beside a period.
pub(crate) const BUCKET: &str = "coffer-.events";

/// One page of the queue.
pub(super) struct Page {
    /// Deliveries in order of time.
    pub(super) deliveries: Vec<ObjectKey>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

fn bucket() -> BucketName {
    BucketName::new(BUCKET).expect("the name keeps the rules")
}

fn owner() -> Owner {
    Owner { id: "coffer".to_owned(), display_name: "coffer".to_owned() }
}

/// Makes the bucket, unless there is one.
pub(super) async fn prepare(store: &ObjectStore) -> Result<(), Unavailable> {
    let (documents, object_lock, region) = (Documents::default(), false, String::new());
    let request = CreateBucket { name: bucket(), owner: owner(), region, documents, object_lock };
    match store.create_bucket(request).await {
        Ok(_) | Err(CreateBucketError::Exists(_)) => Ok(()),
        Err(CreateBucketError::Unavailable(error)) => Err(error),
        Err(error) => Err(Unavailable::new(error.to_string())),
    }
}

/// The text before all deliveries to a target.
pub(super) fn prefix(target: &str) -> String {
    format!("{target}/")
}

/// The text before all deliveries to a target that are due then or later.
pub(super) fn since(target: &str, due: UnixMillis) -> String {
    format!("{target}/{:016x}", due.0)
}

/// When a delivery is due.
pub(super) fn due(delivery: &ObjectKey) -> Option<UnixMillis> {
    let (_, name) = delivery.as_str().rsplit_once('/')?;
    u64::from_str_radix(name.get(..16)?, 16).ok().map(UnixMillis)
}

/// Adds a delivery.
pub(super) async fn push(
    store: &ObjectStore,
    target: &str,
    message: Bytes,
    due: UnixMillis,
) -> Result<ObjectKey, Unavailable> {
    let name = format!("{}{:016x}", since(target, due), random::random::<u64>());
    let key = ObjectKey::new(name).map_err(|error| Unavailable::new(error.to_string()))?;
    let length = message.len() as u64;
    let request = PutObject {
        bucket: bucket(),
        key: key.clone(),
        attributes: Attributes::default(),
        owner: owner(),
        condition: WriteCondition::Always,
        encrypt: Encrypt::No,
        body: Body { length, source: Box::new(Whole(Some(message))), digester: Box::new(Undigested) },
    };
    store
        .put_object(request)
        .await
        .map_err(|error| Unavailable::new(format!("an event is not queued: {error}")))?;
    Ok(key)
}

/// Deliveries to a target, after this text.
pub(super) async fn page(
    store: &ObjectStore,
    target: &str,
    start_after: String,
    limit: u32,
) -> Result<Page, Unavailable> {
    let (prefix, delimiter) = (prefix(target), String::new());
    let request = ListObjects { bucket: bucket(), prefix, delimiter, start_after, limit, pause_after: None };
    match store.list_objects(request).await {
        Ok(page) => {
            let deliveries = page.objects.into_iter().map(|object| object.key).collect();
            Ok(Page { deliveries, next: page.next })
        }
        // Nobody has asked for events yet.
        Err(ListError::NoSuchBucket) => Ok(Page { deliveries: Vec::new(), next: None }),
        Err(ListError::Unavailable(error)) => Err(error),
    }
}

/// What is to be delivered; `None` if it was delivered meanwhile.
pub(super) async fn read(store: &ObjectStore, delivery: &ObjectKey) -> Result<Option<Bytes>, Unavailable> {
    let request = GetObject {
        bucket: bucket(),
        key: delivery.clone(),
        version: None,
        select: Select::All,
        condition: ReadCondition::default(),
        unlock: Unlock::Nothing,
    };
    let mut read = match store.get_object(request).await {
        Ok(read) => read,
        Err(GetError::NoSuchKey) => return Ok(None),
        Err(GetError::Unavailable(error)) => return Err(error),
        Err(error) => return Err(Unavailable::new(error.to_string())),
    };
    let mut message = Vec::new();
    while let Some(piece) = read.bytes.next().await.map_err(|error| Unavailable::new(error.to_string()))? {
        message.extend_from_slice(&piece);
    }
    Ok(Some(message.into()))
}

/// Takes a delivery out of the queue.
pub(super) async fn remove(store: &ObjectStore, delivery: &ObjectKey) -> Result<(), Unavailable> {
    let request = DeleteObject {
        bucket: bucket(),
        key: delivery.clone(),
        version: None,
        condition: WriteCondition::Always,
        bypass_governance: false,
    };
    match store.delete_object(request).await {
        Ok(_) => Ok(()),
        Err(DeleteError::Unavailable(error)) => Err(error),
        Err(error) => Err(Unavailable::new(error.to_string())),
    }
}

/// A message as the body of a write.
struct Whole(Option<Bytes>);

#[async_trait]
impl ByteSource for Whole {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        Ok(self.0.take())
    }
}

/// Nobody asks for the entity tag of a message: its shards carry checksums of their own.
struct Undigested;

impl Digester for Undigested {
    fn update(&mut self, _: &[u8]) {}

    fn finish(self: Box<Self>) -> Result<Digests, BodyError> {
        Ok(Digests::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_in_order_of_time() {
        let key = |due, random: &str| ObjectKey::new(since("t", UnixMillis(due)) + random).unwrap();
        let (a, b) = (key(9, "ffffffffffffffff"), key(10, "0000000000000000"));
        assert!(a < b);
        assert_eq!((due(&a), due(&b)), (Some(UnixMillis(9)), Some(UnixMillis(10))));
        assert_eq!(due(&ObjectKey::new("t/x").unwrap()), None);
        assert_eq!(bucket().as_str(), BUCKET);
    }
}
