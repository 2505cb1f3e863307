//! One object, from store to store.
//!
//! Owns: the steps of a copy, and when it may be called one.
//! 1. Bytes are read of the ETag that was listed, and of no other: an object that is replaced meanwhile is never mixed.
//! 2. They stream through (see [`super::body`]). Their MD5 must be the ETag of the source, and that of the answer. What came in parts is
//!    read by the sizes of those parts and written in the same ones, so that its ETag stays, too.
//! 3. It is written only on top of what the destination was seen to have: a client that writes there meanwhile keeps its object.
//! 4. After that the source is asked again. If it has something else by now, that is copied at once: by its time alone the next run could take it
//!    for older than the copy.
//!
//! **Retries.** After a failure both sides are looked at again, so an answer that was lost is found out. **Cancellation.** Between any two bytes;
//! an upload in parts is aborted.

use anyhow::{Context, anyhow, ensure};
use coffer_common::shutdown::Shutdown;
use coffer_gateway::s3::Element;
use coffer_gateway::s3::checksum::md5::Md5;
use coffer_gateway::s3::checksum::multipart_etag;
use hyper::body::Incoming;
use hyper::header::{CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RANGE};
use hyper::{Response, StatusCode};

use super::body::{Passing, Sums, framed};
use super::client::{
    Ask, Payload, Store, TRIES, back_off, collect, refused_for_good, retried, status_of, wants_customer_key,
};
use super::compare::{MAX_PUT_BYTES, Verdict, part_count, verdict};
use super::list::{Listed, etag, length, look, tags};

/// Parts of an object that came in one piece, in bytes; larger ones if there would be too many.
const PART_BYTES: u64 = 128 << 20;
/// Parts of an object (S3).
const MAX_PARTS: u64 = 10_000;

/// Headers of an object that go with it, beside `x-amz-meta-…`.
const KEPT: [&str; 7] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "cache-control",
    "expires",
    "x-amz-website-redirect-location",
];

/// What has become of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// So many bytes.
    Copied(u64),
    Same,
    NewerThere,
    /// It was deleted from the source before it could be copied.
    Gone,
}

/// What copies.
pub(super) struct Copier<'a> {
    pub(super) source: &'a Store,
    pub(super) destination: &'a Store,
    /// Also what is newer there.
    pub(super) overwrite: bool,
    /// ETags need not be MD5s.
    pub(super) ignore_etag: bool,
    pub(super) stop: &'a Shutdown,
}

/// What the destination is known to have under a key: only that is written over.
type Over<'a> = Option<&'a str>;

/// An upload in parts.
struct Upload<'a> {
    key: &'a str,
    id: &'a str,
}

