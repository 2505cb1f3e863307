//! The verdict on one action: pure.

use super::Caller;
use super::actions::Action;
use crate::object::{Access, ObjectInfo};
use crate::policy::{Decision, Facts, Principal, Request, evaluate};
use crate::s3::settings::BucketSettings;

/// An action as it is judged.
pub(super) struct Asked<'a> {
    pub(super) caller: &'a Caller,
    pub(super) principal: Option<&'a Principal>,
    pub(super) bucket_owner: &'a str,
    pub(super) settings: &'a BucketSettings,
    pub(super) action: Action,
    pub(super) resource: &'a str,
    pub(super) facts: &'a Facts,
    /// The object, if it was looked at and is there.
    pub(super) object: Option<&'a ObjectInfo>,
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    Denied,
    /// Nothing allows it, except perhaps the object's owner or list, which was not looked at.
    AskObject,
}

/// Judges one action.
pub(super) fn verdict(asked: &Asked<'_>) -> Verdict {
    let Asked { caller, settings, action, .. } = asked;
    let owns_bucket = match caller {
        Caller::Root => true,
        Caller::User(owner) => owner.id == asked.bucket_owner,
        Caller::Anonymous => false,
    };
    let decision = settings.policy.as_ref().map_or(Decision::Silent, |policy| {
        let (principal, resource, facts) = (asked.principal, asked.resource, asked.facts);
        evaluate(policy, &Request { principal, action: action.name(), resource, facts })
    });
    match decision {
        // Or nobody could ever mend a policy that denies everything.
        Decision::Deny if owns_bucket && action.is_on_policy() => return Verdict::Allowed,
        Decision::Deny => return Verdict::Denied,
        Decision::Allow | Decision::Silent if owns_bucket => return Verdict::Allowed,
        Decision::Allow if !(settings.public_access.restrict && settings.policy_is_public) => {
            return Verdict::Allowed;
        }
        Decision::Allow | Decision::Silent => {}
    }
    let signed = **caller != Caller::Anonymous;
    if action.is_granted_by_bucket() && grants(settings.effective_access(settings.access), *action, signed) {
        return Verdict::Allowed;
    }
    if !action.is_granted_by_object() || !settings.ownership.has_acls() {
        return Verdict::Denied;
    }
    match asked.object {
        None => Verdict::AskObject,
        Some(object) if matches!(caller, Caller::User(owner) if owner.id == object.owner.id) => {
            Verdict::Allowed
        }
        Some(object) if action.reads_object() => {
            match grants(settings.effective_access(object.attributes.access), Action::GetObject, signed) {
                true => Verdict::Allowed,
                false => Verdict::Denied,
            }
        }
        Some(_) => Verdict::Denied,
    }
}

/// Whether a list grants reading or writing to this caller.
fn grants(access: Access, action: Action, signed: bool) -> bool {
    let writes = action.writes();
    match access {
        Access::PublicReadWrite => true,
        Access::PublicRead => !writes,
        Access::AuthenticatedRead => !writes && signed,
        // The bucket's owner may do everything anyway.
        Access::Private | Access::BucketOwnerRead | Access::BucketOwnerFullControl => false,
    }
}

#[cfg(test)]
mod tests {
    use coffer_common::time::UnixMillis;
    use serde_json::{Value, json};

    use super::*;
    use crate::object::{Attributes, Owner, VersionId};
    use crate::policy::{Policy, Scope, is_public};
    use crate::s3::acl::Ownership;
    use crate::s3::settings::PublicAccess;

    fn user(id: &str) -> Caller {
        Caller::User(Owner { id: id.to_owned(), display_name: id.to_owned() })
    }

    fn object(owner: &str, access: Access) -> ObjectInfo {
        ObjectInfo {
            size: 0,
            etag: String::new(),
            last_modified: UnixMillis(0),
            owner: Owner { id: owner.to_owned(), display_name: String::new() },
            attributes: Attributes { access, ..Attributes::default() },
            checksums: Vec::new(),
            version: VersionId::Null,
            parts: Vec::new(),
            versioned: false,
            sequence: None,
            encryption: None,
        }
    }

    fn with_policy(effect: &str, principal: Value, action: &str) -> BucketSettings {
        let statement = json!({"Effect": effect, "Principal": principal, "Action": action,
                               "Resource": ["arn:aws:s3:::bkt", "arn:aws:s3:::bkt/*"]});
        let text = json!({"Version": "2012-10-17", "Statement": statement}).to_string();
        let policy = Policy::parse(&text, Scope::Bucket("bkt")).unwrap();
        BucketSettings {
            policy_is_public: is_public(&policy),
            policy: Some(policy),
            ..BucketSettings::default()
        }
    }

    fn with_lists(access: Access) -> BucketSettings {
        BucketSettings { access, ownership: Ownership::ObjectWriter, ..BucketSettings::default() }
    }

