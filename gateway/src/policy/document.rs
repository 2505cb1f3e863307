//! From JSON to a [`Policy`].

use serde_json::{Map, Value};

use super::actions::{is_action, is_key};
use super::condition::{Condition, Operator};
use super::pattern::matches;
use super::{Effect, Matching, Named, Policy, Scope, Statement};

/// Longest policy of a bucket, in bytes (S3).
const MAX_BYTES: usize = 20 * 1024;
/// Versions of the language: only the newer one has variables.
const VERSIONS: [&str; 2] = ["2012-10-17", "2008-10-17"];

/// A document that is no policy, or one that cannot be carried out as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not JSON, or not an object.
    #[error("Policies must be valid JSON and the first byte must be '{{'")]
    NotJson,
    /// Too long.
    #[error("Policy is larger than {MAX_BYTES} bytes")]
    TooLong,
    /// An element that must be there.
    #[error("Missing required field {0}")]
    Missing(&'static str),
    /// An element that the language does not have, or both of a pair.
    #[error("Unknown or conflicting field {0}")]
    Unexpected(String),
    /// A value that the element cannot have.
    #[error("Invalid value for {element}: {value}")]
    Invalid {
        /// The element.
        element: &'static str,
        /// The value.
        value: String,
    },
    /// An action that does not exist.
    #[error("Policy has invalid action: {0}")]
    Action(String),
    /// A resource outside the bucket.
    #[error("Policy has invalid resource: {0}")]
    Resource(String),
    /// A principal that is none.
    #[error("Invalid principal in policy: {0}")]
    Principal(String),
    /// An operator, key or value of a condition.
    #[error("Policy has an invalid condition: {0}")]
    Condition(String),
    /// Everybody but some is never what is meant.
    #[error("Allow with NotPrincipal is not allowed")]
    AllowNotPrincipal,
}

impl Policy {
    /// Reads a document. Every element is checked.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn parse(text: &str, scope: Scope<'_>) -> Result<Self, PolicyError> {
        if text.len() > MAX_BYTES {
            return Err(PolicyError::TooLong);
        }
        let Ok(Value::Object(document)) = serde_json::from_str(text) else {
            return Err(PolicyError::NotJson);
        };
        only(&document, &["Version", "Id", "Statement"])?;
        let version = match document.get("Version") {
            None => VERSIONS[1],
            Some(version) => one_text(version, "Version")?,
        };
        if !VERSIONS.contains(&version) {
            return Err(invalid("Version", version));
        }
        let statements = match document.get("Statement") {
            None => return Err(PolicyError::Missing("Statement")),
            Some(Value::Array(statements)) => statements.iter().collect(),
            Some(statement) => vec![statement],
        };
        if statements.is_empty() {
            return Err(PolicyError::Missing("Statement"));
        }
        let statements = statements.into_iter().map(|statement| parse_statement(statement, scope));
        Ok(Self { statements: statements.collect::<Result<_, _>>()?, variables: version == VERSIONS[0] })
    }

    /// Whether any condition or variable asks for a key that begins with this.
    pub fn asks_for(&self, prefix: &str) -> bool {
        let begins =
            |key: &str| key.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let in_variable = |text: &String| text.split("${").skip(1).any(|name| begins(name.trim_start()));
        self.statements.iter().any(|Statement { resources, conditions, .. }| {
            resources.items().iter().any(in_variable)
                || conditions
                    .iter()
                    .any(|Condition { key, values, .. }| begins(key) || values.iter().any(in_variable))
        })
    }
}

const ELEMENTS: [&str; 9] = [
    "Sid",
    "Effect",
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
];

fn parse_statement(statement: &Value, scope: Scope<'_>) -> Result<Statement, PolicyError> {
    let Value::Object(statement) = statement else {
        return Err(PolicyError::Missing("Statement"));
    };
    only(statement, &ELEMENTS)?;
    let effect = match one_text(statement.get("Effect").ok_or(PolicyError::Missing("Effect"))?, "Effect")? {
        "Allow" => Effect::Allow,
        "Deny" => Effect::Deny,
        other => return Err(invalid("Effect", other)),
    };
    let principals = parse_principals(statement, scope)?;
    if effect == Effect::Allow && matches!(principals, Some(Matching::NoneOf(_))) {
        return Err(PolicyError::AllowNotPrincipal);
    }
    let actions = pair(statement, ["Action", "NotAction"])?;
    if let Some(unknown) = actions.items().iter().find(|action| !is_action(action)) {
        return Err(PolicyError::Action(unknown.clone()));
    }
    let resources = pair(statement, ["Resource", "NotResource"])?;
    if let Some(foreign) = resources.items().iter().find(|resource| !is_resource(resource, scope)) {
        return Err(PolicyError::Resource(foreign.clone()));
    }
    let conditions = match statement.get("Condition") {
        None => Vec::new(),
        Some(conditions) => parse_conditions(conditions)?,
    };
    Ok(Statement { effect, principals, actions, resources, conditions })
}

