//! The signatures that AWS publishes in the S3 documentation.

use super::*;

const SCOPE: &str = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

fn v4(method: &str, target: &str, headers: &[(&str, &str)], signed: &str, signature: &str) -> TestRequest {
    let mut request = TestRequest::new(method, target, headers);
    request.add("host", "examplebucket.s3.amazonaws.com");
    request.add("x-amz-date", "20130524T000000Z");
    let value = format!("AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders={signed},Signature={signature}");
    request.add("authorization", &value);
    request
}

#[test]
fn version_4_header_examples_verify() {
    let empty = ("x-amz-content-sha256", EMPTY_SHA256);
    let get = v4(
        "GET",
        "/test.txt",
        &[("range", "bytes=0-9"), empty],
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    );
    let put = v4(
        "PUT",
        "/test$file.text",
        &[
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
        ],
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
    let signed = "host;x-amz-content-sha256;x-amz-date";
    let lifecycle = v4(
        "GET",
        "/?lifecycle",
        &[empty],
        signed,
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    );
    let list = v4(
        "GET",
        "/?max-keys=2&prefix=J",
        &[empty],
        signed,
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    );
    for request in [get, put, lifecycle, list] {
        let verified = request.verify_at(MAY_24).unwrap();
        assert_eq!(verified.access_key(), Some(ACCESS_KEY));
        assert_eq!(verified.scheme(), Scheme::V4Header);
        assert!(matches!(verified.payload(), PayloadMode::Hashed(_)));
    }
}

#[test]
fn version_4_presigned_example_verifies() {
    let target = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
        &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
        &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
        &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let request = TestRequest::new("GET", target, &[("host", "examplebucket.s3.amazonaws.com")]);
    let verified = request.verify_at(MAY_24).unwrap();
    assert_eq!((verified.scheme(), verified.payload()), (Scheme::V4Query, &PayloadMode::Unsigned));
    let last = UnixMillis(MAY_24.0 + 86_400_000);
    assert_eq!(request.code_at(last), "accepted");
    let expected = AuthError::Expired { expires: last, server_time: UnixMillis(last.0 + 1) };
    assert_eq!(request.verify_at(UnixMillis(last.0 + 1)).unwrap_err(), expected);
}

fn v2(
    method: &str,
    target: &str,
    bucket: Option<&str>,
    headers: &[(&str, &str)],
    signature: &str,
) -> TestRequest {
    let mut request = TestRequest::new(method, target, headers);
    request.add("authorization", &format!("AWS {ACCESS_KEY}:{signature}"));
    request.host_bucket = bucket.map(str::to_owned);
    request
}

#[test]
fn version_2_header_examples_verify() {
    let bucket = Some("johnsmith");
    let requests = [
        v2(
            "GET",
            "/photos/puppy.jpg",
            bucket,
            &[("date", "Tue, 27 Mar 2007 19:36:42 +0000")],
            "bWq2s1WEIj+Ydj0vQ697zp+IXMU=",
        ),
        v2(
            "PUT",
            "/photos/puppy.jpg",
            bucket,
            &[
                ("content-type", "image/jpeg"),
                ("content-length", "94328"),
                ("date", "Tue, 27 Mar 2007 21:15:45 +0000"),
            ],
            "MyyxeRY7whkBe+bq8fHCL/2kKUg=",
        ),
        v2(
            "GET",
            "/?prefix=photos&max-keys=50&marker=puppy",
            bucket,
            &[("date", "Tue, 27 Mar 2007 19:42:41 +0000")],
            "htDYFYduRNen8P9ZfE/s9SuKy0U=",
        ),
        v2(
            "GET",
            "/?acl",
            bucket,
            &[("date", "Tue, 27 Mar 2007 19:44:46 +0000")],
            "c2WLPFtWHVgbEmeEG93a4cG37dM=",
        ),
        v2(
            "PUT",
            "/db-backup.dat.gz",
            Some("static.johnsmith.net"),
            &[
                ("date", "Tue, 27 Mar 2007 21:06:08 +0000"),
                ("x-amz-acl", "public-read"),
                ("content-type", "application/x-download"),
                ("content-md5", "4gJE4saaMU4BqNR0kLY+lw=="),
                ("x-amz-meta-reviewedby", "joe@johnsmith.net"),
                ("x-amz-meta-reviewedby", "jane@johnsmith.net"),
                ("x-amz-meta-filechecksum", "0x02661779"),
                ("x-amz-meta-checksumalgorithm", "crc32"),
            ],
            "ilyl83RwaSoYIEdixDQcA4OnAnc=",
        ),
        v2(
            "GET",
            "/dictionary/fran%C3%A7ais/pr%c3%a9f%c3%a8re",
            None,
            &[("date", "Wed, 28 Mar 2007 01:49:49 +0000")],
            "DNEZGsoieTZ92F3bUfSPQcbGmlM=",
        ),
    ];
    for request in requests {
        let date = request.headers["date"].to_str().unwrap();
        let now = date::parse_any_date(date).unwrap();
        assert_eq!(
            request.verify_at(now).map(|verified| verified.scheme()),
            Ok(Scheme::V2Header),
            "{request:?}"
        );
        assert_eq!(request.code_at(UnixMillis(now.0 + 900_001)), "RequestTimeTooSkewed");
    }
}

#[test]
fn version_2_presigned_example_verifies_until_it_expires() {
    let target = "/photos/puppy.jpg?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE\
        &Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620";
    let mut request = TestRequest::new("GET", target, &[]);
    request.host_bucket = Some("johnsmith".to_owned());
    let end = UnixMillis(1_175_139_620_000);
    assert_eq!(request.verify_at(end).unwrap().scheme(), Scheme::V2Query);
    assert_eq!(request.code_at(UnixMillis(end.0 + 1)), "AccessDenied");
    for tampered in ["&acl", "&versionId=1", "&uploads", "&legal-hold", "&x-amz-acl=public-read"] {
        let mut request = request.clone();
        request.query = request.query.map(|query| query + tampered);
        assert_eq!(request.code_at(end), "SignatureDoesNotMatch", "{tampered}");
    }
}
