//! Wildcards and variables.

use super::{Principal, Request};

/// One place of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Symbol {
    /// `*`: anything, or nothing.
    Any,
    /// `?`: one character.
    One,
    /// This character.
    Is(char),
}

/// A text in which `*` stands for anything and `?` for one character, except where a variable stood: what that gave stands
/// for itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Pattern(Vec<Symbol>);

impl Pattern {
    /// A text without variables.
    fn of(text: &str) -> Self {
        let mut pattern = Self::default();
        pattern.push(text);
        pattern
    }

    /// Adds what the policy says.
    fn push(&mut self, text: &str) {
        self.0.extend(text.chars().map(|c| match c {
            '*' => Symbol::Any,
            '?' => Symbol::One,
            c => Symbol::Is(c),
        }));
    }

    /// Adds what a variable gives.
    fn push_literal(&mut self, text: &str) {
        self.0.extend(text.chars().map(Symbol::Is));
    }

    /// The text, for comparisons without wildcards.
    pub(super) fn text(&self) -> String {
        let c = |symbol: &Symbol| match symbol {
            Symbol::Any => '*',
            Symbol::One => '?',
            Symbol::Is(c) => *c,
        };
        self.0.iter().map(c).collect()
    }

    /// Whether all of a text is as the pattern says.
    pub(super) fn matches(&self, text: &str) -> bool {
        covers(&self.0, text)
    }

    /// The same of ARNs: each of the six parts of one matches the same part of the other.
    pub(super) fn matches_arn(&self, arn: &str) -> bool {
        let mut parts = arn.splitn(6, ':');
        self.0
            .splitn(6, |symbol| *symbol == Symbol::Is(':'))
            .all(|wanted| parts.next().is_some_and(|part| covers(wanted, part)))
            && parts.next().is_none()
    }
}

fn covers(pattern: &[Symbol], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and how much of the text it takes.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Symbol::Any) => {
                star = Some((p, t));
                p += 1;
            }
            Some(&symbol) if symbol == Symbol::One || symbol == Symbol::Is(text[t]) => {
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
    pattern[p..].iter().all(|symbol| *symbol == Symbol::Any)
}

/// Whether `text` matches `pattern`, where `*` stands for anything and `?` for one character.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    Pattern::of(pattern).matches(text)
}

/// [`matches`] without case, as actions compare.
pub(super) fn matches_any_case(pattern: &str, text: &str) -> bool {
    matches(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase())
}

/// A pattern with its variables replaced; `None` if one has no value, and then nothing matches. `${*}`, `${?}` and `${$}` are
/// the characters themselves.
pub(super) fn expand(text: &str, request: &Request<'_>, variables: bool) -> Option<Pattern> {
    if !variables {
        return Some(Pattern::of(text));
    }
    let mut pattern = Pattern::default();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}')?;
        pattern.push(before);
        match name {
            "*" | "?" | "$" => pattern.push_literal(name),
            _ => pattern.push_literal(&value(name, request)?),
        }
        rest = tail;
    }
    pattern.push(rest);
    Some(pattern)
}

/// The value of `name` or `name, 'default'`.
fn value(variable: &str, request: &Request<'_>) -> Option<String> {
    let (name, default) = match variable.split_once(',') {
        Some((name, default)) => (name.trim(), Some(default.trim().trim_matches('\'').to_owned())),
        None => (variable.trim(), None),
    };
    let known = request.facts.get(name).filter(|values| values.len() == 1).map(|values| values[0].clone());
    known.or(default)
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
