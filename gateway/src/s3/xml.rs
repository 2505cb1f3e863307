//! XML of S3: documents out by serde, documents in by a small tree.
//!
//! Owns: escaping, the limits of size, depth and elements of what is parsed. Never: knows a particular document.
//!
//! Requests are parsed into an [`Element`] tree instead of serde structs: text keeps its white space (a key may begin
//! or end with it), repeated elements may come in any order, and unknown elements are ignored.

use std::fmt::Write as _;

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use quick_xml::reader::Reader;
use serde::Serialize;

use super::error::{Code, S3Error};

/// First line of every document.
pub(crate) const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// The namespace of every document but `<Error>`.
pub(crate) const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Longest XML body that is parsed, in bytes: 10,000 parts with checksums, or 1,000 keys of 1,024 escaped bytes.
pub(crate) const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Deepest nesting of elements that is parsed.
const MAX_DEPTH: usize = 16;

/// Most elements of a document that is parsed. S3's longest have 10,000 parts of up to eight (a number, an entity tag and five
/// checksums in each), or 1,000 lifecycle rules of up to fifty. An element costs about a hundred bytes however short it is.
const MAX_ELEMENTS: usize = 100_000;

/// Writes a document whose root element is `root`.
///
/// # Errors
/// `InternalError` if the value has no XML form, which is a defect of the struct.
pub(crate) fn document<T: Serialize>(root: &str, value: &T) -> Result<String, S3Error> {
    let mut out = DECLARATION.to_owned();
    quick_xml::se::to_writer_with_root(&mut out, root, value).map_err(|error| {
        tracing::error!(%error, root, "a response cannot be written as XML");
        S3Error::new(Code::InternalError)
    })?;
    if may_have_controls(&out) {
        let body = out.split_off(DECLARATION.len());
        push_controls_escaped(&mut out, &body);
    }
    Ok(out)
}

/// False for nearly every document, and found out many bytes at a time: listings are long.
fn may_have_controls(text: &str) -> bool {
    let may_be = |byte: &u8| (*byte < b' ' && *byte != b'\n' && *byte != b'\t') || *byte == 0xEF;
    text.as_bytes().chunks(4096).any(|chunk| chunk.iter().fold(false, |found, byte| found | may_be(byte)))
}

/// Appends `<name>text</name>`.
pub(crate) fn push_element(out: &mut String, name: &str, text: &str) {
    let _ = write!(out, "<{name}>");
    push_controls_escaped(out, &quick_xml::escape::escape(text));
    let _ = write!(out, "</{name}>");
}

/// A parser would change or refuse these if they stood there plain. (XML 1.0 has no way to write most of them at all;
/// this is what S3 sends, and clients that need them ask for `encoding-type=url`.)
fn push_controls_escaped(out: &mut String, text: &str) {
    let control = |c: char| (c < ' ' && c != '\n' && c != '\t') || matches!(c, '\u{fffe}' | '\u{ffff}');
    if !text.contains(control) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        if control(c) {
            let _ = write!(out, "&#x{:X};", u32::from(c));
        } else {
            out.push(c);
        }
    }
}

/// One element of a document that was sent to us.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name without prefix.
    pub(crate) name: String,
    /// Its text, white space and all.
    pub(crate) text: String,
    /// Its child elements in order.
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// Parses a document and checks the name of its root.
    ///
    /// # Errors
    /// `MalformedXML` if it is not well-formed, too deep, has too many elements or another root.
    pub(crate) fn parse(document: &[u8], root: &str) -> Result<Self, S3Error> {
        let text = std::str::from_utf8(document).map_err(|_| malformed())?;
        let element = parse_tree(text)?;
        if element.name == root { Ok(element) } else { Err(malformed()) }
    }

    /// Parses an answer of another store; `None` if it is not well-formed, too deep, has too many elements or another
    /// root.
    pub fn read(answer: &[u8], root: &str) -> Option<Self> {
        Self::parse(answer, root).ok()
    }

    /// Writes the element as the root of a document, in S3's namespace.
    pub(crate) fn write(&self, out: &mut String) {
        self.write_with(out, &format!(" xmlns=\"{NAMESPACE}\""));
    }

    fn write_with(&self, out: &mut String, attributes: &str) {
        let _ = write!(out, "<{}{attributes}>", self.name);
        if self.children.is_empty() {
            push_controls_escaped(out, &quick_xml::escape::escape(&self.text));
        }
        self.children.iter().for_each(|child| child.write_with(out, ""));
        let _ = write!(out, "</{}>", self.name);
    }

    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of this name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    /// All children of this name.
    pub fn children_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// `MalformedXML`.
