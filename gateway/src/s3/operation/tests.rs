use super::object::KNOWN as KNOWN_OBJECT;
use super::*;

fn resolve(method: &str, target: &str, copy: bool) -> Result<Operation, Code> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let address = Address::parse("127.0.0.1:9000", path, &[]);
    let query = Query::parse(query).map_err(|error| error.code())?;
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    Operation::resolve(&method, &address, &query, copy).map_err(|error| error.code())
}

fn check(method: &str, target: &str, expected: Result<&str, Code>) {
    let name = resolve(method, target, false).map(|operation| operation.name());
    assert_eq!(name, expected, "{method} {target}");
}

#[test]
fn operations_resolve() {
    check("GET", "/", Ok("ListBuckets"));
    check("PUT", "/", Err(Code::MethodNotAllowed));
    check("PUT", "/bkt", Ok("CreateBucket"));
    check("PUT", "/bkt/", Ok("CreateBucket"));
    check("PUT", "/bkt?versioning", Ok("PutBucketVersioning"));
    check("PUT", "/bkt?policyStatus", Err(Code::MethodNotAllowed));
    check("PUT", "/b", Err(Code::InvalidBucketName));
    check("PUT", "//key", Err(Code::InvalidBucketName));
    check("GET", "/bkt", Ok("ListObjects"));
    check("GET", "/bkt?list-type=2&prefix=a", Ok("ListObjectsV2"));
    check("GET", "/bkt?list-type=3", Err(Code::InvalidArgument));
    check("GET", "/bkt?location=", Ok("GetBucketLocation"));
    check("GET", "/bkt?inventory", Err(Code::NotImplemented));
    check("GET", "/bkt?x-id=ListObjects", Ok("ListObjects"));
    check("POST", "/bkt?delete", Ok("DeleteObjects"));
    check("POST", "/bkt", Ok("PostObject"));
    check("DELETE", "/bkt?lifecycle", Ok("DeleteBucketLifecycle"));
    check("PATCH", "/bkt", Err(Code::MethodNotAllowed));
    check("PUT", "/bkt/k", Ok("PutObject"));
    check("PUT", "/bkt/k?acl", Ok("PutObjectAcl"));
    check("PUT", "/bkt/k?uploadId=1&partNumber=2", Ok("UploadPart"));
    check("PUT", "/bkt/k?uploadId=1", Err(Code::InvalidArgument));
    check("DELETE", "/bkt/k?uploadId=1", Ok("AbortMultipartUpload"));
    check("DELETE", "/bkt/k?tagging", Ok("DeleteObjectTagging"));
    check("DELETE", "/bkt/k?acl", Err(Code::NotImplemented));
    check("POST", "/bkt/k?uploads", Ok("CreateMultipartUpload"));
    check("POST", "/bkt/k?uploadId=1", Ok("CompleteMultipartUpload"));
    check("POST", "/bkt/k", Err(Code::MethodNotAllowed));
    assert_eq!(resolve("PUT", "/bkt/k", true).unwrap().name(), "CopyObject");
    assert_eq!(resolve("PUT", "/bkt/k?uploadId=1&partNumber=2", true).unwrap().name(), "UploadPartCopy");
}

#[test]
fn a_sub_resource_is_never_taken_for_the_object_itself() {
    for sub in KNOWN_OBJECT {
        for method in ["GET", "PUT", "DELETE", "POST", "HEAD"] {
            let found = resolve(method, &format!("/bkt/k?{sub}"), false).map(|operation| operation.name());
            let plain = resolve(method, "/bkt/k", false).map(|operation| operation.name());
            assert!(found.is_err() || found != plain, "{method} {sub}");
        }
    }
}

#[test]
fn keys_are_decoded_once_and_kept_as_they_are() {
    for (path, key) in [
        ("/bkt/a%2Fb", "a/b"),
        ("/bkt/a%252Fb", "a%2Fb"),
        ("/bkt//x//", "/x//"),
        ("/bkt/../x", "../x"),
        ("/bkt/.", "."),
        ("/bkt/a+b", "a+b"),
        ("/bkt/%00%01", "\0\u{1}"),
        ("/bkt/%C3%A9", "é"),
    ] {
        let Ok(Operation::Object(_, found, _)) = resolve("GET", path, false) else { panic!("{path}") };
        assert_eq!(found.as_str(), key, "{path}");
    }
    check("GET", "/bkt/%ff", Err(Code::InvalidURI));
    check("GET", &format!("/bkt/{}", "k".repeat(1025)), Err(Code::KeyTooLongError));
    check("GET", &format!("/bkt/{}", "k".repeat(1024)), Ok("GetObject"));
}

#[test]
fn virtual_hosts_name_the_bucket() {
    let domains = ["s3.example.com".to_owned(), "example.com".to_owned()];
    let parse = |host: &str, path: &str| {
        let address = Address::parse(host, path, &domains);
        let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8(bytes).unwrap());
        (text(address.bucket), text(address.key), address.virtual_host)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(parse("bkt.s3.example.com:9000", "/a/b"), (some("bkt"), some("a/b"), true));
    assert_eq!(parse("my.bkt.S3.Example.com", "/"), (some("my.bkt"), None, true));
    assert_eq!(parse("s3.example.com", "/bkt/k"), (some("bkt"), some("k"), false));
    assert_eq!(parse("other.org", "/bkt/k"), (some("bkt"), some("k"), false));
    assert_eq!(parse("xexample.com", "/bkt"), (some("bkt"), None, false));
    assert_eq!(parse("[::1]:9000", "/bkt"), (some("bkt"), None, false));
}
