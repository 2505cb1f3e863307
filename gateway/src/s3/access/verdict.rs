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
    /// Nothing allows it, except that the caller may have begun the upload.
    AskUpload,
}

/// What the bucket's policy says.
pub(super) fn decision(asked: &Asked<'_>) -> Decision {
    asked.settings.policy.as_ref().map_or(Decision::Silent, |policy| {
        let (principal, action) = (asked.principal, asked.action.name());
        evaluate(policy, &Request { principal, action, resource: asked.resource, facts: asked.facts })
    })
}

/// Judges one action.
pub(super) fn verdict(asked: &Asked<'_>) -> Verdict {
    let Asked { caller, settings, action, .. } = asked;
    let owns_bucket = match caller {
        Caller::Root => true,
        Caller::User(owner) => owner.id == asked.bucket_owner,
        Caller::Anonymous => false,
    };
    match decision(asked) {
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
    if action.is_the_initiators() && signed {
        return Verdict::AskUpload;
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
mod tests;
