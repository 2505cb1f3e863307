//! Malformed and forged S3 requests, sent as raw bytes: each has its S3 code, nothing is half-stored, the server lives.

mod library;
mod signed;

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::error::ProvideErrorMetadata;
use coffer_tests::client::s3_as;
use coffer_tests::harness::standalone::Standalone;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends the bytes, closes the sending side if asked to, and gives what comes back.
async fn raw(server: &Standalone, request: &str, shut: bool) -> Result<String> {
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await?;
    stream.write_all(request.replace("HOST", &address).as_bytes()).await?;
    if shut {
        stream.shutdown().await?;
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer))
        .await
        .context("no answer")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn check(server: &Standalone, request: &str, wanted: &[&str]) -> Result<()> {
    let answer = raw(server, request, false).await?;
    for word in wanted {
        assert!(answer.contains(word), "`{word}` is not in the answer to\n{request}\n{answer}");
    }
    Ok(())
}

const V4: &str = "Authorization: AWS4-HMAC-SHA256 Credential=KEY/20260101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=0000000000000000000000000000000000000000000000000000000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_malformed_requests_have_their_codes() -> Result<()> {
    let mut server = Standalone::start(4).await?;
    server.client().create_bucket().bucket("bad").send().await?;
    let head = |method: &str, path: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n{more}\r\n")
    };
    let v4 = |key: &str| {
        let date = "x-amz-date: 20260101T000000Z\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n";
        format!("{}\r\n{date}", V4.replace("KEY", key))
    };
    check(&server, &head("GET", "/bad/k", ""), &["403", "AccessDenied", "x-amz-request-id"]).await?;
    let nobody = s3_as(&server.endpoint(), "nobody", "no secret").list_buckets().send().await;
    assert_eq!(
        nobody.err().and_then(|error| error.code().map(str::to_owned)).as_deref(),
        Some("InvalidAccessKeyId")
    );
    check(&server, &head("GET", "/bad/k", &v4("coffer-test")), &["403", "RequestTimeTooSkewed"]).await?;
    check(
        &server,
        &head("GET", "/bad/k", "Authorization: AWS4-HMAC-SHA256 nonsense\r\n"),
        &["400", "AuthorizationHeaderMalformed"],
    )
    .await?;
    check(&server, &head("GET", "/bad/%zz", &v4("coffer-test")), &["HTTP/1.1 4"]).await?;
    check(&server, "NONSENSE\r\n\r\n", &["HTTP/1.1 400"]).await?;
    assert!(server.process_mut().is_running());
    assert!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_is_not_stored() -> Result<()> {
    use aws_sdk_s3::presigning::PresigningConfig;
    let server = Standalone::start(4).await?;
    let client = server.client();
    client.create_bucket().bucket("bad").send().await?;
    let lifetime = PresigningConfig::expires_in(Duration::from_secs(60))?;
    let url = client.put_object().bucket("bad").key("short").presigned(lifetime).await?.uri().to_owned();
    let path = url.trim_start_matches(&server.endpoint()).to_owned();
    let request = format!("PUT {path} HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000000\r\n\r\nonly this");
    let _ = raw(&server, &request, true).await?;
    let got = client.get_object().bucket("bad").key("short").send().await;
    assert_eq!(got.err().and_then(|error| error.raw_response().map(|raw| raw.status().as_u16())), Some(404));
    assert!(client.list_objects_v2().bucket("bad").send().await?.contents().is_empty());
    Ok(())
}
