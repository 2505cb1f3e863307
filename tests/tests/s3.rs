//! Every S3 operation through the AWS SDK for Rust, on both shapes: `check_all` runs the same list on a standalone
//! server and through two different gateways of a distributed cluster (write through one, read through the other).

use anyhow::Result;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, Delete, EncodingType,
    MetadataDirective, ObjectIdentifier,
};
use coffer_tests::client::{refusal, refused};
use coffer_tests::harness::distributed::Distributed;
use coffer_tests::harness::standalone::Standalone;

/// Where a check writes, where it reads, and its own bucket.
struct Shape {
    write: Client,
    read: Client,
    bucket: String,
}

fn bytes(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

fn unix_now() -> i64 {
    i64::try_from(coffer_common::time::UnixMillis::now().seconds()).unwrap_or(i64::MAX)
}

impl Shape {
    async fn put(&self, key: &str, body: Vec<u8>) -> Result<()> {
        self.write.put_object().bucket(&self.bucket).key(key).body(body.into()).send().await?;
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let got = self.read.get_object().bucket(&self.bucket).key(key).send().await?;
        Ok(got.body.collect().await?.to_vec())
    }
}

async fn buckets(shape: &Shape) -> Result<()> {
    let listed = shape.read.list_buckets().send().await?;
    assert!(listed.buckets().iter().any(|bucket| bucket.name() == Some(&shape.bucket)));
    assert!(listed.owner().is_some());
    shape.read.head_bucket().bucket(&shape.bucket).send().await?;
    shape.read.get_bucket_location().bucket(&shape.bucket).send().await?;
    let extra = format!("{}-x", shape.bucket);
    shape.write.create_bucket().bucket(&extra).send().await?;
    shape.write.put_object().bucket(&extra).key("k").body(ByteStream::from_static(b"x")).send().await?;
    assert_eq!(
        refusal(shape.read.delete_bucket().bucket(&extra).send().await),
        refused("BucketNotEmpty", 409)
    );
    shape.read.delete_object().bucket(&extra).key("k").send().await?;
    shape.write.delete_bucket().bucket(&extra).send().await?;
    assert_eq!(
        refusal(shape.write.delete_bucket().bucket(&extra).send().await),
        refused("NoSuchBucket", 404)
    );
    let put =
        shape.write.put_object().bucket(&extra).key("k").body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(refusal(put), refused("NoSuchBucket", 404));
    // A new bucket of the same name sees nothing of the old.
    shape.write.create_bucket().bucket(&extra).send().await?;
    assert!(shape.read.list_objects_v2().bucket(&extra).send().await?.contents().is_empty());
    shape.write.delete_bucket().bucket(&extra).send().await?;
    Ok(())
}

async fn objects_of_awkward_sizes(shape: &Shape) -> Result<()> {
    for size in [0, 1, 2, 255, 4096, 65_537, 262_143, 262_144, 262_145, 1_048_576, 5_000_001] {
        let key = format!("sizes/{size}");
        shape.put(&key, bytes(size, 1)).await?;
        assert!(shape.get(&key).await? == bytes(size, 1), "{size} bytes differ");
        shape.put(&key, bytes(size, 2)).await?;
        assert!(shape.get(&key).await? == bytes(size, 2), "{size} bytes are stale");
        let head = shape.read.head_object().bucket(&shape.bucket).key(&key).send().await?;
        assert_eq!(head.content_length(), Some(i64::try_from(size)?));
        shape.write.delete_object().bucket(&shape.bucket).key(&key).send().await?;
        assert_eq!(
            refusal(shape.read.get_object().bucket(&shape.bucket).key(&key).send().await),
            refused("NoSuchKey", 404)
        );
    }
    Ok(())
}

async fn headers_and_metadata(shape: &Shape) -> Result<()> {
    let put =
        shape.write.put_object().bucket(&shape.bucket).key("headers").body(ByteStream::from_static(b"body"));
    put.content_type("text/plain; charset=utf-8")
        .content_disposition("attachment")
        .content_language("de")
        .content_encoding("x-none")
        .cache_control("no-store")
        .expires(DateTime::from_secs(4_000_000_000))
        .metadata("colour", "blue")
        .metadata("with-space", "a  b")
        .send()
        .await?;
    let got = shape.read.get_object().bucket(&shape.bucket).key("headers").send().await?;
    assert_eq!(got.content_type(), Some("text/plain; charset=utf-8"));
    assert_eq!(got.content_disposition(), Some("attachment"));
    assert_eq!(got.content_language(), Some("de"));
    assert_eq!(got.content_encoding(), Some("x-none"));
    assert_eq!(got.cache_control(), Some("no-store"));
    assert_eq!(got.metadata().and_then(|m| m.get("colour")).map(String::as_str), Some("blue"));
    let get = shape.read.get_object().bucket(&shape.bucket).key("headers");
    let got = get.response_content_type("a/b").response_cache_control("max-age=1").send().await?;
    assert_eq!((got.content_type(), got.cache_control()), (Some("a/b"), Some("max-age=1")));
    let many =
        shape.write.put_object().bucket(&shape.bucket).key("headers").metadata("big", "x".repeat(3000));
    assert_eq!(
        refusal(many.body(ByteStream::from_static(b"x")).send().await),
        refused("MetadataTooLarge", 400)
    );
    Ok(())
}

async fn ranges_and_conditions(shape: &Shape) -> Result<()> {
    let body = bytes(2_500_000, 3);
    shape.put("ranged", body.clone()).await?;
    let get = || shape.read.get_object().bucket(&shape.bucket).key("ranged");
    for (range, wanted) in [
        ("bytes=0-0", &body[..1]),
        ("bytes=524288-524288", &body[524_288..524_289]),
        ("bytes=262143-1310721", &body[262_143..1_310_722]),
        ("bytes=-5", &body[2_499_995..]),
        ("bytes=2499999-9999999", &body[2_499_999..]),
    ] {
        let got = get().range(range).send().await?;
        assert!(got.content_range().is_some_and(|r| r.ends_with("/2500000")));
        assert!(got.body.collect().await?.to_vec() == wanted, "{range}");
    }
    assert_eq!(refusal(get().range("bytes=2500000-").send().await), refused("InvalidRange", 416));
    let etag = get().send().await?.e_tag().unwrap_or_default().to_owned();
    get().if_match(&etag).send().await?;
    assert_eq!(refusal(get().if_match("\"no\"").send().await).1, 412);
    assert_eq!(refusal(get().if_none_match(&etag).send().await).1, 304);
    assert_eq!(refusal(get().if_unmodified_since(DateTime::from_secs(1)).send().await).1, 412);
    assert_eq!(refusal(get().if_modified_since(DateTime::from_secs(unix_now())).send().await).1, 304);
    Ok(())
}

async fn checksums(shape: &Shape) -> Result<()> {
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        let body = ByteStream::from(bytes(100_000, 4));
        let put = shape.write.put_object().bucket(&shape.bucket).key("sum").body(body);
        put.checksum_algorithm(algorithm.clone()).send().await?;
        let head =
            shape.read.head_object().bucket(&shape.bucket).key("sum").checksum_mode(ChecksumMode::Enabled);
        let head = head.send().await?;
        let sums = [
            (ChecksumAlgorithm::Crc32, head.checksum_crc32()),
            (ChecksumAlgorithm::Crc32C, head.checksum_crc32_c()),
            (ChecksumAlgorithm::Crc64Nvme, head.checksum_crc64_nvme()),
            (ChecksumAlgorithm::Sha1, head.checksum_sha1()),
            (ChecksumAlgorithm::Sha256, head.checksum_sha256()),
        ];
        for (name, sum) in sums {
            assert_eq!(sum.is_some(), name == algorithm, "{name:?} after a PUT with {algorithm:?}");
        }
    }
    let wrong =
        shape.write.put_object().bucket(&shape.bucket).key("wrong").body(ByteStream::from_static(b"x"));
    assert_eq!(
        refusal(wrong.checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await).1,
        400
    );
    assert_eq!(refusal(shape.read.get_object().bucket(&shape.bucket).key("wrong").send().await).1, 404);
    Ok(())
}

