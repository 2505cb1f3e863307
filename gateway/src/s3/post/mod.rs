//! PostObject: a browser's form writes an object.
//!
//! 1. [`form`] reads the fields up to the file, which must be the last one. A field that is there twice is refused: what the
//!    policy is held against must be what is stored.
//! 2. If there is a policy, its signature says who asks ([`super::auth`]), and [`policy`] what may be in the form; without
//!    one the caller is nobody.
//! 3. The fields become the headers of a PutObject, which passes the same point of access as every other one, and needs the
//!    same actions.
//! 4. The file streams to the object layer; its length is what is left of the request without the closing delimiter.
//!
//! Source: "POST Object" and "Browser-Based Uploads Using POST" of the Amazon S3 API Reference.

mod file;
mod form;
mod policy;

use std::borrow::Cow;

use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::access::{self, Caller};
use super::auth::{Scheme, Verified};
use super::error::{Code, S3Error};
use super::operation::object_key;
use super::request::S3Request;
use super::response::{self, S3Response, quoted};
use super::tagging;
use super::xml::{DECLARATION, push_element};
use super::{attributes, encryption, events, object};
use crate::notify::Kind;
use crate::object::{Attributes, ObjectInfo, ObjectStore, PutObject};

pub(crate) use file::FileBody;
use form::{Fields, Form, repeated};
use policy::PostPolicy;

/// Proves who signed a form's policy.
pub(crate) type Prove<'a> =
    &'a (dyn Fn(&dyn Fn(&str) -> Option<String>, &str) -> Result<(Verified, Caller), S3Error> + Sync);

/// Writes the object of a form.
///
/// # Errors
/// What is wrong with form, policy or signature; `AccessDenied`; those of PutObject.
pub(crate) async fn post(
    store: &ObjectStore,
    bucket: BucketName,
    mut request: S3Request,
    prove: Prove<'_>,
) -> Result<S3Response, S3Error> {
    if request.scheme() != Scheme::Anonymous {
        // Its body would be read past that signature.
        let message = "A form is signed by its policy, and not by its request.";
        return Err(S3Error::with(Code::InvalidRequest, message));
    }
    let content_type = request.text("content-type").unwrap_or_default().to_owned();
    let length = request.text("content-length").and_then(|text| text.parse::<u64>().ok());
    let form = Form::open(request.take_body()?, &content_type, length).await?;
    let key = form.key()?;
    let mut limits = 0..=super::body::MAX_PUT_BYTES;
    if let Some(text) = form.fields.get("policy") {
        let field = |name: &str| form.fields.get(name).map(str::to_owned);
        let (verified, caller) = prove(&field, text)?;
        let policy = PostPolicy::parse(text)?;
        limits = policy.check(&form.fields, (bucket.as_str(), &key), UnixMillis::now())?;
        request.sign(verified, caller);
    }
    if form.file_length < *limits.start() {
        return Err(S3Error::new(Code::EntityTooSmall));
    }
    if form.file_length > *limits.end() {
        return Err(S3Error::new(Code::EntityTooLarge));
    }
    let key = object_key(key)?;
    let sent = std::mem::replace(&mut request.headers, headers(&form.fields, form.file_length)?);
    // Policies may ask for these two, which are never fields.
    for name in [header::REFERER, header::USER_AGENT] {
        if let Some(value) = sent.get(&name) {
            request.headers.insert(name, value.clone());
        }
    }
    let access = request.access()?.of_form(store, &bucket, &request).await?;
    for action in access::of_write(&request.headers) {
        access.demand(store, action, Some((&key, None))).await?;
    }
    if let Some(action) = access::of_list(&request.headers) {
        access.refuse_denied(store, action, (&key, None)).await?;
    }
    request.admit(access);
    let (owner, access) = object::acl::of_new(&request)?;
    let attributes = Attributes { access, ..attributes::from_headers(&request.headers)? };
    let settings = request.access()?.settings();
    let encrypt = encryption::of_write(&request.headers, settings, store.encryption_keys())?;
    let Form { fields, file, .. } = form;
    let body = request.form_body(file)?;
    let condition = super::condition::of_write(&request.headers)?;
    let put =
        PutObject { bucket: bucket.clone(), key: key.clone(), attributes, owner, condition, encrypt, body };
    let info = store.put_object(put).await?;
    events::changed(&request, Kind::CreatedByPost, &key, &info).await?;
    answer(&fields, (&bucket, &key), &request, &info)
}

/// Whether a field becomes a header.
fn is_header(field: &str) -> bool {
    const FIELDS: [&str; 13] = [
        "acl",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-md5",
        "content-type",
        "expires",
        "tagging",
        "x-amz-acl",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-storage-class",
        "x-amz-website-redirect-location",
    ];
    const FAMILIES: [&str; 4] =
        ["x-amz-checksum-", "x-amz-meta-", "x-amz-object-lock-", "x-amz-server-side-encryption"];
    FIELDS.contains(&field) || FAMILIES.iter().any(|family| field.starts_with(family))
}

