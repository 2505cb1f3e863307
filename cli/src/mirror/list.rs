//! What a store says that it has: buckets, a bucket's objects in key order and a page at a time, one object.

use std::collections::VecDeque;

use anyhow::{Context, ensure};
use bytes::Bytes;
use coffer_gateway::s3::Element;
use coffer_gateway::s3::auth::percent_encode;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, ETAG, HeaderMap, LAST_MODIFIED};

use super::client::{Ask, Store, collect, retried, status_of};

/// An object as its store tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its whole key.
    pub(super) key: String,
    /// Bytes.
    pub(super) size: u64,
    /// Without quotes.
    pub(super) etag: String,
    /// To the second, all that a store says of a single object: `2026-11-29T09:12:07`. Such texts compare as the times do.
    pub(super) modified: String,
}

/// A page of a listing.
#[derive(Debug)]
struct Page {
    objects: VecDeque<Listed>,
    /// Where the next one begins.
    next: Option<String>,
}

/// See the module.
pub(super) struct Listing<'a> {
    store: &'a Store,
    page: VecDeque<Listed>,
    token: Option<String>,
    over: bool,
}

impl<'a> Listing<'a> {
    pub(super) fn of(store: &'a Store) -> Self {
        Self { store, page: VecDeque::new(), token: None, over: false }
    }

    /// A listing of nothing, for a bucket that is not there yet.
    pub(super) fn empty(store: &'a Store) -> Self {
        Self { over: true, ..Self::of(store) }
    }

    /// The next object.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Listed>> {
        self.fill().await?;
        Ok(self.page.pop_front())
    }

    /// The object of this key, if there is one; whatever lies before it is passed over. Keys must come in order.
    pub(super) async fn find(&mut self, key: &str) -> anyhow::Result<Option<Listed>> {
        loop {
            self.fill().await?;
            match self.page.front() {
                Some(front) if *front.key < *key => drop(self.page.pop_front()),
                Some(front) if front.key == key => return Ok(self.page.pop_front()),
                _ => return Ok(None),
            }
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        while self.page.is_empty() && !self.over {
            let mut query = vec![("list-type", "2"), ("encoding-type", "url")];
            if !self.store.location.prefix.is_empty() {
                query.push(("prefix", &self.store.location.prefix));
            }
            query.extend(self.token.as_deref().map(|token| ("continuation-token", token)));
            let page = Page::read(&asked(self.store, "", &query).await?)?;
            ensure!(
                page.next.is_none() || page.next != self.token,
                "the listing does not get on: its next page is the same"
            );
            self.over = page.next.is_none();
            (self.page, self.token) = (page.objects, page.next);
        }
        Ok(())
    }
}

impl Page {
    fn read(answer: &[u8]) -> anyhow::Result<Self> {
        let page = Element::read(answer, "ListBucketResult").context("the listing is not one of S3")?;
        let encoded = page.text_of("EncodingType") == Some("url");
        let object = |object: &Element| {
            let of =
                |name: &str| object.text_of(name).with_context(|| format!("a listed object has no {name}"));
            Ok(Listed {
                key: if encoded { unescaped(of("Key")?)? } else { of("Key")?.to_owned() },
                size: of("Size")?.trim().parse().context("a listed size is no number")?,
                etag: of("ETag")?.trim().trim_matches('"').to_owned(),
                modified: of("LastModified")?.trim().get(..19).context("a listed time is none")?.to_owned(),
            })
        };
        let objects = page.children_of("Contents").map(object).collect::<anyhow::Result<_>>()?;
        let next = match page.text_of("IsTruncated") {
            Some("true") => {
                Some(page.text_of("NextContinuationToken").context("the listing ends in the middle")?)
            }
            _ => None,
        };
        Ok(Self { objects, next: next.map(str::to_owned) })
    }
}

/// The names of all buckets.
pub(super) async fn buckets(store: &Store) -> anyhow::Result<Vec<String>> {
    let (mut names, mut token) = (Vec::new(), None::<String>);
    loop {
        let query: Vec<_> = token.iter().map(|token| ("continuation-token", token.as_str())).collect();
        let answer = asked(store, "", &query).await?;
        let list =
            Element::read(&answer, "ListAllMyBucketsResult").context("the buckets are not told as by S3")?;
        let buckets = list.child("Buckets").into_iter().flat_map(|buckets| buckets.children_of("Bucket"));
        names.extend(buckets.filter_map(|bucket| bucket.text_of("Name")).map(str::to_owned));
        token = list.text_of("ContinuationToken").filter(|token| !token.is_empty()).map(str::to_owned);
        if token.is_none() {
            return Ok(names);
        }
    }
}