async fn listings(shape: &Shape) -> Result<()> {
    let names =
        ["l/a", "l/a/b", "l/a//b", "l/b/1", "l/b/2", "l/b/3", "l/c", "l/d/", "l/e f", "l/\u{e9}", "l/z/y/x"];
    for name in names {
        shape.put(name, Vec::new()).await?;
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let list = || shape.read.list_objects_v2().bucket(&shape.bucket).prefix("l/");
    let mut pages = list().max_keys(3).into_paginator().send();
    let mut seen = Vec::new();
    while let Some(page) = pages.next().await {
        seen.extend(page?.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    assert_eq!(seen, sorted);
    let rolled = list().delimiter("/").send().await?;
    let prefixes: Vec<_> = rolled.common_prefixes().iter().filter_map(|prefix| prefix.prefix()).collect();
    assert_eq!(prefixes, ["l/a/", "l/b/", "l/d/", "l/z/"]);
    let after = list().start_after("l/b/2").max_keys(1).send().await?;
    assert_eq!(after.contents()[0].key(), Some("l/b/3"));
    let encoded =
        list().start_after("l/d/").encoding_type(EncodingType::Url).fetch_owner(true).send().await?;
    assert_eq!(encoded.contents()[0].key(), Some("l/e%20f"));
    assert!(encoded.contents()[0].owner().is_some());
    let old = shape
        .read
        .list_objects()
        .bucket(&shape.bucket)
        .prefix("l/")
        .delimiter("/")
        .max_keys(2)
        .send()
        .await?;
    assert_eq!((old.is_truncated(), old.next_marker()), (Some(true), Some("l/a/")));
    for name in names {
        shape.write.delete_object().bucket(&shape.bucket).key(name).send().await?;
    }
    assert!(list().delimiter("/").send().await?.common_prefixes().is_empty(), "deleted keys leave no prefix");
    Ok(())
}

async fn deletes(shape: &Shape) -> Result<()> {
    for i in 0..12 {
        shape.put(&format!("del/{i}"), vec![1]).await?;
    }
    let named = |i: usize| ObjectIdentifier::builder().key(format!("del/{i}")).build();
    let objects = (0..13).map(named).collect::<Result<Vec<_>, _>>()?;
    let delete = Delete::builder().set_objects(Some(objects)).build()?;
    let gone = shape.write.delete_objects().bucket(&shape.bucket).delete(delete).send().await?;
    assert_eq!((gone.deleted().len(), gone.errors().len()), (13, 0));
    assert!(
        shape.read.list_objects_v2().bucket(&shape.bucket).prefix("del/").send().await?.contents().is_empty()
    );
    Ok(())
}

async fn copies(shape: &Shape) -> Result<()> {
    let body = bytes(700_000, 5);
    let put = shape.write.put_object().bucket(&shape.bucket).key("copy from").metadata("a", "1");
    put.body(body.clone().into()).send().await?;
    let source = format!("{}/copy%20from", shape.bucket);
    let copy = || shape.write.copy_object().bucket(&shape.bucket).key("copy to").copy_source(&source);
    copy().send().await?;
    assert!(shape.get("copy to").await? == body);
    copy().metadata_directive(MetadataDirective::Replace).metadata("b", "2").send().await?;
    let head = shape.read.head_object().bucket(&shape.bucket).key("copy to").send().await?;
    assert_eq!(head.metadata().and_then(|m| m.get("b")).map(String::as_str), Some("2"));
    assert_eq!(
        refusal(copy().copy_source_if_match("\"no\"").send().await),
        refused("PreconditionFailed", 412)
    );
    let itself =
        shape.write.copy_object().bucket(&shape.bucket).key("copy from").copy_source(&source).send().await;
    assert_eq!(refusal(itself), refused("InvalidRequest", 400));
    Ok(())
}

async fn multipart(shape: &Shape) -> Result<()> {
    let key = "multi/part";
    let at = |client: &Client| client.clone();
    let upload = at(&shape.write).create_multipart_upload().bucket(&shape.bucket).key(key).send().await?;
    let id = upload.upload_id().unwrap_or_default().to_owned();
    let mut parts = Vec::new();
    for number in 1..=3 {
        let body = if number == 3 { bytes(17, 9) } else { bytes(5 * 1024 * 1024 + 1, number as u8) };
        let part =
            at(&shape.write).upload_part().bucket(&shape.bucket).key(key).upload_id(&id).part_number(number);
        let done = part.body(body.into()).send().await?;
        parts.push(
            CompletedPart::builder().part_number(number).set_e_tag(done.e_tag().map(str::to_owned)).build(),
        );
    }
    let from =
        at(&shape.write).upload_part_copy().bucket(&shape.bucket).key(key).upload_id(&id).part_number(3);
    shape.put("multi/source", bytes(1000, 8)).await?;
    let copied = from
        .copy_source(format!("{}/multi/source", shape.bucket))
        .copy_source_range("bytes=10-19")
        .send()
        .await?;
    let etag = copied.copy_part_result().and_then(|result| result.e_tag()).map(str::to_owned);
    parts[2] = CompletedPart::builder().part_number(3).set_e_tag(etag).build();
    let listed = at(&shape.read).list_parts().bucket(&shape.bucket).key(key).upload_id(&id).send().await?;
    assert_eq!(
        listed.parts().iter().filter_map(|part| part.size()).collect::<Vec<_>>(),
        [5_242_881, 5_242_881, 10]
    );
    let uploads =
        at(&shape.read).list_multipart_uploads().bucket(&shape.bucket).prefix("multi/").send().await?;
    assert_eq!(uploads.uploads().len(), 1);
    let complete = |parts: Vec<CompletedPart>| {
        let chosen = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let call = shape.read.complete_multipart_upload().bucket(&shape.bucket).key(key).upload_id(&id);
        call.multipart_upload(chosen).send()
    };
    let swapped = vec![parts[1].clone(), parts[0].clone()];
    assert_eq!(refusal(complete(swapped).await), refused("InvalidPartOrder", 400));
    let unknown = CompletedPart::builder().part_number(9).e_tag("\"x\"").build();
    assert_eq!(refusal(complete(vec![unknown]).await), refused("InvalidPart", 400));
    complete(parts).await?;
    let wanted = [bytes(5_242_881, 1), bytes(5_242_881, 2), bytes(1000, 8)[10..20].to_vec()].concat();
    assert!(shape.get(key).await? == wanted);
    let part = shape.read.get_object().bucket(&shape.bucket).key(key).part_number(2).send().await?;
    assert_eq!(part.parts_count(), Some(3));
    assert!(part.body.collect().await?.to_vec() == bytes(5_242_881, 2));
    let late = at(&shape.write).upload_part().bucket(&shape.bucket).key(key).upload_id(&id).part_number(1);
    assert_eq!(
        refusal(late.body(ByteStream::from_static(b"late")).send().await),
        refused("NoSuchUpload", 404)
    );
    Ok(())
}

async fn small_parts_are_refused(shape: &Shape) -> Result<()> {
    let upload = shape.write.create_multipart_upload().bucket(&shape.bucket).key("small").send().await?;
    let id = upload.upload_id().unwrap_or_default().to_owned();
    let mut parts = Vec::new();
    for number in 1..=2 {
        let part =
            shape.write.upload_part().bucket(&shape.bucket).key("small").upload_id(&id).part_number(number);
        let done = part.body(ByteStream::from_static(b"tiny")).send().await?;
        parts.push(
            CompletedPart::builder().part_number(number).set_e_tag(done.e_tag().map(str::to_owned)).build(),
        );
    }
    let chosen = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = shape.write.complete_multipart_upload().bucket(&shape.bucket).key("small").upload_id(&id);
    assert_eq!(refusal(complete.multipart_upload(chosen).send().await), refused("EntityTooSmall", 400));
    shape.read.abort_multipart_upload().bucket(&shape.bucket).key("small").upload_id(&id).send().await?;
    let parts = shape.read.list_parts().bucket(&shape.bucket).key("small").upload_id(&id).send().await;
    assert_eq!(refusal(parts), refused("NoSuchUpload", 404));
    Ok(())
}

async fn check_all(write: Client, read: Client) -> Result<()> {
    let shape = Shape { write, read, bucket: "suite".to_owned() };
    shape.write.create_bucket().bucket(&shape.bucket).send().await?;
    buckets(&shape).await?;
    objects_of_awkward_sizes(&shape).await?;
    headers_and_metadata(&shape).await?;
    ranges_and_conditions(&shape).await?;
    checksums(&shape).await?;
    listings(&shape).await?;
    deletes(&shape).await?;
    copies(&shape).await?;
    multipart(&shape).await?;
    small_parts_are_refused(&shape).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_works_on_one_drive() -> Result<()> {
    let server = Standalone::start(1).await?;
    check_all(server.client(), server.client()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_works_standalone() -> Result<()> {
    let server = Standalone::start(4).await?;
    check_all(server.client(), server.client()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_works_distributed_across_gateways() -> Result<()> {
    let cluster = Distributed::start(4, 2).await?;
    check_all(cluster.client(0), cluster.client(3)).await
}
