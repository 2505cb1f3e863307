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

#[test]
fn every_split_gives_the_same_bytes() {
    let (signed, signed_headers, signed_body) = signed_example();
    let (trailer, trailer_headers, trailer_body) = signed_trailer_example();
    let (unsigned, unsigned_headers) = unsigned_mode("11", Some("x-amz-checksum-crc32"));
    let unsigned_body = b"b\r\nhello world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n".to_vec();
    for (mode, headers, body) in [
        (signed, signed_headers, signed_body),
        (trailer, trailer_headers, trailer_body),
        (unsigned, unsigned_headers, unsigned_body),
    ] {
        let whole = decode(&mode, &headers, &[&body]).unwrap();
        // The framing is in the first and last bytes and around the second chunk: splits there matter.
        let near = |at: usize| at < 200 || body.len() - at < 1600 || at.abs_diff(65623) < 200;
        for at in (0..=body.len()).filter(|&at| near(at) || at.is_multiple_of(4099)) {
            let (left, right) = body.split_at(at);
            assert_eq!(decode(&mode, &headers, &[left, right]).unwrap(), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(decode(&mode, &headers, &bytes).unwrap(), whole);
    }
}

#[test]
fn every_changed_byte_of_a_signed_body_is_refused() {
    for (mode, headers, body) in [signed_example(), signed_trailer_example()] {
        let near = |at: usize| {
            at < 200 || body.len() - at < 1600 || at.abs_diff(65623) < 200 || at.is_multiple_of(997)
        };
        for at in (0..body.len()).filter(|&at| near(at)) {
            // The three bits: another letter, another case, another class.
            for bit in [1, 0x20, 0x80] {
                let mut body = body.clone();
                body[at] ^= bit;
                let result = decode(&mode, &headers, &[&body]).map(|(out, trailers)| (out.len(), trailers));
                // Names of trailer fields may be written in any case; nothing else may change.
                let whole = (66560, vec![("x-amz-checksum-crc32c".to_owned(), "sOO8/Q==".to_owned())]);
                let same = bit == 0x20 && result.as_ref() == Ok(&whole);
                assert!(result.is_err() || same, "byte {at} bit {bit}: {result:?}");
            }
        }
    }
}

#[test]
fn every_truncated_body_is_refused() {
    for (mode, headers, body) in [signed_example(), signed_trailer_example()] {
        let near = |at: usize| at < 200 || body.len() - at < 1600 || at.abs_diff(65623) < 200;
        for at in (0..body.len()).filter(|&at| near(at)) {
            let code = decode(&mode, &headers, &[&body[..at]]).unwrap_err();
            assert_eq!(code, "IncompleteBody", "cut at {at}");
        }
        let mut long = body.clone();
        long.push(b'x');
        assert_eq!(decode(&mode, &headers, &[&long]).unwrap_err(), "IncompleteBody");
    }
}

fn unsigned_mode(decoded_len: &str, trailer: Option<&str>) -> (PayloadMode, HeaderMap) {
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-decoded-content-length", HeaderValue::from_str(decoded_len).unwrap());
    if let Some(trailer) = trailer {
        headers.insert("x-amz-trailer", HeaderValue::from_str(trailer).unwrap());
    }
    (PayloadMode::Chunked { signing: None, trailer: true }, headers)
}

/// The code with which an unsigned body is refused, or its bytes.
fn unsigned(decoded_len: &str, trailer: Option<&str>, body: &str) -> Result<String, &'static str> {
    let (mode, headers) = unsigned_mode(decoded_len, trailer);
    decode(&mode, &headers, &[body.as_bytes()]).map(|(out, _)| String::from_utf8(out).unwrap())
}

#[test]
fn unsigned_trailer_needs_no_trailer_signature() {
    let ok = Ok("hello world".to_owned());
    let trailer = Some("x-amz-checksum-crc32");
    assert_eq!(unsigned("11", trailer, "b\r\nhello world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n"), ok);
    assert_eq!(
        unsigned("11", trailer, "B\r\nhello world\r\n0\r\nX-Amz-Checksum-Crc32: DUoRhQ== \r\n\r\n"),
        ok
    );
    assert_eq!(unsigned("11", None, "b\r\nhello world\r\n0\r\n\r\n"), ok);
    assert_eq!(unsigned("0", None, "0\r\n\r\n"), Ok(String::new()));
    // One client ends trailer lines with LF and the trailer with two empty lines.
    assert_eq!(
        unsigned("11", trailer, "b\r\nhello world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\n\r\n\r\n"),
        ok
    );
    let with_signature =
        "b\r\nhello world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\nx-amz-trailer-signature:0\r\n\r\n";
    assert_eq!(unsigned("11", trailer, with_signature), Err("MalformedTrailerError"));
}

#[test]
fn malformed_trailers_are_named() {
    for (declared, fields) in [
        (Some("x-amz-checksum-crc64nvme"), ""),
        (Some("x-amz-checksum-crc64nvme"), ":M3eFcAZSQlc=\r\n"),
        (Some("x-amz-checksum-crc64nvme"), "invalid_trailer:M3eFcAZSQlc=\r\n"),
        (Some("x-amz-checksum-crc64nvme"), "x-amz-checksum-crc64nvme\r\n"),
        (Some("x-amz-checksum-crc64nvme"), "x-amz-checksum-crc64nvme:1\r\nx-amz-checksum-crc64nvme:1\r\n"),
        (Some("x-amz-checksum-crc64nvme"), "x-amz-checksum-crc64nvme:1\r\nx-amz-meta-a:1\r\n"),
        (None, "x-amz-checksum-crc64nvme:M3eFcAZSQlc=\r\n"),
    ] {
        let body = format!("5\r\nhello\r\n0\r\n{fields}\r\n");
        assert_eq!(unsigned("5", declared, &body), Err("MalformedTrailerError"), "{fields}");
    }
    let long = format!("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{}\r\n\r\n", "A".repeat(MAX_TRAILER_BYTES));
    assert_eq!(unsigned("5", Some("x-amz-checksum-crc32"), &long), Err("MalformedTrailerError"));
}

#[test]
fn bad_framing_is_an_incomplete_body() {
    let trailer = "x-amz-checksum-crc64nvme:dPVWc2vU1+Q=\r\n";
    let long = format!("{}\r\n", "0".repeat(MAX_CHUNK_HEADER_BYTES));
    for body in [
        "",
        "A\r\n",
        "A\ndummy data\r\n0\r\n\r\n",
        "A\r\ndummy data0\r\n\r\n",
        "A\r\nXYZ\r\ndummy data\r\n0\r\n\r\n",
        "B\r\ndummy data\r\n0\r\n\r\n",
        "A\r\ndummy data\r\n0\r\n",
        "A\r\nA\r\ndummy data\r\n0\r\n\r\n",
        &format!("A\r\ndummy data\r\n0\r\n{trailer}"),
        &format!("invalid_chunk_size\r\ndummy data\r\n0\r\n{trailer}\r\n"),
        &format!("A\r\ndummy data\r\nJ\r\n{trailer}\r\n"),
        &format!("A\r\ndummy data\r\n0\r\n{trailer}\r\nx"),
        &format!("A\r\ndummy data\r\n0\r\n{trailer}\r\n\r\n\r\n"),
        &format!("A;chunk-signature=0\r\ndummy data\r\n0\r\n{trailer}\r\n"),
        &format!(" A\r\ndummy data\r\n0\r\n{trailer}\r\n"),
        &format!("+A\r\ndummy data\r\n0\r\n{trailer}\r\n"),
        &format!("0xA\r\ndummy data\r\n0\r\n{trailer}\r\n"),
        "ffffffffffffffff\r\ndummy data",
        "10000000000000000\r\ndummy data",
        "\r\n",
        &long,
    ] {
        assert_eq!(unsigned("10", Some("x-amz-checksum-crc64nvme"), body), Err("IncompleteBody"), "{body:?}");
    }
}

#[test]
fn decoded_length_is_required_and_enforced() {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(unsigned("5", None, body), Ok("hello".to_owned()));
    assert_eq!(unsigned("4", None, body), Err("IncompleteBody"));
    assert_eq!(unsigned("6", None, body), Err("IncompleteBody"));
    for invalid in ["", "abc", "12x", "-5", "+5", "5.0", "99999999999999999999"] {
        assert_eq!(unsigned(invalid, None, body), Err("MissingContentLength"), "{invalid}");
    }
    let (mode, mut headers) = unsigned_mode("5", None);
    headers.remove("x-amz-decoded-content-length");
    assert_eq!(PayloadPlan::new(&mode, &headers).unwrap_err().code(), "MissingContentLength");
}

#[test]
fn small_chunks_are_refused_unless_last() {
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "a".repeat(size));
    let body = |sizes: &[usize]| sizes.iter().map(|&size| chunk(size)).collect::<String>() + "0\r\n\r\n";
    assert!(unsigned("8193", None, &body(&[8192, 1])).is_ok());
    assert!(unsigned("1", None, &body(&[1])).is_ok());
    assert_eq!(unsigned("8192", None, &body(&[8191, 1])), Err("InvalidChunkSizeError"));
}