/// An element or its negation, exactly one of them.
fn pair(statement: &Map<String, Value>, names: [&'static str; 2]) -> Result<Matching<String>, PolicyError> {
    let [plain, negated] = names;
    match (statement.get(plain), statement.get(negated)) {
        (Some(value), None) => texts(value, plain).map(Matching::Any),
        (None, Some(value)) => texts(value, negated).map(Matching::NoneOf),
        (None, None) => Err(PolicyError::Missing(plain)),
        (Some(_), Some(_)) => Err(PolicyError::Unexpected(negated.to_owned())),
    }
}

fn is_resource(resource: &str, scope: Scope<'_>) -> bool {
    let Some(name) = resource.strip_prefix("arn:aws:s3:::") else {
        return resource == "*" && scope == Scope::Identity;
    };
    match scope {
        Scope::Identity => true,
        Scope::Bucket(bucket) => matches(name.split('/').next().unwrap_or_default(), bucket),
    }
}

fn parse_principals(
    statement: &Map<String, Value>,
    scope: Scope<'_>,
) -> Result<Option<Matching<Named>>, PolicyError> {
    let found = match (statement.get("Principal"), statement.get("NotPrincipal")) {
        (Some(value), None) => Some(Matching::Any(named(value)?)),
        (None, Some(value)) => Some(Matching::NoneOf(named(value)?)),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(PolicyError::Unexpected("NotPrincipal".to_owned())),
    };
    match (&found, scope) {
        (None, Scope::Bucket(_)) => Err(PolicyError::Missing("Principal")),
        (Some(_), Scope::Identity) => Err(PolicyError::Unexpected("Principal".to_owned())),
        (None, Scope::Identity) | (Some(_), Scope::Bucket(_)) => Ok(found),
    }
}

fn named(value: &Value) -> Result<Vec<Named>, PolicyError> {
    let bad = |value: &Value| PolicyError::Principal(value.to_string());
    let kinds = match value {
        Value::String(text) if text == "*" => return Ok(vec![Named::Everyone]),
        Value::Object(kinds) if !kinds.is_empty() => kinds,
        Value::Object(_)
        | Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_) => {
            return Err(bad(value));
        }
    };
    let mut found = Vec::new();
    for (kind, value) in kinds {
        let names = texts(value, "Principal").map_err(|_| bad(value))?;
        if names.iter().any(|name| name.is_empty() || (name.contains(['*', '?']) && name != "*")) {
            return Err(bad(value));
        }
        match kind.as_str() {
            "AWS" => found.extend(names.into_iter().map(|name| match name.as_str() {
                "*" => Named::Everyone,
                _ => Named::User(name),
            })),
            "CanonicalUser" => found.extend(names.into_iter().map(Named::User)),
            "Service" | "Federated" => found.extend(names.iter().map(|_| Named::Nobody)),
            _ => return Err(PolicyError::Principal(kind.clone())),
        }
    }
    Ok(found)
}

fn parse_conditions(value: &Value) -> Result<Vec<Condition>, PolicyError> {
    let Value::Object(operators) = value else {
        return Err(PolicyError::Condition(value.to_string()));
    };
    let mut conditions = Vec::new();
    for (name, keys) in operators {
        let operator = Operator::parse(name).ok_or_else(|| PolicyError::Condition(name.clone()))?;
        let Value::Object(keys) = keys else {
            return Err(PolicyError::Condition(name.clone()));
        };
        for (key, values) in keys {
            if !is_key(key) {
                return Err(PolicyError::Condition(key.clone()));
            }
            let values = texts(values, "Condition").map_err(|_| PolicyError::Condition(key.clone()))?;
            // A variable has its value when a request comes.
            if let Some(bad) = values.iter().find(|value| !value.contains("${") && !operator.takes(value)) {
                return Err(PolicyError::Condition(bad.clone()));
            }
            conditions.push(Condition { operator, key: key.clone(), values });
        }
    }
    Ok(conditions)
}

fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), PolicyError> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => Err(PolicyError::Unexpected(unknown.clone())),
        None => Ok(()),
    }
}

fn one_text<'a>(value: &'a Value, element: &'static str) -> Result<&'a str, PolicyError> {
    value.as_str().ok_or_else(|| PolicyError::Invalid { element, value: value.to_string() })
}

/// A text or several; numbers and booleans count as their text.
fn texts(value: &Value, element: &'static str) -> Result<Vec<String>, PolicyError> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(PolicyError::Invalid { element, value: value.to_string() })
        }
    };
    let values = match value {
        Value::Array(values) => values.iter().map(text).collect::<Result<Vec<_>, _>>()?,
        one => vec![text(one)?],
    };
    if values.is_empty() { Err(PolicyError::Missing(element)) } else { Ok(values) }
}

fn invalid(element: &'static str, value: &str) -> PolicyError {
    PolicyError::Invalid { element, value: value.to_owned() }
}
