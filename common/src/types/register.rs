//! Register keys: what a slot's state is kept under, and their order-preserving encoding.
//!
//! ```text
//! bucket id  16 bytes, big-endian
//! kind        1 byte
//! key         UTF-8, each 0x00 written as 0x00 0xFF
//! end         0x00 0x01
//! sub         nothing | upload id (16) | upload id (16) + part number (2, big-endian)
//!             | complement of a version's ordinal (8, big-endian) + its op (16)
//! ```
//! Byte order of the encoding is (bucket, kind, key, sub) order, so that a listing is one range, and lists the newest version
//! of a key first.

use bytes::Bytes;

use super::{BucketId, ObjectKey, OpId, UploadId};

/// What a register decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RegisterKind {
    /// The current version of an object key.
    Object = 1,
    /// One version of an object key that is not the current one any more.
    Version = 2,
    /// A multipart upload.
    Upload = 3,
    /// One part of a multipart upload.
    Part = 4,
}

impl RegisterKind {
    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Object),
            2 => Some(Self::Version),
            3 => Some(Self::Upload),
            4 => Some(Self::Part),
            _ => None,
        }
    }
}

/// A version of a key in a bucket that keeps versions: a client's version id, and with the key its register once it is not
/// current any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionRef {
    /// Its place among the versions of the key; never used for two of them.
    pub ordinal: u64,
    /// The op that made it.
    pub op: OpId,
}

/// The name of a register.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegisterKey {
    /// The bucket's id.
    pub bucket: BucketId,
    /// What the register decides.
    pub kind: RegisterKind,
    /// The object key; with the bucket it decides the partition.
    pub key: ObjectKey,
    /// What follows the key, by kind; see the module's drawing.
    pub sub: Bytes,
}

/// The bytes are not an encoded register key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed register key")]
pub struct DecodeRegisterKeyError;

impl RegisterKey {
    /// The register of an object key.
    pub fn object(bucket: BucketId, key: ObjectKey) -> Self {
        Self { bucket, kind: RegisterKind::Object, key, sub: Bytes::new() }
    }

    /// The register of a version that is not current any more.
    pub fn version(bucket: BucketId, key: ObjectKey, version: VersionRef) -> Self {
        let mut sub = (!version.ordinal).to_be_bytes().to_vec();
        sub.extend_from_slice(&version.op.to_bytes());
        Self { bucket, kind: RegisterKind::Version, key, sub: sub.into() }
    }

    /// The version, if this is the register of one.
    pub fn version_ref(&self) -> Option<VersionRef> {
        let (ordinal, op) = self.sub.split_first_chunk::<8>()?;
        let op = OpId::from_bytes(op.try_into().ok()?);
        (self.kind == RegisterKind::Version)
            .then_some(VersionRef { ordinal: !u64::from_be_bytes(*ordinal), op })
    }

    /// The register of a multipart upload.
    pub fn upload(bucket: BucketId, key: ObjectKey, upload: UploadId) -> Self {
        Self { bucket, kind: RegisterKind::Upload, key, sub: Bytes::copy_from_slice(&upload.to_bytes()) }
    }

    /// The register of one part, `1..=10,000`, of a multipart upload; 0 for the only part of a version that was written in
    /// one piece.
    pub fn part(bucket: BucketId, key: ObjectKey, upload: UploadId, part_number: u16) -> Self {
        let mut sub = upload.to_bytes().to_vec();
        sub.extend_from_slice(&part_number.to_be_bytes());
        Self { bucket, kind: RegisterKind::Part, key, sub: sub.into() }
    }

    /// The upload and the part number, if this is the register of a part.
    pub fn upload_part(&self) -> Option<(UploadId, u16)> {
        let (upload, number) = self.sub.split_first_chunk::<16>()?;
        let number = u16::from_be_bytes(number.try_into().ok()?);
        (self.kind == RegisterKind::Part).then_some((UploadId::from_bytes(*upload), number))
    }

    /// The upload, if this is the register of one.
    pub fn upload_id(&self) -> Option<UploadId> {
        let upload = <[u8; 16]>::try_from(self.sub.as_ref()).ok()?;
        (self.kind == RegisterKind::Upload).then_some(UploadId::from_bytes(upload))
    }

