//! The headers of encryption at rest: what a request wants or brings, and what an answer tells.
//!
//! Owns: their names, and S3's rules of which go together. Never: opens or keeps a key; [`crate::object`] does. A customer's key
//! is read from its header into a type that is not printed and is overwritten when it is dropped; the header itself lives as long
//! as its request.
//!
//! Sources: "Protecting data with server-side encryption" (SSE-S3, SSE-KMS, SSE-C) of the Amazon S3 User Guide, and the pages of
//! PutObject, GetObject, CopyObject, UploadPart and CompleteMultipartUpload of its API Reference.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};

use super::checksum::DigestSet;
use super::error::{Code, S3Error};
use super::response::set;
use super::settings::BucketSettings;
use crate::object::{CustomerKey, Encrypt, Encrypted, EncryptionError, Keyring};

const PREFIX: &str = "x-amz-server-side-encryption";
const SOURCE_PREFIX: &str = "x-amz-copy-source-server-side-encryption";

/// S3's names of the methods.
pub(crate) const SSE_S3: &str = "AES256";
pub(crate) const SSE_KMS: &str = "aws:kms";

/// How a write is to be encrypted: as its headers say, else as the bucket's configuration does.
///
/// # Errors
/// `InvalidArgument` for headers that contradict one another, `NotImplemented` for methods that Coffer does not have or has no keys for.
pub(crate) fn of_write(
    headers: &HeaderMap,
    settings: &BucketSettings,
    keys: &Keyring,
) -> Result<Encrypt, S3Error> {
    let text = Texts { headers, prefix: PREFIX };
    let customer = customer_key(text)?;
    let (method, key) = (text.get(""), text.get("-aws-kms-key-id"));
    match method {
        Some("aws:kms:dsse") => Err(S3Error::not_implemented("aws:kms:dsse")),
        _ if key.is_some() && method != Some(SSE_KMS) => Err(invalid(
            "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
        )),
        Some(_) if customer.is_some() => Err(invalid(
            "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
        )),
        Some(SSE_S3) => Ok(Encrypt::Managed),
        Some(SSE_KMS) if text.get("-context").is_some() => {
            Err(S3Error::not_implemented("x-amz-server-side-encryption-context"))
        }
        Some(SSE_KMS) => named(key, keys),
        Some(_) => Err(invalid("The encryption method specified is not supported")),
        None => match (customer, &settings.encryption) {
            (Some(key), _) => Ok(Encrypt::Customer(key)),
            (None, None) => Ok(Encrypt::No),
            (None, Some(default)) => match default.method {
                DefaultMethod::Managed => Ok(Encrypt::Managed),
                DefaultMethod::Named => named(default.key.as_deref(), keys),
            },
        },
    }
}

/// With the key of this id, or the first if none is named.
fn named(id: Option<&str>, keys: &Keyring) -> Result<Encrypt, S3Error> {
    let name = id.map(|id| keys.name_of(id)).or(keys.default_key());
    Ok(Encrypt::Named(name.ok_or(EncryptionError::NoKeyring)?.to_owned()))
}

/// The customer's key of a read. Other headers of encryption are for writes.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn of_read(headers: &HeaderMap) -> Result<Option<CustomerKey>, S3Error> {
    let text = Texts { headers, prefix: PREFIX };
    if text.get("").is_some() || text.get("-aws-kms-key-id").is_some() {
        return Err(invalid("x-amz-server-side-encryption header is not supported for this operation."));
    }
    customer_key(text)
}

/// The customer's key of a request about an upload, which is encrypted as it was begun: other headers of encryption say nothing new.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn of_upload(headers: &HeaderMap) -> Result<Option<CustomerKey>, S3Error> {
    customer_key(Texts { headers, prefix: PREFIX })
}

/// Refuses a part that asks for encryption by the gateway, where its upload has none: it would not be encrypted.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_part(headers: &HeaderMap, upload: Option<&Encrypted>) -> Result<(), S3Error> {
    let asked = Texts { headers, prefix: PREFIX }.get("").is_some();
    match upload {
        Some(Encrypted::Managed | Encrypted::Named(_)) => Ok(()),
        Some(Encrypted::Customer) | None if asked => Err(invalid(
            "x-amz-server-side-encryption header is not supported for this operation: the upload was begun without it.",
        )),
        Some(Encrypted::Customer) | None => Ok(()),
    }
}

/// The customer's key of a copy's source.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn of_source(headers: &HeaderMap) -> Result<Option<CustomerKey>, S3Error> {
    customer_key(Texts { headers, prefix: SOURCE_PREFIX })
}

/// Whether a copy says how its target is to be encrypted.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    let text = Texts { headers, prefix: PREFIX };
    text.get("").is_some() || text.get("-customer-algorithm").is_some()
}