#[test]
fn signed_trailer_accepts_the_known_client_that_ends_lines_with_lf() {
    let (mode, headers, body) = signed_trailer_example();
    let text = String::from_utf8(body).unwrap();
    let odd = text.replace("sOO8/Q==\r\n", "sOO8/Q==\n\r\n");
    assert_eq!(decode(&mode, &headers, &[odd.as_bytes()]).unwrap().0.len(), 66560);
    // Without its signature the trailer is refused, whatever ends it.
    let at = text.find("x-amz-trailer-signature").unwrap();
    for end in ["\r\n", "\r\n\r\n", "x-amz-trailer-signature:\r\n\r\n"] {
        let stripped = format!("{}{end}", &text[..at]);
        assert!(decode(&mode, &headers, &[stripped.as_bytes()]).is_err(), "{end:?}");
    }
}

#[test]
fn a_signed_body_cannot_be_read_as_another() {
    // Chunks of a signed body in another order, twice, or without a signature.
    let (mode, headers, body) = signed_example();
    let second = body.len() - 86 - 3 - 1024 - 86 + 1;
    let text = String::from_utf8(body.clone()).unwrap();
    let unsigned =
        text.replace(";chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", "");
    assert_eq!(decode(&mode, &headers, &[unsigned.as_bytes()]).unwrap_err(), "SignatureDoesNotMatch");
    assert!(decode(&mode, &headers, &[&body[second..]]).is_err());
    let swapped = text.replace("0055627c", "1055627c");
    assert_eq!(decode(&mode, &headers, &[swapped.as_bytes()]).unwrap_err(), "SignatureDoesNotMatch");
}

