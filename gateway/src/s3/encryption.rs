//! Headers that ask for encryption at rest: checked as S3 checks them, and then refused, because nothing is encrypted yet.
//!
//! Source: "Specifying server-side encryption with customer-provided keys (SSE-C)" of the Amazon S3 User Guide.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::checksum::DigestSet;
use super::error::{Code, S3Error};

const PREFIX: &str = "x-amz-server-side-encryption";

/// Refuses a write that asks for encryption.
///
/// # Errors
/// `InvalidArgument` for headers that contradict one another, else `NotImplemented`.
pub(crate) fn refuse_write(headers: &HeaderMap) -> Result<(), S3Error> {
    let Some(name) = headers.keys().find(|name| name.as_str().starts_with(PREFIX)) else {
        return Ok(());
    };
    let text = |suffix: &str| {
        headers.get(format!("{PREFIX}{suffix}")).map(|value| value.to_str().unwrap_or_default())
    };
    let customer = check_customer_key(&text)?;
    let invalid = |message: &'static str| S3Error::with(Code::InvalidArgument, message);
    match text("") {
        Some("AES256") if text("-aws-kms-key-id").is_some() => Err(invalid(
            "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
        )),
        Some(_) if customer => Err(invalid(
            "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
        )),
        Some("AES256" | "aws:kms" | "aws:kms:dsse") => Err(S3Error::not_implemented(name.as_str())),
        Some(_) => Err(invalid("The encryption method specified is not supported")),
        None if text("-aws-kms-key-id").is_some() => Err(invalid(
            "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
        )),
        None => Err(S3Error::not_implemented(name.as_str())),
    }
}

/// Refuses a read with a customer's key: no object has one.
///
/// # Errors
/// `InvalidArgument` for a key that is none, else `InvalidRequest`.
pub(crate) fn refuse_read(headers: &HeaderMap) -> Result<(), S3Error> {
    let text = |suffix: &str| {
        headers.get(format!("{PREFIX}{suffix}")).map(|value| value.to_str().unwrap_or_default())
    };
    if check_customer_key(&text)? {
        let message = "The encryption parameters are not applicable to this object.";
        return Err(S3Error::with(Code::InvalidRequest, message));
    }
    Ok(())
}

/// Whether there is a customer's key; a good one.
fn check_customer_key<'a>(text: &dyn Fn(&str) -> Option<&'a str>) -> Result<bool, S3Error> {
    let invalid = |message: &'static str| S3Error::with(Code::InvalidArgument, message);
    let (algorithm, key, md5) =
        (text("-customer-algorithm"), text("-customer-key"), text("-customer-key-md5"));
    if algorithm.is_none() && key.is_none() && md5.is_none() {
        return Ok(false);
    }
    let missing = |what| invalid(what);
    let algorithm = algorithm.ok_or_else(|| {
        missing("Requests specifying Server Side Encryption with Customer provided keys must provide a valid encryption algorithm.")
    })?;
    if algorithm != "AES256" {
        return Err(invalid("The encryption algorithm specified is not supported: it must be AES256."));
    }
    let key = key.ok_or_else(|| {
        missing("Requests specifying Server Side Encryption with Customer provided keys must provide an appropriate secret key.")
    })?;
    let key = STANDARD.decode(key).ok().filter(|key| key.len() == 32);
    let key = key.ok_or_else(|| invalid("The secret key was invalid for the specified algorithm."))?;
    let md5 = md5.ok_or_else(|| {
        missing("Requests specifying Server Side Encryption with Customer provided keys must provide the client calculated MD5 of the secret key.")
    })?;
    let mut set = DigestSet::new(true, []);
    set.update(&key);
    if set.finish().md5().map(|digest| STANDARD.encode(digest)).as_deref() != Some(md5) {
        return Err(invalid("The calculated MD5 hash of the key did not match the hash that was provided."));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const KEY: &str = "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=";
    const MD5: &str = "DWygnHRtgiJ77HCm+1rvHw==";

    fn headers(pairs: &[(&str, &'static str)]) -> HeaderMap {
        let pair = |(suffix, value): &(&str, &'static str)| {
            let name = HeaderName::try_from(format!("{PREFIX}{suffix}")).unwrap();
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn contradictions_are_told_apart_from_what_is_not_done() {
        let customer =
            [("-customer-algorithm", "AES256"), ("-customer-key", KEY), ("-customer-key-md5", MD5)];
        for (pairs, code) in [
            (vec![("", "AES256")], Code::NotImplemented),
            (vec![("", "aws:kms"), ("-aws-kms-key-id", "k")], Code::NotImplemented),
            (vec![("", "aes:kms")], Code::InvalidArgument),
            (vec![("", "AES256"), ("-aws-kms-key-id", "k")], Code::InvalidArgument),
            (vec![("-aws-kms-key-id", "k")], Code::InvalidArgument),
            (customer.to_vec(), Code::NotImplemented),
            ([customer.as_slice(), &[("", "AES256")]].concat(), Code::InvalidArgument),
            (customer[..2].to_vec(), Code::InvalidArgument),
            (customer[1..].to_vec(), Code::InvalidArgument),
            (vec![customer[0], ("-customer-key", KEY), ("-customer-key-md5", "AAAA")], Code::InvalidArgument),
            (vec![customer[0], ("-customer-key", "AAAA"), customer[2]], Code::InvalidArgument),
        ] {
            assert_eq!(refuse_write(&headers(&pairs)).unwrap_err().code(), code, "{pairs:?}");
        }
        assert!(refuse_write(&headers(&[])).is_ok() && refuse_read(&headers(&[("", "AES256")])).is_ok());
        assert_eq!(refuse_read(&headers(&customer)).unwrap_err().code(), Code::InvalidRequest);
    }
}
