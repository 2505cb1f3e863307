//! Objects of several stripes, and an upload that runs while slots move.

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::BUCKET;

/// Several stripes, and not a whole number of them.
const LARGE: usize = 9_500_001;
const PART: usize = 5 << 20;
const OBJECTS: u8 = 6;

fn large(number: u8) -> Vec<u8> {
    (0..LARGE).map(|at| (at as u8).wrapping_mul(31) ^ number).collect()
}

/// Large objects that are there before anything moves, and an upload that has begun.
pub(super) struct Data {
    upload: String,
    parts: Vec<CompletedPart>,
}

impl Data {
    pub(super) async fn write(client: &Client) -> Result<Self> {
        for number in 0..OBJECTS {
            let put = client.put_object().bucket(BUCKET).key(format!("large/{number}"));
            put.body(ByteStream::from(large(number))).send().await?;
        }
        let upload = client.create_multipart_upload().bucket(BUCKET).key("large/parts").send().await?;
        let upload = upload.upload_id().context("an upload id")?.to_owned();
        Ok(Self { upload, parts: Vec::new() })
    }

    /// Writes the next part.
    pub(super) async fn part(&mut self, client: &Client) -> Result<()> {
        let number = self.parts.len() as i32 + 1;
        let part = client.upload_part().bucket(BUCKET).key("large/parts").upload_id(&self.upload);
        let body = ByteStream::from(vec![number as u8; PART]);
        let done = part.part_number(number).body(body).send().await?;
        let part = CompletedPart::builder().part_number(number);
        self.parts.push(part.set_e_tag(done.e_tag().map(str::to_owned)).build());
        Ok(())
    }

    /// Completes the upload, and reads it and all others.
    pub(super) async fn check(self, client: &Client) -> Result<()> {
        let count = self.parts.len();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.parts)).build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key("large/parts");
        complete.upload_id(&self.upload).multipart_upload(parts).send().await?;
        let read = client.get_object().bucket(BUCKET).key("large/parts").send().await?;
        let read = read.body.collect().await?.into_bytes();
        let whole = read.len() == count * PART
            && read.chunks(PART).zip(1_u8..).all(|(part, number)| part.iter().all(|byte| *byte == number));
        ensure!(whole, "the upload reads otherwise");
        read_large(client).await
    }
}

/// Reads the large objects.
pub(super) async fn read_large(client: &Client) -> Result<()> {
    for number in 0..OBJECTS {
        let key = format!("large/{number}");
        let read = client.get_object().bucket(BUCKET).key(&key).send().await.context(key.clone())?;
        let read = read.body.collect().await.context(key.clone())?.into_bytes();
        ensure!(read == large(number), "`{key}` reads otherwise");
    }
    Ok(())
}
