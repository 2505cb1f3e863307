//! CompleteMultipartUpload.

use coffer_common::types::{BucketName, ObjectKey};
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::super::attributes;
use super::super::auth::percent_encode;
use super::super::checksum::{self, ChecksumAlgorithm, ChecksumType};
use super::super::condition;
use super::super::convert::{combine, to_object};
use super::super::encryption;
use super::super::error::{Code, S3Error};
use super::super::events;
use super::super::object::copy::{ChecksumsXml, checksum_type};
use super::super::range::parse_part_number;
use super::super::request::S3Request;
use super::super::response::{self, S3Response, quoted};
use super::super::xml::{self, Element, malformed};
use crate::notify::Kind;
use crate::object::{Checksum, ChecksumScope, ChosenPart, CompleteUpload, ExpectedChecksum, ObjectStore};

/// Most parts of an object (S3).
const MAX_PARTS: usize = 10_000;

#[derive(Serialize)]
struct CompleteMultipartUploadResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Location")]
    location: String,
    #[serde(rename = "Bucket")]
    bucket: String,
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumType", skip_serializing_if = "Option::is_none")]
    checksum_type: Option<&'static str>,
    #[serde(flatten)]
    checksums: ChecksumsXml,
}

/// Makes the object from the parts that the body names.
///
/// # Errors
/// `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall`, `NoSuchUpload`, `BadDigest`, `PreconditionFailed`.
pub(crate) async fn complete(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let upload = super::upload_ref(bucket.clone(), key.clone(), &request)?;
    let condition = condition::of_write(&request.headers)?;
    let expected_size = expected_size(&request)?;
    let customer_key = encryption::of_upload(&request.headers)?;
    // The object's checksum, not the body's: the body must not be compared with it.
    let expected_checksum = take_expected_checksum(&mut request.headers)?;
    let parts = parse(&request.xml_body().await?)?;
    let complete = CompleteUpload {
        upload,
        parts,
        condition,
        expected_size,
        customer_key,
        expected_checksum,
        combine: Box::new(combine),
    };
    let info = store.complete_upload(complete).await?;
    events::changed(&request, Kind::CreatedByUpload, &key, &info).await?;
    let document = CompleteMultipartUploadResult {
        xmlns: xml::NAMESPACE,
        location: format!("{}/{bucket}/{}", request.origin(), percent_encode(key.as_str(), true)),
        bucket: bucket.as_str().to_owned(),
        key: key.as_str().to_owned(),
        etag: quoted(&info.etag),
        checksum_type: checksum_type(&info.checksums),
        checksums: ChecksumsXml::new(&info.checksums, info.parts.len()),
    };
    let body = xml::document("CompleteMultipartUploadResult", &document)?;
    let mut response = response::xml(StatusCode::OK, body);
    let headers = response.headers_mut();
    attributes::new_version_to_headers(&info, headers);
    attributes::expiration_to_headers(request.access()?.settings(), &key, &info, headers);
    encryption::to_headers(info.encryption.as_ref(), &request.headers, headers);
    Ok(response)
}

fn expected_size(request: &S3Request) -> Result<Option<u64>, S3Error> {
    const NAME: &str = "x-amz-mp-object-size";
    let Some(text) = request.text(NAME) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| S3Error::argument(NAME, text, "Value must be a number of bytes"))
}

fn take_expected_checksum(headers: &mut HeaderMap) -> Result<Option<ExpectedChecksum>, S3Error> {
    const TYPE: &str = "x-amz-checksum-type";
    let kind = headers.remove(TYPE);
    let kind = match kind.as_ref().map(|value| value.to_str().unwrap_or_default()) {
        None => None,
        Some(text) => {
            let invalid =
                || S3Error::with(Code::InvalidRequest, format!("Value for {TYPE} header is invalid."));
            Some(ChecksumType::from_name(text).ok_or_else(invalid)?)
        }
    };
    let mut found = None;
    for algorithm in ChecksumAlgorithm::ALL {
        let Some(value) = headers.remove(algorithm.header()) else {
            continue;
        };
        let value = checksum_of(algorithm, value.to_str().unwrap_or_default(), kind).ok_or_else(|| {
            S3Error::with(
                Code::InvalidRequest,
                format!("Value for {} header is invalid.", algorithm.header()),
            )
        })?;
        if found.replace(value).is_some() {
            return Err(checksum::ChecksumError::Several.into());
        }
    }
    Ok(found)
}