/// One object, if it is there.
pub(super) async fn look(store: &Store, key: &str) -> anyhow::Result<Option<Listed>> {
    match store.ask(Ask::new("HEAD", key)).await {
        Ok(answer) => told(key, answer.headers()).map(Some),
        Err(error) if status_of(&error) == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

fn told(key: &str, headers: &HeaderMap) -> anyhow::Result<Listed> {
    let modified = headers.get(LAST_MODIFIED).and_then(|value| seconds(value.to_str().ok()?));
    Ok(Listed {
        key: key.to_owned(),
        size: length(headers).context("a store does not say how long an object is")?,
        etag: etag(headers),
        modified: modified.context("a store does not say how old an object is")?,
    })
}

/// How long the body of an answer is, in bytes.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The ETag of an answer, without quotes.
pub(super) fn etag(headers: &HeaderMap) -> String {
    let etag = headers.get(ETAG).and_then(|value| value.to_str().ok()).unwrap_or_default();
    etag.trim_matches('"').to_owned()
}

/// A date of HTTP as [`Listed::modified`].
fn seconds(date: &str) -> Option<String> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let fields: Vec<&str> = date.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = fields[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    Some(format!("{year}-{month:02}-{day:0>2}T{time}"))
}

/// The tags of an object, as a header carries them.
pub(super) async fn tags(store: &Store, key: &str) -> anyhow::Result<String> {
    let answer = asked(store, key, &[("tagging", "")]).await?;
    tags_text(&answer).context("the tags are not told as by S3")
}

fn tags_text(answer: &[u8]) -> Option<String> {
    let document = Element::read(answer, "Tagging")?;
    let pairs = document.child("TagSet")?.children_of("Tag").map(|tag| {
        let of = |name: &str| Some(percent_encode(tag.text_of(name)?, false));
        Some(format!("{}={}", of("Key")?, of("Value")?))
    });
    Some(pairs.collect::<Option<Vec<_>>>()?.join("&"))
}

async fn asked(store: &Store, key: &str, query: &[(&str, &str)]) -> anyhow::Result<Bytes> {
    retried(async || collect(store.ask(Ask { query, ..Ask::new("GET", key) }).await?.into_body()).await).await
}

/// A key as `encoding-type=url` writes it.
fn unescaped(text: &str) -> anyhow::Result<String> {
    let text = text.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&text).decode_utf8();
    Ok(decoded.with_context(|| format!("the key `{text}` is not UTF-8"))?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>"#;

    fn page(rest: &str) -> anyhow::Result<Page> {
        Page::read(format!("{HEAD}{rest}</ListBucketResult>").as_bytes())
    }

    fn content(key: &str) -> String {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-29T00:00:07.123Z</LastModified><ETag>&#34;00-2&quot;</ETag>\
             <Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    }

    #[test]
    fn a_page_is_read_as_s3_writes_it() {
        let contents = content("a%2Fb+c%2B%C3%BC") + "<CommonPrefixes/>" + &content("b");
        let token = "<IsTruncated>true</IsTruncated><NextContinuationToken>t==</NextContinuationToken>";
        let page_of = |encoding: &str| page(&format!("{contents}{token}{encoding}")).unwrap();
        let url = page_of("<EncodingType>url</EncodingType>");
        assert_eq!(url.next.as_deref(), Some("t=="));
        let first = Listed {
            key: "a/b c+\u{fc}".to_owned(),
            size: 7,
            etag: "00-2".to_owned(),
            modified: "2026-11-29T00:00:07".to_owned(),
        };
        assert_eq!(url.objects, [first.clone(), Listed { key: "b".to_owned(), ..first }]);
        assert_eq!(page_of("").objects[0].key, "a%2Fb+c%2B%C3%BC", "as it is, from who does not encode");
        let last = page("<IsTruncated>false</IsTruncated>").unwrap();
        assert!(last.next.is_none() && last.objects.is_empty());
    }

    #[test]
    fn what_is_no_page_or_not_a_whole_one_is_no_end_of_the_listing() {
        assert!(page("<IsTruncated>true</IsTruncated>").is_err());
        assert!(page("<Contents><Key>k</Key></Contents>").is_err());
        assert!(Page::read(b"<html/>").is_err() && Page::read(b"").is_err());
    }

    #[test]
    fn dates_of_both_kinds_are_the_same_text() {
        assert_eq!(seconds("Sun, 29 Nov 2026 09:12:07 GMT").as_deref(), Some("2026-11-29T09:12:07"));
        assert_eq!(seconds("Sun, 9 Jan 2026 09:12:07 GMT").as_deref(), Some("2026-01-09T09:12:07"));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn tags_become_a_header() {
        let of = |tags: &str| tags_text(format!("<Tagging><TagSet>{tags}</TagSet></Tagging>").as_bytes());
        let tag = |key: &str, value: &str| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
        assert_eq!(of(&(tag("a b", "x&amp;=") + &tag("c", ""))).as_deref(), Some("a%20b=x%26%3D&c="));
        assert_eq!(of("<Tag/>"), None);
    }
}
