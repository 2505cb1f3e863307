//! Requests with a right signature and something else wrong: built by hand where a client library would not.

use anyhow::Result;
use coffer_common::time::UnixMillis;
use coffer_tests::bench::sign::{Request, Signer, UNSIGNED_PAYLOAD};
use coffer_tests::client::{ACCESS_KEY, SECRET_KEY};
use coffer_tests::harness::standalone::Standalone;

use super::check;

const STREAMING: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// A request with what is signed, what is not, and its body.
#[derive(Default)]
struct Signed<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    payload_hash: Option<&'a str>,
    /// Signed `x-amz-…` headers that sort after `x-amz-date`.
    signed: &'a [(&'a str, &'a str)],
    /// Whole lines of other headers; without one about the length, the body's is sent.
    lines: &'a str,
    body: &'a str,
    /// How far in the past it was signed.
    age_s: u64,
}

impl Signed<'_> {
    fn text(&self, server: &Standalone) -> String {
        let host = server.endpoint().trim_start_matches("http://").to_owned();
        let Self { method, path, query, lines, body, .. } = self;
        let payload_hash = self.payload_hash.unwrap_or(UNSIGNED_PAYLOAD);
        let request = Request { method, host: &host, path, query, payload_hash };
        let now = UnixMillis::now().seconds() - self.age_s;
        let mut signer = Signer::new(ACCESS_KEY, SECRET_KEY, "us-east-1");
        let headers = signer.sign_with(&request, self.signed, now);
        let more: String = self.signed.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = if lines.contains("Content-Length") || lines.contains("Transfer-Encoding") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let target = if query.is_empty() { (*path).to_owned() } else { format!("{path}?{query}") };
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: {}\r\nx-amz-date: {}\r\n\
             x-amz-content-sha256: {payload_hash}\r\n{more}{length}{lines}\r\n{body}",
            headers.authorization, headers.date
        )
    }
}

fn put<'a>(path: &'a str, lines: &'a str, body: &'a str) -> Signed<'a> {
    Signed { method: "PUT", path, lines, body, ..Signed::default() }
}

/// A body in chunks.
fn chunked<'a>(signed: &'a [(&'a str, &'a str)], body: &'a str) -> Signed<'a> {
    Signed { payload_hash: Some(STREAMING), signed, ..put("/bad/chunked", "", body) }
}

/// Each request and what its answer must hold.
fn cases<'a>(long_key: &'a str, long_value: &'a [(&'a str, &'a str)]) -> Vec<(Signed<'a>, &'a [&'a str])> {
    const DECODED: &[(&str, &str)] = &[("x-amz-decoded-content-length", "5")];
    const TRAILER: &[(&str, &str)] =
        &[("x-amz-decoded-content-length", "5"), ("x-amz-trailer", "x-amz-checksum-crc32")];
    let hash = Some("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    vec![
        (put("/bad/ok", "", "ok"), &["HTTP/1.1 200"]),
        (Signed { age_s: 1000, ..put("/bad/k", "", "ok") }, &["HTTP/1.1 403", "RequestTimeTooSkewed"]),
        (
            put("/bad/k", "Content-Length: 6442450944\r\n", ""),
            &["HTTP/1.1 400", "EntityTooLarge", "MaxSizeAllowed"],
        ),
        (
            put("/bad/k", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
            &["HTTP/1.1 411", "MissingContentLength"],
        ),
        (put("/bad/k", "Content-Length: two\r\n", "ok"), &["HTTP/1.1 400"]),
        (put("/bad/k", "Bad Header: 1\r\n", "ok"), &["HTTP/1.1 400"]),
        (put("/bad/k", "Content-MD5: not a digest\r\n", "ok"), &["HTTP/1.1 400", "InvalidDigest"]),
        (put("/bad/k", "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\n", "ok"), &["HTTP/1.1 400", "BadDigest"]),
        (
            Signed { payload_hash: hash, ..put("/bad/k", "", "ok") },
            &["HTTP/1.1 400", "XAmzContentSHA256Mismatch"],
        ),
        (chunked(DECODED, "zz\r\nhello\r\n0\r\n"), &["HTTP/1.1 400", "IncompleteBody"]),
        (chunked(DECODED, "6\r\nhello!\r\n0\r\n\r\n"), &["HTTP/1.1 400", "IncompleteBody"]),
        (
            chunked(TRAILER, "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"),
            &["HTTP/1.1 400", "BadDigest"],
        ),
        (chunked(TRAILER, "5\r\nhello\r\n0\r\n\r\n"), &["HTTP/1.1 400", "MalformedTrailerError"]),
        (Signed { signed: long_value, ..put("/bad/k", "", "ok") }, &["HTTP/1.1 400", "MetadataTooLarge"]),
        (put(long_key, "", "ok"), &["HTTP/1.1 400", "KeyTooLongError"]),
        (put("/no-such-bucket/k", "", "ok"), &["HTTP/1.1 404", "NoSuchBucket"]),
        (
            Signed {
                method: "POST",
                query: "delete=",
                ..put("/bad", "Content-MD5: XrY7u+Ae7tCTyyK7j1rNww==\r\n", "hello world")
            },
            &["HTTP/1.1 400", "MalformedXML"],
        ),
        (put("/new-bucket", "", "<Unclosed"), &["HTTP/1.1 400", "MalformedXML"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_requests_with_something_wrong_have_their_codes_and_store_nothing() -> Result<()> {
    let mut server = Standalone::start(4).await?;
    let client = server.client();
    client.create_bucket().bucket("bad").send().await?;
    let (long_key, long_value) = (format!("/bad/{}", "k".repeat(1025)), "v".repeat(3000));
    for (request, wanted) in cases(&long_key, &[("x-amz-meta-big", &long_value)]) {
        check(&server, &request.text(&server), wanted).await?;
    }
    for name in
        ["Bad-Name", "ab", "under_score", "192.168.1.1", "xn--a", "sthree-a", "a-s3alias", "two..dots"]
    {
        let path = format!("/{name}");
        check(&server, &put(&path, "", "").text(&server), &["HTTP/1.1 400", "InvalidBucketName"]).await?;
    }
    // What is no range at all is ignored, as S3 does; one beyond the end is not.
    let get = |lines| Signed { method: "GET", path: "/bad/ok", lines, ..Signed::default() };
    for range in
        ["Range: bytes=b-a\r\n", "Range: bytes=5-2\r\n", "Range: lines=1-2\r\n", "Range: bytes=0-0,1-1\r\n"]
    {
        check(&server, &get(range).text(&server), &["HTTP/1.1 200", "\r\n\r\nok"]).await?;
    }
    check(&server, &get("Range: bytes=2-\r\n").text(&server), &["HTTP/1.1 416", "InvalidRange"]).await?;
    let listed = client.list_objects_v2().bucket("bad").send().await?;
    let keys: Vec<_> = listed.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(keys, ["ok"]);
    assert_eq!(client.list_buckets().send().await?.buckets().len(), 1);
    assert!(server.process_mut().is_running());
    assert!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