/// Tells how what a request is about is encrypted. Of a customer's key that is what the request has said of it, and has been proven.
pub(crate) fn to_headers(encryption: Option<&Encrypted>, request: &HeaderMap, headers: &mut HeaderMap) {
    const METHOD: HeaderName = HeaderName::from_static(PREFIX);
    match encryption {
        None => {}
        Some(Encrypted::Managed) => set(headers, METHOD, SSE_S3),
        Some(Encrypted::Named(key)) => {
            set(headers, METHOD, SSE_KMS);
            set(headers, HeaderName::from_static("x-amz-server-side-encryption-aws-kms-key-id"), key);
        }
        Some(Encrypted::Customer) => {
            for name in [
                "x-amz-server-side-encryption-customer-algorithm",
                "x-amz-server-side-encryption-customer-key-md5",
            ] {
                if let Some(value) = request.get(name) {
                    headers.insert(HeaderName::from_static(name), value.clone());
                }
            }
        }
    }
}

/// How a write that went well was encrypted.
pub(crate) fn made(encrypt: &Encrypt) -> Option<Encrypted> {
    match encrypt {
        Encrypt::No => None,
        Encrypt::Customer(_) => Some(Encrypted::Customer),
        Encrypt::Managed => Some(Encrypted::Managed),
        Encrypt::Named(name) => Some(Encrypted::Named(name.clone())),
    }
}

/// How a bucket encrypts what comes without headers of encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DefaultEncryption {
    /// With whose choice of the key.
    pub(crate) method: DefaultMethod,
    /// The key as it was named, if it was.
    pub(crate) key: Option<String>,
    /// Whether it was asked for keys of the bucket between that one and those of objects; told as it was asked.
    pub(crate) bucket_key: Option<bool>,
}

/// The methods that a bucket may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultMethod {
    /// `AES256`.
    Managed,
    /// `aws:kms`.
    Named,
}

/// Headers below a prefix.
#[derive(Clone, Copy)]
struct Texts<'a> {
    headers: &'a HeaderMap,
    prefix: &'static str,
}

impl<'a> Texts<'a> {
    fn get(self, suffix: &str) -> Option<&'a str> {
        let value = self.headers.get(format!("{}{suffix}", self.prefix))?;
        Some(value.to_str().unwrap_or_default())
    }
}

fn invalid(message: &'static str) -> S3Error {
    S3Error::with(Code::InvalidArgument, message)
}

