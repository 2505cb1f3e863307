//! Who owns what others write into a bucket.

use http::StatusCode;

use super::super::super::acl::Ownership;
use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::{OWNERSHIP_REMOVED, names};
use super::super::super::xml::{DECLARATION, Element, NAMESPACE, malformed};
use super::Context;
use crate::object::Access;

/// The controls. Removed, they mean that the writer owns, as with AWS.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let access = context.request.access()?;
            if access.bucket().documents.get(names::OWNERSHIP) == Some(OWNERSHIP_REMOVED) {
                return Err(S3Error::new(Code::OwnershipControlsNotFoundError));
            }
            let name = access.settings().ownership.name();
            let document = format!(
                "{DECLARATION}<OwnershipControls xmlns=\"{NAMESPACE}\"><Rule><ObjectOwnership>{name}\
                 </ObjectOwnership></Rule></OwnershipControls>"
            );
            Ok(response::xml(StatusCode::OK, document))
        }
        ConfigVerb::Put => {
            let wanted = parse(&context.request.xml_body().await?)?;
            if !wanted.has_acls() && context.request.access()?.settings().access != Access::Private {
                return Err(S3Error::new(Code::InvalidBucketAclWithObjectOwnership));
            }
            context.set(names::OWNERSHIP, Some(wanted.name())).await?;
            Ok(response::empty(StatusCode::OK))
        }
        ConfigVerb::Delete => {
            context.set(names::OWNERSHIP, Some(OWNERSHIP_REMOVED)).await?;
            Ok(response::empty(StatusCode::NO_CONTENT))
        }
    }
}

fn parse(body: &[u8]) -> Result<Ownership, S3Error> {
    let document = Element::parse(body, "OwnershipControls")?;
    let mut rules = document.children_of("Rule");
    let (Some(rule), None) = (rules.next(), rules.next()) else {
        return Err(malformed());
    };
    rule.text_of("ObjectOwnership").and_then(|name| Ownership::from_name(name.trim())).ok_or_else(malformed)
}