pub(crate) fn malformed() -> S3Error {
    S3Error::new(Code::MalformedXML)
}

fn parse_tree(text: &str) -> Result<Element, S3Error> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<Element> = Vec::new();
    let mut root: Option<Element> = None;
    let mut elements = 0;
    loop {
        match reader.read_event().map_err(|_| malformed())? {
            Event::Start(start) => {
                elements += 1;
                if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS || root.is_some() {
                    return Err(malformed());
                }
                let name = start.local_name();
                open.push(Element { name: name.as_ref().to_owned(), ..Element::default() });
            }
            Event::End(_) => {
                let element = open.pop().ok_or_else(malformed)?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => root = Some(element),
                }
            }
            Event::Text(piece) => {
                let piece = piece.xml10_content();
                match open.last_mut() {
                    Some(element) => element.text.push_str(&piece),
                    None if piece.trim_start_matches('\u{feff}').trim().is_empty() => {}
                    None => return Err(malformed()),
                }
            }
            Event::CData(piece) => {
                let piece = piece.xml10_content();
                open.last_mut().ok_or_else(malformed)?.text.push_str(&piece);
            }
            Event::GeneralRef(reference) => {
                let element = open.last_mut().ok_or_else(malformed)?;
                if let Some(c) = reference.resolve_char_ref().map_err(|_| malformed())? {
                    element.text.push(c);
                } else {
                    element.text.push_str(resolve_predefined_entity(&reference).ok_or_else(malformed)?);
                }
            }
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Empty(_) | Event::DocType(_) => return Err(malformed()),
            Event::Eof => break,
        }
    }
    if open.is_empty() { root.ok_or_else(malformed) } else { Err(malformed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_keeps_white_space_entities_and_order() {
        let body = b"<?xml version=\"1.0\"?>\n<Delete xmlns=\"x\"><Object><Key> a &amp;\t&#x1;&#13;b\n</Key></Object>\
                     <Quiet>true</Quiet><Other/><Object><Key><![CDATA[<x>]]></Key></Object></Delete>\n";
        let tree = Element::parse(body, "Delete").unwrap();
        let keys: Vec<_> = tree.children_of("Object").filter_map(|object| object.text_of("Key")).collect();
        assert_eq!(keys, [" a &\t\u{1}\rb\n", "<x>"]);
        assert_eq!(tree.text_of("Quiet"), Some("true"));
    }

    #[test]
    fn bad_documents_are_malformed() {
        let deep = format!("{}{}", "<a>".repeat(40), "</a>".repeat(40));
        for body in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<b/>",
            "<a/><a/>",
            "<a>&bad;</a>",
            "<a>&#xD800;</a>",
            "x<a/>",
            "<a/>x",
            &deep,
            "<!DOCTYPE a [<!ENTITY e \"x\">]><a/>",
        ] {
            assert_eq!(
                Element::parse(body.as_bytes(), "a").unwrap_err().code(),
                Code::MalformedXML,
                "{body}"
            );
        }
        assert!(Element::parse(b"<a>\xff</a>", "a").is_err());
    }

    #[test]
    fn documents_have_as_many_elements_as_the_longest_of_s3() {
        let parse = |document: String| Element::parse(document.as_bytes(), "r").map_err(|error| error.code());
        let part = format!("<Part>{}</Part>", "<e>x</e>".repeat(7));
        assert_eq!(parse(format!("<r>{}</r>", part.repeat(10_000))).unwrap().children.len(), 10_000);
        assert!(parse(format!("<r>{}</r>", "<a/>".repeat(MAX_ELEMENTS - 1))).is_ok());
        assert_eq!(parse(format!("<r>{}</r>", "<a/>".repeat(MAX_ELEMENTS))), Err(Code::MalformedXML));
    }

    #[test]
    fn documents_escape_controls() {
        #[derive(Serialize)]
        struct Doc {
            #[serde(rename = "@xmlns")]
            xmlns: &'static str,
            #[serde(rename = "Key")]
            key: &'static str,
        }
        let text = document("R", &Doc { xmlns: "n", key: " a<\u{2}\r " }).unwrap();
        assert_eq!(text, format!("{DECLARATION}<R xmlns=\"n\"><Key> a&lt;&#x2;&#13; </Key></R>"));
    }
}