/// The customer's key, if any of its headers is there; a good one.
fn customer_key(text: Texts<'_>) -> Result<Option<CustomerKey>, S3Error> {
    let (algorithm, key, md5) =
        (text.get("-customer-algorithm"), text.get("-customer-key"), text.get("-customer-key-md5"));
    if algorithm.is_none() && key.is_none() && md5.is_none() {
        return Ok(None);
    }
    let algorithm = algorithm.ok_or_else(|| {
        invalid("Requests specifying Server Side Encryption with Customer provided keys must provide a valid encryption algorithm.")
    })?;
    if algorithm != SSE_S3 {
        return Err(invalid("The encryption algorithm specified is not supported: it must be AES256."));
    }
    let key = key.ok_or_else(|| {
        invalid("Requests specifying Server Side Encryption with Customer provided keys must provide an appropriate secret key.")
    })?;
    let wrong = || invalid("The secret key was invalid for the specified algorithm.");
    let bytes = zeroize::Zeroizing::new(STANDARD.decode(key).map_err(|_| wrong())?);
    let key = CustomerKey::new(&bytes).ok_or_else(wrong)?;
    let md5 = md5.ok_or_else(|| {
        invalid("Requests specifying Server Side Encryption with Customer provided keys must provide the client calculated MD5 of the secret key.")
    })?;
    let mut set = DigestSet::new(true, []);
    set.update(&bytes);
    if set.finish().md5().map(|digest| STANDARD.encode(digest)).as_deref() != Some(md5) {
        return Err(invalid("The calculated MD5 hash of the key did not match the hash that was provided."));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const KEY: &str = "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=";
    const MD5: &str = "DWygnHRtgiJ77HCm+1rvHw==";
    const CUSTOMER: [(&str, &str); 3] =
        [("-customer-algorithm", "AES256"), ("-customer-key", KEY), ("-customer-key-md5", MD5)];

    fn headers(pairs: &[(&str, &'static str)]) -> HeaderMap {
        let pair = |(suffix, value): &(&str, &'static str)| {
            let name = HeaderName::try_from(format!("{PREFIX}{suffix}")).unwrap();
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn keys() -> Keyring {
        Keyring::parse(&format!("first:{KEY}\nsecond:{KEY}")).unwrap()
    }

    fn named(name: &str) -> Encrypt {
        Encrypt::Named(name.to_owned())
    }

    fn default(method: DefaultMethod, key: Option<&str>) -> BucketSettings {
        let encryption = DefaultEncryption { method, key: key.map(str::to_owned), bucket_key: None };
        BucketSettings { encryption: Some(encryption), ..BucketSettings::default() }
    }

    #[test]
    fn contradictions_are_refused() {
        for (pairs, code) in [
            (vec![("", "aws:kms:dsse")], Code::NotImplemented),
            (vec![("", "aws:kms"), ("-context", "e30=")], Code::NotImplemented),
            (vec![("", "aes:kms")], Code::InvalidArgument),
            (vec![("", "AES256"), ("-aws-kms-key-id", "k")], Code::InvalidArgument),
            (vec![("-aws-kms-key-id", "k")], Code::InvalidArgument),
            ([&CUSTOMER[..], &[("", "AES256")]].concat(), Code::InvalidArgument),
            (
                [&CUSTOMER[..], &[("", "aws:kms"), ("-aws-kms-key-id", "first")]].concat(),
                Code::InvalidArgument,
            ),
            (CUSTOMER[..2].to_vec(), Code::InvalidArgument),
            (CUSTOMER[1..].to_vec(), Code::InvalidArgument),
            (vec![("-customer-algorithm", "AES192"), CUSTOMER[1], CUSTOMER[2]], Code::InvalidArgument),
            (vec![CUSTOMER[0], CUSTOMER[1], ("-customer-key-md5", "AAAA")], Code::InvalidArgument),
            (vec![CUSTOMER[0], ("-customer-key", "AAAA"), CUSTOMER[2]], Code::InvalidArgument),
        ] {
            let refused = of_write(&headers(&pairs), &BucketSettings::default(), &keys());
            assert_eq!(refused.unwrap_err().code(), code, "{pairs:?}");
        }
    }

    #[test]
    fn a_write_is_encrypted_as_its_headers_say_and_else_as_the_bucket_does() {
        let customer = Encrypt::Customer(CustomerKey::new(&STANDARD.decode(KEY).unwrap()).unwrap());
        let plain = BucketSettings::default();
        for (pairs, settings, expected) in [
            (vec![], plain.clone(), Encrypt::No),
            (CUSTOMER.to_vec(), plain.clone(), customer.clone()),
            (vec![("", "AES256")], plain.clone(), Encrypt::Managed),
            (vec![("", "aws:kms")], plain.clone(), named("first")),
            (
                vec![("", "aws:kms"), ("-aws-kms-key-id", "arn:aws:kms:eu:1:key/second")],
                plain.clone(),
                named("second"),
            ),
            (vec![("", "aws:kms"), ("-aws-kms-key-id", "third")], plain, named("third")),
            (vec![], default(DefaultMethod::Managed, None), Encrypt::Managed),
            (vec![], default(DefaultMethod::Named, None), named("first")),
            (vec![], default(DefaultMethod::Named, Some("second")), named("second")),
            (vec![("", "AES256")], default(DefaultMethod::Named, Some("second")), Encrypt::Managed),
            (CUSTOMER.to_vec(), default(DefaultMethod::Named, Some("second")), customer),
        ] {
            assert_eq!(of_write(&headers(&pairs), &settings, &keys()).unwrap(), expected, "{pairs:?}");
        }
        let without_keys =
            of_write(&headers(&[("", "aws:kms")]), &BucketSettings::default(), &Keyring::default());
        assert!(without_keys.unwrap_err().message().contains("--encryption-keys"));
    }

    #[test]
    fn reads_take_a_customers_key_and_nothing_else() {
        assert!(of_read(&headers(&CUSTOMER)).unwrap().is_some() && of_read(&headers(&[])).unwrap().is_none());
        for pairs in [
            vec![("", "AES256")],
            vec![("", "aws:kms"), ("-aws-kms-key-id", "first")],
            CUSTOMER[..1].to_vec(),
        ] {
            assert_eq!(of_read(&headers(&pairs)).unwrap_err().code(), Code::InvalidArgument, "{pairs:?}");
        }
    }

    #[test]
    fn a_part_is_never_taken_unencrypted_where_it_asks_for_encryption() {
        let asks = headers(&[("", "aws:kms"), ("-aws-kms-key-id", "other")]);
        for encrypted in [None, Some(Encrypted::Customer)] {
            assert_eq!(check_part(&asks, encrypted.as_ref()).unwrap_err().code(), Code::InvalidArgument);
            assert!(check_part(&headers(&[]), encrypted.as_ref()).is_ok());
        }
        assert!(check_part(&asks, Some(&Encrypted::Managed)).is_ok());
    }

    #[test]
    fn answers_tell_the_method_and_never_a_key() {
        let of = |encryption| {
            let mut answer = HeaderMap::new();
            to_headers(encryption, &headers(&CUSTOMER), &mut answer);
            let text = |(name, value): (&HeaderName, &HeaderValue)| {
                format!("{}={}", &name.as_str()[PREFIX.len()..], value.to_str().unwrap())
            };
            answer.iter().map(text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(None), "");
        assert_eq!(of(Some(&Encrypted::Managed)), "=AES256");
        let named = Encrypted::Named("k".to_owned());
        assert_eq!(of(Some(&named)), "=aws:kms -aws-kms-key-id=k");
        assert_eq!(
            of(Some(&Encrypted::Customer)),
            format!("-customer-algorithm=AES256 -customer-key-md5={MD5}")
        );
    }
}
