//! How a bucket encrypts what comes without headers of encryption.
//!
//! Source: PutBucketEncryption of the Amazon S3 API Reference. A bucket without a configuration encrypts nothing, and says that it
//! has none: S3 itself has answered `AES256` there since 2023, because it has encrypted everything since then.

use http::StatusCode;

use super::super::super::encryption::{DefaultEncryption, DefaultMethod, SSE_KMS, SSE_S3};
use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::names;
use super::super::super::xml::{DECLARATION, Element, NAMESPACE, malformed, push_element};
use super::Context;
use crate::object::EncryptionError;

/// Reads, writes and removes it. A key that this gateway does not have is refused: writes would be.
///
/// # Errors
/// `MalformedXML`, `NotImplemented` for what Coffer does not do, `KMS.NotFoundException`.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let text =
                context.text(names::ENCRYPTION, Code::ServerSideEncryptionConfigurationNotFoundError)?;
            Ok(response::xml(StatusCode::OK, text.to_owned()))
        }
        ConfigVerb::Put => {
            let default = DefaultEncryption::parse(&context.request.xml_body().await?)?;
            let keys = context.store.encryption_keys();
            let first = keys.default_key().ok_or(EncryptionError::NoKeyring)?;
            let name = default.key.as_deref().map_or(first, |id| keys.name_of(id));
            if !keys.contains(name) {
                return Err(EncryptionError::UnknownKey(name.to_owned()).into());
            }
            context.set(names::ENCRYPTION, Some(&default.document())).await?;
            Ok(response::empty(StatusCode::OK))
        }
        ConfigVerb::Delete => context.remove(names::ENCRYPTION).await,
    }
}

impl DefaultEncryption {
    /// Reads `<ServerSideEncryptionConfiguration>`.
    ///
    /// # Errors
    /// `MalformedXML`, `InvalidArgument` for a key where none can be named, `NotImplemented` for what Coffer does not do.
    pub(in crate::s3) fn parse(body: &[u8]) -> Result<Self, S3Error> {
        let document = Element::parse(body, "ServerSideEncryptionConfiguration")?;
        let mut rules = document.children_of("Rule");
        let (Some(rule), None) = (rules.next(), rules.next()) else { return Err(malformed()) };
        if rule.child("BlockedEncryptionTypes").is_some() {
            return Err(S3Error::not_implemented("BlockedEncryptionTypes"));
        }
        let default = rule.child("ApplyServerSideEncryptionByDefault").ok_or_else(malformed)?;
        let key = default.text_of("KMSMasterKeyID").map(str::trim).filter(|id| !id.is_empty());
        let method = match default.text_of("SSEAlgorithm").map(str::trim) {
            Some(SSE_S3) if key.is_some() => {
                let message =
                    "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms";
                return Err(S3Error::with(Code::InvalidArgument, message));
            }
            Some(SSE_S3) => DefaultMethod::Managed,
            Some(SSE_KMS) => DefaultMethod::Named,
            Some("aws:kms:dsse") => return Err(S3Error::not_implemented("aws:kms:dsse")),
            Some(_) | None => return Err(malformed()),
        };
        let bucket_key = match rule.text_of("BucketKeyEnabled").map(str::trim) {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(malformed()),
        };
        Ok(Self { method, key: key.map(str::to_owned), bucket_key })
    }

    /// The inverse.
    fn document(&self) -> String {
        let mut out = format!(
            "{DECLARATION}<ServerSideEncryptionConfiguration xmlns=\"{NAMESPACE}\"><Rule>\
             <ApplyServerSideEncryptionByDefault>"
        );
        let method = match self.method {
            DefaultMethod::Managed => SSE_S3,
            DefaultMethod::Named => SSE_KMS,
        };
        push_element(&mut out, "SSEAlgorithm", method);
        if let Some(key) = &self.key {
            push_element(&mut out, "KMSMasterKeyID", key);
        }
        out.push_str("</ApplyServerSideEncryptionByDefault>");
        if let Some(bucket_key) = self.bucket_key {
            push_element(&mut out, "BucketKeyEnabled", if bucket_key { "true" } else { "false" });
        }
        out.push_str("</Rule></ServerSideEncryptionConfiguration>");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rule: &str) -> Result<DefaultEncryption, Code> {
        let text = format!("<ServerSideEncryptionConfiguration>{rule}</ServerSideEncryptionConfiguration>");
        DefaultEncryption::parse(text.as_bytes()).map_err(|error| error.code())
    }

    fn rule(default: &str) -> String {
        let default =
            format!("<ApplyServerSideEncryptionByDefault>{default}</ApplyServerSideEncryptionByDefault>");
        format!("<Rule>{default}<BucketKeyEnabled>true</BucketKeyEnabled></Rule>")
    }

    #[test]
    fn documents_come_back_as_they_were_written() {
        for (default, method, key) in [
            ("<SSEAlgorithm>AES256</SSEAlgorithm>", DefaultMethod::Managed, None),
            ("<SSEAlgorithm>aws:kms</SSEAlgorithm>", DefaultMethod::Named, None),
            (
                "<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>alias/a&amp;b</KMSMasterKeyID>",
                DefaultMethod::Named,
                Some("alias/a&b"),
            ),
        ] {
            let read = parse(&rule(default)).unwrap();
            assert_eq!((read.method, read.key.as_deref(), read.bucket_key), (method, key, Some(true)));
            assert_eq!(DefaultEncryption::parse(read.document().as_bytes()).unwrap(), read);
        }
    }

    #[test]
    fn bad_documents_have_their_codes() {
        let good = rule("<SSEAlgorithm>AES256</SSEAlgorithm>");
        for (text, code) in [
            (String::new(), Code::MalformedXML),
            ("<Rule/>".to_owned(), Code::MalformedXML),
            (format!("{good}{good}"), Code::MalformedXML),
            (rule("<SSEAlgorithm>AES192</SSEAlgorithm>"), Code::MalformedXML),
            (good.replace("true", "maybe"), Code::MalformedXML),
            (
                rule("<SSEAlgorithm>AES256</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>"),
                Code::InvalidArgument,
            ),
            (rule("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), Code::NotImplemented),
            (good.replace("</Rule>", "<BlockedEncryptionTypes/></Rule>"), Code::NotImplemented),
        ] {
            assert_eq!(parse(&text).unwrap_err(), code, "{text}");
        }
    }
}
