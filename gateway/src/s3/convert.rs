//! Checksums of the object layer and of S3, one into the other, and how those of parts make those of an object.

use bytes::Bytes;

use super::checksum;
use crate::object::{Checksum, ChecksumAlgorithm, ChecksumScope, CombinedDigests, PartDigests};

/// The object layer's name of an algorithm.
pub(crate) fn algorithm_to_object(algorithm: checksum::ChecksumAlgorithm) -> ChecksumAlgorithm {
    match algorithm {
        checksum::ChecksumAlgorithm::Crc32 => ChecksumAlgorithm::Crc32,
        checksum::ChecksumAlgorithm::Crc32c => ChecksumAlgorithm::Crc32c,
        checksum::ChecksumAlgorithm::Crc64Nvme => ChecksumAlgorithm::Crc64Nvme,
        checksum::ChecksumAlgorithm::Sha1 => ChecksumAlgorithm::Sha1,
        checksum::ChecksumAlgorithm::Sha256 => ChecksumAlgorithm::Sha256,
    }
}

/// S3's name of an algorithm.
pub(crate) fn algorithm_to_s3(algorithm: ChecksumAlgorithm) -> checksum::ChecksumAlgorithm {
    match algorithm {
        ChecksumAlgorithm::Crc32 => checksum::ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c => checksum::ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme => checksum::ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1 => checksum::ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256 => checksum::ChecksumAlgorithm::Sha256,
    }
}

/// The object layer's name of a scope.
pub(crate) fn scope_to_object(kind: checksum::ChecksumType) -> ChecksumScope {
    match kind {
        checksum::ChecksumType::FullObject => ChecksumScope::FullObject,
        checksum::ChecksumType::Composite => ChecksumScope::Composite,
    }
}

/// S3's name of a scope.
pub(crate) fn scope_to_s3(scope: ChecksumScope) -> checksum::ChecksumType {
    match scope {
        ChecksumScope::FullObject => checksum::ChecksumType::FullObject,
        ChecksumScope::Composite => checksum::ChecksumType::Composite,
    }
}

/// A checksum as the object layer keeps it.
pub(crate) fn to_object(value: &checksum::Checksum, scope: ChecksumScope) -> Checksum {
    let algorithm = algorithm_to_object(value.algorithm());
    Checksum { algorithm, scope, value: Bytes::copy_from_slice(value.bytes()) }
}

/// A checksum as S3 writes it; `None` if its length is wrong, which no record of ours has.
pub(crate) fn to_s3(value: &Checksum) -> Option<checksum::Checksum> {
    checksum::Checksum::from_bytes(algorithm_to_s3(value.algorithm), &value.value)
}

/// S3's conventions for an object made of parts: the entity tag over the parts' MD5s, and the upload's checksum.
pub(crate) fn combine(
    parts: &[PartDigests],
    kept: Option<(ChecksumAlgorithm, ChecksumScope)>,
) -> CombinedDigests {
    let etag = checksum::multipart_etag(parts.iter().map(|part| &part.md5));
    let value =
        kept.and_then(|(algorithm, scope)| combined_checksum(parts, algorithm_to_s3(algorithm), scope));
    CombinedDigests { etag, checksums: value.into_iter().collect() }
}

/// `None` if a part lacks the checksum.
fn combined_checksum(
    parts: &[PartDigests],
    algorithm: checksum::ChecksumAlgorithm,
    scope: ChecksumScope,
) -> Option<Checksum> {
    let of_part = |part: &PartDigests| {
        part.checksums.iter().filter_map(to_s3).find(|value| value.algorithm() == algorithm)
    };
    let values = parts.iter().map(of_part).collect::<Option<Vec<_>>>()?;
    let value = match scope {
        ChecksumScope::Composite => checksum::composite(algorithm, &values)?,
        ChecksumScope::FullObject => {
            let mut whole = checksum::FullObject::new(algorithm)?;
            for (part, value) in parts.iter().zip(&values) {
                if !whole.append(value, part.size) {
                    return None;
                }
            }
            whole.value()
        }
    };
    Some(to_object(&value, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(data: &[u8]) -> PartDigests {
        let mut set = checksum::DigestSet::new(true, [checksum::ChecksumAlgorithm::Crc32]);
        set.update(data);
        let digests = set.finish();
        let value = digests.get(checksum::ChecksumAlgorithm::Crc32).unwrap();
        PartDigests {
            size: data.len() as u64,
            md5: digests.md5().unwrap(),
            checksums: vec![to_object(&value, ChecksumScope::FullObject)],
        }
    }

    #[test]
    fn full_object_checksums_are_those_of_the_bytes() {
        let parts = [part(b"hello "), part(b""), part(b"world")];
        let combined = combine(&parts, Some((ChecksumAlgorithm::Crc32, ChecksumScope::FullObject)));
        assert_eq!(combined.checksums[0].value, part(b"hello world").checksums[0].value);
        assert!(combined.etag.ends_with("-3"));
        let combined = combine(&parts, Some((ChecksumAlgorithm::Crc32, ChecksumScope::Composite)));
        assert_eq!(combined.checksums[0].scope, ChecksumScope::Composite);
        assert!(
            combine(&parts, Some((ChecksumAlgorithm::Sha1, ChecksumScope::Composite))).checksums.is_empty()
        );
        assert!(combine(&parts, None).checksums.is_empty());
    }
}