/// The fields as PutObject's headers.
///
/// # Errors
/// `InvalidArgument` if a field cannot be a header, or two are the same one; what is wrong with tags.
fn headers(fields: &Fields, file_length: u64) -> Result<HeaderMap, S3Error> {
    let mut headers = HeaderMap::new();
    for (field, value) in fields.iter().filter(|(field, _)| is_header(field)) {
        let (name, value) = match field {
            "acl" => ("x-amz-acl", Cow::Borrowed(value)),
            "tagging" => {
                let tags = tagging::parse(value.as_bytes(), tagging::MAX_OBJECT_TAGS)?;
                ("x-amz-tagging", Cow::Owned(tagging::header(&tags)))
            }
            _ => (field, Cow::Borrowed(value)),
        };
        let bad = || S3Error::argument("Field", &value, "The field cannot be kept.");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        if headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?).is_some() {
            return Err(repeated(field, value));
        }
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(file_length));
    Ok(headers)
}

/// The answer that the form asks for.
fn answer(
    fields: &Fields,
    (bucket, key): (&BucketName, &ObjectKey),
    request: &S3Request,
    info: &ObjectInfo,
) -> Result<S3Response, S3Error> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let location = format!("{}/{bucket}/{}", request.origin(), encode(key.as_str()));
    let redirect = fields.get("success_action_redirect").or_else(|| fields.get("redirect"));
    let absolute = |url: &&str| url.starts_with("http://") || url.starts_with("https://");
    let mut answer = if let Some(url) = redirect.filter(absolute) {
        let mark = if url.contains('?') { '&' } else { '?' };
        let etag = encode(&quoted(&info.etag));
        let target = format!("{url}{mark}bucket={bucket}&key={}&etag={etag}", encode(key.as_str()));
        let mut answer = response::empty(StatusCode::SEE_OTHER);
        response::set(answer.headers_mut(), header::LOCATION, &target);
        answer
    } else {
        let mut answer = match fields.get("success_action_status") {
            Some("200") => response::empty(StatusCode::OK),
            Some("201") => {
                let mut document = format!("{DECLARATION}<PostResponse>");
                for (name, text) in [
                    ("Location", location.as_str()),
                    ("Bucket", bucket.as_str()),
                    ("Key", key.as_str()),
                    ("ETag", quoted(&info.etag).as_str()),
                ] {
                    push_element(&mut document, name, text);
                }
                document.push_str("</PostResponse>");
                response::xml(StatusCode::CREATED, document)
            }
            _ => response::empty(StatusCode::NO_CONTENT),
        };
        response::set(answer.headers_mut(), header::LOCATION, &location);
        answer
    };
    let headers = answer.headers_mut();
    response::set(headers, header::ETAG, &quoted(&info.etag));
    attributes::new_version_to_headers(info, headers);
    attributes::expiration_to_headers(request.access()?.settings(), key, info, headers);
    encryption::to_headers(info.encryption.as_ref(), &request.headers, headers);
    attributes::checksums_to_headers(&info.checksums, info.parts.len(), headers);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::access::Action;

    #[test]
    fn fields_need_the_actions_that_headers_need() {
        let of = |pairs: &[(&str, &str)]| access::of_write(&headers(&Fields::of(pairs), 1).unwrap());
        let tags = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1+2=3</Value></Tag></TagSet></Tagging>";
        assert_eq!(of(&[("key", "k"), ("acl", "private")]), [Action::PutObject]);
        for (field, value, action) in [
            ("tagging", tags, Action::PutObjectTagging),
            ("tagging", "<Tagging><TagSet/></Tagging>", Action::PutObjectTagging),
            ("x-amz-object-lock-mode", "GOVERNANCE", Action::PutObjectRetention),
            ("x-amz-object-lock-legal-hold", "OFF", Action::PutObjectLegalHold),
        ] {
            assert_eq!(of(&[(field, value)]), [Action::PutObject, action], "{field}");
        }
        let list = |name| access::of_list(&headers(&Fields::of(&[("acl", name)]), 1).unwrap());
        assert_eq!([list("private"), list("public-read")], [None, Some(Action::PutObjectAcl)]);
        let tagged = headers(&Fields::of(&[("tagging", tags), ("x-amz-tagging", "c=3")]), 1).unwrap();
        let read = attributes::tagging(&tagged).unwrap().unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [("a b".to_owned(), "1+2=3".to_owned())]);
    }

    #[test]
    fn two_fields_are_never_the_same_header() {
        let both = Fields::of(&[("acl", "private"), ("x-amz-acl", "public-read")]);
        assert_eq!(headers(&both, 1).unwrap_err().code(), Code::InvalidArgument);
    }
}