impl Copier<'_> {
    /// The destination's key of an object: both sides may have a prefix of their own.
    pub(super) fn key(&self, listed: &Listed) -> String {
        let tail = listed.key.strip_prefix(self.source.location.prefix.as_str()).unwrap_or(&listed.key);
        format!("{}{tail}", self.destination.location.prefix)
    }

    /// Copies an object, if the other one is not it.
    ///
    /// # Errors
    /// What went wrong the last time.
    pub(super) async fn object(
        &self,
        mut listed: Listed,
        mut there: Option<Listed>,
    ) -> anyhow::Result<Outcome> {
        let key = self.key(&listed);
        // The ETag that was written here, if the source has changed since.
        let mut outdated: Option<String> = None;
        let mut failure = None;
        for tries in 0..TRIES {
            if tries > 0 {
                match self.both(&listed.key, &key).await {
                    Ok((Some(now), then)) => (listed, there) = (now, then),
                    Ok((None, _)) if outdated.is_some() => return Ok(Outcome::Copied(listed.size)),
                    Ok((None, _)) => return Ok(Outcome::Gone),
                    Err(error) => {
                        failure = Some(error);
                        self.pause(tries).await?;
                        continue;
                    }
                }
            }
            let replaced = failure.as_ref().is_none_or(is(StatusCode::PRECONDITION_FAILED));
            let own =
                outdated.as_deref().filter(|own| there.as_ref().is_some_and(|there| there.etag == *own));
            let over = match (own, verdict(&listed, there.as_ref(), self.overwrite)) {
                (Some(own), _) => Some(own),
                (None, Verdict::Copy(_)) => there.as_ref().map(|there| there.etag.as_str()),
                (None, Verdict::Same) if replaced => return Ok(Outcome::Same),
                // It did arrive.
                (None, Verdict::Same) => return Ok(Outcome::Copied(listed.size)),
                (None, Verdict::NewerThere) if replaced => return Ok(Outcome::NewerThere),
                (None, Verdict::NewerThere) => break,
            };
            match self.once(&listed, &key, over).await {
                Ok((_, true)) => return Ok(Outcome::Copied(listed.size)),
                Ok((own, false)) => {
                    outdated = Some(own);
                    failure = Some(anyhow!("it changes faster than it is copied"));
                }
                Err(error) => {
                    let changed =
                        is(StatusCode::PRECONDITION_FAILED)(&error) || is(StatusCode::NOT_FOUND)(&error);
                    if refused_for_good(&error) && !changed {
                        return Err(error);
                    }
                    failure = Some(error);
                    self.pause(tries + 1).await?;
                }
            }
        }
        Err(failure.unwrap_or_else(|| anyhow!("it was not tried")))
    }

    /// What both sides have now.
    async fn both(&self, at_source: &str, key: &str) -> anyhow::Result<(Option<Listed>, Option<Listed>)> {
        Ok((look(self.source, at_source).await?, look(self.destination, key).await?))
    }

    /// Copies it; answers the ETag that was stored, and whether the source still has what was copied.
    async fn once(&self, listed: &Listed, key: &str, over: Over<'_>) -> anyhow::Result<(String, bool)> {
        let stored = if listed.size > MAX_PUT_BYTES || part_count(&listed.etag).is_some() {
            self.in_parts(listed, key, over).await?
        } else {
            self.unless_stopped(self.whole(listed, key, over)).await?
        };
        let now = look(self.source, &listed.key).await?;
        Ok((stored, now.is_none_or(|now| now == *listed)))
    }

    async fn whole(&self, listed: &Listed, key: &str, over: Over<'_>) -> anyhow::Result<String> {
        let headers = HeaderMap::from_iter([(IF_MATCH, quoted(&listed.etag)?)]);
        let answer = self.given(Ask { headers, ..Ask::new("GET", &listed.key) }).await?;
        let (source, body) = answer.into_parts();
        ensure!(
            length(&source.headers) == Some(listed.size),
            "the source sends another length than it listed"
        );
        let mut headers = self.kept(&listed.key, &source.headers).await?;
        condition(&mut headers, over)?;
        let etag = Some(listed.etag.clone()).filter(|_| !self.other_etags(&source.headers));
        let (body, sums) = framed(Passing { body, length: listed.size, etag, whole: None });
        let payload = Payload::Framed(body, listed.size);
        let answer = self.destination.ask(Ask { headers, payload, ..Ask::new("PUT", key) }).await?;
        let sums = sums.await.context("the destination has not taken all bytes")?;
        self.stored(etag_of(&answer), sums.etag, key, listed.size).await
    }

    /// Asks the source for an object, or about it.
    async fn given(&self, ask: Ask<'_>) -> anyhow::Result<Response<Incoming>> {
        self.source.ask(ask).await.map_err(|error| {
            if wants_customer_key(&error) {
                error.context("it is encrypted with a customer's key (SSE-C), which a mirror does not have")
            } else {
                error
            }
        })
    }

    async fn in_parts(&self, listed: &Listed, key: &str, over: Over<'_>) -> anyhow::Result<String> {
        let headers = HeaderMap::from_iter([(IF_MATCH, quoted(&listed.etag)?)]);
        let head = self.given(Ask { headers, ..Ask::new("HEAD", &listed.key) }).await?;
        let mut headers = self.kept(&listed.key, head.headers()).await?;
        headers.insert("x-amz-checksum-algorithm", HeaderValue::from_static("CRC32C"));
        let begun = Ask { query: &[("uploads", "")], headers, ..Ask::new("POST", key) };
        let begun = collect(self.destination.ask(begun).await?.into_body()).await?;
        let begun = Element::read(&begun, "InitiateMultipartUploadResult");
        let id =
            begun.as_ref().and_then(|begun| begun.text_of("UploadId")).context("the upload has no id")?;
        let upload = Upload { key, id };
        let etags = !self.other_etags(head.headers());
        let done = self.unless_stopped(self.parts(listed, &upload, over, etags)).await;
        if done.is_err() {
            // Best effort: what stays is cleaned up by the store's own rules.
            let _ = self.destination.ask(Ask { query: &[("uploadId", id)], ..Ask::new("DELETE", key) }).await;
        }
        done
    }

    async fn parts(
        &self,
        listed: &Listed,
        upload: &Upload<'_>,
        over: Over<'_>,
        etags: bool,
    ) -> anyhow::Result<String> {
        let sizes = self.part_sizes(listed, etags).await?;
        let (mut from, mut md5s, mut list) = (0, Vec::new(), String::new());
        // The MD5 of all bytes, if that is the source's ETag.
        let mut whole = part_count(&listed.etag).is_none().then(Md5::new);
        for (number, size) in (1_u32..).zip(sizes) {
            let sums =
                retried(async || self.part(listed, (from, size), (upload, number), whole.clone()).await);
            let Sums { md5, etag, crc32c, whole: so_far } =
                sums.await.with_context(|| format!("part {number}"))?;
            (from, whole) = (from + size, so_far);
            md5s.push(md5);
            list.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag><ChecksumCRC32C>{crc32c}</ChecksumCRC32C></Part>"
            ));
        }
        let in_parts = multipart_etag(&md5s);
        let came = whole.map_or_else(|| in_parts.clone(), single_etag);
        ensure!(
            !etags || came == listed.etag,
            "its bytes have the ETag {came} by their MD5s, the source says {}",
            listed.etag
        );
        let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        let mut headers = HeaderMap::from_iter([(MP_SIZE, listed.size.into())]);
        condition(&mut headers, over)?;
        let query = [("uploadId", upload.id)];
        let payload = Payload::Whole(list.into());
        let ask = Ask { query: &query, headers, payload, ..Ask::new("POST", upload.key) };
        let answer = collect(self.destination.ask(ask).await?.into_body()).await?;
        // The status was sent before the end was known.
        let done = Element::read(&answer, "CompleteMultipartUploadResult");
        let stored = done
            .as_ref()
            .and_then(|done| done.text_of("ETag"))
            .with_context(|| format!("the upload was not completed: {}", String::from_utf8_lossy(&answer)))?;
        self.stored(stored.trim().trim_matches('"').to_owned(), in_parts, upload.key, listed.size).await
    }

    /// The sizes of the parts to copy: those in which the object came. Others would give it another ETag, by which nothing could be verified.
    async fn part_sizes(&self, listed: &Listed, etags: bool) -> anyhow::Result<Vec<u64>> {
        let Some(count) = part_count(&listed.etag) else { return Ok(even_parts(listed.size)) };
        let (mut sizes, mut covered) = (Vec::new(), 0);
        // Numbers may have been left out: there is no part of these.
        for number in 1..=MAX_PARTS {
            let number = number.to_string();
            let head = retried(async || {
                let headers = HeaderMap::from_iter([(IF_MATCH, quoted(&listed.etag)?)]);
                let query = [("partNumber", number.as_str())];
                self.source.ask(Ask { query: &query, headers, ..Ask::new("HEAD", &listed.key) }).await
            });
            match head.await {
                Ok(head) => match told_range(head.headers(), listed.size) {
                    Some((from, size)) if from == covered => {
                        sizes.push(size);
                        covered += size;
                    }
                    Some(_) => {}
                    None => break,
                },
                Err(error) if is(StatusCode::RANGE_NOT_SATISFIABLE)(&error) => {}
                Err(error) => return Err(error),
            }
            if covered == listed.size && sizes.len() as u64 == count {
                return Ok(sizes);
            }
        }
        ensure!(
            !etags,
            "its store does not tell in which parts it came (`--ignore-etag` copies it in others)"
        );
        Ok(even_parts(listed.size))
    }

    async fn part(
        &self,
        listed: &Listed,
        (from, size): (u64, u64),
        (upload, number): (&Upload<'_>, u32),
        whole: Option<Md5>,
    ) -> anyhow::Result<Sums> {
        let body = self.range(listed, from, size).await?.into_body();
        let (body, sums) = framed(Passing { body, length: size, etag: None, whole });
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload.id)];
        let payload = Payload::Framed(body, size);
        let ask = Ask { query: &query, payload, ..Ask::new("PUT", upload.key) };
        let answer = self.destination.ask(ask).await?;
        let sums = sums.await.context("the destination has not taken all bytes")?;
        let stored = etag_of(&answer);
        let good = stored == sums.etag || self.other_etags(answer.headers());
        ensure!(good, "other bytes were stored than were sent: {stored}, not {}", sums.etag);
        Ok(sums)
    }

    async fn range(&self, listed: &Listed, from: u64, size: u64) -> anyhow::Result<Response<Incoming>> {
        let mut headers = HeaderMap::from_iter([(IF_MATCH, quoted(&listed.etag)?)]);
        let to = (from + size).saturating_sub(1);
        if size > 0 {
            headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-{to}"))?);
        }
        let answer = self.source.ask(Ask { headers, ..Ask::new("GET", &listed.key) }).await?;
        let said = answer.headers().get(CONTENT_RANGE).map(HeaderValue::as_bytes);
        let right = match said {
            Some(said) => said == format!("bytes {from}-{to}/{}", listed.size).as_bytes(),
            None => from == 0 && size == listed.size,
        };
        ensure!(
            right && length(answer.headers()) == Some(size),
            "the source sends another range than it was asked for"
        );
        Ok(answer)
    }

    /// Checks what the destination has stored; answers its ETag.
    async fn stored(&self, stored: String, sent: String, key: &str, size: u64) -> anyhow::Result<String> {
        if stored == sent {
            return Ok(stored);
        }
        // Where ETags are no MD5s, a size is what can be compared; the checksum that was sent has been verified over there.
        let head = self.destination.ask(Ask::new("HEAD", key)).await?;
        ensure!(
            self.other_etags(head.headers()) && length(head.headers()) == Some(size),
            "the destination has stored the ETag {stored}, {sent} was sent"
        );
        Ok(stored)
    }

    /// Whether the ETag of an object need not follow from its bytes.
    fn other_etags(&self, headers: &HeaderMap) -> bool {
        self.ignore_etag
            || headers.keys().any(|name| name.as_str().starts_with("x-amz-server-side-encryption"))
    }

    /// The headers with which an object is written again.
    async fn kept(&self, key: &str, source: &HeaderMap) -> anyhow::Result<HeaderMap> {
        let mut headers = kept(source)?;
        if source.get("x-amz-tagging-count").is_some_and(|count| count != "0") {
            headers.insert("x-amz-tagging", HeaderValue::try_from(tags(self.source, key).await?)?);
        }
        Ok(headers)
    }

    async fn pause(&self, tries: u32) -> anyhow::Result<()> {
        self.unless_stopped(async {
            back_off(tries).await;
            Ok(())
        })
        .await
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            done = work => done,
            () = self.stop.told() => Err(anyhow!("stopped")),
        }
    }
}

