//! Clients that go away in the middle of a body.

use std::time::Duration;

use anyhow::Result;
use coffer_tests::harness::standalone::Standalone;
use coffer_tests::harness::{shard_files, wait_for};
use tokio::io::AsyncReadExt;

use super::{RawRequest, bytes, get, keys};

const LARGE: usize = 24 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_in_the_middle_leave_nothing_behind() -> Result<()> {
    let server = Standalone::start(4).await?;
    let client = server.client();
    client.create_bucket().bucket("limits").send().await?;
    client.put_object().bucket("limits").key("kept").body(bytes(LARGE, 1).into()).send().await?;
    let drives = server.drives();
    let files = |count: usize| {
        let drives = drives.clone();
        move || {
            let found = shard_files(&drives);
            async move { found == count }
        }
    };
    wait_for("the shards of the object", Duration::from_secs(60), files(4)).await?;

    for sent in [0, 1, 100_000, 5_000_000] {
        let request = RawRequest::put(&client, &server.endpoint(), "left").await?;
        drop(request.begin("PUT", 8 << 20, &bytes(sent, 2)).await?);
    }
    let upload = client.create_multipart_upload().bucket("limits").key("parts").send().await?;
    let id = upload.upload_id().unwrap_or_default().to_owned();
    let lifetime = aws_sdk_s3::presigning::PresigningConfig::expires_in(Duration::from_secs(300))?;
    let part = client.upload_part().bucket("limits").key("parts").upload_id(&id).part_number(1);
    let request = RawRequest::new(&server.endpoint(), part.presigned(lifetime).await?.uri());
    drop(request.begin("PUT", 8 << 20, &bytes(5_000_000, 3)).await?);
    // An overwrite that breaks off leaves the old object.
    let request = RawRequest::put(&client, &server.endpoint(), "kept").await?;
    drop(request.begin("PUT", LARGE, &bytes(LARGE / 2, 4)).await?);

    wait_for("the pieces to be removed", Duration::from_secs(60), files(4)).await?;
    assert_eq!(keys(&client).await?, ["kept"]);
    assert_eq!(get(&client, "left").await, Err(404));
    let parts = client.list_parts().bucket("limits").key("parts").upload_id(&id).send().await?;
    assert!(parts.parts().is_empty());

    for read in [0, 1, 2_000_000] {
        let request = RawRequest::get(&client, &server.endpoint(), "kept").await?;
        let mut stream = request.begin("GET", 0, &[]).await?;
        let mut some = vec![0; read];
        stream.read_exact(&mut some).await?;
    }
    assert!(get(&client, "kept").await == Ok(bytes(LARGE, 1)));
    assert!(!server.process().log().contains("panicked"), "{}", server.process().log_tail());
    Ok(())
}
