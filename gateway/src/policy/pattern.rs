//! Wildcards and variables.

use super::{Principal, Request};

/// Whether `text` matches `pattern`, where `*` stands for anything and `?` for one character.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and how much of the text it takes.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// [`matches`] without case, as actions compare.
pub(super) fn matches_any_case(pattern: &str, text: &str) -> bool {
    matches(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase())
}

/// A pattern with its variables replaced; `None` if one has no value, and then nothing matches. Wildcards in a value stand
/// for themselves only where the caller compares without wildcards, so a value that holds some is refused.
pub(super) fn expand(pattern: &str, request: &Request<'_>, variables: bool) -> Option<String> {
    if !variables || !pattern.contains("${") {
        return Some(pattern.to_owned());
    }
    let mut out = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}')?;
        out.push_str(before);
        match name {
            "*" | "?" | "$" => out.push_str(name),
            _ => out.push_str(&value(name, request)?),
        }
        rest = tail;
    }
    out.push_str(rest);
    Some(out)
}

/// The value of `name` or `name, 'default'`.
fn value(variable: &str, request: &Request<'_>) -> Option<String> {
    let (name, default) = match variable.split_once(',') {
        Some((name, default)) => (name.trim(), Some(default.trim().trim_matches('\'').to_owned())),
        None => (variable.trim(), None),
    };
    let known = request.facts.get(name).filter(|values| values.len() == 1).map(|values| values[0].clone());
    known.filter(|value| !value.contains(['*', '?'])).or(default)
}

/// Whether a name in a policy is this principal: its canonical id, its name, or an ARN that ends with either.
pub(super) fn names(name: &str, principal: &Principal) -> bool {
    let own = |text: &str| text == principal.id || text == principal.name;
    if own(name) {
        return true;
    }
    let mut parts = name.splitn(6, ':');
    let iam = [parts.next(), parts.next(), parts.next(), parts.next()];
    if !matches!(iam, [Some("arn"), Some(_), Some("iam"), Some("")]) {
        return false;
    }
    let (account, resource) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match resource.split_once('/') {
        Some(("user", path)) => path.rsplit('/').next().is_some_and(own),
        Some(_) => false,
        None => resource == "root" && own(account),
    }
}
