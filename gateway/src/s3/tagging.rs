//! Tags of buckets and objects: `<Tagging>` in and out, and the limits of S3.

use std::collections::BTreeMap;

use super::auth::percent_encode;
use super::error::{Code, S3Error};
use super::xml::{DECLARATION, Element, NAMESPACE, malformed, push_element};

/// Tags of an object (S3).
pub(crate) const MAX_OBJECT_TAGS: usize = 10;
/// Tags of a bucket (S3).
pub(crate) const MAX_BUCKET_TAGS: usize = 50;
/// Characters of a tag's key and value (S3).
const MAX_CHARS: (usize, usize) = (128, 256);

/// Tags by key.
pub(crate) type Tags = BTreeMap<String, String>;

/// Reads `<Tagging>` with at most `limit` tags.
///
/// # Errors
/// `MalformedXML`, or `InvalidTag`.
pub(crate) fn parse(body: &[u8], limit: usize) -> Result<Tags, S3Error> {
    let document = Element::parse(body, "Tagging")?;
    let set = document.child("TagSet").ok_or_else(malformed)?;
    let pairs = set.children_of("Tag").map(|tag| {
        let key = tag.text_of("Key").ok_or_else(malformed)?;
        Ok((key.to_owned(), tag.text_of("Value").ok_or_else(malformed)?.to_owned()))
    });
    collect(pairs.collect::<Result<Vec<_>, S3Error>>()?, limit)
}

/// Checks tags and collects them.
///
/// # Errors
/// `InvalidTag`.
pub(crate) fn collect(
    pairs: impl IntoIterator<Item = (String, String)>,
    limit: usize,
) -> Result<Tags, S3Error> {
    let mut tags = Tags::new();
    for (key, value) in pairs {
        let (key_chars, value_chars) = (key.chars().count(), value.chars().count());
        let reserved = key.to_ascii_lowercase().starts_with("aws:");
        if key_chars == 0 || key_chars > MAX_CHARS.0 || reserved || !key.chars().all(is_allowed) {
            return Err(S3Error::with(Code::InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value_chars > MAX_CHARS.1 || !value.chars().all(is_allowed) {
            return Err(S3Error::with(Code::InvalidTag, "The TagValue you have provided is invalid"));
        }
        if tags.insert(key, value).is_some() {
            let message = "Cannot provide multiple Tags with the same key";
            return Err(S3Error::with(Code::InvalidTag, message));
        }
    }
    if tags.len() > limit {
        let message = format!("Tags cannot be more than {limit}");
        return Err(S3Error::with(Code::InvalidTag, message));
    }
    Ok(tags)
}

/// Letters, digits and spaces of any script, and what S3 allows besides.
fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "+-=._:/@".contains(c)
}

/// Writes `<Tagging>`.
pub(crate) fn document(tags: &Tags) -> String {
    let mut out = format!("{DECLARATION}<Tagging xmlns=\"{NAMESPACE}\"><TagSet>");
    for (key, value) in tags {
        out.push_str("<Tag>");
        push_element(&mut out, "Key", key);
        push_element(&mut out, "Value", value);
        out.push_str("</Tag>");
    }
    out.push_str("</TagSet></Tagging>");
    out
}

/// The same as `x-amz-tagging` has it.
pub(crate) fn header(tags: &Tags) -> String {
    let pairs = tags.iter().map(|pair| [pair.0, pair.1].map(|text| percent_encode(text, false)).join("="));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(tags: &[(&str, &str)]) -> String {
        let tag = |(key, value): &(&str, &str)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
        format!("<Tagging><TagSet>{}</TagSet></Tagging>", tags.iter().map(tag).collect::<String>())
    }

    #[test]
    fn tags_read_back_as_they_were_written() {
        let tags = parse(body(&[("a", "1"), (" b ", ""), ("漢字 é:/@", "+-=._")]).as_bytes(), 3).unwrap();
        assert_eq!(tags[" b "], "");
        assert_eq!(parse(document(&tags).as_bytes(), 3).unwrap(), tags);
        assert!(parse(body(&[]).as_bytes(), 0).unwrap().is_empty());
    }

    #[test]
    fn limits_are_kept() {
        let code = |tags: &[(&str, &str)]| parse(body(tags).as_bytes(), 2).unwrap_err().code();
        let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
        for tags in [
            &[("", "x")][..],
            &[(long_key.as_str(), "x")],
            &[("k", long_value.as_str())],
            &[("k", "1"), ("k", "2")],
            &[("a", ""), ("b", ""), ("c", "")],
            &[("aws:x", "")],
            &[("a&amp;b", "")],
            &[("a", "&lt;")],
            &[("a", "b\nc")],
            &[("a", "&#x1;")],
            &[("a,b", "")],
            &[("a", "50%")],
        ] {
            assert_eq!(code(tags), Code::InvalidTag, "{tags:?}");
        }
        for bad in ["<Tagging/>", "<TagSet/>", "<Tagging><TagSet><Tag><Key>k</Key></Tag></TagSet></Tagging>"]
        {
            assert_eq!(parse(bad.as_bytes(), 2).unwrap_err().code(), Code::MalformedXML, "{bad}");
        }
    }
}
