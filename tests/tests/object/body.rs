//! Bodies and digests for tests.

use async_trait::async_trait;
use bytes::Bytes;
use coffer_common::types::{BucketName, ObjectKey};
use coffer_gateway::object::{
    Attributes, Body, BodyError, ByteSource, CombinedDigests, CreateBucket, DeleteObject, Digester, Digests,
    Documents, Encrypt, GetError, GetObject, ListObjects, ObjectInfo, ObjectPage, ObjectStore, Owner,
    PutError, PutObject, ReadBroken, ReadCondition, Select, Unlock, WriteCondition,
};
use md5::{Digest, Md5};

pub(crate) struct Pieces {
    data: Bytes,
    piece: usize,
}

#[async_trait]
impl ByteSource for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let len = self.piece.min(self.data.len());
        Ok((len > 0).then(|| self.data.split_to(len)))
    }
}

pub(crate) struct Md5Digester {
    md5: Md5,
    refuse: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

impl Digester for Md5Digester {
    fn update(&mut self, data: &[u8]) {
        self.md5.update(data);
    }

    fn finish(self: Box<Self>) -> Result<Digests, BodyError> {
        if self.refuse {
            return Err(BodyError::Refused(Box::new(Refused)));
        }
        Ok(Digests { md5: self.md5.finalize().into(), checksums: Vec::new() })
    }
}

pub(crate) fn digester() -> Box<dyn Digester> {
    Box::new(Md5Digester { md5: Md5::new(), refuse: false })
}

pub(crate) fn body(data: &Bytes) -> Body {
    Body {
        length: data.len() as u64,
        source: Box::new(Pieces { data: data.clone(), piece: 60_001 }),
        digester: digester(),
    }
}

pub(crate) fn refused_body(data: &Bytes) -> Body {
    Body { digester: Box::new(Md5Digester { md5: Md5::new(), refuse: true }), ..body(data) }
}

/// Bytes that differ from each other and between seeds.
pub(crate) fn bytes(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

pub(crate) fn etag(data: &Bytes) -> String {
    hex::encode(Md5::digest(data))
}

pub(crate) fn name(bucket: &str) -> BucketName {
    BucketName::new(bucket).unwrap()
}

/// A bucket of nobody.
pub(crate) fn new_bucket(bucket: &str) -> CreateBucket {
    CreateBucket {
        name: name(bucket),
        owner: Owner::default(),
        region: "r".to_owned(),
        documents: Documents::default(),
        object_lock: false,
    }
}

pub(crate) fn key(key: &str) -> ObjectKey {
    ObjectKey::new(key.to_owned()).unwrap()
}

pub(crate) async fn make_bucket(store: &ObjectStore, bucket: &str) {
    store.create_bucket(new_bucket(bucket)).await.unwrap();
}

pub(crate) fn put_request(bucket: &str, k: &str, body: Body) -> PutObject {
    PutObject {
        bucket: name(bucket),
        key: key(k),
        attributes: Attributes::default(),
        owner: Owner::default(),
        condition: WriteCondition::Always,
        encrypt: Encrypt::No,
        body,
    }
}

pub(crate) async fn put(
    store: &ObjectStore,
    bucket: &str,
    k: &str,
    data: &Bytes,
) -> Result<ObjectInfo, PutError> {
    store.put_object(put_request(bucket, k, body(data))).await
}

pub(crate) async fn delete(store: &ObjectStore, k: &str) {
    let condition = WriteCondition::Always;
    let request = DeleteObject {
        bucket: name("bucket"),
        key: key(k),
        version: None,
        condition,
        bypass_governance: false,
    };
    store.delete_object(request).await.unwrap();
}

#[derive(Debug)]
pub(crate) enum ReadFailure {
    Get(#[allow(dead_code, reason = "shown by Debug")] GetError),
    Broken(#[allow(dead_code, reason = "shown by Debug")] ReadBroken),
}

pub(crate) async fn get_part(
    store: &ObjectStore,
    bucket: &str,
    k: &str,
    select: Select,
) -> Result<Bytes, ReadFailure> {
    let request = GetObject {
        bucket: name(bucket),
        key: key(k),
        version: None,
        select,
        condition: ReadCondition::default(),
        unlock: Unlock::default(),
    };
    let mut read = store.get_object(request).await.map_err(ReadFailure::Get)?;
    let mut out = Vec::new();
    while let Some(piece) = read.bytes.next().await.map_err(ReadFailure::Broken)? {
        assert!(!piece.is_empty());
        out.extend_from_slice(&piece);
    }
    assert_eq!(out.len() as u64, read.selected.length);
    Ok(out.into())
}

pub(crate) async fn get(store: &ObjectStore, bucket: &str, k: &str) -> Result<Bytes, ReadFailure> {
    get_part(store, bucket, k, Select::All).await
}

pub(crate) fn list_request(bucket: &str, prefix: &str, delimiter: &str, limit: u32) -> ListObjects {
    ListObjects {
        bucket: name(bucket),
        prefix: prefix.into(),
        delimiter: delimiter.into(),
        start_after: String::new(),
        limit,
        pause_after: None,
    }
}

/// All pages together, and how many there were.
pub(crate) async fn list_all(
    store: &ObjectStore,
    bucket: &str,
    prefix: &str,
    delimiter: &str,
    limit: u32,
) -> (Vec<String>, Vec<String>, usize) {
    let (mut keys, mut prefixes, mut pages) = (Vec::new(), Vec::new(), 0);
    let mut request = list_request(bucket, prefix, delimiter, limit);
    loop {
        let ObjectPage { objects, prefixes: rolled_up, next } =
            store.list_objects(request.clone()).await.unwrap();
        pages += 1;
        assert!(objects.len() + rolled_up.len() <= limit as usize);
        keys.extend(objects.into_iter().map(|object| object.key.as_str().to_owned()));
        prefixes.extend(rolled_up);
        match next {
            Some(next) => request.start_after = next,
            None => return (keys, prefixes, pages),
        }
    }
}

pub(crate) fn combine() -> coffer_gateway::object::CombineDigests {
    Box::new(|parts, _| {
        let mut md5 = Md5::new();
        parts.iter().for_each(|part| md5.update(part.md5));
        let etag = format!("{}-{}", hex::encode(md5.finalize()), parts.len());
        CombinedDigests { etag, checksums: Vec::new() }
    })
}

/// What is known of an object, without the place of the write that told it: later answers do not know that.
pub(crate) fn stored(info: ObjectInfo) -> ObjectInfo {
    ObjectInfo { sequence: None, ..info }
}