    /// On a bucket of `owner`.
    fn ask(
        caller: &Caller,
        settings: &BucketSettings,
        action: Action,
        object: Option<&ObjectInfo>,
    ) -> Verdict {
        let principal = caller.principal();
        let resource = if action == Action::ListBucket { "arn:aws:s3:::bkt" } else { "arn:aws:s3:::bkt/k" };
        verdict(&Asked {
            caller,
            principal: principal.as_ref(),
            bucket_owner: "owner",
            settings,
            action,
            resource,
            facts: &Facts::default(),
            object,
        })
    }

    #[test]
    fn without_any_configuration_only_root_and_the_owner_may_do_anything() {
        let plain = BucketSettings::default();
        for action in [Action::GetObject, Action::PutObject, Action::ListBucket, Action::PutBucketPolicy] {
            assert_eq!(ask(&Caller::Root, &plain, action, None), Verdict::Allowed);
            assert_eq!(ask(&user("owner"), &plain, action, None), Verdict::Allowed);
            assert_eq!(ask(&user("other"), &plain, action, None), Verdict::Denied);
            assert_eq!(ask(&Caller::Anonymous, &plain, action, None), Verdict::Denied);
        }
    }

    #[test]
    fn a_deny_binds_the_owner_and_root_too_but_never_takes_the_policy_from_them() {
        let settings = with_policy("Deny", json!("*"), "s3:*");
        for caller in [Caller::Root, user("owner")] {
            assert_eq!(ask(&caller, &settings, Action::GetObject, None), Verdict::Denied);
            assert_eq!(ask(&caller, &settings, Action::DeleteBucketPolicy, None), Verdict::Allowed);
        }
        assert_eq!(ask(&user("other"), &settings, Action::DeleteBucketPolicy, None), Verdict::Denied);
    }

    #[test]
    fn a_policy_allows_whom_it_names() {
        let settings = with_policy("Allow", json!({"AWS": "friend"}), "s3:GetObject");
        assert_eq!(ask(&user("friend"), &settings, Action::GetObject, None), Verdict::Allowed);
        assert_eq!(ask(&user("friend"), &settings, Action::PutObject, None), Verdict::Denied);
        assert_eq!(ask(&Caller::Anonymous, &settings, Action::GetObject, None), Verdict::Denied);
        let public = with_policy("Allow", json!("*"), "s3:GetObject");
        assert_eq!(ask(&Caller::Anonymous, &public, Action::GetObject, None), Verdict::Allowed);
        let restrict = PublicAccess { restrict: true, ..PublicAccess::default() };
        let restricted = BucketSettings { public_access: restrict, ..public };
        assert_eq!(ask(&Caller::Anonymous, &restricted, Action::GetObject, None), Verdict::Denied);
        assert_eq!(ask(&user("owner"), &restricted, Action::GetObject, None), Verdict::Allowed);
    }

    #[test]
    fn lists_grant_where_they_count() {
        let public = with_lists(Access::PublicRead);
        assert_eq!(ask(&Caller::Anonymous, &public, Action::ListBucket, None), Verdict::Allowed);
        assert_eq!(ask(&Caller::Anonymous, &public, Action::PutObject, None), Verdict::Denied);
        assert_eq!(ask(&Caller::Anonymous, &public, Action::GetObject, None), Verdict::AskObject);
        let open = with_lists(Access::PublicReadWrite);
        assert_eq!(ask(&Caller::Anonymous, &open, Action::PutObject, None), Verdict::Allowed);
        let signed = with_lists(Access::AuthenticatedRead);
        assert_eq!(ask(&Caller::Anonymous, &signed, Action::ListBucket, None), Verdict::Denied);
        assert_eq!(ask(&user("other"), &signed, Action::ListBucket, None), Verdict::Allowed);
        for off in [
            BucketSettings { ownership: Ownership::BucketOwnerEnforced, ..public },
            BucketSettings {
                public_access: PublicAccess { ignore_acls: true, ..PublicAccess::default() },
                ..with_lists(Access::PublicRead)
            },
        ] {
            assert_eq!(ask(&Caller::Anonymous, &off, Action::ListBucket, None), Verdict::Denied);
            let readable = object("owner", Access::PublicRead);
            assert_eq!(ask(&Caller::Anonymous, &off, Action::GetObject, Some(&readable)), Verdict::Denied);
        }
    }

    #[test]
    fn an_objects_owner_and_list_count_for_the_object_only() {
        let settings = with_lists(Access::Private);
        let (mine, readable) = (object("me", Access::Private), object("owner", Access::PublicRead));
        assert_eq!(ask(&user("me"), &settings, Action::GetObject, Some(&mine)), Verdict::Allowed);
        assert_eq!(ask(&user("me"), &settings, Action::PutObjectAcl, Some(&mine)), Verdict::Allowed);
        assert_eq!(ask(&user("me"), &settings, Action::DeleteObject, Some(&mine)), Verdict::Denied);
        assert_eq!(ask(&user("other"), &settings, Action::GetObject, Some(&mine)), Verdict::Denied);
        assert_eq!(ask(&Caller::Anonymous, &settings, Action::GetObject, Some(&readable)), Verdict::Allowed);
        assert_eq!(
            ask(&Caller::Anonymous, &settings, Action::PutObjectAcl, Some(&readable)),
            Verdict::Denied
        );
    }
}
