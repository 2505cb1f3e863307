//! What a client library can get wrong: keys, presigned URLs, checksums, conditions of uploads.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use coffer_common::time::UnixMillis;
use coffer_tests::client::{ACCESS_KEY, refusal, refused, s3_as};
use coffer_tests::harness::http_get;
use coffer_tests::harness::standalone::Standalone;

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_digests_and_old_urls_have_their_codes_and_store_nothing() -> Result<()> {
    let server = Standalone::start(4).await?;
    let client = server.client();
    client.create_bucket().bucket("bad").send().await?;
    client.put_object().bucket("bad").key("there").body(ByteStream::from_static(b"x")).send().await?;
    let forger = s3_as(&server.endpoint(), ACCESS_KEY, "not the secret");
    assert_eq!(refusal(forger.list_buckets().send().await), refused("SignatureDoesNotMatch", 403));
    let forged = forger.put_object().bucket("bad").key("k").body(ByteStream::from_static(b"x"));
    assert_eq!(refusal(forged.send().await), refused("SignatureDoesNotMatch", 403));

    let put = || client.put_object().bucket("bad").key("k").body(ByteStream::from_static(b"x"));
    let wrong = [
        ("CRC32", put().checksum_crc32("AAAAAA==")),
        ("CRC32C", put().checksum_crc32_c("AAAAAA==")),
        ("CRC64NVME", put().checksum_crc64_nvme("AAAAAAAAAAA=")),
        ("SHA1", put().checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
        ("SHA256", put().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
        ("MD5", put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==")),
    ];
    for (name, put) in wrong {
        assert_eq!(refusal(put.send().await), refused("BadDigest", 400), "{name}");
    }
    let short = put().checksum_crc32("AAAA").send().await;
    assert_eq!(refusal(short), refused("InvalidRequest", 400), "a checksum of the wrong length");

    assert_eq!(
        refusal(client.get_object().bucket("no-such-bucket").key("k").send().await),
        refused("NoSuchBucket", 404)
    );
    assert_eq!(
        refusal(client.list_objects_v2().bucket("no-such-bucket").send().await),
        refused("NoSuchBucket", 404)
    );
    let upload = client.create_multipart_upload().bucket("no-such-bucket").key("k").send().await;
    assert_eq!(refusal(upload), refused("NoSuchBucket", 404));
    let long = client.get_object().bucket("bad").key("k".repeat(1025)).send().await;
    assert_eq!(refusal(long), refused("KeyTooLongError", 400));
    client.put_object().bucket("bad").key("k".repeat(1024)).send().await?;

    let old = PresigningConfig::builder()
        .start_time(UNIX_EPOCH + Duration::from_secs(UnixMillis::now().seconds() - 120))
        .expires_in(Duration::from_secs(60))
        .build()?;
    let fresh = PresigningConfig::expires_in(Duration::from_secs(60))?;
    let url = |config| client.get_object().bucket("bad").key("there").presigned(config);
    let (expired, valid) = (url(old).await?.uri().to_owned(), url(fresh).await?.uri().to_owned());
    let answer = http_get(&expired).await.unwrap_or_default();
    assert!(
        answer.0 == 403 && answer.1.contains("AccessDenied") && answer.1.contains("expired"),
        "{answer:?}"
    );
    assert_eq!(http_get(&valid).await, Some((200, "x".to_owned())));
    for forged in [valid.replace("/there", "/other"), valid.replace("Expires=60", "Expires=600")] {
        let answer = http_get(&forged).await.unwrap_or_default();
        assert!(answer.0 == 403 && answer.1.contains("SignatureDoesNotMatch"), "{forged}: {answer:?}");
    }
    assert_eq!(client.list_objects_v2().bucket("bad").send().await?.contents().len(), 2);
    assert!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
