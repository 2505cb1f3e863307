//! The AWS SDK's signer as oracle: what it signs, we accept; what is changed afterwards, we refuse.

use super::*;
use aws_credential_types::Credentials as AwsCredentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

/// What a client escapes in a key: everything but unreserved characters and `/`.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a lazy client escapes: only what HTTP does not carry.
const LAZY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'%').add(b'`');

const HOST: &str = "s3.example.test:9000";

fn sign_with_sdk(mut request: TestRequest, presign: bool, token: Option<&str>) -> TestRequest {
    let identity = AwsCredentials::new(ACCESS_KEY, SECRET_KEY, token.map(str::to_owned), None, "test").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    if presign {
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_secs(600));
    }
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("s3")
        .time(UNIX_EPOCH + Duration::from_millis(MAY_24.0))
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let query = request.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    let uri = format!("https://{HOST}{}{query}", request.path);
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), std::str::from_utf8(value.as_bytes()).unwrap()))
        .collect();
    let body = SignableBody::UnsignedPayload;
    let signable = SignableRequest::new(&request.method, &uri, headers.iter().copied(), body).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    let (new_headers, new_query) = instructions.into_parts();
    for header in new_headers {
        request.add(header.name(), header.value());
    }
    for (name, value) in new_query {
        let value = utf8_percent_encode(&value, KEY).to_string().replace('/', "%2F");
        let query = request.query.take().filter(|query| !query.is_empty());
        request.query =
            Some(query.map_or_else(String::new, |query| query + "&") + &format!("{name}={value}"));
    }
    request.add("host", HOST);
    request
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9/._~-]{1,40}",
        "[ -~]{1,30}",
        "\\PC{1,12}",
        Just("../x".to_owned()),
        Just("a//b/./c/".to_owned()),
        Just("%2F%25+ &=;".to_owned()),
    ]
}

fn query() -> impl Strategy<Value = Option<String>> {
    let pair = ("[a-z-]{1,8}|[ -~]{1,6}", "[ -~]{0,12}|\\PC{0,6}");
    let encode = |(name, value): (String, String)| {
        let text = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        format!("{}={}", text(&name), text(&value))
    };
    let pairs =
        proptest::collection::vec(pair.prop_map(encode), 1..5).prop_map(|pairs| Some(pairs.join("&")));
    prop_oneof![
        Just(None),
        pairs,
        Just(Some("prefix=a+b&uploads".to_owned())),
        Just(Some("b=2&a=1&a=0&=x".to_owned())),
    ]
}

fn extra_headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        "x-amz-meta-[a-z0-9-]{1,8}",
        Just("content-type".to_owned()),
        Just("range".to_owned()),
        Just("x-amz-acl".to_owned()),
    ];
    proptest::collection::vec((name, "[!-~]{1,3}[ -~]{0,12}[!-~]{1,3}"), 0..4)
}

