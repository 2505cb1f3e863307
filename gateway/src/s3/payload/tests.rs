//! AWS's published chunked examples, split at every byte; framing that other stores got wrong.

use super::*;
use crate::s3::auth::{AuthConfig, Credentials, RequestParts, Verifier};
use coffer_common::time::UnixMillis;
use http::{HeaderName, HeaderValue};
use http_body_util::{Full, StreamBody};

const SCOPE: &str = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

/// Verifies one of AWS's chunked examples and returns its payload mode and headers.
fn example(extra: &[(&str, &str)], signed: &str, signature: &str) -> (PayloadMode, HeaderMap) {
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders={signed},Signature={signature}");
    let common = [
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("authorization", authorization.as_str()),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in common.iter().chain(extra) {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let parts = RequestParts {
        method: "PUT",
        raw_path: "/examplebucket/chunkObject.txt",
        raw_query: None,
        headers: &headers,
        authority: None,
        host_bucket: None,
    };
    let credentials = Credentials::root("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    let now = UnixMillis(1_369_353_600_000);
    let verified = Verifier::new(AuthConfig::default()).verify(&parts, &credentials, now).unwrap();
    (verified.payload().clone(), headers)
}

fn signed_example() -> (PayloadMode, HeaderMap, Vec<u8>) {
    let (mode, headers) = example(
        &[("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), ("content-length", "66824")],
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
         x-amz-storage-class",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    );
    let signatures = [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ];
    let body = example_body(signatures, "");
    assert_eq!(body.len(), 66824);
    (mode, headers, body)
}

fn signed_trailer_example() -> (PayloadMode, HeaderMap, Vec<u8>) {
    let (mode, headers) = example(
        &[
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
            ("x-amz-trailer", "x-amz-checksum-crc32c"),
        ],
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
         x-amz-storage-class;x-amz-trailer",
        "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
    );
    let signatures = [
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    ];
    let trailer = "x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:\
        d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n";
    (mode, headers, example_body(signatures, trailer))
}

fn example_body(signatures: [&str; 3], trailer: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (size, signature) in [65536, 1024].into_iter().zip(signatures) {
        body.extend(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
        body.extend(vec![b'a'; size]);
        body.extend(b"\r\n");
    }
    body.extend(format!("0;chunk-signature={}\r\n{trailer}\r\n", signatures[2]).as_bytes());
    body
}

/// Decodes `body` given in pieces; what came out, or the code of the error.
fn decode(
    mode: &PayloadMode,
    headers: &HeaderMap,
    pieces: &[&[u8]],
) -> Result<(Vec<u8>, Trailers), &'static str> {
    let run = async || {
        let frames = pieces.iter().map(|piece| {
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::copy_from_slice(piece)))
        });
        let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
        let mut stream = PayloadStream::new(body, PayloadPlan::new(mode, headers)?);
        let mut out = Vec::new();
        while let Some(piece) = stream.next().await? {
            assert!(!piece.is_empty());
            out.extend(piece);
        }
        Ok((out, stream.trailers().clone()))
    };
    futures_util::FutureExt::now_or_never(run()).unwrap().map_err(|error: PayloadError| error.code())
}

#[test]
fn aws_signed_chunks_verify() {
    let (mode, headers, body) = signed_example();
    let (out, trailers) = decode(&mode, &headers, &[&body]).unwrap();
    assert!(out.len() == 66560 && out.iter().all(|&byte| byte == b'a') && trailers.is_empty());
}

#[test]
fn aws_signed_trailer_verifies() {
    let (mode, headers, body) = signed_trailer_example();
    let (out, trailers) = decode(&mode, &headers, &[&body]).unwrap();
    assert_eq!(out.len(), 66560);
    assert_eq!(trailers, [("x-amz-checksum-crc32c".to_owned(), "sOO8/Q==".to_owned())]);
}

#[test]
fn plain_body_is_hashed_and_measured() {
    let hash: [u8; 32] = Sha256::digest(b"hello").into();
    let mut headers = HeaderMap::new();
    headers.insert("content-length", HeaderValue::from_static("5"));
    let run = |mode: PayloadMode, body: &'static [u8]| {
        let plan = PayloadPlan::new(&mode, &headers).unwrap();
        let mut stream = PayloadStream::new(Full::new(Bytes::from_static(body)), plan);
        let run = async {
            while stream.next().await?.is_some() {}
            Ok(())
        };
        futures_util::FutureExt::now_or_never(run).unwrap().map_err(|error: PayloadError| error.code())
    };
    assert_eq!(run(PayloadMode::Hashed(hash), b"hello"), Ok(()));
    assert_eq!(run(PayloadMode::Hashed(hash), b"hallo"), Err("XAmzContentSHA256Mismatch"));
    assert_eq!(run(PayloadMode::Unsigned, b"hallo"), Ok(()));
    assert_eq!(run(PayloadMode::Unsigned, b"hell"), Err("IncompleteBody"));
    assert_eq!(run(PayloadMode::Unsigned, b"hello!"), Err("IncompleteBody"));
}
