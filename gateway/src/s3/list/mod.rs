//! Listings of objects: two forms of one page, and what they share.

pub(crate) mod v1;
pub(crate) mod v2;
pub(crate) mod versions;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coffer_common::types::BucketName;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::attributes::class_name;
use super::convert::{algorithm_to_s3, scope_to_s3};
use super::error::S3Error;
use super::query::Query;
use super::response::{iso_date, quoted};
use crate::object::{ListObjects, ListedObject, ObjectPage, ObjectStore, Owner};

/// What `encoding-type=url` leaves as it is.
const URL_SAFE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'*').remove(b'/');

/// Marks our continuation tokens, so that others are refused.
const TOKEN_VERSION: char = '1';

/// A page that may pause does so after this long: most clients wait a minute for an answer, some half of that, and what nodes
/// are asked last takes seconds.
const PAUSE_AFTER: Duration = Duration::from_secs(15);

/// Whether names go out percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoding {
    url: bool,
}

impl Encoding {
    /// Reads `encoding-type`.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not `url`.
    pub(crate) fn parse(query: &Query) -> Result<Self, S3Error> {
        match query.get("encoding-type") {
            None | Some("") => Ok(Self { url: false }),
            Some(text) if text.eq_ignore_ascii_case("url") => Ok(Self { url: true }),
            Some(text) => {
                Err(S3Error::argument("encoding-type", text, "Invalid Encoding Method specified in Request"))
            }
        }
    }

    /// A name as it goes out.
    pub(crate) fn apply(self, name: &str) -> String {
        if self.url { utf8_percent_encode(name, URL_SAFE).to_string() } else { name.to_owned() }
    }

    /// The `<EncodingType>`.
    pub(crate) fn name(self) -> Option<&'static str> {
        self.url.then_some("url")
    }
}

/// Makes a continuation token.
pub(crate) fn encode_token(next: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{TOKEN_VERSION}{next}"))
}

/// Reads a continuation token; an empty one is none.
///
/// # Errors
/// `InvalidArgument` if it is not one of ours.
pub(crate) fn decode_token(token: Option<&str>) -> Result<Option<String>, S3Error> {
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let next = text.as_deref().and_then(|text| text.strip_prefix(TOKEN_VERSION));
    match next {
        Some(next) => Ok(Some(next.to_owned())),
        None => {
            let message = "The continuation token provided is incorrect";
            Err(S3Error::argument("continuation-token", token, message))
        }
    }
}

/// `<Owner>`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OwnerXml {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "DisplayName")]
    display_name: String,
}

impl From<Owner> for OwnerXml {
    fn from(owner: Owner) -> Self {
        Self { id: owner.id, display_name: owner.display_name }
    }
}

/// `<CommonPrefixes>`.
#[derive(Debug, Serialize)]
pub(crate) struct PrefixXml {
    /// The prefix.
    #[serde(rename = "Prefix")]
    pub(crate) prefix: String,
}

/// `<Contents>`.
#[derive(Debug, Serialize)]
pub(crate) struct ContentsXml {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "LastModified")]
    last_modified: String,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumAlgorithm")]
    checksum_algorithm: Vec<&'static str>,
    #[serde(rename = "ChecksumType", skip_serializing_if = "Option::is_none")]
    checksum_type: Option<&'static str>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Owner", skip_serializing_if = "Option::is_none")]
    owner: Option<OwnerXml>,
    #[serde(rename = "StorageClass")]
    storage_class: &'static str,
}

impl ContentsXml {
    fn new(object: ListedObject, encoding: Encoding, with_owner: bool) -> Self {
        let info = object.info;
        Self {
            key: encoding.apply(object.key.as_str()),
            last_modified: iso_date(info.last_modified),
            etag: quoted(&info.etag),
            checksum_algorithm: info
                .checksums
                .iter()
                .map(|sum| algorithm_to_s3(sum.algorithm).name())
                .collect(),
            checksum_type: info.checksums.first().map(|sum| scope_to_s3(sum.scope).name()),
            size: info.size,
            owner: with_owner.then(|| info.owner.into()),
            storage_class: class_name(info.attributes.storage_class),
        }
    }
}

/// What the listings' queries have in common.
pub(crate) struct Listing {
    pub(crate) prefix: String,
    pub(crate) delimiter: String,
    pub(crate) limit: u32,
    pub(crate) encoding: Encoding,
}

impl Listing {
    fn parse(query: &Query) -> Result<Self, S3Error> {
        Ok(Self {
            prefix: query.text("prefix").to_owned(),
            delimiter: query.text("delimiter").to_owned(),
            limit: query.page_size("max-keys")?,
            encoding: Encoding::parse(query)?,
        })
    }

    /// Reads the page after `start_after`; none at all for `max-keys=0`, but the bucket must exist. It may pause if clients
    /// take the next page's beginning from a field of its own.
    async fn page(
        &self,
        store: &ObjectStore,
        bucket: &BucketName,
        start_after: String,
        may_pause: bool,
    ) -> Result<ObjectPage, S3Error> {
        if self.limit == 0 {
            store.head_bucket(bucket).await?;
            return Ok(ObjectPage::default());
        }
        let request = ListObjects {
            bucket: bucket.clone(),
            prefix: self.prefix.clone(),
            delimiter: self.delimiter.clone(),
            start_after,
            limit: self.limit,
            pause_after: may_pause.then_some(PAUSE_AFTER),
        };
        Ok(store.list_objects(request).await?)
    }

    fn prefixes(&self, prefixes: Vec<String>) -> Vec<PrefixXml> {
        prefixes.into_iter().map(|prefix| PrefixXml { prefix: self.encoding.apply(&prefix) }).collect()
    }

    fn delimiter_xml(&self) -> Option<String> {
        Some(self.encoding.apply(&self.delimiter)).filter(|delimiter| !delimiter.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::*;

    #[test]
    fn tokens_are_opaque_and_checked() {
        for next in ["", "a/b", "é\u{1}"] {
            assert_eq!(decode_token(Some(&encode_token(next))).unwrap().as_deref(), Some(next));
        }
        for bad in ["a", "!!", "MmE"] {
            assert_eq!(decode_token(Some(bad)).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
        assert_eq!((decode_token(None).unwrap(), decode_token(Some("")).unwrap()), (None, None));
    }

    #[test]
    fn url_encoding_keeps_slashes() {
        let encoding = Encoding::parse(&Query::parse("encoding-type=url").unwrap()).unwrap();
        assert_eq!(encoding.apply("a/b c+\u{1}é%"), "a/b%20c%2B%01%C3%A9%25");
    }
}
