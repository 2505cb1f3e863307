//! The AWS policy language: documents in, decisions out.
//!
//! Owns: the grammar of policies, their evaluation ([`evaluate`], one pure function), and whether one is public
//! ([`is_public`]). Never: knows buckets, requests, headers or users; the caller says who asks for what, and what is
//! known about it. No I/O, no clock: the time is one of the facts that the caller tells.
//!
//! 1. [`Policy::parse`] reads a document and refuses what it cannot carry out: an unknown operator, condition key, action
//!    or element is an error and never ignored, because a rule that is ignored grants or withholds what its author did
//!    not mean. An action that S3 documents is known, also if no request here needs it: a statement about it is true, and
//!    never applies. A key is known if its truth is: the caller tells its value for every request for which AWS documents
//!    one, or no request here can have it, and then it is absent, as it is for such requests at AWS. Keys of the tags of
//!    buckets are not among them.
//! 2. [`evaluate`] looks at every statement: an explicit deny wins, then an allow; else the policy says nothing.
//!
//! Source: "Grammar of the IAM JSON policy language", "IAM JSON policy elements" and "Policy evaluation logic" of the AWS
//! Identity and Access Management User Guide; "The meaning of 'public'" of the Amazon S3 User Guide.

mod actions;
mod condition;
mod document;
mod evaluate;
mod pattern;
mod public;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

#[cfg(test)]
pub(crate) use actions::{ABSENT, KEYS};
pub use condition::Network;
pub use document::PolicyError;
pub use evaluate::evaluate;
pub use public::is_public;

use condition::Condition;

/// What a policy says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A statement allows it and none denies it.
    Allow,
    /// A statement denies it: nothing else counts.
    Deny,
    /// No statement is about it.
    Silent,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The canonical id.
    pub id: String,
    /// The user's name.
    pub name: String,
}

/// A request as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks; `None` is anonymous.
    pub principal: Option<&'a Principal>,
    /// What is asked for, such as `s3:GetObject`.
    pub action: &'a str,
    /// On what, such as `arn:aws:s3:::bucket/key`.
    pub resource: &'a str,
    /// What else is known.
    pub facts: &'a Facts,
}

/// What is known about a request, by condition key; keys compare without case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<String, Vec<String>>);

impl Facts {
    /// Adds a value of a key.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.0.entry(key.to_ascii_lowercase()).or_default().push(value.into());
    }

    /// The values of a key; `None` if nothing is known of it.
    pub fn get(&self, key: &str) -> Option<&[String]> {
        self.0.get(&key.to_ascii_lowercase()).map(Vec::as_slice)
    }
}

/// A policy document that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    statements: Vec<Statement>,
    /// Whether `${…}` is replaced: version 2012-10-17.
    variables: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    effect: Effect,
    /// `None` in a policy of an identity, which is its own principal.
    principals: Option<Matching<Named>>,
    actions: Matching<String>,
    resources: Matching<String>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

/// `Action` or `NotAction`, `Resource` or `NotResource`, `Principal` or `NotPrincipal`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Matching<T> {
    Any(Vec<T>),
    NoneOf(Vec<T>),
}

impl<T> Matching<T> {
    fn holds(&self, matches: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Any(items) => items.iter().any(matches),
            Self::NoneOf(items) => !items.iter().any(matches),
        }
    }

    fn items(&self) -> &[T] {
        match self {
            Self::Any(items) | Self::NoneOf(items) => items,
        }
    }
}

/// Whom a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    /// Anybody, signed or not.
    Everyone,
    /// A canonical id, or what stands for a user: its name or its id in an ARN.
    User(String),
    /// A service or a federated identity, none of which Coffer has: matches nobody.
    Nobody,
}

/// What a bucket's policy is about: the resources that it may name, and where all principals must be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The policy of a bucket.
    Bucket(&'a str),
    /// The policy of an identity.
    Identity,
}
