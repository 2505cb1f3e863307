use serde_json::{Value, json};

use super::*;
use crate::object::{Attributes, Owner};
use crate::policy::{Policy, Scope, is_public};
use crate::s3::acl::Ownership;
use crate::s3::settings::PublicAccess;

fn user(id: &str) -> Caller {
    Caller::User(Owner { id: id.to_owned(), display_name: id.to_owned() })
}

fn object(owner: &str, access: Access) -> ObjectInfo {
    ObjectInfo {
        owner: Owner { id: owner.to_owned(), display_name: String::new() },
        attributes: Attributes { access, ..Attributes::default() },
        ..ObjectInfo::empty()
    }
}

fn with_policy(effect: &str, principal: Value, action: &str) -> BucketSettings {
    let statement = json!({"Effect": effect, "Principal": principal, "Action": action,
                           "Resource": ["arn:aws:s3:::bkt", "arn:aws:s3:::bkt/*"]});
    let text = json!({"Version": "2012-10-17", "Statement": statement}).to_string();
    let policy = Policy::parse(&text, Scope::Bucket("bkt")).unwrap();
    BucketSettings { policy_is_public: is_public(&policy), policy: Some(policy), ..BucketSettings::default() }
}

fn with_lists(access: Access) -> BucketSettings {
    BucketSettings { access, ownership: Ownership::ObjectWriter, ..BucketSettings::default() }
}

/// On a bucket of `owner`.
fn ask(caller: &Caller, settings: &BucketSettings, action: Action, object: Option<&ObjectInfo>) -> Verdict {
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
fn who_signs_may_look_after_an_upload_that_it_has_begun_unless_it_is_denied() {
    let (plain, denied) = (BucketSettings::default(), with_policy("Deny", json!("*"), "s3:*"));
    for action in [Action::ListMultipartUploadParts, Action::AbortMultipartUpload] {
        assert_eq!(ask(&user("other"), &plain, action, None), Verdict::AskUpload);
        assert_eq!(ask(&Caller::Anonymous, &plain, action, None), Verdict::Denied);
        assert_eq!(ask(&user("other"), &denied, action, None), Verdict::Denied);
    }
    assert_eq!(ask(&user("other"), &plain, Action::ListBucketMultipartUploads, None), Verdict::Denied);
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
    assert_eq!(ask(&Caller::Anonymous, &settings, Action::PutObjectAcl, Some(&readable)), Verdict::Denied);
}
