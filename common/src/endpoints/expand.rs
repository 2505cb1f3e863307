//! The expansion of `{1...n}`: three dots, decimal or hexadecimal, several in one argument.
//!
//! ```text
//! range  = "{" number "..." number "}"
//! number = decimal digits, or hexadecimal ones if either end has a letter a-f
//! ```
//! If an end begins with 0 and has more digits, all numbers are padded with zeros to the longer end's width.
//! Hexadecimal is written in upper case if an end is. Braces mean nothing else: what a shell should have
//! expanded (`{1..4}`, `{a,b}`) arrives here only when it did not, and is refused with the form that works.

/// Most words that one argument may become.
const MAX_WORDS: usize = 65_536;
/// Longest number: enough for any count that [`MAX_WORDS`] allows.
const MAX_DIGITS: usize = 15;

/// Why an argument cannot be expanded.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExpandError {
    /// `{1..4}`: two dots, for the shell, which left it alone.
    #[error("`{argument}` has two dots: `{found}` is for the shell, which did not expand it; write `{fix}`")]
    TwoDots {
        /// The argument.
        argument: String,
        /// The braces as typed.
        found: String,
        /// The same with three dots.
        fix: String,
    },
    /// Braces around something else.
    #[error("`{found}` in `{argument}` is no range: write `{{1...4}}`, or name the drives one by one")]
    NoRange {
        /// The argument.
        argument: String,
        /// The braces as typed.
        found: String,
    },
    /// A brace without its partner.
    #[error("`{argument}` has a `{brace}` without its partner: a range is written `{{1...4}}`")]
    Unbalanced {
        /// The argument.
        argument: String,
        /// The brace.
        brace: char,
    },
    /// The end is below the start.
    #[error("`{found}` in `{argument}` runs backwards: write `{fix}`")]
    Backwards {
        /// The argument.
        argument: String,
        /// The braces as typed.
        found: String,
        /// The same forwards.
        fix: String,
    },
    /// Too many words.
    #[error("`{argument}` names more than {MAX_WORDS} drives")]
    TooMany {
        /// The argument.
        argument: String,
    },
}

/// The words that an argument stands for: itself, if it has no range. The leftmost range varies slowest.
///
/// # Errors
/// [`ExpandError`] if it has braces that are no range.
pub fn expand(argument: &str) -> Result<Vec<String>, ExpandError> {
    let mut words = vec![String::new()];
    let mut rest = argument;
    while let Some(at) = rest.find(['{', '}']) {
        let (literal, from_brace) = rest.split_at(at);
        if from_brace.starts_with('}') {
            return Err(ExpandError::Unbalanced { argument: argument.to_owned(), brace: '}' });
        }
        let unbalanced = || ExpandError::Unbalanced { argument: argument.to_owned(), brace: '{' };
        let end = from_brace.find('}').ok_or_else(unbalanced)?;
        if from_brace[1..end].contains('{') {
            return Err(unbalanced());
        }
        let range = Range::parse(argument, &from_brace[1..end])?;
        let too_many = || ExpandError::TooMany { argument: argument.to_owned() };
        let count = range.count().checked_mul(words.len()).filter(|&count| count <= MAX_WORDS);
        let mut next = Vec::with_capacity(count.ok_or_else(too_many)?);
        for word in &words {
            next.extend(
                (range.start..=range.end).map(|number| format!("{word}{literal}{}", range.show(number))),
            );
        }
        words = next;
        rest = &from_brace[end + 1..];
    }
    words.iter_mut().for_each(|word| word.push_str(rest));
    Ok(words)
}

struct Range {
    start: u64,
    end: u64,
    width: usize,
    hexadecimal: bool,
    upper_case: bool,
}

impl Range {
    /// Reads what stands between the braces.
    fn parse(argument: &str, inside: &str) -> Result<Self, ExpandError> {
        let argument = argument.to_owned();
        let found = format!("{{{inside}}}");
        let Some((from, to)) = inside.split_once("...") else {
            return Err(match inside.split_once("..") {
                Some((from, to)) if is_number(from) && is_number(to) => {
                    ExpandError::TwoDots { argument, found, fix: format!("{{{from}...{to}}}") }
                }
                _ => ExpandError::NoRange { argument, found },
            });
        };
        if !is_number(from) || !is_number(to) {
            return Err(ExpandError::NoRange { argument, found });
        }
        let letter = |text: &str| text.bytes().any(|b| b.is_ascii_alphabetic());
        let upper = |text: &str| text.bytes().any(|b| b.is_ascii_uppercase());
        let padded = |text: &str| text.len() > 1 && text.starts_with('0');
        let hexadecimal = letter(from) || letter(to);
        let value = |text: &str| u64::from_str_radix(text, if hexadecimal { 16 } else { 10 });
        let (Ok(start), Ok(end)) = (value(from), value(to)) else {
            return Err(ExpandError::NoRange { argument, found });
        };
        if start > end {
            return Err(ExpandError::Backwards { argument, found, fix: format!("{{{to}...{from}}}") });
        }
        let width = if padded(from) || padded(to) { from.len().max(to.len()) } else { 0 };
        Ok(Self { start, end, width, hexadecimal, upper_case: upper(from) || upper(to) })
    }

    fn count(&self) -> usize {
        usize::try_from(self.end - self.start).map_or(usize::MAX, |steps| steps.saturating_add(1))
    }

    fn show(&self, number: u64) -> String {
        let width = self.width;
        match (self.hexadecimal, self.upper_case) {
            (false, _) => format!("{number:0width$}"),
            (true, false) => format!("{number:0width$x}"),
            (true, true) => format!("{number:0width$X}"),
        }
    }
}

fn is_number(text: &str) -> bool {
    (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
