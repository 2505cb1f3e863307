//! The query of a request, decoded once.

use super::auth::decode_query;
use super::error::{Code, S3Error};

/// Decoded names and values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes a raw query, without its `?`.
    ///
    /// # Errors
    /// `InvalidURI` if a name or value is not UTF-8.
    pub(crate) fn parse(raw: &str) -> Result<Self, S3Error> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| S3Error::new(Code::InvalidURI));
        let pairs = decode_query(raw).into_iter().map(|(name, value)| Ok((text(name)?, text(value)?)));
        Ok(Self { pairs: pairs.collect::<Result<_, S3Error>>()? })
    }

    /// Whether the name is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(known, _)| known == name)
    }

    /// The first value of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first value, or an empty text.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// A count such as `max-keys`: absent or empty is 1,000, more counts as 1,000.
    ///
    /// # Errors
    /// `InvalidArgument` if it is no number, or negative.
    pub(crate) fn page_size(&self, name: &'static str) -> Result<u32, S3Error> {
        match self.get(name) {
            None | Some("") => Ok(MAX_PAGE),
            Some(text) => match text.parse::<i64>() {
                Ok(count) if (0..=i64::from(i32::MAX)).contains(&count) => {
                    Ok(u32::try_from(count).unwrap_or(MAX_PAGE).min(MAX_PAGE))
                }
                Ok(_) => Err(S3Error::argument(
                    name,
                    text,
                    format!("Argument {name} must be an integer between 0 and 2147483647"),
                )),
                Err(_) => Err(S3Error::argument(name, text, format!("Provided {name} not an integer"))),
            },
        }
    }
}

/// Most items of a page (S3).
pub(crate) const MAX_PAGE: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_clamped_or_refused() {
        let size = |raw: &str| Query::parse(raw).unwrap().page_size("max-keys").map_err(|error| error.code());
        assert_eq!(size(""), Ok(1000));
        assert_eq!(size("max-keys="), Ok(1000));
        assert_eq!(size("max-keys=0"), Ok(0));
        assert_eq!(size("max-keys=5000"), Ok(1000));
        assert_eq!(size("max-keys=-1"), Err(Code::InvalidArgument));
        assert_eq!(size("max-keys=ten"), Err(Code::InvalidArgument));
        assert!(Query::parse("prefix=%ff").is_err());
    }
}
