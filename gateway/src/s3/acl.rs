//! Access control lists of the predefined ("canned") kind, and who owns objects.
//!
//! Owns: their names, what each grants, and the documents that show them. Never: decides about a request (see
//! [`super::access`]). Lists that are none of the predefined ones are not kept, and refused.
//!
//! Source: "Access control list (ACL) overview" and "Controlling ownership of objects and disabling ACLs" of the Amazon
//! S3 User Guide.

use http::HeaderMap;

use super::error::{Code, S3Error};
use super::xml::{DECLARATION, Element, NAMESPACE, push_element};
use crate::object::{Access, Owner};

/// Everybody.
const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
/// Everybody who signs.
const SIGNED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";

/// Who owns what others write into a bucket, and whether lists count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ownership {
    /// The bucket's owner owns everything; lists are off (the default, as with AWS).
    #[default]
    BucketOwnerEnforced,
    /// The writer, unless it gives the object away by `bucket-owner-full-control`.
    BucketOwnerPreferred,
    /// The writer.
    ObjectWriter,
}

impl Ownership {
    /// S3's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BucketOwnerEnforced => "BucketOwnerEnforced",
            Self::BucketOwnerPreferred => "BucketOwnerPreferred",
            Self::ObjectWriter => "ObjectWriter",
        }
    }

    /// The ownership of this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::BucketOwnerEnforced, Self::BucketOwnerPreferred, Self::ObjectWriter]
            .into_iter()
            .find(|ownership| ownership.name() == name)
    }

    /// Whether lists count.
    pub(crate) fn has_acls(self) -> bool {
        self != Self::BucketOwnerEnforced
    }
}

const NAMES: [(Access, &str); 6] = [
    (Access::Private, "private"),
    (Access::PublicRead, "public-read"),
    (Access::PublicReadWrite, "public-read-write"),
    (Access::AuthenticatedRead, "authenticated-read"),
    (Access::BucketOwnerRead, "bucket-owner-read"),
    (Access::BucketOwnerFullControl, "bucket-owner-full-control"),
];

/// The name of a predefined list.
pub(crate) fn name_of(access: Access) -> &'static str {
    NAMES.into_iter().find(|(known, _)| *known == access).map_or("private", |(_, name)| name)
}

/// The predefined list of this name.
pub(crate) fn from_name(name: &str) -> Option<Access> {
    NAMES.into_iter().find(|(_, known)| *known == name).map(|(access, _)| access)
}

/// Whether a list grants something to more than named users.
pub(crate) fn is_public(access: Access) -> bool {
    matches!(access, Access::PublicRead | Access::PublicReadWrite | Access::AuthenticatedRead)
}

/// The list that headers ask for; `None` if they say nothing.
///
/// # Errors
/// `InvalidArgument` for an unknown name, `InvalidRequest` for both forms, `NotImplemented` for grants.
pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Option<Access>, S3Error> {
    let grants = headers.keys().find(|name| name.as_str().starts_with("x-amz-grant-"));
    let named = headers.get("x-amz-acl").map(|value| value.to_str().unwrap_or_default());
    match (named, grants) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(S3Error::with(
            Code::InvalidRequest,
            "Specifying both Canned ACLs and Header Grants is not allowed",
        )),
        (None, Some(header)) => Err(S3Error::not_implemented(header.as_str())),
        (Some(name), None) => {
            from_name(name).map(Some).ok_or_else(|| S3Error::argument("x-amz-acl", name, ""))
        }
    }
}