#[test]
fn a_failed_stream_stays_failed() {
    let (mode, headers) = unsigned_mode("5", None);
    let body = Full::new(Bytes::from_static(b"zz\r\n"));
    let mut stream = PayloadStream::new(body, PayloadPlan::new(&mode, &headers).unwrap());
    for _ in 0..3 {
        let result = futures_util::FutureExt::now_or_never(stream.next()).unwrap();
        assert_eq!(result.unwrap_err().code(), "IncompleteBody");
    }
}

#[test]
fn data_is_not_copied() {
    let body = Bytes::from_static(b"b\r\nhello world\r\n0\r\n\r\n");
    let mut decoder = ChunkedDecoder::new(None, Some(Vec::new()), 11);
    let mut input = body.clone();
    let piece = decoder.decode(&mut input).unwrap().unwrap();
    assert_eq!(piece.as_ptr(), body[3..].as_ptr());
    assert_eq!(decoder.decode(&mut input).unwrap(), None);
    assert!(decoder.finish().unwrap().is_empty());
}

proptest::proptest! {
    /// Whatever comes in, the decoder answers, and never hands out more than was announced.
    #[test]
    fn arbitrary_input_never_panics(pieces in proptest::collection::vec("[0-9a-f;\r\n:x-]{0,12}|8\r\nabcdefgh\r\n|0\r\n|\r\n|\\PC{0,4}", 0..12)) {
        let (mode, headers) = unsigned_mode("16", Some("x-amz-checksum-crc32"));
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        if let Ok((out, _)) = decode(&mode, &headers, &pieces) {
            proptest::prop_assert_eq!(out.len(), 16);
        }
    }
}
