//! The public access block of a bucket.

use http::StatusCode;

use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::{PublicAccess, names};
use super::super::super::xml::{DECLARATION, Element, NAMESPACE};
use super::Context;

/// The block.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let text = context.text(names::PUBLIC_ACCESS, Code::NoSuchPublicAccessBlockConfiguration)?;
            Ok(response::xml(StatusCode::OK, text.to_owned()))
        }
        ConfigVerb::Put => {
            let body = context.request.xml_body().await?;
            let block = PublicAccess::parse(&Element::parse(&body, "PublicAccessBlockConfiguration")?)?;
            context.set(names::PUBLIC_ACCESS, Some(&document(block))).await?;
            Ok(response::empty(StatusCode::OK))
        }
        ConfigVerb::Delete => context.remove(names::PUBLIC_ACCESS).await,
    }
}

fn document(block: PublicAccess) -> String {
    let PublicAccess { block_acls, ignore_acls, block_policy, restrict } = block;
    format!(
        "{DECLARATION}<PublicAccessBlockConfiguration xmlns=\"{NAMESPACE}\">\
         <BlockPublicAcls>{block_acls}</BlockPublicAcls><IgnorePublicAcls>{ignore_acls}</IgnorePublicAcls>\
         <BlockPublicPolicy>{block_policy}</BlockPublicPolicy>\
         <RestrictPublicBuckets>{restrict}</RestrictPublicBuckets></PublicAccessBlockConfiguration>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_reads_back_as_it_was_written() {
        let block = PublicAccess { ignore_acls: true, restrict: true, ..PublicAccess::default() };
        let element = Element::parse(document(block).as_bytes(), "PublicAccessBlockConfiguration").unwrap();
        assert_eq!(PublicAccess::parse(&element).unwrap(), block);
        let bad = Element::parse(b"<x><BlockPublicAcls>maybe</BlockPublicAcls></x>", "x").unwrap();
        assert_eq!(PublicAccess::parse(&bad).unwrap_err().code(), Code::MalformedXML);
    }
}
