//! Percent coding as S3 signs it: unreserved bytes stay, everything else is `%XX` in upper case.

use std::borrow::Cow;

/// Decodes `%XX`; a `%` that starts no valid escape stays as it is. `+` is an ordinary byte.
pub fn percent_decode(text: &str) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode_str(text).into()
}

/// Splits a raw query into decoded pairs, in order. `+` means a space, as S3 reads it; a name without `=`
/// has an empty value; empty pieces (`a&&b`) are skipped.
pub fn decode_query(raw: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    pairs(raw).map(|(name, value)| (form_decode(name), form_decode(value))).collect()
}

/// The raw pairs of a query.
pub(super) fn pairs(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    raw.split('&').filter(|piece| !piece.is_empty()).map(|piece| piece.split_once('=').unwrap_or((piece, "")))
}

/// The first decoded value of `name`, if it is UTF-8.
pub(super) fn lookup<'a>(query: &'a [(Vec<u8>, Vec<u8>)], name: &str) -> Option<&'a str> {
    let (_, value) = query.iter().find(|(key, _)| key.as_slice() == name.as_bytes())?;
    std::str::from_utf8(value).ok()
}

fn form_decode(text: &str) -> Vec<u8> {
    if text.contains('+') {
        percent_decode(&text.replace('+', " ")).into_owned()
    } else {
        percent_decode(text).into_owned()
    }
}

/// Encodes text; `/` stays when `keep_slash`.
pub fn percent_encode(text: &str, keep_slash: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    encode_into(&mut out, text.as_bytes(), keep_slash);
    String::from_utf8(out).expect("what is encoded is ASCII")
}

/// Appends `bytes` encoded; `/` stays when `keep_slash`.
pub(super) fn encode_into(out: &mut Vec<u8>, bytes: &[u8], keep_slash: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if plain || (keep_slash && byte == b'/') {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_keeps_unreserved_only() {
        let mut out = Vec::new();
        encode_into(&mut out, "a/b c~-._%é".as_bytes(), true);
        assert_eq!(out, b"a/b%20c~-._%25%C3%A9");
        out.clear();
        encode_into(&mut out, b"a/b", false);
        assert_eq!(out, b"a%2Fb");
        assert_eq!(percent_encode("a b/ü+~", true), "a%20b/%C3%BC%2B~");
        assert_eq!(percent_encode("a/b", false), "a%2Fb");
    }

    #[test]
    fn queries_decode_plus_as_space() {
        let query = decode_query("prefix=a+b%2Bc&uploads&&x=%zz");
        assert_eq!(lookup(&query, "prefix"), Some("a b+c"));
        assert_eq!(lookup(&query, "uploads"), Some(""));
        assert_eq!(lookup(&query, "x"), Some("%zz"));
        assert_eq!(query.len(), 3);
    }
}
