//! `multipart/form-data` up to the file: fields in memory, the file as a stream.
//!
//! Source: RFC 7578, RFC 2046 §5.1.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;

use super::file::FileBody;
use crate::s3::body::RequestBody;
use crate::s3::error::{Code, S3Error};

/// Bytes that a form may have before its file (S3: 20 KB), with some room for the heads of its parts.
const MAX_FIELDS_BYTES: usize = 64 * 1024;
/// Longest delimiter (RFC 2046).
const MAX_BOUNDARY_BYTES: usize = 70;

/// Fields by lower-case name, in order; each is there once.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Takes a field.
    ///
    /// # Errors
    /// `InvalidArgument` if it is there already: the policy would be held against one value, and another be stored.
    fn add(&mut self, name: String, value: String) -> Result<(), S3Error> {
        if self.get(&name).is_some() {
            return Err(repeated(name, value));
        }
        self.0.push((name, value));
        Ok(())
    }

    /// The value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[cfg(test)]
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// All fields.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A form whose file has begun.
pub(super) struct Form {
    /// What came before the file.
    pub(super) fields: Fields,
    /// Bytes of the file.
    pub(super) file_length: u64,
    /// The file.
    pub(super) file: FileBody,
    file_name: String,
}

/// What is wrong with a form.
fn malformed(message: &'static str) -> S3Error {
    S3Error::with(Code::MalformedPOSTRequest, message)
}

/// What is said of a field that is there already.
pub(super) fn repeated(name: impl Into<String>, value: impl Into<String>) -> S3Error {
    S3Error::with(Code::InvalidArgument, "A form has each field at most once.")
        .detail("ArgumentName", name)
        .detail("ArgumentValue", value)
}

/// What S3 says of a form that ends before its file.
fn no_file() -> S3Error {
    S3Error::argument("file", "0", "POST requires exactly one file upload per request.")
}

impl Form {
    /// Reads a form up to its file. `length` is the request's.
    ///
    /// # Errors
    /// `MalformedPOSTRequest`, `InvalidArgument` without a file or with a field twice, `MissingContentLength`,
    /// `MaxMessageLengthExceeded`.
    pub(super) async fn open(
        mut body: RequestBody,
        content_type: &str,
        length: Option<u64>,
    ) -> Result<Self, S3Error> {
        let boundary = boundary(content_type).ok_or(S3Error::with(
            Code::MalformedPOSTRequest,
            "It is no multipart/form-data with a boundary.",
        ))?;
        let length = length.ok_or(S3Error::new(Code::MissingContentLength))?;
        let delimiter = format!("\r\n--{boundary}");
        // The first delimiter may stand at the very beginning: as if a line had ended before it.
        let mut data = BytesMut::from(&b"\r\n"[..]);
        let mut read = 0_u64;
        let (mut fields, mut consumed) = (Fields::default(), 0_usize);
        loop {
            match next_part(&data, delimiter.as_bytes())? {
                Step::More => {
                    if consumed + data.len() > MAX_FIELDS_BYTES {
                        return Err(S3Error::new(Code::MaxMessageLengthExceeded));
                    }
                    let Some(frame) = body.frame().await else {
                        return Err(no_file());
                    };
                    let frame = frame.map_err(|_| S3Error::new(Code::IncompleteBody))?;
                    let piece = frame.into_data().unwrap_or_default();
                    read += piece.len() as u64;
                    data.extend_from_slice(&piece);
                }
                Step::Field { name, value, used } => {
                    fields.add(name, value)?;
                    consumed += used;
                    data.advance(used);
                }
                Step::File { name, used } => {
                    data.advance(used);
                    let left = (length + data.len() as u64).checked_sub(read);
                    let closing = delimiter.len() as u64 + b"--\r\n".len() as u64;
                    let file_length = left.and_then(|left| left.checked_sub(closing)).ok_or(malformed(
                        "The file must be the last field, and the form closed by its delimiter.",
                    ))?;
                    let file = FileBody::new(body, data.freeze(), file_length, delimiter);
                    return Ok(Self { fields, file_length, file, file_name: name });
                }
            }
        }
    }

    /// The key that the form names, with the file's name in it.
    ///
    /// # Errors
    /// `InvalidArgument` if there is none.
    pub(super) fn key(&self) -> Result<String, S3Error> {
        let missing = "Bucket POST must contain a field named 'key'. If it is specified, please check the order of the \
                       fields.";
        match self.fields.get("key") {
            None | Some("") => Err(S3Error::argument("key", "", missing)),
            Some(key) => Ok(key.replace("${filename}", &self.file_name)),
        }
    }
}

fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let named = parameters.split(';').filter_map(|parameter| parameter.trim().split_once('='));
    let mut boundaries = named.filter(|(name, _)| name.eq_ignore_ascii_case("boundary"));
    let boundary = boundaries.next()?.1.trim().trim_matches('"').to_owned();
    let possible = !boundary.is_empty() && boundary.len() <= MAX_BOUNDARY_BYTES && boundary.is_ascii();
    possible.then_some(boundary)
}

