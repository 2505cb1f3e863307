//! Published check values, header rules, and combination against hashing the whole.

use super::*;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn digests(data: &[u8]) -> Digests {
    let mut set = DigestSet::new(true, ChecksumAlgorithm::ALL);
    set.update(data);
    set.finish()
}

/// `(algorithm, base64 of "abcdefg")`.
const ABCDEFG: [(ChecksumAlgorithm, &str); 5] = [
    (ChecksumAlgorithm::Crc32, "MSpqpg=="),
    (ChecksumAlgorithm::Crc32c, "5if0QQ=="),
    (ChecksumAlgorithm::Crc64Nvme, "SmzZ/LTp1CA="),
    (ChecksumAlgorithm::Sha1, "L7XhNBn8iSRoZeejJPR27GJOh0A="),
    (ChecksumAlgorithm::Sha256, "fRpUEnsiJQL1t5tfsIAwYRUqRPkrN+I8ZSe69mXU2po="),
];

#[test]
fn values_are_those_of_s3() {
    let computed = digests(b"abcdefg");
    for (algorithm, text) in ABCDEFG {
        let value = computed.get(algorithm).unwrap();
        assert_eq!(value.to_base64(), text);
        assert_eq!(Checksum::from_base64(algorithm, text), Some(value));
        assert_eq!(value.bytes().len(), algorithm.value_len());
        assert_eq!(ChecksumAlgorithm::from_name(algorithm.name()), Some(algorithm));
        assert_eq!(ChecksumAlgorithm::from_header(&algorithm.header().to_uppercase()), Some(algorithm));
        assert_eq!(algorithm.element(), format!("Checksum{}", algorithm.name()));
    }
    assert_eq!(computed.etag().as_deref(), Some("7ac66c0f148de9519b8bd264312c4d64"));
    assert_eq!(computed.len(), 7);
    let none = DigestSet::new(false, []).finish();
    assert!(none.md5().is_none() && none.get(ChecksumAlgorithm::Crc32).is_none() && none.is_empty());
}

#[test]
fn header_values_are_verified() {
    for (algorithm, text) in ABCDEFG {
        let request = RequestChecksums::parse(&headers(&[(algorithm.header(), text)])).unwrap();
        assert_eq!(request.algorithm(), Some(algorithm));
        let mut set = DigestSet::new(false, request.algorithms());
        set.update(b"abc");
        set.update(b"defg");
        let stored = request.verify(&set.finish(), &[]).unwrap().unwrap();
        assert_eq!(stored.to_base64(), text);
        let error = request.verify(&digests(b"abcdefh"), &[]).unwrap_err();
        assert_eq!(error, ChecksumError::Mismatch { algorithm });
        assert_eq!(error.code(), "BadDigest");
        let nothing = DigestSet::new(true, []).finish();
        assert_eq!(
            request.verify(&nothing, &[]).unwrap_err().code(),
            "BadDigest",
            "not computed is not equal"
        );
    }
}

#[test]
fn trailer_values_are_verified() {
    for (algorithm, text) in ABCDEFG {
        let fields =
            [("x-amz-trailer", algorithm.header()), ("x-amz-sdk-checksum-algorithm", algorithm.name())];
        let request = RequestChecksums::parse(&headers(&fields)).unwrap();
        let trailer = |value: &str| vec![(algorithm.header().to_owned(), value.to_owned())];
        let computed = digests(b"abcdefg");
        assert_eq!(request.verify(&computed, &trailer(text)).unwrap(), computed.get(algorithm));
        let other = digests(b"x").get(algorithm).unwrap().to_base64();
        assert_eq!(request.verify(&computed, &trailer(&other)).unwrap_err().code(), "BadDigest");
        for invalid in ["invalid_checksum", "", "AA==", &text[1..]] {
            let error = request.verify(&computed, &trailer(invalid)).unwrap_err();
            assert_eq!(error, ChecksumError::InvalidTrailer { header: algorithm.header() });
        }
        assert_eq!(request.verify(&computed, &[]).unwrap_err().code(), "InvalidRequest");
    }
}

#[test]
fn contradictions_are_refused() {
    use ChecksumError as E;
    let invalid = |header: &str| E::InvalidHeader { header: header.to_owned() };
    let sdk = "x-amz-sdk-checksum-algorithm";
    let cases = [
        (vec![("x-amz-checksum-crc32", "MSpqpg==="), (sdk, "CRC32")], invalid("x-amz-checksum-crc32")),
        (vec![("x-amz-checksum-crc32", "MSpqpg")], invalid("x-amz-checksum-crc32")),
        (vec![("x-amz-checksum-sha256", "MSpqpg==")], invalid("x-amz-checksum-sha256")),
        (vec![("x-amz-checksum-crc32", "MSpqpg=="), ("x-amz-checksum-crc32c", "5if0QQ==")], E::Several),
        (vec![("x-amz-checksum-crc32", "MSpqpg=="), ("x-amz-trailer", "x-amz-checksum-crc32")], E::Several),
        (vec![("x-amz-trailer", "x-amz-checksum-crc32, x-amz-checksum-sha1")], E::Several),
        (vec![("x-amz-trailer", "x-amz-meta-a")], E::UnsupportedTrailer),
        (vec![("x-amz-checksum-xxhash64", "AAAAAAAAAAA=")], E::UnsupportedAlgorithm),
        (vec![("x-amz-trailer", "x-amz-checksum-crc64nvme"), (sdk, "sha1")], invalid(sdk)),
        (vec![("x-amz-checksum-crc32", "MSpqpg=="), (sdk, "CRC32C")], invalid(sdk)),
        (vec![(sdk, "MD5")], invalid(sdk)),
        (vec![(sdk, "CRC32")], E::ValueMissing),
    ];
    for (fields, expected) in cases {
        let error = RequestChecksums::parse(&headers(&fields)).unwrap_err();
        assert_eq!((error.code(), &error), ("InvalidRequest", &expected), "{fields:?}");
    }
    let asks = headers(&[("x-amz-checksum-mode", "ENABLED"), ("x-amz-checksum-type", "FULL_OBJECT")]);
    assert_eq!(RequestChecksums::parse(&asks), Ok(RequestChecksums::default()));
}

