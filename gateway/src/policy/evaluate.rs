//! The decision.

use super::pattern::{expand, matches_any_case, names};
use super::{Decision, Effect, Named, Policy, Request, Statement};

/// What a policy says of a request: an explicit deny wins over every allow.
pub fn evaluate(policy: &Policy, request: &Request<'_>) -> Decision {
    let mut decision = Decision::Silent;
    for statement in
        policy.statements.iter().filter(|statement| applies(statement, policy.variables, request))
    {
        match statement.effect {
            Effect::Deny => return Decision::Deny,
            Effect::Allow => decision = Decision::Allow,
        }
    }
    decision
}

fn applies(statement: &Statement, variables: bool, request: &Request<'_>) -> bool {
    let principal = statement.principals.as_ref().is_none_or(|named| named.holds(|name| is(name, request)));
    let resource = |pattern: &String| {
        expand(pattern, request, variables).is_some_and(|pattern| pattern.matches(request.resource))
    };
    principal
        && statement.actions.holds(|pattern| matches_any_case(pattern, request.action))
        && statement.resources.holds(resource)
        && statement.conditions.iter().all(|condition| condition.holds(request, variables))
}

fn is(name: &Named, request: &Request<'_>) -> bool {
    match name {
        Named::Everyone => true,
        Named::Nobody => false,
        Named::User(name) => request.principal.is_some_and(|principal| names(name, principal)),
    }
}