/// What stands at the beginning of the data, which is a delimiter.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Not all of it is there.
    More,
    /// A field, with the bytes that it takes.
    Field { name: String, value: String, used: usize },
    /// The file begins after so many bytes.
    File { name: String, used: usize },
}

fn next_part(data: &[u8], delimiter: &[u8]) -> Result<Step, S3Error> {
    if data.len() < delimiter.len() + 2 {
        return Ok(Step::More);
    }
    let Some(rest) = data.strip_prefix(delimiter) else {
        return Err(malformed("A delimiter is expected."));
    };
    if rest.starts_with(b"--") {
        return Err(no_file());
    }
    if !rest.starts_with(b"\r\n") {
        return Err(malformed("A line must end after each delimiter."));
    }
    let Some(head_length) = find(rest, b"\r\n\r\n") else {
        return Ok(Step::More);
    };
    let head =
        std::str::from_utf8(&rest[..head_length]).map_err(|_| malformed("A part's head is not UTF-8."))?;
    let (name, file_name) = disposition(head).ok_or(malformed("A part has no name."))?;
    let content = &rest[head_length + 4..];
    let used = data.len() - content.len();
    if name.eq_ignore_ascii_case("file") {
        return Ok(Step::File { name: file_name.unwrap_or_default(), used });
    }
    let Some(end) = find(content, delimiter) else {
        return Ok(Step::More);
    };
    let value = std::str::from_utf8(&content[..end]).map_err(|_| malformed("A field is not UTF-8."))?;
    Ok(Step::Field { name: name.to_ascii_lowercase(), value: value.to_owned(), used: used + end })
}

/// `name` and `filename` of `Content-Disposition`.
fn disposition(head: &str) -> Option<(String, Option<String>)> {
    let line = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let parameter = |wanted: &str| {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once(';') {
            let (name, value) = after.split_once('=')?;
            let value = value.trim_start();
            let (text, tail) = match value.strip_prefix('"') {
                Some(quoted) => quoted_text(quoted)?,
                None => {
                    let end = value.find(';').unwrap_or(value.len());
                    (value[..end].trim().to_owned(), &value[end..])
                }
            };
            if name.trim().eq_ignore_ascii_case(wanted) {
                return Some(text);
            }
            rest = tail;
        }
        None
    };
    Some((parameter("name")?, parameter("filename")))
}

/// Text up to the closing quote, and what follows.
fn quoted_text(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((out.replace("%22", "\""), &text[at + 1..])),
            '\\' => match characters.next()? {
                (_, c @ ('"' | '\\')) => out.push(c),
                (_, c) => out.extend(['\\', c]),
            },
            c => out.push(c),
        }
    }
    None
}

/// Where `wanted` begins in `data`.
pub(super) fn find(data: &[u8], wanted: &[u8]) -> Option<usize> {
    let (&first, rest) = wanted.split_first()?;
    let mut at = 0;
    while let Some(step) = data[at..].iter().position(|&byte| byte == first) {
        at += step;
        if data[at + 1..].starts_with(rest) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_read() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=\"a b\"").as_deref(), Some("a b"));
        for bad in ["multipart/form-data", "text/plain; boundary=a", "multipart/form-data; boundary="] {
            assert_eq!(boundary(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_field_is_there_once() {
        let mut fields = Fields::of(&[("key", "a"), ("acl", "private")]);
        fields.add("x-amz-meta-m".to_owned(), "1".to_owned()).unwrap();
        for name in ["key", "acl", "x-amz-meta-m"] {
            let refused = fields.add(name.to_owned(), "other".to_owned()).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{name}");
        }
        assert_eq!((fields.get("key"), fields.iter().count()), (Some("a"), 3));
    }

    #[test]
    fn parts_are_cut_as_soon_as_they_are_whole() {
        let whole = b"\r\n--B\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\na\r\nb\r\n--B\r\n\
                      content-disposition: form-data; name=\"file\"; filename=\"x \\\"y\\\".txt\"\r\nContent-Type: t\r\n\r\ndata";
        let step = next_part(whole, b"\r\n--B").unwrap();
        let Step::Field { name, value, used } = step else { panic!("{step:?}") };
        assert_eq!((name.as_str(), value.as_str()), ("key", "a\r\nb"));
        let rest = &whole[used..];
        let step = next_part(rest, b"\r\n--B").unwrap();
        let Step::File { name, used } = step else { panic!("{step:?}") };
        assert_eq!((name.as_str(), &rest[used..]), ("x \"y\".txt", &b"data"[..]));
        for cut in 0..used {
            assert_eq!(next_part(&rest[..cut], b"\r\n--B").unwrap(), Step::More, "{cut}");
        }
        for bad in ["\r\n--B--\r\n", "\r\n--Bx\r\n", "no delimiter", "\r\n--B\r\nX: y\r\n\r\nv\r\n--B"] {
            assert!(next_part(bad.as_bytes(), b"\r\n--B").is_err(), "{bad}");
        }
    }
}