#[test]
fn content_md5_is_verified() {
    let request = RequestChecksums::parse(&headers(&[("content-md5", "esZsDxSN6VGbi9JkMSxNZA==")])).unwrap();
    assert!(request.has_content_md5());
    assert_eq!(request.verify(&digests(b"abcdefg"), &[]), Ok(None));
    assert_eq!(request.verify(&digests(b"abcdefh"), &[]).unwrap_err().code(), "BadDigest");
    assert_eq!(request.verify(&DigestSet::new(false, []).finish(), &[]).unwrap_err().code(), "BadDigest");
    for invalid in ["", "x", "esZsDxSN6VGbi9JkMSxN", "7ac66c0f148de9519b8bd264312c4d64"] {
        let error = RequestChecksums::parse(&headers(&[("content-md5", invalid)])).unwrap_err();
        assert_eq!(error.code(), "InvalidDigest", "{invalid}");
    }
}

#[test]
fn multipart_etag_is_the_md5_of_md5s() {
    let parts: Vec<[u8; 16]> =
        [b"a".as_slice(), b"b"].iter().map(|part| digests(part).md5().unwrap()).collect();
    let whole = digests(&parts.concat()).etag().unwrap();
    assert_eq!(multipart_etag(&parts), format!("{whole}-2"));
}

#[test]
fn upload_headers_choose_algorithm_and_type() {
    let choose = |algorithm: Option<&str>, kind: Option<&str>| {
        let fields: Vec<_> = [("x-amz-checksum-algorithm", algorithm), ("x-amz-checksum-type", kind)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        upload_checksum(&headers(&fields))
    };
    use ChecksumAlgorithm::{Crc32, Crc64Nvme, Sha256};
    use ChecksumType::{Composite, FullObject};
    assert_eq!(choose(None, None), Ok(None));
    assert_eq!(choose(Some("CRC32"), None), Ok(Some((Crc32, Composite))));
    assert_eq!(choose(Some("CRC32"), Some("FULL_OBJECT")), Ok(Some((Crc32, FullObject))));
    assert_eq!(choose(Some("CRC64NVME"), None), Ok(Some((Crc64Nvme, FullObject))));
    assert_eq!(choose(Some("SHA256"), Some("COMPOSITE")), Ok(Some((Sha256, Composite))));
    for (algorithm, kind) in [
        ("SHA256", "FULL_OBJECT"),
        ("SHA1", "FULL_OBJECT"),
        ("CRC64NVME", "COMPOSITE"),
        ("MD5", "COMPOSITE"),
        ("CRC32", "x"),
    ] {
        assert_eq!(
            choose(Some(algorithm), Some(kind)).unwrap_err().code(),
            "InvalidRequest",
            "{algorithm} {kind}"
        );
    }
    assert_eq!(choose(None, Some("COMPOSITE")).unwrap_err().code(), "InvalidRequest");
}

proptest! {
    #[test]
    fn combined_parts_equal_the_whole(data in proptest::collection::vec(any::<u8>(), 0..5000), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &data[cut[0]..cut[1]]).collect();
        let whole = digests(&data);
        for algorithm in ChecksumAlgorithm::ALL {
            let values: Vec<Checksum> = parts.iter().map(|part| digests(part).get(algorithm).unwrap()).collect();
            let raw: Vec<u8> = values.iter().flat_map(|value| value.bytes().to_vec()).collect();
            prop_assert_eq!(composite(algorithm, &values), digests(&raw).get(algorithm));
            let Some(mut full) = FullObject::new(algorithm) else {
                prop_assert!(!algorithm.supports(ChecksumType::FullObject));
                continue;
            };
            for (part, value) in parts.iter().zip(&values) {
                prop_assert!(full.append(value, part.len() as u64));
            }
            prop_assert_eq!(Some(full.value()), whole.get(algorithm));
            prop_assert!(!full.append(&whole.get(ChecksumAlgorithm::Sha1).unwrap(), 1));
        }
        let mut pieces = DigestSet::new(true, ChecksumAlgorithm::ALL);
        parts.iter().for_each(|part| pieces.update(part));
        prop_assert_eq!(pieces.finish(), whole);
    }
}