fn is(status: StatusCode) -> impl Fn(&anyhow::Error) -> bool {
    move |error| status_of(error) == Some(status)
}

const MP_SIZE: HeaderName = HeaderName::from_static("x-amz-mp-object-size");

fn kept(source: &HeaderMap) -> anyhow::Result<HeaderMap> {
    let goes = |name: &HeaderName| KEPT.contains(&name.as_str()) || name.as_str().starts_with("x-amz-meta-");
    let names = source.keys().filter(|name| goes(name));
    let joined = names.map(|name| {
        let values: Vec<_> = source.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        Ok((name.clone(), HeaderValue::from_bytes(&values.join(&b","[..]))?))
    });
    joined.collect()
}

/// Where a part begins and how long it is, by the answer to a question for it alone; `None` if the answer is not about it.
fn told_range(headers: &HeaderMap, whole: u64) -> Option<(u64, u64)> {
    let size = length(headers)?;
    match headers.get(CONTENT_RANGE) {
        Some(range) => {
            let (from, _) = range.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?;
            Some((from.parse().ok()?, size))
        }
        None => (size == whole).then_some((0, size)),
    }
}

/// Nothing is written over that was not seen.
fn condition(headers: &mut HeaderMap, over: Over<'_>) -> anyhow::Result<()> {
    match over {
        Some(etag) => headers.insert(IF_MATCH, quoted(etag)?),
        None => headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*")),
    };
    Ok(())
}