prop_compose! {
    fn request()(
        method in prop_oneof![Just("GET"), Just("PUT"), Just("POST"), Just("DELETE"), Just("HEAD")],
        key in key(),
        lazy in any::<bool>(),
        query in query(),
        headers in extra_headers(),
    ) -> TestRequest {
        let path = format!("/{}", utf8_percent_encode(&key, if lazy { LAZY } else { KEY }));
        let mut request = TestRequest::new(method, "/", &[]);
        request.path = path;
        request.query = query;
        for (name, value) in &headers {
            if !request.headers.contains_key(name) {
                request.add(name, value);
            }
        }
        request
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_the_sdk_signs_verifies(request in request(), presign in any::<bool>()) {
        let signed = sign_with_sdk(request, presign, None);
        let verified = signed.verify_at(MAY_24);
        prop_assert!(verified.is_ok(), "{verified:?} {signed:?}");
    }

    /// HTTP/2 carries `:authority` and no `Host`.
    #[test]
    fn authority_stands_for_host(request in request()) {
        let mut signed = sign_with_sdk(request, false, None);
        signed.headers.remove("host");
        signed.authority = Some(HOST.to_owned());
        prop_assert_eq!(signed.code_at(MAY_24), "accepted");
        signed.authority = Some("other.example.test".to_owned());
        prop_assert_eq!(signed.code_at(MAY_24), "SignatureDoesNotMatch");
    }

    #[test]
    fn any_changed_byte_is_refused(request in request(), presign in any::<bool>(), at in any::<prop::sample::Index>()) {
        let signed = sign_with_sdk(request, presign, None);
        for tampered in tampered(&signed, at) {
            prop_assert!(tampered.verify_at(MAY_24).is_err(), "{tampered:?}");
        }
    }
}

/// The request with one thing changed, in every part that is signed.
fn tampered(signed: &TestRequest, at: prop::sample::Index) -> Vec<TestRequest> {
    let mut out = Vec::new();
    let mut change = |edit: &dyn Fn(&mut TestRequest)| {
        let mut copy = signed.clone();
        edit(&mut copy);
        out.push(copy);
    };
    change(&|request| request.method = if request.method == "PUT" { "GET" } else { "PUT" }.to_owned());
    change(&|request| request.path.push('x'));
    change(&|request| request.path.insert_str(1, "other/"));
    change(&|request| request.query = Some(request.query.clone().unwrap_or_default() + "&acl"));
    change(&|request| request.add("x-amz-copy-source", "/secret/key"));
    change(&|request| drop(request.headers.insert("host", HeaderValue::from_static("other"))));
    for name in signed.headers.keys().filter(|name| *name != "content-type") {
        let value = flip(signed.headers[name].as_bytes(), at);
        // Blanks at the ends and runs of spaces are not part of a value.
        let value = HeaderValue::from_bytes(&value).ok();
        if let Some(value) = value {
            change(&|request| drop(request.headers.insert(name, value.clone())));
        }
    }
    if let Some(query) = &signed.query {
        let changed = String::from_utf8(flip(query.as_bytes(), at)).ok();
        let same = |other: &str| decode_query(other) == decode_query(query);
        if let Some(changed) = changed.filter(|changed| !same(changed)) {
            change(&|request| request.query = Some(changed.clone()));
        }
    }
    out
}

/// Replaces one byte by another of the same class.
fn flip(bytes: &[u8], at: prop::sample::Index) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let index = at.index(bytes.len());
    bytes[index] = match bytes[index] {
        b'9' => b'8',
        b'z' => b'y',
        b'Z' => b'Y',
        byte if byte.is_ascii_alphanumeric() => byte + 1,
        b'_' => b'-',
        _ => b'_',
    };
    bytes
}

#[test]
fn a_session_token_belongs_to_its_key() {
    let request = TestRequest::new("GET", "/bucket/key", &[]);
    for presign in [false, true] {
        let signed = sign_with_sdk(request.clone(), presign, Some("token/+="));
        assert_eq!(signed.code_at(MAY_24), "InvalidToken", "a permanent key has no token");
        let verify = |token: &str, expires: u64| {
            let credential = Credential::new(ACCESS_KEY, SECRET_KEY).with_session(token, UnixMillis(expires));
            let credentials: Credentials = [credential].into_iter().collect();
            Verifier::default()
                .verify(&signed.parts(), &credentials, MAY_24)
                .map(|_| ())
                .map_err(|error| error.code())
        };
        assert_eq!(verify("token/+=", u64::MAX), Ok(()));
        assert_eq!(verify("other", u64::MAX), Err("InvalidToken"));
        assert_eq!(verify("token/+=", MAY_24.0 - 1), Err("ExpiredToken"));
    }
}

#[test]
fn presigned_fields_are_hoisted_and_headers_win() {
    let target = "/b/k?x-amz-acl=private&X-Amz-Meta-Color=deep%20blue&x-amz-checksum-crc32=AAAAAA%3D%3D\
        &x-amz-sdk-checksum-algorithm=CRC32";
    let signed = sign_with_sdk(TestRequest::new("PUT", target, &[("x-amz-meta-size", "1")]), true, None);
    let verified = signed.verify_at(MAY_24).unwrap();
    let mut headers = signed.headers.clone();
    verified.merge_hoisted(&mut headers);
    assert_eq!(headers["x-amz-acl"], "private");
    assert_eq!(headers["x-amz-meta-color"], "deep blue");
    assert_eq!(headers["x-amz-meta-size"], "1");
    // The JavaScript SDK presigns with the CRC of a body it does not have.
    assert!(
        !headers.contains_key("x-amz-checksum-crc32")
            && !headers.contains_key("x-amz-sdk-checksum-algorithm")
    );
    assert!(!headers.keys().any(|name| name.as_str().starts_with("x-amz-sig")));
}
