//! PostObject: a browser's form writes an object.
//!
//! 1. [`form`] reads the fields up to the file, which must be the last one.
//! 2. If there is a policy, its signature says who asks ([`super::auth`]), and [`policy`] what may be in the form; without
//!    one the caller is nobody.
//! 3. The fields become the headers of a PutObject, which passes the same point of access as every other one.
//! 4. The file streams to the object layer; its length is what is left of the request without the closing delimiter.
//!
//! Source: "POST Object" and "Browser-Based Uploads Using POST" of the Amazon S3 API Reference.

mod file;
mod form;
mod policy;

use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::access::{Action, Caller};
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
use form::{Fields, Form};
use policy::PostPolicy;

/// Headers of PutObject that a form has as fields of the same name.
const FIELDS: [&str; 6] = [
    "cache-control",
    "content-type",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

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
    request.headers = headers(&form)?;
    let access = request.access()?.of_form(store, &bucket, &request).await?;
    access.demand(store, Action::PutObject, Some((&key, None))).await?;
    let tags = match form.fields.get("tagging") {
        None => None,
        Some(text) => {
            access.demand(store, Action::PutObjectTagging, Some((&key, None))).await?;
            Some(tagging::parse(text.as_bytes(), tagging::MAX_OBJECT_TAGS)?)
        }
    };
    request.admit(access);
    let (owner, access) = object::acl::of_new(&request)?;
    let mut attributes = Attributes { access, ..attributes::from_headers(&request.headers)? };
    attributes.tags = tags.unwrap_or(attributes.tags);
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

/// The fields as PutObject's headers.
fn headers(form: &Form) -> Result<HeaderMap, S3Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in form.fields.iter() {
        let name = if name == "acl" { "x-amz-acl" } else { name };
        let wanted = FIELDS.contains(&name)
            || name == "x-amz-acl"
            || name.starts_with("x-amz-meta-")
            || name.starts_with("x-amz-checksum-")
            || name.starts_with("x-amz-server-side-encryption")
            || name.starts_with("x-amz-object-lock-")
            || matches!(
                name,
                "x-amz-storage-class"
                    | "x-amz-website-redirect-location"
                    | "x-amz-sdk-checksum-algorithm"
                    | "content-md5"
            );
        if !wanted {
            continue;
        }
        let bad = || S3Error::argument("Field", value, "The field cannot be kept.");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(form.file_length));
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