/// What a new object or bucket gets where lists may be off: then only lists that give its bucket's owner full control and nobody
/// else anything are accepted. `private` does so where that owner writes; where somebody else does, it would be the list of the
/// writer's own object.
///
/// # Errors
/// `AccessControlListNotSupported`, or those of [`from_headers`].
pub(crate) fn checked_for(
    ownership: Ownership,
    headers: &HeaderMap,
    is_owner: bool,
) -> Result<Access, S3Error> {
    let off = || S3Error::new(Code::AccessControlListNotSupported);
    if !ownership.has_acls() && headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-")) {
        return Err(off());
    }
    let Some(wanted) = from_headers(headers)? else { return Ok(Access::Private) };
    match wanted {
        access if ownership.has_acls() => Ok(access),
        Access::BucketOwnerFullControl => Ok(Access::Private),
        Access::Private if is_owner => Ok(Access::Private),
        Access::Private
        | Access::PublicRead
        | Access::PublicReadWrite
        | Access::AuthenticatedRead
        | Access::BucketOwnerRead => Err(off()),
    }
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Grantee {
    User(Owner),
    Group(&'static str),
}

/// The lines of a predefined list, groups first (S3 leaves the order open). `bucket_owner` is told of objects.
fn grants(access: Access, owner: &Owner, bucket_owner: Option<&Owner>) -> Vec<(Grantee, &'static str)> {
    let mut grants = match access {
        Access::PublicRead => vec![(Grantee::Group(ALL_USERS), "READ")],
        Access::PublicReadWrite => {
            vec![(Grantee::Group(ALL_USERS), "READ"), (Grantee::Group(ALL_USERS), "WRITE")]
        }
        Access::AuthenticatedRead => vec![(Grantee::Group(SIGNED_USERS), "READ")],
        Access::Private | Access::BucketOwnerRead | Access::BucketOwnerFullControl => Vec::new(),
    };
    grants.push((Grantee::User(owner.clone()), "FULL_CONTROL"));
    if let Access::BucketOwnerRead | Access::BucketOwnerFullControl = access {
        let permission = if access == Access::BucketOwnerRead { "READ" } else { "FULL_CONTROL" };
        let other = bucket_owner.filter(|bucket_owner| bucket_owner.id != owner.id);
        grants.extend(other.map(|bucket_owner| (Grantee::User(bucket_owner.clone()), permission)));
    }
    grants
}

/// `<AccessControlPolicy>`.
pub(crate) fn document(access: Access, owner: &Owner, bucket_owner: Option<&Owner>) -> String {
    let person = |owner: &Owner| {
        let mut out = String::new();
        push_element(&mut out, "ID", &owner.id);
        push_element(&mut out, "DisplayName", &owner.display_name);
        out
    };
    let mut list = String::new();
    for (grantee, permission) in grants(access, owner, bucket_owner) {
        let (kind, inner) = match grantee {
            Grantee::User(user) => ("CanonicalUser", person(&user)),
            Grantee::Group(uri) => ("Group", format!("<URI>{uri}</URI>")),
        };
        list.push_str(&format!(
            "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\">{inner}\
             </Grantee><Permission>{permission}</Permission></Grant>"
        ));
    }
    format!(
        "{DECLARATION}<AccessControlPolicy xmlns=\"{NAMESPACE}\"><Owner>{}</Owner><AccessControlList>{list}\
         </AccessControlList></AccessControlPolicy>",
        person(owner)
    )
}

/// The predefined list that a document spells out.
///
/// # Errors
/// `MalformedXML`, `AccessDenied` for another owner, or `NotImplemented` if it is none of the predefined ones.
pub(crate) fn from_document(
    body: &[u8],
    owner: &Owner,
    bucket_owner: Option<&Owner>,
) -> Result<Access, S3Error> {
    let malformed = super::xml::malformed;
    let document = Element::parse(body, "AccessControlPolicy")?;
    let named = document.child("Owner").and_then(|owner| owner.text_of("ID")).ok_or_else(malformed)?;
    if named.trim() != owner.id {
        return Err(S3Error::new(Code::AccessDenied));
    }
    let list = document.child("AccessControlList").ok_or_else(malformed)?;
    let mut found = list.children_of("Grant").map(one_grant).collect::<Result<Vec<_>, _>>()?;
    found.sort();
    found.dedup();
    let spelled = |access: Access| {
        let grants = grants(access, owner, bucket_owner).into_iter();
        let mut grants: Vec<_> = grants
            .map(|(grantee, permission)| {
                let grantee = match grantee {
                    Grantee::User(user) => user.id,
                    Grantee::Group(uri) => uri.to_owned(),
                };
                (grantee, permission.to_owned())
            })
            .collect();
        grants.sort();
        grants
    };
    let known = NAMES.into_iter().map(|(access, _)| access).find(|access| spelled(*access) == found);
    known.ok_or_else(|| S3Error::not_implemented("an access control list other than the predefined ones"))
}

fn one_grant(grant: &Element) -> Result<(String, String), S3Error> {
    let malformed = super::xml::malformed;
    let grantee = grant.child("Grantee").ok_or_else(malformed)?;
    let name = grantee.text_of("ID").or_else(|| grantee.text_of("URI"));
    let permission = grant.text_of("Permission").ok_or_else(malformed)?.trim();
    if !["FULL_CONTROL", "READ", "WRITE", "READ_ACP", "WRITE_ACP"].contains(&permission) {
        return Err(malformed());
    }
    let Some(name) = name else {
        return Err(match grantee.text_of("EmailAddress") {
            Some(_) => S3Error::not_implemented("grants by e-mail address"),
            None => malformed(),
        });
    };
    Ok((name.trim().to_owned(), permission.to_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn owner(id: &str) -> Owner {
        Owner { id: id.to_owned(), display_name: format!("name of {id}") }
    }

    #[test]
    fn predefined_lists_are_written_and_read() {
        for (access, name) in NAMES {
            assert_eq!(from_name(name), Some(access));
            let text = document(access, &owner("a"), Some(&owner("b")));
            assert_eq!(
                from_document(text.as_bytes(), &owner("a"), Some(&owner("b"))).unwrap(),
                access,
                "{text}"
            );
        }
        let public = document(Access::PublicRead, &owner("a"), None);
        let (_, list) = public.split_once("<AccessControlList>").unwrap();
        assert!(list.find("AllUsers") < list.find("<ID>a</ID>"), "groups come first: {list}");
        let other = document(Access::Private, &owner("x"), None);
        let code = |text: &str| from_document(text.as_bytes(), &owner("a"), None).unwrap_err().code();
        assert_eq!(code(&other), Code::AccessDenied);
        let odd = document(Access::PublicRead, &owner("a"), None).replace("READ", "WRITE_ACP");
        assert_eq!(code(&odd), Code::NotImplemented);
        assert_eq!(code("<AccessControlPolicy/>"), Code::MalformedXML);
    }

    #[test]
    fn where_lists_are_off_only_those_that_change_nothing_pass() {
        let headers = |name: &'static str, value| {
            let header = http::HeaderName::from_static(name);
            std::iter::once((header, HeaderValue::from_static(value))).collect::<HeaderMap>()
        };
        let code = |ownership, name, value| {
            checked_for(ownership, &headers(name, value), true).map_err(|error| error.code())
        };
        let (off, on) = (Ownership::BucketOwnerEnforced, Ownership::ObjectWriter);
        assert_eq!(code(off, "x-amz-acl", "public-read"), Err(Code::AccessControlListNotSupported));
        assert_eq!(code(off, "x-amz-grant-read", "id=x"), Err(Code::AccessControlListNotSupported));
        assert_eq!(code(off, "x-amz-acl", "bucket-owner-full-control"), Ok(Access::Private));
        assert_eq!(code(off, "x-amz-acl", "private"), Ok(Access::Private));
        let of_another =
            |name, value| checked_for(off, &headers(name, value), false).map_err(|error| error.code());
        assert_eq!(of_another("x-amz-acl", "private"), Err(Code::AccessControlListNotSupported));
        assert_eq!(of_another("x-amz-acl", "bucket-owner-full-control"), Ok(Access::Private));
        assert_eq!(checked_for(off, &HeaderMap::new(), false).unwrap(), Access::Private);
        assert_eq!(code(on, "x-amz-acl", "public-read"), Ok(Access::PublicRead));
        assert_eq!(code(on, "x-amz-acl", "nonsense"), Err(Code::InvalidArgument));
        assert_eq!(code(on, "x-amz-grant-read", "id=x"), Err(Code::NotImplemented));
    }
}
