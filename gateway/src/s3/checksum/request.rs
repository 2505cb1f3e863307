//! Which checksums a request announces, and whether they hold.

use super::{Checksum, ChecksumAlgorithm, ChecksumError, Digests};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use subtle::ConstantTimeEq;

const SDK_ALGORITHM: &str = "x-amz-sdk-checksum-algorithm";
const TRAILER: &str = "x-amz-trailer";

/// The checksums of one upload request. Merge hoisted query fields into the headers first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestChecksums {
    content_md5: Option<[u8; 16]>,
    value: Option<Checksum>,
    trailer: Option<ChecksumAlgorithm>,
}

impl RequestChecksums {
    /// Reads `Content-MD5`, `x-amz-checksum-*`, `x-amz-sdk-checksum-algorithm` and `x-amz-trailer`.
    ///
    /// # Errors
    /// [`ChecksumError`] if a value is unreadable, two checksums are announced, or they contradict.
    pub fn parse(headers: &HeaderMap) -> Result<Self, ChecksumError> {
        let content_md5 = parse_content_md5(headers)?;
        let value = header_value(headers)?;
        let trailer = trailer_algorithm(headers)?;
        if value.is_some() && trailer.is_some() {
            return Err(ChecksumError::Several);
        }
        let request = Self { content_md5, value, trailer };
        request.check_sdk_algorithm(headers)?;
        Ok(request)
    }

    fn check_sdk_algorithm(&self, headers: &HeaderMap) -> Result<(), ChecksumError> {
        let Some(name) = headers.get(SDK_ALGORITHM) else {
            return Ok(());
        };
        let invalid = ChecksumError::InvalidHeader { header: SDK_ALGORITHM.to_owned() };
        let algorithm = name.to_str().ok().and_then(ChecksumAlgorithm::from_name);
        let algorithm = algorithm.ok_or(invalid.clone())?;
        match self.algorithm() {
            None => Err(ChecksumError::ValueMissing),
            Some(announced) if announced != algorithm => Err(invalid),
            Some(_) => Ok(()),
        }
    }

    /// The checksum algorithm that the request uses, in a header or in the trailer.
    pub fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.value.map(|value| value.algorithm()).or(self.trailer)
    }

    /// All algorithms to compute for it (for [`super::DigestSet::new`]; MD5 is the ETag's business).
    pub fn algorithms(&self) -> impl Iterator<Item = ChecksumAlgorithm> {
        self.algorithm().into_iter()
    }

    /// Whether `Content-MD5` was given, so that MD5 must be computed.
    pub fn has_content_md5(&self) -> bool {
        self.content_md5.is_some()
    }

    /// The value in the header, if the request carries one there.
    pub fn value(&self) -> Option<Checksum> {
        self.value
    }

    /// Compares with what was computed; `trailers` are the fields after the body. Answers the proven
    /// checksum, which is to be stored with the object.
    ///
    /// # Errors
    /// [`ChecksumError`]; the upload must not be committed. A digest that was not computed counts as
    /// another.
    pub fn verify(
        &self,
        computed: &Digests,
        trailers: &[(String, String)],
    ) -> Result<Option<Checksum>, ChecksumError> {
        if let Some(expected) = self.content_md5
            && computed.md5() != Some(expected)
        {
            return Err(ChecksumError::ContentMd5Mismatch);
        }
        let Some(expected) = self.expected(trailers)? else {
            return Ok(None);
        };
        let algorithm = expected.algorithm();
        let same = computed.get(algorithm).is_some_and(|value| value.bytes().ct_eq(expected.bytes()).into());
        if same { Ok(Some(expected)) } else { Err(ChecksumError::Mismatch { algorithm }) }
    }

    fn expected(&self, trailers: &[(String, String)]) -> Result<Option<Checksum>, ChecksumError> {
        let Some(algorithm) = self.trailer else {
            return Ok(self.value);
        };
        let header = algorithm.header();
        let field = trailers.iter().find(|(name, _)| name == header);
        let value = field.and_then(|(_, text)| Checksum::from_base64(algorithm, text));
        value.map(Some).ok_or(ChecksumError::InvalidTrailer { header })
    }
}

/// `Content-MD5`, decoded.
///
/// # Errors
/// [`ChecksumError::InvalidContentMd5`] if it is not the base64 of 16 bytes.
pub fn parse_content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, ChecksumError> {
    let mut values = headers.get_all("content-md5").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let decoded = STANDARD.decode(value.as_bytes().trim_ascii()).ok().filter(|_| values.next().is_none());
    let md5 = decoded.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    md5.map(Some).ok_or(ChecksumError::InvalidContentMd5)
}

/// The single `x-amz-checksum-<algorithm>` header.
fn header_value(headers: &HeaderMap) -> Result<Option<Checksum>, ChecksumError> {
    let mut found = None;
    for (name, value) in headers {
        let name = name.as_str();
        // These say how, not what.
        let about =
            matches!(name, "x-amz-checksum-mode" | "x-amz-checksum-type" | "x-amz-checksum-algorithm");
        if about || !name.starts_with("x-amz-checksum-") {
            continue;
        }
        let algorithm = ChecksumAlgorithm::from_header(name).ok_or(ChecksumError::UnsupportedAlgorithm)?;
        let text = value.to_str().unwrap_or_default().trim();
        let value = Checksum::from_base64(algorithm, text)
            .ok_or_else(|| ChecksumError::InvalidHeader { header: name.to_owned() })?;
        if found.replace(value).is_some() {
            return Err(ChecksumError::Several);
        }
    }
    Ok(found)
}

/// The checksum that the trailer will carry.
fn trailer_algorithm(headers: &HeaderMap) -> Result<Option<ChecksumAlgorithm>, ChecksumError> {
    let mut found = None;
    for value in headers.get_all(TRAILER) {
        let text = value.to_str().map_err(|_| ChecksumError::UnsupportedTrailer)?;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let algorithm = ChecksumAlgorithm::from_header(name).ok_or(ChecksumError::UnsupportedTrailer)?;
            if found.replace(algorithm).is_some() {
                return Err(ChecksumError::Several);
            }
        }
    }
    Ok(found)
}
