//! Whether a policy makes something public.
//!
//! A statement that allows is public unless every one of its principals is named, or a condition narrows it down to fixed
//! values of a key that says who asks or from where. "Fixed" means without wildcards; a network of an address family must
//! not be (nearly) all of it.

use super::condition::{Condition, Network, Test};
use super::{Effect, Matching, Named, Policy, Statement};

/// Networks with fewer leading bits than these are as good as everywhere: IPv4, IPv6.
const NARROW_BITS: (u8, u8) = (8, 32);

/// Keys that tell who or where.
const FIXING: [&str; 11] = [
    "aws:principalarn",
    "aws:principalorgid",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "aws:username",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
];

/// Whether the policy allows anything to everybody.
pub fn is_public(policy: &Policy) -> bool {
    policy.statements.iter().any(|statement| {
        statement.effect == Effect::Allow
            && names_everybody(statement)
            && !statement.conditions.iter().any(fixes)
    })
}

fn names_everybody(statement: &Statement) -> bool {
    match &statement.principals {
        None => false,
        Some(Matching::Any(named)) => named.contains(&Named::Everyone),
        Some(Matching::NoneOf(_)) => true,
    }
}

fn fixes(condition: &Condition) -> bool {
    let operator = condition.operator;
    if operator.negated || operator.if_exists || operator.set.is_some() {
        return false;
    }
    let key = condition.key.to_ascii_lowercase();
    FIXING.contains(&key.as_str())
        && match operator.test {
            Test::Ip => condition.values.iter().all(|value| is_narrow(value)),
            Test::Equal | Test::EqualAnyCase | Test::Like | Test::Arn => {
                condition.values.iter().all(|value| !value.contains(['*', '?', '$']))
            }
            Test::Bool | Test::Binary | Test::Number(_) | Test::Date(_) | Test::Null => false,
        }
}

fn is_narrow(network: &str) -> bool {
    let least = if network.contains(':') { NARROW_BITS.1 } else { NARROW_BITS.0 };
    Network::parse(network).is_some_and(|network| network.bits >= least)
}
