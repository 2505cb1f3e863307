//! What must not pass, each with its S3 code.

use super::*;

const SCOPE: &str = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";
const SIGNED: &str = "host;x-amz-content-sha256;x-amz-date";
const SIGNATURE: &str = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";

/// AWS's example `GET ?lifecycle`, with parts replaced.
fn example(authorization: &str, sha256: Option<&str>, date: Option<&str>) -> TestRequest {
    let mut request = TestRequest::new("GET", "/?lifecycle", &[("host", "examplebucket.s3.amazonaws.com")]);
    request.add("authorization", authorization);
    if let Some(sha256) = sha256 {
        request.add("x-amz-content-sha256", sha256);
    }
    if let Some(date) = date {
        request.add("x-amz-date", date);
    }
    request
}

fn authorization(scope: &str, signed: &str, signature: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={signature}")
}

fn good() -> TestRequest {
    example(&authorization(SCOPE, SIGNED, SIGNATURE), Some(EMPTY_SHA256), Some("20130524T000000Z"))
}

#[test]
fn header_refusals_have_their_codes() {
    assert_eq!(good().code_at(MAY_24), "accepted");
    let scope = |from: &str, to: &str| authorization(&SCOPE.replace(from, to), SIGNED, SIGNATURE);
    let cases = [
        (scope("AKIA", "AKIB"), "InvalidAccessKeyId"),
        (scope("us-east-1", "eu-west-1"), "AuthorizationHeaderMalformed"),
        (scope("s3", "ec2"), "AuthorizationHeaderMalformed"),
        (scope("aws4_request", "aws5_request"), "AuthorizationHeaderMalformed"),
        (scope("20130524", "20130525"), "AuthorizationHeaderMalformed"),
        (scope("20130524", "2013-05-24"), "AuthorizationHeaderMalformed"),
        (scope("20130524/", ""), "AuthorizationHeaderMalformed"),
        (authorization(SCOPE, "x-amz-content-sha256;x-amz-date", SIGNATURE), "AccessDenied"),
        (authorization(SCOPE, "host;x-amz-content-sha256", SIGNATURE), "AccessDenied"),
        (authorization(SCOPE, SIGNED, &SIGNATURE.to_uppercase()), "SignatureDoesNotMatch"),
        (authorization(SCOPE, SIGNED, &SIGNATURE[..63]), "SignatureDoesNotMatch"),
        (authorization(SCOPE, SIGNED, ""), "AuthorizationHeaderMalformed"),
        (format!("AWS4-HMAC-SHA256 Credential={SCOPE}"), "AuthorizationHeaderMalformed"),
        (authorization(SCOPE, SIGNED, SIGNATURE) + ", Signature=0", "AuthorizationHeaderMalformed"),
        (authorization(SCOPE, SIGNED, SIGNATURE) + ", Extra=0", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256".to_owned(), "AuthorizationHeaderMalformed"),
        ("AWS4-ECDSA-P256-SHA256 Credential=x".to_owned(), "NotImplemented"),
        ("Bearer token".to_owned(), "InvalidArgument"),
        ("Basic dXNlcjpwYXNz".to_owned(), "InvalidArgument"),
        (String::new(), "InvalidArgument"),
    ];
    for (authorization, code) in cases {
        let request = example(&authorization, Some(EMPTY_SHA256), Some("20130524T000000Z"));
        assert_eq!(request.code_at(MAY_24), code, "{authorization}");
    }
}

#[test]
fn dates_and_skew() {
    let header = authorization(SCOPE, SIGNED, SIGNATURE);
    let with_date = |date| example(&header, Some(EMPTY_SHA256), date).code_at(MAY_24);
    assert_eq!(with_date(None), "AccessDenied");
    assert_eq!(with_date(Some("yesterday")), "AccessDenied");
    assert_eq!(with_date(Some("20130524T001501Z")), "RequestTimeTooSkewed");
    assert_eq!(with_date(Some("20130524T001500Z")), "SignatureDoesNotMatch");
    assert_eq!(good().code_at(UnixMillis(MAY_24.0 + 900_000)), "accepted");
    assert_eq!(good().code_at(UnixMillis(MAY_24.0 + 900_001)), "RequestTimeTooSkewed");
    assert_eq!(good().code_at(UnixMillis(MAY_24.0 - 900_001)), "RequestTimeTooSkewed");
    assert_eq!(good().code_at(UnixMillis(0)), "RequestTimeTooSkewed");
}

#[test]
fn payload_modes_are_named_exactly() {
    let header = authorization(SCOPE, SIGNED, SIGNATURE);
    let mode = |sha256| example(&header, sha256, Some("20130524T000000Z")).code_at(MAY_24);
    assert_eq!(mode(None), "InvalidRequest");
    assert_eq!(mode(Some("unsigned-payload")), "InvalidArgument");
    assert_eq!(mode(Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILERS")), "InvalidArgument");
    assert_eq!(mode(Some("e3b0c442")), "InvalidArgument");
    assert_eq!(mode(Some("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")), "NotImplemented");
    assert_eq!(mode(Some("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER")), "NotImplemented");
    // Each mode other than the signed one is another request: signed-ness cannot be switched off.
    for other in [
        "UNSIGNED-PAYLOAD",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    ] {
        assert_eq!(mode(Some(other)), "SignatureDoesNotMatch");
    }
    // The literal header value is what is signed, also its case.
    assert_eq!(mode(Some(&EMPTY_SHA256.to_uppercase())), "SignatureDoesNotMatch");
}

#[test]
fn only_one_mechanism_may_speak() {
    let anonymous = TestRequest::new("GET", "/", &[("host", "x")]);
    assert_eq!(anonymous.verify_at(MAY_24).unwrap_err(), AuthError::Anonymous);
    let form = [("host", "x"), ("content-type", "multipart/form-data; boundary=x")];
    assert_eq!(TestRequest::new("POST", "/b", &form).verify_at(MAY_24).unwrap_err(), AuthError::Anonymous);
    let mut both = good();
    both.query = Some("lifecycle&X-Amz-Algorithm=AWS4-HMAC-SHA256".to_owned());
    assert_eq!(both.verify_at(MAY_24).unwrap_err(), AuthError::SeveralMechanisms);
    both.query = Some("lifecycle&Signature=x".to_owned());
    assert_eq!(both.verify_at(MAY_24).unwrap_err(), AuthError::SeveralMechanisms);
    let mut twice = good();
    twice.add("authorization", "AWS4-HMAC-SHA256 x");
    assert_eq!(twice.verify_at(MAY_24).unwrap_err(), AuthError::SeveralMechanisms);
}

#[test]
fn unsigned_amz_headers_are_refused_by_name() {
    for name in ["x-amz-copy-source", "x-amz-acl", "x-amz-tagging", "x-amz-meta-a", "x-amz-security-token"] {
        let mut request = good();
        request.add(name, "value");
        let expected = AuthError::HeaderNotSigned { header: name.to_owned() };
        assert_eq!(request.verify_at(MAY_24).unwrap_err(), expected);
    }
}

/// AWS's presigned example with one parameter replaced, or removed.
fn presigned(name: &str, value: Option<&str>) -> TestRequest {
    let mut pairs = vec![
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", "AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"),
        ("X-Amz-Date", "20130524T000000Z"),
        ("X-Amz-Expires", "86400"),
        ("X-Amz-SignedHeaders", "host"),
        ("X-Amz-Signature", "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"),
    ];
    pairs.retain(|(other, _)| *other != name);
    pairs.extend(value.map(|value| (name, value)));
    let query: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let target = format!("/test.txt?{}", query.join("&"));
    TestRequest::new("GET", &target, &[("host", "examplebucket.s3.amazonaws.com")])
}

#[test]
fn presigned_refusals_have_their_codes() {
    assert_eq!(presigned("X-Amz-Expires", Some("86400")).code_at(MAY_24), "accepted");
    for name in ["X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"]
    {
        assert_eq!(presigned(name, None).code_at(MAY_24), "AuthorizationQueryParametersError", "{name}");
    }
    assert_eq!(presigned("X-Amz-Algorithm", None).code_at(MAY_24), "AccessDenied");
    assert_eq!(
        presigned("X-Amz-Algorithm", Some("AWS4-ECDSA-P256-SHA256")).code_at(MAY_24),
        "NotImplemented"
    );
    assert_eq!(presigned("X-Amz-Expires", Some("0")).code_at(MAY_24), "AccessDenied");
    for expires in ["-1", "604801", "99999999999999999999", "x", "1.5", "%2B5"] {
        let code = presigned("X-Amz-Expires", Some(expires)).code_at(MAY_24);
        assert_eq!(code, "AuthorizationQueryParametersError", "{expires}");
    }
    assert_eq!(presigned("X-Amz-Expires", Some("604800")).code_at(MAY_24), "SignatureDoesNotMatch");
    let credential = "AKIAIOSFODNN7EXAMPLE%2F20130524%2Feu-west-1%2Fs3%2Faws4_request";
    let code = presigned("X-Amz-Credential", Some(credential)).code_at(MAY_24);
    assert_eq!(code, "AuthorizationQueryParametersError");
    assert_eq!(
        presigned("X-Amz-Expires", Some("86400")).code_at(UnixMillis(MAY_24.0 - 900_001)),
        "AccessDenied"
    );
    let mut twice = presigned("X-Amz-Expires", Some("86400"));
    twice.query = twice.query.map(|query| query + "&X-Amz-Expires=1");
    assert_eq!(twice.code_at(MAY_24), "AuthorizationQueryParametersError");
}

#[test]
fn presigned_upload_cannot_be_bent() {
    // An unsigned copy source would let the holder of an upload URL read any object.
    for (name, value) in [("x-amz-copy-source", "/b/secret"), ("x-amz-acl", "public-read")] {
        let mut request = presigned("X-Amz-Expires", Some("86400"));
        request.add(name, value);
        assert!(matches!(request.verify_at(MAY_24), Err(AuthError::HeaderNotSigned { .. })));
    }
    // An unsigned payload mode would let it change how the body is read.
    let mut request = presigned("X-Amz-Expires", Some("86400"));
    request.add("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    assert!(matches!(request.verify_at(MAY_24), Err(AuthError::HeaderNotSigned { .. })));
    let mut request = presigned("X-Amz-Expires", Some("86400"));
    request.add("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    request.add("x-amz-user-agent", "aws-sdk-js/3");
    assert_eq!(request.code_at(MAY_24), "accepted");
}

#[test]
fn version_2_can_be_switched_off_and_is_strict() {
    let verifier = Verifier::new(AuthConfig { region: None, sigv2: false });
    let credentials = Credentials::root(ACCESS_KEY, SECRET_KEY);
    let header = TestRequest::new("GET", "/b/k", &[("authorization", "AWS a:b"), ("date", "x")]);
    let query = TestRequest::new("GET", "/b/k?AWSAccessKeyId=a&Expires=9999999999&Signature=b", &[]);
    for request in [header, query] {
        let error = verifier.verify(&request.parts(), &credentials, MAY_24).unwrap_err();
        assert_eq!(error, AuthError::SignatureVersionOff);
    }
    let cases = [
        ("/b/k?AWSAccessKeyId=a&Expires=9999999999&Signature=b", "InvalidAccessKeyId"),
        ("/b/k?AWSAccessKeyId=a&Signature=b", "AccessDenied"),
        ("/b/k?Expires=9999999999&Signature=b", "AccessDenied"),
        ("/b/k?AWSAccessKeyId=a&Expires=x&Signature=b", "AccessDenied"),
        ("/b/k?AWSAccessKeyId=a&Expires=1&Signature=b", "AccessDenied"),
        ("/b/k?AWSAccessKeyId=a&Expires=9999999999&Signature=b&Signature=c", "AccessDenied"),
        ("/b/k?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=9999999999&Signature=b", "SignatureDoesNotMatch"),
    ];
    for (target, code) in cases {
        assert_eq!(TestRequest::new("GET", target, &[]).code_at(MAY_24), code, "{target}");
    }
}

/// The Version 2 signature of a string.
fn sign_v2(text: &str) -> String {
    use base64::Engine;
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(SECRET_KEY.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

#[test]
fn version_2_takes_a_bucket_signed_with_a_slash() {
    let date = "Fri, 24 May 2013 00:00:00 GMT";
    for resource in ["/buck/?location", "/buck?location", "/buck/?location="] {
        let signature = sign_v2(&format!("GET\n\n\n{date}\n{resource}"));
        let authorization = format!("AWS {ACCESS_KEY}:{signature}");
        let headers = [("date", date), ("authorization", authorization.as_str())];
        let request = |target: &str| TestRequest::new("GET", target, &headers).code_at(MAY_24);
        assert_eq!(request("/buck?location"), "accepted", "{resource}");
        assert_eq!(request("/other?location"), "SignatureDoesNotMatch");
        assert_eq!(request("/buck/key?location"), "SignatureDoesNotMatch");
    }
}

#[test]
fn version_2_takes_botocore_presigned_fields_from_the_query() {
    let signature = sign_v2("PUT\n\nimage/png\n9999999999\nx-amz-acl:private\n/b/k");
    let signature = signature.replace('+', "%2B").replace('/', "%2F");
    let target = format!(
        "/b/k?AWSAccessKeyId={ACCESS_KEY}&Expires=9999999999&Signature={signature}\
         &content-type=image%2Fpng&x-amz-acl=private"
    );
    let request = TestRequest::new("PUT", &target, &[]);
    let verified = request.verify_at(MAY_24).unwrap();
    assert_eq!(verified.hoisted().len(), 2);
    let mut same = request.clone();
    same.add("content-type", "image/png");
    assert_eq!(same.code_at(MAY_24), "accepted");
    let mut other = request;
    other.add("content-type", "text/html");
    assert_eq!(other.code_at(MAY_24), "SignatureDoesNotMatch");
}

#[test]
fn secrets_do_not_show() {
    let credential = Credential::new(ACCESS_KEY, SECRET_KEY);
    let credentials = Credentials::root(ACCESS_KEY, SECRET_KEY);
    let verified = good().verify_at(MAY_24);
    let wrong = example(&authorization(SCOPE, SIGNED, "0"), Some(EMPTY_SHA256), Some("20130524T000000Z"));
    let error = wrong.verify_at(MAY_24).unwrap_err();
    let shown = format!("{credential:?} {credentials:?} {verified:?} {error:?} {error}");
    assert!(!shown.contains(SECRET_KEY) && !shown.contains(SIGNATURE), "{shown}");
}

proptest::proptest! {
    /// Whatever a stranger sends, it is refused and nothing panics.
    #[test]
    fn arbitrary_requests_are_refused(
        authorization in "(AWS4-HMAC-SHA256 |AWS |AWS4-HMAC-SHA256 Credential=)?[ -~]{0,60}",
        path in "/[!-~]{0,20}",
        query in "(X-Amz-Algorithm=AWS4-HMAC-SHA256&|Signature=|X-Amz-Date=|&X-Amz-Credential=a/20130524/b/s3/aws4_request)?[!-~]{0,60}",
        date in "[0-9TZ]{0,17}|20130524T000000Z|[ -~]{0,30}",
        header in proptest::bool::ANY,
    ) {
        let mut request = TestRequest::new("GET", "/", &[("host", "x"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]);
        request.add("x-amz-date", &date);
        if header {
            request.add("authorization", &authorization);
        }
        request.path = path;
        request.query = Some(query);
        proptest::prop_assert!(request.verify_at(MAY_24).is_err());
    }
}

#[test]
fn version_2_goes_by_x_amz_date_where_there_are_two_dates() {
    // The wrong one is a Sunday, too: what is not the day of the week still tells the time.
    let (right, wrong) = ("Fri, 24 May 2013 00:00:00 GMT", "Tue, 07 Jul 2030 21:53:04 GMT");
    let code = |amz_date: &str, date: &str| {
        let signature = sign_v2(&format!("GET\n\n\n\nx-amz-date:{amz_date}\n/b/k"));
        let authorization = format!("AWS {ACCESS_KEY}:{signature}");
        let headers = [("date", date), ("x-amz-date", amz_date), ("authorization", authorization.as_str())];
        TestRequest::new("GET", "/b/k", &headers).code_at(MAY_24)
    };
    assert_eq!(code(right, right), "accepted");
    assert_eq!(code(right, wrong), "accepted");
    assert_eq!(code(wrong, right), "RequestTimeTooSkewed");
    assert_eq!(code("yesterday", right), "AccessDenied");
    assert_eq!(code("Tue, 07 Jul 1950 21:53:04 GMT", right), "AccessDenied");
}