    /// The order-preserving encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.as_bytes().len() + self.sub.len() + 20);
        out.extend_from_slice(&self.bucket.to_bytes());
        out.push(self.kind as u8);
        escape_into(&mut out, self.key.as_bytes());
        out.extend_from_slice(&[0x00, 0x01]);
        out.extend_from_slice(&self.sub);
        out
    }

    /// The beginning that the encodings of all registers of a kind in a bucket, whose key starts with `prefix`, share.
    pub fn encode_prefix(bucket: BucketId, kind: RegisterKind, prefix: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(prefix.len() + 18);
        out.extend_from_slice(&bucket.to_bytes());
        out.push(kind as u8);
        escape_into(&mut out, prefix);
        out
    }

    /// The kind of register that an encoded key names; `None` if the bytes are not one.
    pub fn kind_of(encoded: &[u8]) -> Option<RegisterKind> {
        RegisterKind::from_number(*encoded.get(16)?)
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeRegisterKeyError`] if the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeRegisterKeyError> {
        let (bucket, rest) = bytes.split_first_chunk::<16>().ok_or(DecodeRegisterKeyError)?;
        let (kind, mut rest) = rest.split_first().ok_or(DecodeRegisterKeyError)?;
        let kind = RegisterKind::from_number(*kind).ok_or(DecodeRegisterKeyError)?;
        let mut key = Vec::with_capacity(rest.len());
        loop {
            match rest {
                [0x00, 0x01, sub @ ..] => {
                    let key = ObjectKey::new(key).map_err(|_| DecodeRegisterKeyError)?;
                    let sub = Bytes::copy_from_slice(sub);
                    return Ok(Self { bucket: BucketId::from_bytes(*bucket), kind, key, sub });
                }
                [0x00, 0xFF, tail @ ..] => {
                    key.push(0x00);
                    rest = tail;
                }
                [0x00, ..] | [] => return Err(DecodeRegisterKeyError),
                [byte, tail @ ..] => {
                    key.push(*byte);
                    rest = tail;
                }
            }
        }
    }
}

fn escape_into(out: &mut Vec<u8>, key: &[u8]) {
    for &byte in key {
        out.push(byte);
        if byte == 0x00 {
            out.push(0xFF);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn register(key: &str, sub: Vec<u8>) -> RegisterKey {
        RegisterKey {
            bucket: BucketId(7),
            kind: RegisterKind::Part,
            key: ObjectKey::new(key.to_owned()).unwrap(),
            sub: sub.into(),
        }
    }

    #[test]
    fn the_newest_version_of_a_key_comes_first() {
        let key = |ordinal, counter| {
            let version = VersionRef { ordinal, op: OpId { session: 1, counter } };
            let key = RegisterKey::version(BucketId(7), ObjectKey::new("k").unwrap(), version);
            assert_eq!(key.version_ref(), Some(version));
            assert_eq!(RegisterKey::decode(&key.encode()), Ok(key.clone()));
            key.encode()
        };
        assert!(key(u64::MAX, 1) < key(300, 9) && key(300, 9) < key(2, 0) && key(2, 0) < key(2, 1));
        assert_eq!(register("k", vec![0; 24]).version_ref(), None);
    }

    proptest! {
        #[test]
        fn encoding_keeps_order_and_round_trips(
            a in "[\u{0}\u{1}a\u{ff}/]{1,6}", b in "[\u{0}\u{1}a\u{ff}/]{1,6}",
            sub_a in proptest::collection::vec(any::<u8>(), 0..3), sub_b in proptest::collection::vec(any::<u8>(), 0..3),
        ) {
            let (a, b) = (register(&a, sub_a), register(&b, sub_b));
            prop_assert_eq!(RegisterKey::decode(&a.encode()), Ok(a.clone()));
            prop_assert_eq!(RegisterKey::kind_of(&a.encode()), Some(a.kind));
            prop_assert_eq!(a.encode().cmp(&b.encode()), (a.key.as_bytes(), &a.sub).cmp(&(b.key.as_bytes(), &b.sub)));
            let prefix = RegisterKey::encode_prefix(a.bucket, a.kind, b.key.as_bytes());
            prop_assert_eq!(a.encode().starts_with(&prefix), a.key.as_bytes().starts_with(b.key.as_bytes()));
        }
    }
}