/// Parts of an object of this size.
fn even_parts(size: u64) -> Vec<u64> {
    let part = PART_BYTES.max(size.div_ceil(MAX_PARTS));
    let mut sizes = vec![part; usize::try_from(size / part).unwrap_or_default()];
    if !size.is_multiple_of(part) || size == 0 {
        sizes.push(size % part);
    }
    sizes
}

fn quoted(etag: &str) -> anyhow::Result<HeaderValue> {
    Ok(HeaderValue::try_from(format!("\"{etag}\""))?)
}

fn etag_of(answer: &Response<Incoming>) -> String {
    etag(answer.headers())
}

fn single_etag(md5: Md5) -> String {
    md5.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use hyper::header::CONTENT_LENGTH;

    use super::*;

    #[test]
    fn what_belongs_to_an_object_goes_with_it_byte_by_byte() {
        let mut source = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("etag", "\"x\""),
            ("x-amz-meta-colour", "gr\u{fc}n"),
            ("x-amz-meta-two", "1"),
            ("x-amz-meta-two", "2"),
            ("x-amz-request-id", "7"),
        ] {
            source.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let kept = kept(&source).unwrap();
        assert_eq!(kept.len(), 3);
        assert_eq!(kept["content-type"], "text/plain");
        assert_eq!(kept["x-amz-meta-colour"].as_bytes(), "gr\u{fc}n".as_bytes());
        assert_eq!(kept["x-amz-meta-two"], "1,2");
    }

    #[test]
    fn parts_are_as_many_as_there_may_be() {
        assert_eq!(even_parts(0), [0]);
        assert_eq!(even_parts(PART_BYTES), [PART_BYTES]);
        assert_eq!(even_parts(2 * PART_BYTES + 1), [PART_BYTES, PART_BYTES, 1]);
        let five_tebibytes = even_parts(5 << 40);
        assert_eq!(five_tebibytes.iter().sum::<u64>(), 5 << 40);
        assert!(five_tebibytes.len() as u64 <= MAX_PARTS);
    }

    #[test]
    fn parts_are_where_their_store_says() {
        let of = |length: u64, range: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(CONTENT_LENGTH, length.into())]);
            headers.extend(range.map(|range| (CONTENT_RANGE, HeaderValue::from_static(range))));
            told_range(&headers, 100)
        };
        assert_eq!(of(10, Some("bytes 5-14/100")), Some((5, 10)));
        assert_eq!(of(100, None), Some((0, 100)));
        assert_eq!(of(10, None), None);
        assert_eq!(of(10, Some("bytes */100")), None);
    }

    #[test]
    fn only_what_was_seen_is_written_over() {
        let of = |over| {
            let mut headers = HeaderMap::new();
            condition(&mut headers, over).unwrap();
            headers.into_iter().map(|(name, value)| (name.unwrap(), value)).next().unwrap()
        };
        assert_eq!(of(None), (IF_NONE_MATCH, HeaderValue::from_static("*")));
        assert_eq!(of(Some("a")), (IF_MATCH, HeaderValue::from_static("\"a\"")));
    }
}