/// A checksum of the object; `-<number of parts>` at its end says that it is composite. Without it and without a type it
/// is of the type that the upload began with: the header is there to check that type, and may be left out.
fn checksum_of(
    algorithm: ChecksumAlgorithm,
    text: &str,
    kind: Option<ChecksumType>,
) -> Option<ExpectedChecksum> {
    let (value, parts) = match text.trim().split_once('-') {
        Some((value, parts)) => (value, Some(parts.parse::<u32>().ok()?)),
        None => (text.trim(), None),
    };
    let value = checksum::Checksum::from_base64(algorithm, value)?;
    let scope = match (kind, parts) {
        (Some(ChecksumType::Composite), _) | (None, Some(_)) => Some(ChecksumScope::Composite),
        (Some(ChecksumType::FullObject), Some(_)) => return None,
        (Some(ChecksumType::FullObject), None) => Some(ChecksumScope::FullObject),
        (None, None) => None,
    };
    let Checksum { algorithm, value, .. } = to_object(&value, ChecksumScope::FullObject);
    Some(ExpectedChecksum { algorithm, scope, value })
}

fn parse(body: &[u8]) -> Result<Vec<ChosenPart>, S3Error> {
    let document = Element::parse(body, "CompleteMultipartUpload")?;
    let parts = document.children_of("Part").map(chosen_part).collect::<Result<Vec<_>, _>>()?;
    if parts.is_empty() || parts.len() > MAX_PARTS {
        return Err(malformed());
    }
    Ok(parts)
}

fn chosen_part(part: &Element) -> Result<ChosenPart, S3Error> {
    let number = part.text_of("PartNumber").ok_or_else(malformed)?.trim();
    number.parse::<i64>().map_err(|_| malformed())?;
    let etag = part.text_of("ETag").ok_or_else(malformed)?;
    let mut checksums = Vec::new();
    for algorithm in ChecksumAlgorithm::ALL {
        if let Some(text) = part.text_of(algorithm.element()) {
            let invalid = || S3Error::with(Code::InvalidPart, Code::InvalidPart.message());
            let value = checksum::Checksum::from_base64(algorithm, text.trim()).ok_or_else(invalid)?;
            checksums.push(to_object(&value, ChecksumScope::FullObject));
        }
    }
    Ok(ChosenPart {
        number: parse_part_number(number)?,
        etag: condition::unquoted(etag).to_owned(),
        checksums,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_parse() {
        let body = b"<CompleteMultipartUpload xmlns=\"x\"><Part><ETag>&quot;e1&quot;</ETag><PartNumber>1</PartNumber>\
                     <ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part><Part><PartNumber> 2 </PartNumber><ETag>e2</ETag>\
                     </Part></CompleteMultipartUpload>";
        let parts = parse(body).unwrap();
        assert_eq!((parts[0].number, parts[0].etag.as_str(), parts[0].checksums.len()), (1, "e1", 1));
        assert_eq!((parts[1].number, parts[1].etag.as_str(), parts[1].checksums.len()), (2, "e2", 0));
    }

    #[test]
    fn bad_bodies_have_their_codes() {
        let wrap = |inner: &str| format!("<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>");
        for (body, code) in [
            (String::new(), Code::MalformedXML),
            (wrap(""), Code::MalformedXML),
            (wrap("<Part><PartNumber>1</PartNumber></Part>"), Code::MalformedXML),
            (wrap("<Part><PartNumber>x</PartNumber><ETag>e</ETag></Part>"), Code::MalformedXML),
            (wrap("<Part><PartNumber>0</PartNumber><ETag>e</ETag></Part>"), Code::InvalidArgument),
            (wrap("<Part><PartNumber>10001</PartNumber><ETag>e</ETag></Part>"), Code::InvalidArgument),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().code(), code, "{body}");
        }
    }

    #[test]
    fn the_objects_checksum_says_what_it_covers() {
        let of = |text, kind| checksum_of(ChecksumAlgorithm::Crc32, text, kind).map(|value| value.scope);
        assert_eq!(of("AAAAAA==-2", None), Some(Some(ChecksumScope::Composite)));
        assert_eq!(of("AAAAAA==", Some(ChecksumType::FullObject)), Some(Some(ChecksumScope::FullObject)));
        assert_eq!(of("AAAAAA==", None), Some(None));
        assert_eq!(of("AAAAAA==-2", Some(ChecksumType::FullObject)), None);
        assert_eq!(of("AAAA", None), None);
    }
}
